"""What is asked of a training plan: model, machine, batch, and what each decision may be."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from planner.domain.dtypes import DType
from planner.domain.hardware import DEFAULT_SIZE, Sizing
from planner.domain.ranges import write_ranges
from planner.domain.run import Optimizer, Overlap, Recompute, ScheduleKind
from planner.domain.workload import Objective


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLimits:
    """Values that each degree and choice may take; ``None`` leaves it free.

    Degrees as in :class:`planner.domain.run.Mesh`; ``microbatch`` counts the sequences of one
    microbatch and data-parallel rank.
    """

    tp: frozenset[int] | None = None
    cp: frozenset[int] | None = None
    dp: frozenset[int] | None = None
    pp: frozenset[int] | None = None
    virtual_stages: frozenset[int] | None = None
    ep: frozenset[int] | None = None
    expert_tp: frozenset[int] | None = None
    microbatch: frozenset[int] | None = None
    zero: frozenset[int] | None = None
    schedules: frozenset[ScheduleKind] | None = None
    recompute: frozenset[Recompute] | None = None
    sequence_parallel: frozenset[bool] | None = None

    def texts(self) -> dict[str, str]:
        """What is not free, as it would be written: ``{"pp": "1..4", "schedules": "1f1b"}``."""
        found = {}
        for field in fields(self):
            values = getattr(self, field.name)
            if values is None:
                continue
            if all(isinstance(value, StrEnum) for value in values):
                found[field.name] = ",".join(sorted(value.value for value in values))
            elif field.name == "sequence_parallel":
                found[field.name] = ",".join("on" if value else "off" for value in sorted(values))
            else:
                found[field.name] = write_ranges(values)
        return found


FREE_LIMITS = TrainLimits()
# Communication that an engine can hide, unless the user says which.
ALL_OVERLAPS = frozenset(Overlap)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainQuestion:
    """Model, machine, workload and limits, named but not yet read.

    Parameters
    ----------
    model, machine : str
        Catalogue name or path.
    sizing : Sizing
        How much of the machine, and in what state. Training runs on whole sound nodes, racks or
        slices: those with a dead or degraded part are left out.
    global_batch : int
        Sequences per optimizer step.
    seq_len : int
        Tokens per sequence.
    overlap : frozenset of Overlap
        Communication that the engine can hide behind computation.
    exclude : tuple of str
        Chips not to use; the domains that hold them are left out.
    reserve : int
        Chips to leave idle, rounded up to whole domains.
    """

    model: str
    machine: str
    global_batch: int
    seq_len: int
    sizing: Sizing = DEFAULT_SIZE
    weights: DType | None = None
    activations: DType | None = None
    objective: Objective = Objective.LATENCY
    limits: TrainLimits = FREE_LIMITS
    overlap: frozenset[Overlap] = ALL_OVERLAPS
    optimizer: Optimizer = Optimizer.ADAM
    optimizer_state: DType = DType.FP32
    gradients: DType = DType.BF16
    price_usd_per_hour: float | None = None
    ideal: bool = False
    gap: float = 0.005
    time_limit_s: float | None = None
    exclude: tuple[str, ...] = ()
    reserve: int = 0
