"""Property tests draw the same examples on every run; ``--hypothesis-profile=default`` explores."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
