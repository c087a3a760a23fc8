"""Batch and stages of a layout whose chips and experts are given."""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.evaluate import evaluate
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.degrees import Degrees
from planner.search.mesh import Cells, MeshMapper
from planner.search.request import PlanRequest
from planner.search.solve import Solved, StrategySolver
from planner.search.survival import failure_violations
from planner.search.validate import Limits, limit_violations, structure_violations
from planner.topology.graph import Topology


@dataclass(slots=True)
class _GivenCells(MeshMapper):
    """Answers with cells that are given."""

    given: Cells = ()

    def assign(self, degrees: Degrees) -> Cells | None:
        """Cells of every replica and stage."""
        return self.given


def _given_cells(topology: Topology, cells: Cells) -> MeshMapper:
    found = _GivenCells.of(topology)
    assert isinstance(found, _GivenCells)
    found.given = cells
    return found


class GivenSolver(StrategySolver):
    """Solves a strategy on given cells with given experts."""

    def __init__(self, request: PlanRequest, cells: Cells, maps: tuple[SlotMap, ...]) -> None:
        super().__init__(request, _given_cells(request.topology, cells))
        self.given_maps = maps

    def slot_maps(self, degrees: Degrees) -> tuple[SlotMap, ...]:
        """Expert copies of every MoE layer."""
        return self.given_maps


def solve_given(
    request: PlanRequest,
    limits: Limits,
    given: tuple[Degrees, Cells, tuple[SlotMap, ...]],
    most: int,
) -> Solved | None:
    """Best batch of at most ``most`` sequences per replica, and stages; None when none is valid.

    Raises
    ------
    DisconnectedError
        Chips that must talk are not connected.
    """
    degrees, cells, maps = given
    found = GivenSolver(request, cells, maps).solve(degrees, most)
    if found is None or structure_violations(found.assignment, request.setting.model, limits):
        return None
    return found if _keeps(request, limits, found) else None


def _keeps(request: PlanRequest, limits: Limits, found: Solved) -> bool:
    """Whether memory, step and failures are within what was asked."""
    return not limit_violations(found.prediction, limits) and not failure_violations(
        request.setting, request.topology, found.assignment, request.loads, request.units
    )


def still_valid(request: PlanRequest, limits: Limits, old: Assignment) -> Solved | None:
    """An assignment as it is, priced for a request; None when it breaks a limit."""
    if structure_violations(old, request.setting.model, limits):
        return None
    found = evaluate(
        request.setting, request.topology, old, request.loads, request.price_usd_per_hour
    )
    solved = Solved(assignment=old, prediction=found)
    return solved if _keeps(request, limits, solved) else None
