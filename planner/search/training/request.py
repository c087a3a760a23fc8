"""One question about a training layout, complete and solver-free."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.dtypes import DType
from planner.domain.model import ModelSpec
from planner.domain.run import Optimizer, Overlap
from planner.domain.training import ALL_OVERLAPS, FREE_LIMITS, TrainLimits
from planner.domain.workload import Objective
from planner.search.control import Progress
from planner.topology.graph import Topology


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRequest:
    """Model, machine, batch, limits and how hard to try.

    Parameters
    ----------
    model : ModelSpec
        ``precision.activations`` is the format of matrix multiplies.
    global_batch : int
        Sequences per optimizer step.
    seq_len : int
        Tokens per sequence.
    overlap : frozenset of Overlap
        Communication that the engine can hide behind computation. Messages of experts hide
        behind another microbatch, which only some schedules have at hand.
    optimizer_state, gradients : DType
        Formats of the optimizer's moments and of kept gradients.
    price_usd_per_hour : float, optional
        Of one chip; needed when cost is the objective.
    gap : float
        Stop once the certificate's gap is at most this.
    rented_share : float
        Chips that are paid for, per chip of the topology.
    """

    model: ModelSpec
    topology: Topology
    global_batch: int
    seq_len: int
    objective: Objective = Objective.LATENCY
    limits: TrainLimits = FREE_LIMITS
    overlap: frozenset[Overlap] = ALL_OVERLAPS
    optimizer: Optimizer = Optimizer.ADAM
    optimizer_state: DType = DType.FP32
    gradients: DType = DType.BF16
    price_usd_per_hour: float | None = None
    gap: float = 0.005
    time_limit_s: float | None = None
    progress: Progress | None = None
    rented_share: float = 1.0
