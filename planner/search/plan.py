"""Bound, solve, prune: the search loop and its certificate.

1. All strategies get an optimistic objective (:mod:`planner.search.bounds`).
2. They are solved exactly in order of that bound; the best is the incumbent.
3. The loop ends when the next bound cannot improve the incumbent by more than the gap, or
   when the time limit or Ctrl-C ends it (:mod:`planner.search.control`).

The certificate's bound is the smallest optimistic objective among the strategies that were
not solved and the incumbent itself: nothing in the space is better than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
from numpy.typing import NDArray

from planner.cost.routing import moe_shape
from planner.domain.degrees import Degrees
from planner.domain.layout import Certificate, Stopped
from planner.domain.outcome import Infeasible
from planner.domain.workload import Objective
from planner.search.batch_bounds import BoundTable, best_batches, decided_batches
from planner.search.bounds import StepBound
from planner.search.control import SearchControl, UnfinishedError
from planner.search.infeasible import explain
from planner.search.mesh import MeshMapper, strategy_rates
from planner.search.objective import UNITS, objective_value
from planner.search.request import PlanRequest
from planner.search.solve import Solved
from planner.search.strategies import Strategies, enumerate_strategies, space_description
from planner.search.survive import solver_for
from planner.search.validate import RELATIVE_TOLERANCE

# Strategies bounded at a time.
CHUNK = 1 << 15
# One of so many strategies is bounded before all others.
SAMPLE = 128
NUM_RUNNERS_UP = 4
# A family that cannot come within this factor of the winner is not worth solving for show.
MAX_RUNNER_UP_TRIES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """The best assignment found, others for comparison, and what was proved."""

    best: Solved
    runners_up: tuple[Solved, ...]
    certificate: Certificate


def _silent(left: int) -> None:
    """Tells nobody."""


def bound_table(
    request: PlanRequest, bound: StepBound, tell: Callable[[int], None] = _silent
) -> BoundTable:
    """Best optimistic batch and objective of every strategy.

    Strategies are taken in chunks that stay in the processor's cache; ``tell`` is called
    with the number that is left to bound before each.
    """
    n = len(bound.strategies)
    tell(n)
    if n <= CHUNK:
        return _bound_chunk(request, bound)
    if request.batch is None and request.objective is not Objective.LATENCY:
        # A good objective, known early, ends the bisection of strategies that are far from it.
        best_batches(bound.select(np.arange(SAMPLE // 2, n, SAMPLE)))
    parts = []
    for start in range(0, n, CHUNK):
        tell(n - start)
        part = bound.select(np.arange(start, min(start + CHUNK, n)))
        parts.append(_bound_chunk(request, part))
    return BoundTable(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(BoundTable)
        }
    )


def _bound_chunk(request: PlanRequest, bound: StepBound) -> BoundTable:
    if request.batch is None and request.objective is not Objective.LATENCY:
        return best_batches(bound)
    return decided_batches(bound)


class _Search:
    """State of one search: incumbent, solved strategies, counts."""

    def __init__(self, request: PlanRequest, control: SearchControl) -> None:
        self.request = request
        self.control = control
        self.mapper = MeshMapper.of(request.topology)
        self.solver = solver_for(request, self.mapper)
        self.strategies = enumerate_strategies(request)
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

    def solve(self, index: int, table: BoundTable) -> None:
        """Solve one strategy and keep it if it is the best so far.

        Raises
        ------
        UnfinishedError
            The search has been stopped meanwhile.
        """
        degrees, most = self.strategies.degrees(index), int(table.most[index])
        solved = self.control.attempt(lambda: self.solver.solve(degrees, most))
        self.solved[index] = solved
        if solved is not None and self.value(solved) < self.best_value:
            self.best, self.best_value = solved, self.value(solved)
            self.control.offer(self.best_value)

    def tightened(self, index: int, table: BoundTable) -> float:
        """Proven bound of one strategy, at least its optimistic one."""
        degrees = self.strategies.degrees(index)
        found = self.solver.bound(degrees, int(table.most[index]))
        return float("inf") if found is None else max(found, float(table.objective[index]))

    def run(self, table: BoundTable) -> float:
        """Solve in order of bound; return the smallest bound that was left unsolved."""
        order = _order(table)
        bounds = np.append(table.objective[order], np.inf)
        self.control.begin(len(order), float(bounds[0]))
        for position, index in enumerate(map(int, order)):
            bound = float(bounds[position])
            if self.control.enough(bound) or self.control.stopped():
                return bound
            try:
                self.solve(index, table)
            except UnfinishedError:
                return bound
            self.control.report(float(bounds[position + 1]))
        return float("inf")


def _family(degrees: Degrees, num_experts: int) -> tuple[object, ...]:
    """Layouts that people would call the same strategy.

    Splits of attention (data or tensor parallel), whether expert groups divide the experts
    evenly, copies or none, stages and replicas tell families apart; the exact size does not.
    """
    return (
        degrees.attn_tp > 1,
        degrees.attn_dp > 1,
        degrees.ep > 1,
        num_experts % degrees.ep == 0,
        degrees.num_slots > num_experts,
        min(degrees.pp, 3),
        min(degrees.replicas, 3),
    )


def runners_up(search: _Search, table: BoundTable, best: Solved) -> tuple[Solved, ...]:
    """Solve the most promising strategy of each other family, best first."""
    shape = moe_shape(search.request.setting.model)
    num_experts = 1 if shape is None else shape[0]
    seen = {_family(best.assignment.degrees, num_experts)}
    found: list[Solved] = []
    tries = 0
    for index in map(int, _order(table)):
        family = _family(search.strategies.degrees(index), num_experts)
        if family in seen:
            continue
        seen.add(family)
        tries += 1
        if search.control.stopped():
            break
        try:
            if index not in search.solved:
                search.solve(index, table)
        except UnfinishedError:
            break
        solved = search.solved[index]
        if solved is not None:
            found.append(solved)
        if len(found) >= NUM_RUNNERS_UP or tries >= MAX_RUNNER_UP_TRIES:
            break
    return tuple(sorted(found, key=search.value))


def _order(table: BoundTable) -> NDArray[np.int64]:
    """Strategies that may be feasible, in order of their bound."""
    order = np.argsort(table.objective, kind="stable")
    return order[: np.count_nonzero(np.isfinite(table.objective))]


def solved_bound(search: _Search, table: BoundTable, left: float) -> float:
    """Smallest objective that any solved strategy could still have.

    A solved strategy keeps its optimistic bound unless that would dominate the
    certificate; then the bound is tightened with exact stages and placement bounds, unless
    the search has been stopped for a while.
    """
    floor = min(left, search.best_value)
    for index in sorted(search.solved, key=lambda i: float(table.objective[i])):
        optimistic = float(table.objective[index])
        if optimistic >= floor:
            break
        if search.control.is_overdue():
            return optimistic
        try:
            floor = min(floor, search.control.attempt(partial(search.tightened, index, table)))
        except UnfinishedError:
            return optimistic
    return floor


def dominated_count(request: PlanRequest, strategies: Strategies) -> int:
    """Strategies left out since the same with more replicas is in the space and as good.

    That holds where cells of a size are alike, so neither on wounded machines nor beside
    excluded chips, and where fewer chips are not cheaper.
    """
    limits, topology = request.limits, request.topology
    free = limits.replicas is None and limits.dp is None
    alike = topology.wounded is None and not topology.spared.excluded
    if request.objective is Objective.COST or not (free and alike):
        return 0
    return int((strategies.replicas - 1).sum())


def _certificate(
    search: _Search, table: BoundTable, left: float, statistics: tuple[int, int]
) -> Certificate:
    enumerated, unplaceable = statistics
    bound = solved_bound(search, table, left)
    memory = int((~table.fits_memory).sum())
    tpot = int((table.fits_memory & ~table.meets_tpot).sum())
    solved = len(search.solved)
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
        infeasible_placement=unplaceable,
        pruned=enumerated - memory - tpot - solved,
        solved=solved,
        dominated=dominated_count(search.request, search.strategies),
        stopped=why,
        space=space_description(search.strategies),
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
    if len(search.strategies) == 0:
        return None
    rates = strategy_rates(search.mapper, search.strategies)
    search.run(bound_table(request, StepBound(request, search.strategies, rates)))
    return None if search.best is None else (search.best, search.best_value)


def _search(search: _Search) -> SearchResult | Infeasible:
    request, strategies = search.request, search.strategies
    if len(strategies) == 0:
        return explain(request, strategies, None)
    bound = StepBound(request, strategies, strategy_rates(search.mapper, strategies))
    table = bound_table(request, bound, search.control.begin)
    left = search.run(table)
    if search.best is None:
        return explain(request, strategies, (bound, table))
    best = search.best
    others = runners_up(search, table, best)
    # A runner-up may turn out better than the incumbent within the gap: keep the best.
    assert search.best is not None
    if search.best is not best:
        others = (best, *(other for other in others if other is not search.best))
    unplaceable = sum(solved is None for solved in search.solved.values())
    certificate = _certificate(search, table, left, (len(strategies), unplaceable))
    return SearchResult(best=search.best, runners_up=others, certificate=certificate)
