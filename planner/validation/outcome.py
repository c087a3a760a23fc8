"""What became of a measured row."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from planner.domain.cost import Bound
from planner.validation.statistics import relative_error


class RowClass(StrEnum):
    """Kinds of measurement that are scored apart."""

    DENSE_TRAINING = "dense training"
    MOE_TRAINING = "MoE training"
    PREFILL = "prefill"
    DENSE_DECODE = "dense decode"
    EXPERT_DECODE = "expert-parallel decode"
    MOE_DECODE = "MoE decode without expert parallelism"
    REQUEST = "request"
    COLLECTIVE = "collective"
    TPOT = "serving TPOT"
    TTFT = "serving TTFT"
    UNKNOWN = "unknown model"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeTerm:
    """One part of a predicted time."""

    name: str
    seconds: float
    bound: Bound


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeMemory:
    """Bytes that the fullest chip needs, and has."""

    needed_bytes: float
    capacity_bytes: float
    fits: bool

    @property
    def ratio(self) -> float:
        """Needed over available bytes."""
        return self.needed_bytes / self.capacity_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One measurement and what the cost model says about it.

    Parameters
    ----------
    kind : str
        ``train``, ``prefill``, ``decode``, ``request``, ``collective`` or ``serving``.
    chip : str
        The machine's name: its kind of chip and how its nodes are built.
    layout, sweep : str
        Everything that was chosen, and everything that was given: rows of one sweep differ
        in their layout alone. Empty for collectives and serving.
    measured_s : float, optional
        None for a layout that ran out of memory.
    predicted_s : float, optional
        None where the row could not be represented; ``reason`` then says why.
    terms : tuple of OutcomeTerm
        Parts that add up to ``predicted_s``.
    memory : OutcomeMemory, optional
        None for collectives and rows that could not be represented.
    """

    id: str
    kind: str
    row_class: RowClass
    model: str
    chip: str
    num_chips: int
    source: str
    software: str
    quality: str
    layout: str = ""
    sweep: str = ""
    measured_s: float | None
    predicted_s: float | None = None
    reason: str = ""
    terms: tuple[OutcomeTerm, ...] = ()
    memory: OutcomeMemory | None = None

    @property
    def represented(self) -> bool:
        """Whether the cost model had an answer."""
        return self.predicted_s is not None

    @property
    def pair(self) -> tuple[float, float] | None:
        """Predicted and measured seconds, where both are known."""
        if self.predicted_s is None or self.measured_s is None:
            return None
        return self.predicted_s, self.measured_s

    @property
    def ratio(self) -> float | None:
        """Predicted over measured time."""
        return None if self.pair is None else self.pair[0] / self.pair[1]

    @property
    def error(self) -> float | None:
        """Absolute error relative to the measurement."""
        return None if self.pair is None else relative_error(*self.pair)

    @property
    def largest_term(self) -> OutcomeTerm | None:
        """The term that takes longest."""
        return max(self.terms, key=lambda term: term.seconds, default=None)
