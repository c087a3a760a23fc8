"""Hugging Face ``config.json`` as a :class:`~planner.domain.model.ModelSpec`.

Decisions
---------
- ``document`` turns bytes into checked JSON and finds the line of a field; ``fields`` gives
  typed access and remembers what was read; ``names`` holds every JSON key with an effect;
  ``blocks`` builds attention and FFN records from fields; ``families``, ``latent`` and
  ``hybrid`` say how each ``model_type`` combines them; ``quantization`` reads formats.
- Dispatch is on ``model_type`` alone. A field that is known to change the count but that
  the family did not read is refused, never skipped: the count would be wrong in silence.
"""
