"""Runs as given: training steps, prefill passes, decode steps and requests, without search.

``predict_run`` in :mod:`planner.cost.runs.predict` is the only entry.
"""
