"""One question to the planner as the user asks it: names, numbers and limits, nothing read yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.domain.dtypes import DType
from planner.domain.hardware import NO_WOUNDS, Sizing, Wounds
from planner.domain.workload import Objective, Phase, TimeModel


@dataclass(frozen=True, kw_only=True, slots=True)
class DegreeLimits:
    """Values that each degree may take; ``None`` leaves it free.

    ``tp`` is attention tensor parallelism, ``dp`` is ``attn_dp * replicas``, ``ep`` and
    ``expert_tp`` belong to routed experts, ``slots`` are expert copies per MoE layer.
    """

    tp: frozenset[int] | None = None
    pp: frozenset[int] | None = None
    ep: frozenset[int] | None = None
    dp: frozenset[int] | None = None
    expert_tp: frozenset[int] | None = None
    slots: frozenset[int] | None = None
    microbatches: frozenset[int] | None = None
    replicas: frozenset[int] | None = None


def permits(allowed: frozenset[int] | None, value: int) -> bool:
    """Whether ``value`` is allowed."""
    return allowed is None or value in allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Model, machine, workload and limits, named but not yet read.

    Parameters
    ----------
    model, machine : str
        Catalogue name or path.
    nodes, racks, slices, shape : optional
        Size of the machine; the machine's default when all are absent.
    wounds : Wounds
        What is missing or slow, beyond what the machine's file says.
    loads : str, optional
        File of routing loads, a table ``[MoE layers, experts]``; uniform when absent.
    ideal : bool
        Pure roofline: no derates, no latencies, no reserve.
    """

    model: str
    machine: str
    context_tokens: int
    phase: Phase = Phase.DECODE
    nodes: int | None = None
    racks: int | None = None
    slices: int | None = None
    shape: tuple[int, ...] | None = None
    wounds: Wounds = NO_WOUNDS
    weights: DType | None = None
    activations: DType | None = None
    kv: DType | None = None
    tpot_s: float | None = None
    batch: int | None = None
    price_usd_per_hour: float | None = None
    objective: Objective = Objective.THROUGHPUT
    time_model: TimeModel = TimeModel.SUM
    ideal: bool = False
    loads: str | None = None
    limits: DegreeLimits = field(default_factory=DegreeLimits)
    gap: float = 0.005
    time_limit_s: float | None = None
    seed: int = 0

    @property
    def sizing(self) -> Sizing:
        """How much of the machine, and in what state."""
        return Sizing(
            nodes=self.nodes,
            racks=self.racks,
            slices=self.slices,
            shape=self.shape,
            wounds=self.wounds,
        )
