"""What is asked of the machine: phase, lengths, limits, objective."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What the chips are busy with."""

    DECODE = "decode"
    PREFILL = "prefill"
    TRAIN = "train"
    SERVE = "serve"


class Objective(StrEnum):
    """What the search minimises or maximises.

    ``THROUGHPUT`` maximises tokens/s per chip of the machine, ``LATENCY`` minimises the
    step, ``COST`` minimises dollars per token of the nodes or racks in use.
    """

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    COST = "cost"


class TimeModel(StrEnum):
    """How the parts of a layer add up.

    ``OVERLAP``: compute, memory and network of a layer run at once, the slowest counts.
    ``SUM``: every operation runs alone and costs the larger of its compute and memory
    time; collectives come on top.
    """

    OVERLAP = "overlap"
    SUM = "sum"
