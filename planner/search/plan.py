"""Bound, solve, prune: the search loop and its certificate.

1. All strategies get an optimistic objective (:mod:`planner.search.bounds`).
2. They are solved exactly in order of that bound; the best is the incumbent.
3. The loop ends when the next bound cannot improve the incumbent by more than the gap.

The certificate's bound is the smallest optimistic objective among the strategies that were
not solved and the incumbent itself: nothing in the space is better than that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from planner.cost.routing import moe_shape
from planner.domain.degrees import Degrees
from planner.domain.layout import Certificate
from planner.domain.outcome import Infeasible
from planner.domain.workload import Objective
from planner.search.bounds import BoundTable, StepBound, best_batches, feasible
from planner.search.infeasible import explain
from planner.search.mesh import MeshMapper, strategy_rates
from planner.search.objective import UNITS, objective_value, rented_bound
from planner.search.request import PlanRequest
from planner.search.solve import Solved, StrategySolver
from planner.search.strategies import Strategies, enumerate_strategies, space_description

# Strategies bounded at a time.
CHUNK = 1 << 15
NUM_RUNNERS_UP = 4
# A family that cannot come within this factor of the winner is not worth solving for show.
MAX_RUNNER_UP_TRIES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """The best assignment found, others for comparison, and what was proved."""

    best: Solved
    runners_up: tuple[Solved, ...]
    certificate: Certificate


def bound_table(request: PlanRequest, bound: StepBound) -> BoundTable:
    """Best optimistic batch and objective of every strategy.

    Strategies are taken in chunks that stay in the processor's cache.
    """
    n = len(bound.strategies)
    if n <= CHUNK:
        return _bound_chunk(request, bound)
    starts = range(0, n, CHUNK)
    parts = [
        _bound_chunk(request, bound.select(np.arange(start, min(start + CHUNK, n))))
        for start in starts
    ]
    return BoundTable(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(BoundTable)
        }
    )


def _bound_chunk(request: PlanRequest, bound: StepBound) -> BoundTable:
    n = len(bound.strategies)
    if request.batch is not None:
        tokens = bound.pinned_tokens(request.batch)
        fits, meets = feasible(bound, tokens)
        group = np.ones(n, dtype=np.int64)
        batch = np.full(n, float(request.batch))
    else:
        smallest = bound.tokens(np.ones(n))
        fits, meets = feasible(bound, smallest)
        lean = request.objective is Objective.LATENCY
        group = (fits & meets).astype(np.int64) if lean else best_batches(bound)
        tokens = bound.tokens(np.maximum(group, 1).astype(float))
        arrays = bound.arrays
        batch = tokens.stage * arrays.microbatches * arrays.replicas
    step = bound.step_s(tokens)
    strategies = bound.strategies
    used = strategies.attn_tp * strategies.attn_dp * strategies.pp * strategies.replicas
    chips = (float(request.topology.num_chips), rented_bound(request.topology, used))
    value = objective_value(
        request.objective, step, batch / step, chips, request.price_usd_per_hour
    )
    objective = np.where(fits & meets & (group > 0), value, np.inf)
    return BoundTable(
        group=group, objective=objective, step_s=step, fits_memory=fits, meets_tpot=meets
    )


class _Search:
    """State of one search: incumbent, solved strategies, counts."""

    def __init__(self, request: PlanRequest) -> None:
        self.request = request
        self.mapper = MeshMapper.of(request.topology)
        self.solver = StrategySolver(request, self.mapper)
        self.strategies = enumerate_strategies(request)
        self.best: Solved | None = None
        self.best_value = float("inf")
        self.solved: dict[int, Solved | None] = {}
        self.started = time.monotonic()

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
        """Solve one strategy and keep it if it is the best so far."""
        solved = self.solver.solve(self.strategies.degrees(index), int(table.group[index]))
        self.solved[index] = solved
        if solved is not None and self.value(solved) < self.best_value:
            self.best, self.best_value = solved, self.value(solved)

    def tightened(self, index: int, table: BoundTable) -> float:
        """Proven bound of one strategy, at least its optimistic one."""
        degrees = self.strategies.degrees(index)
        found = self.solver.bound(degrees, int(table.group[index]))
        if found is None:
            return float("inf")
        batch, step_s = found
        used = np.array([degrees.chips_used])
        rented = float(rented_bound(self.request.topology, used)[0])
        chips = (float(self.request.topology.num_chips), rented)
        price = self.request.price_usd_per_hour
        value = objective_value(self.request.objective, step_s, batch / step_s, chips, price)
        return max(float(value), float(table.objective[index]))

    def out_of_time(self) -> bool:
        """Whether the user's time limit has passed and there is something to return."""
        limit = self.request.time_limit_s
        return (
            limit is not None and self.best is not None and time.monotonic() - self.started > limit
        )

    def run(self, table: BoundTable) -> float:
        """Solve in order of bound; return the smallest bound that was left unsolved."""
        order = np.argsort(table.objective, kind="stable")
        for position, index in enumerate(order):
            bound = float(table.objective[index])
            if not np.isfinite(bound):
                return float("inf")
            enough = bound >= self.best_value * (1.0 - self.request.gap)
            if enough or self.out_of_time():
                return bound
            self.solve(int(index), table)
            if self.request.progress is not None:
                following = order[min(position + 1, len(order) - 1)]
                self.request.progress(self.best_value, float(table.objective[following]))
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
    for index in _by_bound(table):
        family = _family(search.strategies.degrees(index), num_experts)
        if family in seen:
            continue
        seen.add(family)
        tries += 1
        if index not in search.solved:
            search.solve(index, table)
        solved = search.solved[index]
        if solved is not None:
            found.append(solved)
        if len(found) >= NUM_RUNNERS_UP or tries >= MAX_RUNNER_UP_TRIES:
            break
    return tuple(sorted(found, key=search.value))


