"""What a replan is asked, and one of its candidates."""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.migration import Migration, Transition
from planner.cost.migration_time import MigrationTime
from planner.cost.step import Setting
from planner.domain.assignment import Assignment
from planner.search.request import PlanRequest
from planner.search.solve import Solved
from planner.search.validate import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class MoveLimits:
    """What a migration may cost.

    Parameters
    ----------
    most_bytes : float, optional
        Bytes that may be moved at most.
    amortise_s : float, optional
        Seconds over which the time of the migration is spread.
    drop_caches : bool
        Whether cached sequences that change chips are lost instead of moved.
    stays : bool
        Whether the old layout is kept where it is valid.
    """

    most_bytes: float | None = None
    amortise_s: float | None = None
    drop_caches: bool = False
    stays: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class ReplanRequest:
    """The changed question, and the layout that runs.

    Parameters
    ----------
    plan : PlanRequest
        As for a plan from scratch.
    limits : Limits
        What the validator checks.
    before : Setting
        What the old layout was planned for: the lengths of its caches.
    old : Assignment
        Its chips in numbers of ``plan.topology``, ``GONE`` where it has them no more.
    """

    plan: PlanRequest
    limits: Limits
    before: Setting
    old: Assignment
    moves: MoveLimits


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A layout, what it takes to get there, and what both cost together."""

    solved: Solved
    value: float
    migration: Migration
    time: MigrationTime
    total: float

    @property
    def moved_bytes(self) -> float:
        """Bytes that chips get."""
        return self.migration.moved_bytes


def transition(request: ReplanRequest, new: Assignment) -> Transition:
    """From the layout that runs to another one."""
    return Transition(
        topology=request.plan.topology,
        before=request.before,
        after=request.plan.setting,
        old=request.old,
        new=new,
        drop_caches=request.moves.drop_caches,
    )
