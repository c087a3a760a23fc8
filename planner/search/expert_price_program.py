"""Solves the program of ``expert_prices`` with GLOP, rows and columns added when violated.

Either the duals refute the load, which is re-checked over all numbers of copies, or the
solution, rounded, says how many copies a better placement may have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.search.expert_bounds import FloatArray, IntArray
from planner.search.expert_prices import (
    EXTRA_COPIES,
    STEP,
    PriceCertificate,
    PriceTable,
    columns_of,
    most_violated,
    piece_prices,
)

_MARGIN = 1e-6


class _Choices:
    """Cost of every number of copies under weights of some rows."""

    def __init__(self, table: PriceTable) -> None:
        self.table = table
        self.expert, self.copies, self.first = columns_of(
            table.fewest, table.most, int(table.most.max())
        )
        self.pieces = table.row[self.expert] / self.copies
        self.known: dict[int, FloatArray] = {}

    def column(self, row: int) -> FloatArray:
        """``r f_t`` of one row for all experts and copies."""
        if row not in self.known:
            threshold = self.table.thresholds[row : row + 1]
            price = piece_prices(self.pieces, threshold, int(self.table.sizes[row]))[:, 0]
            self.known[row] = self.copies * price
        return self.known[row]

    def check(self, rows: list[int], weights: FloatArray) -> tuple[float, IntArray]:
        """Surplus of the least cost over the room, and the cheapest choice of each expert."""
        cost = np.zeros(len(self.pieces))
        room = 0.0
        for row, weight in zip(rows, weights.tolist(), strict=True):
            if weight > 0:
                cost += weight * self.column(row)
                room += weight * float(self.table.room[row])
        least = np.minimum.reduceat(cost, self.first)
        count = np.diff(np.append(self.first, len(cost)))
        places = np.where(cost <= np.repeat(least, count) + STEP, np.arange(len(cost)), len(cost))
        cheapest: IntArray = np.minimum.reduceat(places, self.first)
        return float(least.sum()) - room * (1 + STEP), cheapest


class _Program:
    """The linear program; rows and columns come when they are violated.

    The fewest copies of an expert are the base; a variable is the part of an expert that
    leaves it for another number, and costs the difference.
    """

    def __init__(self, table: PriceTable, choices: _Choices) -> None:
        # The import takes 0.04 s: only loads that need prices pay.
        from ortools.linear_solver import pywraplp

        self.table = table
        self.choices = choices
        self.solver: Any = pywraplp.Solver.CreateSolver("GLOP")
        self.infinity = self.solver.infinity()
        self.excess = self.solver.NumVar(-self.infinity, self.infinity, "")
        self.solver.Minimize(self.excess)
        self.rows: list[int] = []
        self.constraints: list[Any] = []
        self.z: dict[int, Any] = {}
        self.moves: dict[int, Any] = {}
        self.add_columns(choices.first[table.most > table.fewest] + 1)

    def add_columns(self, places: IntArray) -> int:
        """Let experts take further numbers of copies; returns how many were new."""
        added = 0
        for place in places.tolist():
            expert = int(self.choices.expert[place])
            base = int(self.choices.first[expert])
            if place == base or place in self.z:
                continue
            variable = self.solver.NumVar(0.0, self.infinity, "")
            if expert not in self.moves:
                self.moves[expert] = self.solver.RowConstraint(-self.infinity, 1.0, "")
            self.moves[expert].SetCoefficient(variable, 1.0)
            for row, constraint in zip(self.rows, self.constraints, strict=True):
                column = self.choices.column(row)
                constraint.SetCoefficient(variable, float(column[place] - column[base]))
            self.z[place] = variable
            added += 1
        return added

    def add_row(self, row: int) -> None:
        """``sum z r f_t <= room_t + s``."""
        column = self.choices.column(row)
        base = column[self.choices.first]
        room = float(self.table.room[row] - base.sum())
        constraint = self.solver.RowConstraint(-self.infinity, room, "")
        constraint.SetCoefficient(self.excess, -1.0)
        difference = (column - base[self.choices.expert]).tolist()
        for place, variable in self.z.items():
            if difference[place]:
                constraint.SetCoefficient(variable, difference[place])
        self.rows.append(row)
        self.constraints.append(constraint)

    def solve(self) -> bool:
        """Solve; False when GLOP gives up."""
        return bool(self.solver.Solve() == self.solver.OPTIMAL)

    def weights(self) -> FloatArray:
        """Duals of the rows, at least 0."""
        found = np.array([-row.dual_value() for row in self.constraints])
        weights: FloatArray = np.maximum(found, 0.0)
        return weights

    def parts(self) -> list[tuple[int, float]]:
        """Choices other than the base that the solution uses, with their parts."""
        found = ((place, variable.solution_value()) for place, variable in self.z.items())
        return [(place, part) for place, part in found if part > STEP]

    def demand(self, parts: list[tuple[int, float]]) -> FloatArray:
        """``sum z r f_t`` of every row."""
        table = self.table
        total: FloatArray = table.prices[table.first].sum(axis=0)
        for place, part in parts:
            first = int(table.first[self.choices.expert[place]])
            total += part * (self._prices(place) - table.prices[first])
        return total

    def _prices(self, place: int) -> FloatArray:
        """``r f_t`` of one choice in every row; the table has those of few extra copies."""
        table = self.table
        expert, copies = int(self.choices.expert[place]), int(self.choices.copies[place])
        more = copies - int(table.fewest[expert])
        if more <= EXTRA_COPIES:
            found: FloatArray = table.prices[int(table.first[expert]) + more]
            return found
        piece = self.choices.pieces[place : place + 1]
        parts = [
            piece_prices(piece, table.thresholds[table.sizes == size], size)[0]
            for size in np.unique(table.sizes).tolist()
        ]
        return copies * np.concatenate(parts)

    def rounded(self, parts: list[tuple[int, float]]) -> IntArray:
        """Column of the table that has the largest part of each expert."""
        table = self.table
        chosen = table.first.copy()
        largest: dict[int, float] = {}
        left = np.ones(len(chosen))
        for place, part in parts:
            expert = int(self.choices.expert[place])
            left[expert] -= part
            if part > largest.get(expert, 0.0):
                more = int(self.choices.copies[place] - table.fewest[expert])
                largest[expert] = part
                chosen[expert] = table.first[expert] + min(more, EXTRA_COPIES)
        for expert, part in largest.items():
            if left[expert] >= part:
                chosen[expert] = table.first[expert]
        return chosen


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PriceAnswer:
    """A certificate, or the columns chosen by rounding the relaxation and the rows it used."""

    certificate: PriceCertificate | None
    chosen: IntArray
    rows: tuple[int, ...]


def solve_prices(table: PriceTable, limit: float, rounds: int) -> PriceAnswer:
    """Refute T, or propose copies for it.

    Parameters
    ----------
    table : PriceTable
    limit : float
        T in the unit of the loads.
    rounds : int
        Linear programs to solve at most.
    """
    choices = _Choices(table)
    program = _Program(table, choices)
    chosen = table.first.copy()
    # The least threshold counts slots: without it copies would be free.
    fresh = [0, *most_violated(table.prices[chosen].sum(axis=0) - table.room, _MARGIN)]
    for _ in range(rounds):
        for row in fresh:
            program.add_row(row)
        if not program.solve():
            break
        weights, parts = program.weights(), program.parts()
        excess = float(program.excess.solution_value())
        grown = 0
        if excess > _MARGIN:
            surplus, cheapest = choices.check(program.rows, weights)
            if surplus > _MARGIN:
                certificate = _certificate(table, limit, program.rows, weights)
                return PriceAnswer(certificate=certificate, chosen=chosen, rows=())
            grown = program.add_columns(cheapest)
        chosen = program.rounded(parts)
        violation = program.demand(parts) - table.room
        violation[program.rows] = -np.inf
        fresh = most_violated(violation, max(excess, 0.0) + _MARGIN)
        if not fresh and not grown:
            break
    return PriceAnswer(certificate=None, chosen=chosen, rows=tuple(program.rows))


def _certificate(
    table: PriceTable, limit: float, rows: list[int], weights: FloatArray
) -> PriceCertificate:
    used = [place for place, weight in enumerate(weights.tolist()) if weight > 0]
    places = np.array(rows, dtype=np.int64)[used]
    return PriceCertificate(
        limit=limit,
        sizes=table.sizes[places],
        thresholds=table.thresholds[places],
        weights=weights[used] / weights[used].sum(),
    )
