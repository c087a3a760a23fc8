"""Bounds of whole families of strategies, and counts of those that no batch can save.

Take a strategy of a family with ``p`` stages, at most ``cells / p`` replicas of ``b`` sequences
in ``m`` microbatches, and ``d`` attention groups; let ``y = b / (p d)``. With ``F(g)`` the step
of one stage that holds all layers and decodes ``g`` sequences in every group, without a hop and
with the fewest copies, its step is at least ``F(y)``: all microbatches take at least one pass,
and ``m / p`` of one; a pass grows with its sequences, and no faster than they do. So

    objective >= a F(y) / y,  with ``a`` that of one second and one sequence per group
    bytes     >= (weights + y p caches) / p

Both are asked at one whole ``g``, the largest that is worth no more than a target where it just
meets the limit on the step, or the least that memory refuses to everyone. Where the limit is
passed there, smaller batches are worth ``a F(g) / g`` at most and larger ones are too slow: the
family has a proven floor. Families without one may beat the target. Halves of a microbatch make
a pass jump from one sequence to two, so where something is hidden ``g`` is two at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.cost.memory import budget_bytes
from planner.domain.workload import Objective
from planner.search.batch_bounds import MAX_GROUP_SEQUENCES
from planner.search.bounds import (
    FloatArray,
    IntArray,
    PassParts,
    Resident,
    StepBound,
    circulating_s,
    feasible,
    fullest_bytes,
)
from planner.search.copy_bounds import Copies
from planner.search.objective import counted_chips, objective_value
from planner.search.rates import RateTable
from planner.search.request import PlanRequest
from planner.search.space import Lists, StrategySpace, runs, spread
from planner.search.strategies import Strategies

# Families priced at a time, and strategies counted at a time: what stays in the cache.
CHUNK = 1 << 14
# Limits that are missed by less than this are asked of every strategy by itself.
MARGIN = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyFloor:
    """Floors of some families, shape ``[n]`` each.

    ``value`` bounds the objective of every strategy where ``is_proven``; elsewhere it says
    what the family would be worth at the batch that was tried.
    """

    value: FloatArray
    is_proven: NDArray[np.bool_]


class FamilyBounds:
    """Bounds of the families of a space whose batch is free."""

    def __init__(self, request: PlanRequest, space: StrategySpace, rates: RateTable) -> None:
        self.request = request
        self.space = space
        self.rates = rates
        pp = space.pipes.rows[:, 0].astype(float)
        self._most_stages = space.pipe_most(pp)[space.pipes_of]

    def floors(self, rows: IntArray, target: float) -> FamilyFloor:
        """Floors of the families ``rows``, tried at the batch that would reach ``target``."""
        parts = [
            self._floors(rows[start : start + CHUNK], target)
            for start in range(0, len(rows), CHUNK)
        ]
        none = FamilyFloor(value=np.empty(0), is_proven=np.empty(0, dtype=np.bool_))
        parts = parts or [none]
        return FamilyFloor(
            value=np.concatenate([part.value for part in parts]),
            is_proven=np.concatenate([part.is_proven for part in parts]),
        )

    def _floors(self, rows: IntArray, target: float) -> FamilyFloor:
        request = self.request
        bound = StepBound(
            request, self.space.families.select(rows), self.rates.select(rows), Copies.FEWEST
        )
        unit = self._unit(bound)
        refused = self._refused(bound, rows)
        limit = request.step_limit_s
        if request.objective is Objective.LATENCY:
            # The smallest batch is decided, and no step is faster than one pass of it.
            step = bound.step_s(bound.smallest())
            return FamilyFloor(
                value=np.where(refused < 1, np.inf, step),
                is_proven=np.ones(len(rows), dtype=np.bool_),
            )
        group = np.maximum(refused, 1)
        if limit is not None:
            least = 1 + (bound.strategies.overlap > 0)
            within = np.clip(np.floor(unit * limit / target), least, MAX_GROUP_SEQUENCES)
            group = np.minimum(group, within.astype(np.int64))
        step = bound.step_s(bound.probe(group * bound.full))
        proven = group >= refused
        if limit is not None:
            proven |= step > limit * (1 + MARGIN)
        value = np.where(refused < 1, np.inf, unit * step / group)
        return FamilyFloor(value=value, is_proven=proven)

    def _unit(self, bound: StepBound) -> FloatArray:
        """Objective of a step of one second with one sequence per group in every cell."""
        own, request = bound.strategies, self.request
        groups = (own.attn_dp * own.replicas).astype(float)
        chips = own.attn_tp * own.cp * own.attn_dp * own.replicas
        # Whole domains cost more, but not in proportion to the replicas: rented chip by chip.
        counted, _ = counted_chips(request, chips)
        return np.asarray(
            objective_value(
                request.objective,
                1.0,
                request.setting.sequence_tokens * groups,
                (counted, chips.astype(float)),
                request.price_usd_per_hour,
            )
            * np.ones(len(own))
        )

    def _refused(self, bound: StepBound, rows: IntArray) -> IntArray:
        """Fewest sequences ``y`` that no strategy of a family holds; 0 where not even weights fit.

        Caches take at least their share of those of very many sequences.
        """
        stages = self._most_stages[rows]
        most = float(MAX_GROUP_SEQUENCES)
        held = bound.resident(np.full(len(rows), most))
        counts = bound.layer_counts[:, None]
        weights = ((held.weights * counts).sum(axis=0) + held.ends) / stages
        each = ((held.caches * counts).sum(axis=0) + held.draft_caches) / most
        free = budget_bytes(self.request.setting) * (1 + MARGIN) - weights
        # No cache at all holds as many as are asked for.
        holds = np.floor(np.minimum(free / np.maximum(each, 1e-3), 4 * most)) + 1
        return np.where(free < 0, 0, holds).astype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Splits:
    """Families with one number of copies each, and what a strategy of them is made of.

    A microbatch of the smallest batch has one sequence. ``held`` has the caches of one.
    """

    bound: StepBound
    pipes: IntArray
    times: PassParts | None
    held: Resident
    active: FloatArray


def infeasible_counts(
    request: PlanRequest, space: StrategySpace, rates: RateTable
) -> tuple[int, int]:
    """Strategies that miss the limit of memory or of the step with one sequence per microbatch.

    Most families are decided as a whole, by their easiest and their hardest pipeline.

    Returns
    -------
    (int, int)
        Those over memory, and those that are too slow alone.
    """
    memory = late = 0
    if request.units:
        # What is kept after a failure does not follow from one sequence per group.
        return _count_all(request, space, rates)
    for rows in _mixed(request, space, rates):
        strategies, family = space.with_copies(rows)
        splits = _splits(request, (strategies, space.pipes_of[family]), rates.select(family))
        counts = space.pipes.lengths[splits.pipes]
        fits, meets = _decided(request, space, splits)
        memory += int(counts[fits == 0].sum())
        late += int(counts[(fits == 1) & (meets == 0)].sum())
        late += _count_late(request, space, splits, np.flatnonzero((fits == 1) & (meets < 0)))
        found = _count_each(request, space, splits, np.flatnonzero(fits < 0))
        memory, late = memory + found[0], late + found[1]
    return memory, late


def _count_all(request: PlanRequest, space: StrategySpace, rates: RateTable) -> tuple[int, int]:
    memory = late = 0
    every = np.arange(len(space.families))
    for run in runs(space.counts, CHUNK):
        strategies, family = space.expand(every[run])
        bound = StepBound(request, strategies, rates.select(family))
        fits, meets = feasible(bound, bound.smallest())
        memory += int(np.count_nonzero(~fits))
        late += int(np.count_nonzero(fits & ~meets))
    return memory, late


def _mixed(request: PlanRequest, space: StrategySpace, rates: RateTable) -> Iterator[IntArray]:
    """Families, some at a time, of which not every strategy meets both limits for sure."""
    every = np.arange(len(space.families))
    found = [every[:0]]
    for start in range(0, len(every), CHUNK):
        rows = every[start : start + CHUNK]
        given = (space.most_copies(rows), space.pipes_of[rows])
        splits = _splits(request, given, rates.select(rows), Copies.MOST)
        fits, meets = _decided(request, space, splits)
        found.append(rows[(fits != 1) | (meets != 1)])
    mixed = np.concatenate(found)
    for run in runs(space.copy_counts[mixed], CHUNK):
        yield mixed[run]


def _splits(
    request: PlanRequest,
    given: tuple[Strategies, IntArray],
    rates: RateTable,
    copies: Copies = Copies.COUNTED,
) -> _Splits:
    strategies, pipes = given
    bound = StepBound(request, strategies, rates, copies)
    probe = bound.smallest()
    return _Splits(
        bound=bound,
        pipes=pipes,
        times=None if request.step_limit_s is None else bound.parts(probe.tokens),
        held=bound.resident(probe.cached),
        active=bound.active_bytes(probe.tokens),
    )


def _decided(
    request: PlanRequest, space: StrategySpace, splits: _Splits
) -> tuple[IntArray, IntArray]:
    """Whether all pipelines of a split fit, and meet the limit: 1 yes, 0 none does, -1 mixed."""
    bound, held = splits.bound, splits.held
    counts = bound.layer_counts[:, None]
    pp, m = (space.pipes.rows[:, column].astype(float) for column in (0, 1))
    layers = float(bound.layer_counts.sum())
    # Of a stage with the most layers, and of all its microbatches.
    fullest = np.ceil(layers / pp) / layers
    busiest = space.pipe_most(m * fullest)[splits.pipes]
    stages = space.pipe_most(pp)[splits.pipes]
    weights = (held.weights * counts).sum(axis=0) + held.ends
    caches = (held.caches * counts).sum(axis=0) + held.draft_caches
    budget = budget_bytes(request.setting)
    # A head that is tied to the embedding is held once more by a stage of its own.
    most = weights + held.tied + caches * np.maximum(busiest, 1.0) + splits.active
    least = (weights + caches) / stages + splits.active
    fits = np.where(
        most <= budget * (1 - MARGIN), 1, np.where(least > budget * (1 + MARGIN), 0, -1)
    )
    if splits.times is None:
        return fits, np.ones_like(fits)
    assert request.step_limit_s is not None
    times = splits.times
    total = (times.layers * counts).sum(axis=0) + times.tables_s
    around = bound.setting.engine.step_s
    limit = request.step_limit_s * bound.tokens_per_pass - around
    hops = bound.setting.num_hops(stages) * times.hop_s
    slowest = np.maximum(total + hops, total * np.maximum(busiest, 1.0))
    meets = np.where(
        slowest <= limit * (1 - MARGIN), 1, np.where(total > limit * (1 + MARGIN), 0, -1)
    )
    return fits, meets


def _stage_runs(pipes: Lists) -> Lists:
    """``(pp, first row, rows)`` of the pipelines of equally many stages in every list."""
    owner = np.repeat(np.arange(len(pipes.lengths)), pipes.lengths)
    new = np.ones(len(owner), dtype=np.bool_)
    pp = pipes.rows[:, 0]
    new[1:] = (owner[1:] != owner[:-1]) | (pp[1:] != pp[:-1])
    first = np.flatnonzero(new)
    lengths = np.bincount(owner[first], minlength=len(pipes.lengths))
    return Lists(
        rows=np.stack([pp[first], first, np.diff(np.append(first, len(owner)))], axis=1),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
    )


def _count_late(
    request: PlanRequest, space: StrategySpace, splits: _Splits, picked: IntArray
) -> int:
    """Count pipelines that are too slow: those with too many stages, or microbatches for them.

    ``m`` of these take ``m`` times the slowest stage. The rows of equally many stages are in
    order of their microbatches.
    """
    if not len(picked) or request.step_limit_s is None or splits.times is None:
        return 0
    stages, late = _stage_runs(space.pipes), 0
    span = int(space.pipes.rows[:, 1].max()) + 2
    stage_of = np.repeat(np.arange(len(stages.rows)), stages.rows[:, 2])
    keys = stage_of * span + space.pipes.rows[:, 1]
    bound, counts = splits.bound, splits.bound.layer_counts
    for run in runs(stages.lengths[splits.pipes[picked]], 4 * CHUNK):
        pipes = splits.pipes[picked[run]]
        owner, place = spread(stages.lengths[pipes])
        row = stages.starts[pipes][owner] + place
        own = picked[run][owner]
        pp = stages.rows[row, 0].astype(float)
        times, nothing = splits.times.pick(own), np.zeros_like(pp)
        once = circulating_s(times, counts, (pp, bound.setting.num_hops(pp), nothing))
        slowest = circulating_s(replace(times, hop_s=nothing), counts, (pp, nothing, pp)) / pp
        limit = request.step_limit_s * bound.tokens_per_pass[own] - bound.setting.engine.step_s
        most = np.clip(np.floor(limit / slowest), 0, span - 1).astype(np.int64)
        in_time = np.searchsorted(keys, row * span + most, side="right") - stages.rows[row, 1]
        late += int((stages.rows[row, 2] - np.where(once <= limit, in_time, 0)).sum())
    return late


def _count_each(
    request: PlanRequest, space: StrategySpace, splits: _Splits, picked: IntArray
) -> tuple[int, int]:
    """Count the pipelines of some splits one by one."""
    memory = tpot = 0
    lengths = space.pipes.lengths[splits.pipes[picked]]
    for run in runs(lengths, 4 * CHUNK):
        owner, place = spread(lengths[run])
        own = picked[run][owner]
        rows = space.pipes.rows[space.pipes.starts[splits.pipes[own]] + place]
        fits, meets = _feasible(request, splits, own, rows.T)
        memory += int(np.count_nonzero(~fits))
        tpot += int(np.count_nonzero(fits & ~meets))
    return memory, tpot


def _feasible(
    request: PlanRequest, splits: _Splits, own: IntArray, rows: IntArray
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each pipeline of ``rows`` fits and meets the limit; ``own`` is its split."""
    bound, counts = splits.bound, splits.bound.layer_counts
    pp, microbatches = rows[0].astype(float), rows[1].astype(float)
    cached = np.ceil(microbatches / bound.strategies.attn_dp[own])
    if request.topology.is_torus:
        # Caches that a torus splits over sequences do not grow in proportion to them.
        held = bound.select(own).resident(cached)
        fullest = fullest_bytes(held, counts, (pp, np.ones_like(pp)))
    else:
        fullest = fullest_bytes(splits.held.pick(own), counts, (pp, cached))
    fits = fullest + splits.active[own] <= budget_bytes(request.setting)
    if splits.times is None or request.step_limit_s is None:
        return fits, np.ones_like(fits)
    step = circulating_s(
        splits.times.pick(own), counts, (pp, bound.setting.num_hops(pp), microbatches)
    )
    per_token = (step + bound.setting.engine.step_s) / bound.tokens_per_pass[own]
    return fits, per_token <= request.step_limit_s
