"""What a comparison says: one record for decode and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.domain.layout import DegreesRecord, Layout
from planner.domain.outcome import Infeasible
from planner.domain.train_layout import TrainDegrees, TrainLayout
from planner.domain.workload import Objective
from planner.studies.links import LinkBytes

Tell = Callable[[str, float], None]


def silent(what: str, share: float) -> None:
    """Tells nobody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TermCost:
    """A term's part of the objective: ``value`` adds up to it over all terms."""

    name: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipMemory:
    """HBM bytes of the fullest chip by purpose; ``kv`` is 0 in training, ``states`` in decode.

    ``states_bytes`` are gradients and the optimizer's moments.
    """

    weights_bytes: float
    kv_bytes: float
    states_bytes: float
    activations_bytes: float
    reserve_bytes: float
    capacity_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What is predicted of one candidate.

    Parameters
    ----------
    value : float
        Objective, in ``Comparison.unit``; smaller is better.
    tokens_per_s_per_user, mfu : float, optional
        In decode, and in training.
    bubble : float
        Share of the step in which a stage waits.
    idle_chips : int
        Chips of the machine without a rank.
    gap : float, optional
        Proven: nothing of the family is better by more than this share. None for a layout that
        was given.
    """

    degrees: DegreesRecord | TrainDegrees
    batch: int
    value: float
    step_s: float
    tokens_per_s_per_chip: float
    tokens_per_s_per_user: float | None
    mfu: float | None
    usd_per_million_tokens: float | None
    memory: ChipMemory
    links: tuple[LinkBytes, ...]
    bubble: float
    idle_chips: int
    gap: float | None
    terms: tuple[TermCost, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """The best of one family, or a layout of a file; ``infeasible`` where there is none."""

    name: str
    text: str
    figures: Figures | None
    infeasible: Infeasible | None = None
    note: str = ""
    layout: Layout | TrainLayout | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """Where the ranking changes along one quantity, all else as it was asked.

    Parameters
    ----------
    lever, label, unit : str
        What is varied.
    present : float
        Its value in the question.
    at : float, optional
        Where the winner is overtaken first, on one side; None where it leads up to ``until``.
    until : float
        How far was looked on that side.
    leader : str
        Who leads beyond ``at``; empty where nothing fits there.
    """

    lever: str
    label: str
    unit: str
    present: float
    at: float | None
    until: float
    leader: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Candidates side by side, best first, those without a layout last.

    Parameters
    ----------
    why : tuple of str
        What the winner does better than each other one.
    flips : tuple of Flip
        Break-evens.
    """

    model: str
    machine: str
    phase: str
    length_tokens: int
    objective: Objective
    unit: str
    candidates: tuple[Candidate, ...]
    why: tuple[str, ...]
    flips: tuple[Flip, ...]

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """Those that have a layout, best first."""
        return tuple(one for one in self.candidates if one.figures is not None)

    def of(self, name: str) -> Candidate:
        """The candidate of a name."""
        return next(one for one in self.candidates if one.name == name)
