"""Bound, solve, prune: the search loop and its certificate.

1. All families of strategies get a floor, and the strategies of those that may be good an
   optimistic objective (:mod:`planner.search.frontier`).
2. These are solved exactly in order of that bound; the best is the incumbent. A family is opened
   when no strategy has a smaller bound than its floor.
3. The loop ends when the next bound cannot improve the incumbent by more than the gap, or
   when the time limit or Ctrl-C ends it (:mod:`planner.search.control`).

The certificate's bound is the smallest of the floors of closed families, of the bounds of
strategies that were not solved, and of the incumbent itself: nothing in the space is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from planner.cost.routing import moe_shape
from planner.domain.layout import Certificate, Stopped
from planner.domain.outcome import Infeasible
from planner.domain.workload import Objective
from planner.search.batch_bounds import BoundTable
from planner.search.bounds import IntArray
from planner.search.control import SearchControl, UnfinishedError
from planner.search.frontier import Frontier
from planner.search.infeasible import explain
from planner.search.mesh import MeshMapper
from planner.search.objective import UNITS, objective_value
from planner.search.request import PlanRequest
from planner.search.solve import Solved
from planner.search.space import StrategySpace, strategy_space
from planner.search.strategies import Strategies
from planner.search.survive import solver_for
from planner.search.validate import RELATIVE_TOLERANCE

NUM_RUNNERS_UP = 4
# Kinds of strategies beyond these are not worth solving for show.
MAX_RUNNER_UP_TRIES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """The best assignment found, others for comparison, and what was proved."""

    best: Solved
    runners_up: tuple[Solved, ...]
    certificate: Certificate


class _Search:
    """State of one search: incumbent, solved strategies, counts."""

    def __init__(self, request: PlanRequest, control: SearchControl) -> None:
        self.request = request
        self.control = control
        self.mapper = MeshMapper.of(request.topology)
        self.solver = solver_for(request, self.mapper)
        self.space = strategy_space(request)
        self.best: Solved | None = None
        self.best_value = float("inf")
        self.solved: dict[int, Solved | None] = {}

    def value(self, solved: Solved) -> float:
        """Objective of a solved strategy."""
        prediction = solved.prediction
        chips = (float(self.request.topology.num_chips), float(prediction.chips_rented))
        return float(
            objective_value(
                self.request.objective,
                prediction.step_s,
                prediction.tokens_per_s,
                chips,
                self.request.price_usd_per_hour,
            )
        )

    def look(self) -> None:
        """Bound the space, before anything is solved."""
        self.frontier = Frontier(self.request, self.mapper, self.space, self.control.begin)

    def solve(self, index: int) -> None:
        """Solve one strategy and keep it if it is the best so far.

        Raises
        ------
        UnfinishedError
            The search has been stopped meanwhile.
        """
        frontier = self.frontier
        degrees, most = frontier.strategies.degrees(index), int(frontier.table.most[index])
        solved = self.control.attempt(lambda: self.solver.solve(degrees, most))
        self.solved[index] = solved
        if solved is not None and self.value(solved) < self.best_value:
            self.best, self.best_value = solved, self.value(solved)
            self.control.offer(self.best_value)

    def tightened(self, index: int) -> float:
        """Proven bound of one strategy, at least its optimistic one."""
        table = self.frontier.table
        degrees = self.frontier.strategies.degrees(index)
        found = self.solver.bound(degrees, int(table.most[index]))
        return float("inf") if found is None else max(found, float(table.objective[index]))

    def run(self) -> float:
        """Solve in order of bound; return the smallest bound that was left unsolved."""
        order = _order(self.frontier.table)
        self.control.begin(len(order), self._next(order, 0))
        position = 0
        while True:
            bound, closed = self._next(order, position), self.frontier.closed_bound
            least = min(bound, closed)
            if self.control.enough(least) or self.control.stopped():
                return least
            if closed < bound or position >= len(order):
                good = self.best_value * (1.0 - self.request.gap)
                self.frontier.open_more(min(bound, good))
                order, position = self._unsolved(), 0
                continue
            try:
                self.solve(int(order[position]))
            except UnfinishedError:
                return least
            position += 1
            self.control.report(min(self._next(order, position), closed))

    def _next(self, order: IntArray, position: int) -> float:
        """Bound of the strategy at a place of the order; infinite behind its end."""
        if position >= len(order):
            return float("inf")
        return float(self.frontier.table.objective[order[position]])

    def _unsolved(self) -> IntArray:
        """Strategies that are not solved, in order of their bound."""
        order = _order(self.frontier.table)
        return order[~np.isin(order, list(self.solved))]


def _kinds(strategies: Strategies, num_experts: int) -> IntArray:
    """Layouts that people would call the same strategy have the same number, shape ``[n]``.

    Splits of attention (data or tensor parallel), whether expert groups divide the experts
    evenly, copies or none, stages and replicas tell kinds apart; the exact size does not.
    """
    columns: list[NDArray[np.int64 | np.bool_]] = [
        strategies.attn_tp > 1,
        strategies.attn_dp > 1,
        strategies.ep > 1,
        num_experts % strategies.ep == 0,
        strategies.num_slots > num_experts,
        np.minimum(strategies.pp, 3),
        np.minimum(strategies.replicas, 3),
    ]
    code = np.zeros(len(strategies), dtype=np.int64)
    for column in columns:
        code = code * 4 + column
    return code


def runners_up(search: _Search, best: Solved) -> tuple[Solved, ...]:
    """Solve the most promising strategy of each other kind, best first."""
    shape = moe_shape(search.request.setting.model)
    num_experts = 1 if shape is None else shape[0]
    frontier = search.frontier
    if search.control.stopped():
        return ()
    frontier.open_kinds(_kinds(search.space.families, num_experts), MAX_RUNNER_UP_TRIES)
    kinds = _kinds(frontier.strategies, num_experts)
    mine = next(int(kinds[i]) for i, solved in search.solved.items() if solved is best)
    order = _order(frontier.table)
    firsts = np.sort(np.unique(kinds[order], return_index=True)[1])
    found: list[Solved] = []
    others = [int(i) for i in order[firsts] if kinds[i] != mine]
    for index in others[:MAX_RUNNER_UP_TRIES]:
        if search.control.stopped():
            break
        try:
            if index not in search.solved:
                search.solve(index)
        except UnfinishedError:
            break
        solved = search.solved[index]
        if solved is not None:
            found.append(solved)
        if len(found) >= NUM_RUNNERS_UP:
            break
    return tuple(sorted(found, key=search.value))


def _order(table: BoundTable) -> NDArray[np.int64]:
    """Strategies that may be feasible, in order of their bound."""
    order = np.argsort(table.objective, kind="stable")
    return order[: np.count_nonzero(np.isfinite(table.objective))]


def solved_bound(search: _Search, left: float) -> float:
    """Smallest objective that any solved strategy could still have.

    A solved strategy keeps its optimistic bound unless that would dominate the
    certificate; then the bound is tightened with exact stages and placement bounds, unless
    the search has been stopped for a while.
    """
    table = search.frontier.table
    floor = min(left, search.best_value)
    for index in sorted(search.solved, key=lambda i: float(table.objective[i])):
        optimistic = float(table.objective[index])
        if optimistic >= floor:
            break
        if search.control.is_overdue():
            return optimistic
        try:
            floor = min(floor, search.control.attempt(partial(search.tightened, index)))
        except UnfinishedError:
            return optimistic
    return floor


def dominated_count(request: PlanRequest, space: StrategySpace) -> int:
    """Strategies left out since the same with more replicas is in the space and as good.

    That holds where cells of a size are alike, so neither on wounded machines nor beside
    excluded chips, and where fewer chips are not cheaper.
    """
    limits, topology = request.limits, request.topology
    free = limits.replicas is None and limits.dp is None
    alike = topology.wounded is None and not topology.spared.excluded
    if request.objective is Objective.COST or not (free and alike):
        return 0
    fewer = space.pipe_totals(space.pipes.rows[:, 2] - 1)
    return int((space.copy_counts * fewer).sum())


def _certificate(search: _Search, left: float) -> Certificate:
    frontier = search.frontier
    bound = solved_bound(search, left)
    solved = len(search.solved)
    enumerated = len(search.space)
    memory, tpot = frontier.infeasible
    gap = (search.best_value - bound) / search.best_value
    why: Stopped = search.control.why
    if why in ("gap", "exhausted") and gap > search.request.gap * (1 + RELATIVE_TOLERANCE):
        why = "own bounds"
    return Certificate(
        objective=search.best_value,
        bound=bound,
        gap=gap,
        unit=UNITS[search.request.objective],
        enumerated=enumerated,
        infeasible_memory=memory,
        infeasible_tpot=tpot,
        infeasible_placement=sum(found is None for found in search.solved.values()),
        pruned=enumerated - memory - tpot - solved,
        solved=solved,
        dominated=dominated_count(search.request, search.space),
        stopped=why,
        space=search.space.description(),
    )


def search_layout(request: PlanRequest) -> SearchResult | Infeasible:
    """Find the best layout of the request's space and prove how good it is.

    Returns
    -------
    SearchResult or Infeasible
        ``certificate.gap`` is at most ``request.gap`` unless the search was stopped early;
        ``certificate.stopped`` says what ended it.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, when there is no layout yet.
    """
    control = SearchControl(request.gap, request.time_limit_s, request.progress)
    with control.listening(request.interruptible):
        return _search(_Search(request, control))


def solve_unproved(request: PlanRequest) -> tuple[Solved, float] | None:
    """The best assignment and its objective, without runners-up and certificate.

    What a study of given degrees asks hundreds of times; None where nothing fits.
    """
    search = _Search(request, SearchControl(request.gap))
    if len(search.space) == 0:
        return None
    search.look()
    search.run()
    return None if search.best is None else (search.best, search.best_value)


def _search(search: _Search) -> SearchResult | Infeasible:
    request = search.request
    if len(search.space) == 0:
        return explain(request, search.space, (0, 0))
    search.look()
    left = search.run()
    if search.best is None:
        return explain(request, search.space, search.frontier.infeasible)
    best = search.best
    others = runners_up(search, best)
    # A runner-up may turn out better than the incumbent within the gap: keep the best.
    assert search.best is not None
    if search.best is not best:
        others = (best, *(other for other in others if other is not search.best))
    certificate = _certificate(search, left)
    return SearchResult(best=search.best, runners_up=others, certificate=certificate)
