"""Which generation of engines a measured row's software belongs to.

Generations differ in what their hosts and kernels do around the mathematics; what each
means is in :mod:`planner.cost.runs.inference_engine` and, for training, in
:mod:`planner.cost.runs.training_layer`.
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


_TRAINING = (
    # Norms and activations operation by operation: said so, or a list of kernels without them.
    (re.compile(r"\beager\b", re.IGNORECASE), "eager"),
    (re.compile(r"FlashAttention-2$", re.IGNORECASE), "eager"),
    # PyTorch's own attention kernels, FlashAttention-2 on every chip.
    (re.compile(r"torchtitan|PyTorch FSDP", re.IGNORECASE), "2023"),
)


def training_generation(software: str) -> str:
    """Generation of a training framework's kernels, ``current`` where nothing is said."""
    text = software.strip()
    return next((name for pattern, name in _TRAINING if pattern.search(text)), "current")
