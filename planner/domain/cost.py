"""Priced work: seconds by term and bytes by purpose."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Bound(StrEnum):
    """The resource that a term waits for."""

    COMPUTE = "compute"
    MEMORY = "memory"
    NETWORK = "network"
    OVERHEAD = "overhead"
    IDLE = "idle"


class Term(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One term of the step: ``seconds`` add up to the step over all terms.

    ``compute_s``, ``memory_s`` and ``network_s`` are what the term would take on each
    resource alone; ``bound`` is the resource that decides ``seconds``.
    """

    name: str
    seconds: float
    bound: Bound
    compute_s: float = 0.0
    memory_s: float = 0.0
    network_s: float = 0.0
    overhead_s: float = 0.0


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """HBM bytes of the fullest chip, by purpose; ``capacity`` is the usable HBM."""

    weights_bytes: float
    kv_bytes: float
    activations_bytes: float
    reserve_bytes: float
    capacity_bytes: float
    stage: int

    @property
    def used_bytes(self) -> float:
        """Sum of all purposes."""
        return self.weights_bytes + self.kv_bytes + self.activations_bytes + self.reserve_bytes


class Prediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the cost model predicts for one layout.

    ``step_s`` is the time between two tokens of a sequence: that of a pass over the
    ``tokens_per_pass`` that it yields in the mean (1 without drafts). ``stage_s`` are those of
    a pass. Of a prefill ``step_s`` is the time to the first token: that of one pass, in which
    every sequence yields its new tokens. ``tokens_per_s_per_chip``
    counts every chip of the machine, idle ones too; ``usd_per_million_tokens`` counts
    the ``chips_rented`` chips of all nodes or racks in use.
    """

    step_s: float
    batch: int
    tokens_per_s: float
    tokens_per_s_per_user: float
    tokens_per_s_per_chip: float
    usd_per_million_tokens: float | None
    chips_rented: int
    terms: tuple[Term, ...]
    stage_s: tuple[float, ...]
    memory: Memory
    bubble: float
    critical_batch: float | None
    largest_batch: int
    expert_imbalance: float
    tokens_per_pass: float = 1.0
