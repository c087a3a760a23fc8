"""Which generation of inference engines a measured row's software belongs to.

Generations differ in what their hosts and kernels do around the mathematics; what each
means is in :mod:`planner.cost.runs.inference_engine`.
"""

from __future__ import annotations

import re

# First match wins. What is not named is current.
_GENERATIONS = (
    (re.compile(r"FasterTransformer", re.IGNORECASE), "2022"),
    (re.compile(r"TensorRT-LLM 0\.[1-6](\D|$)", re.IGNORECASE), "2023"),
    # Tables of 2024 that give no version.
    (re.compile(r"vLLM", re.IGNORECASE), "2024"),
    # PyTorch without captured graphs.
    (re.compile(r"Meta CP", re.IGNORECASE), "eager"),
)


def engine_generation(software: str) -> str:
    """Generation of an engine from its name and version, ``current`` where unknown."""
    text = software.strip()
    for pattern, generation in _GENERATIONS:
        found = pattern.search(text)
        # vLLM with a version is told apart by it; all that have been measured are current.
        if found and not (generation == "2024" and found.group() != text):
            return generation
    return "current"