def _by_bound(table: BoundTable) -> Iterable[int]:
    order = np.argsort(table.objective, kind="stable")
    return (int(index) for index in order if np.isfinite(table.objective[index]))


def solved_bound(search: _Search, table: BoundTable, left: float) -> float:
    """Smallest objective that any solved strategy could still have.

    A solved strategy keeps its optimistic bound unless that would dominate the
    certificate; then the bound is tightened with exact stages and placement bounds.
    """
    floor = min(left, search.best_value)
    for index in sorted(search.solved, key=lambda i: float(table.objective[i])):
        if table.objective[index] >= floor:
            break
        floor = min(floor, search.tightened(index, table))
    return floor


def _certificate(
    search: _Search, table: BoundTable, left: float, statistics: tuple[int, int]
) -> Certificate:
    enumerated, unplaceable = statistics
    bound = solved_bound(search, table, left)
    memory = int((~table.fits_memory).sum())
    tpot = int((table.fits_memory & ~table.meets_tpot).sum())
    solved = len(search.solved)
    return Certificate(
        objective=search.best_value,
        bound=bound,
        gap=(search.best_value - bound) / search.best_value,
        unit=UNITS[search.request.objective],
        enumerated=enumerated,
        infeasible_memory=memory,
        infeasible_tpot=tpot,
        infeasible_placement=unplaceable,
        pruned=enumerated - memory - tpot - solved,
        solved=solved,
        space=space_description(search.strategies),
    )


def search_layout(request: PlanRequest) -> SearchResult | Infeasible:
    """Find the best layout of the request's space and prove how good it is.

    Returns
    -------
    SearchResult or Infeasible
        ``certificate.gap`` is at most ``request.gap`` unless the time limit struck.
    """
    search = _Search(request)
    strategies: Strategies = search.strategies
    if len(strategies) == 0:
        return explain(request, strategies, None)
    bound = StepBound(request, strategies, strategy_rates(search.mapper, strategies))
    table = bound_table(request, bound)
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
