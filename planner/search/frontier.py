"""What a search has looked at so far: families by their floor, strategies by their bound.

All families get a floor at once (:mod:`planner.search.family_bounds`). Those that may hold
something good are opened: their strategies are bounded one by one, each at its best batch.
The others stay closed until the search runs out of better ones, which mostly never happens;
``closed_bound`` is what none of their strategies can beat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from planner.domain.workload import Objective
from planner.search.batch_bounds import BoundTable, best_batches, decided_batches
from planner.search.bounds import IntArray, StepBound
from planner.search.family_bounds import FamilyBounds, infeasible_counts
from planner.search.mesh import MeshMapper
from planner.search.rates import strategy_rates
from planner.search.request import PlanRequest
from planner.search.space import StrategySpace, runs
from planner.search.strategies import Strategies, join_strategies

# Strategies bounded at a time.
CHUNK = 1 << 15
# So many strategies of different families are bounded first, to know what a good objective is.
FIRST_FAMILIES = 2048
# Families that may come so near the best are opened before anything is solved.
PROMISING = 1.002
# Families are tried again when what is good has fallen by this share.
RETRY = 0.01


def _silent(left: int) -> None:
    """Tells nobody."""


def join_tables(parts: list[BoundTable]) -> BoundTable:
    """One table from several, behind each other."""
    return BoundTable(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(BoundTable)
        }
    )


def has_free_batch(request: PlanRequest) -> bool:
    """Whether the search chooses the batch: it is neither given nor the smallest."""
    return request.batch is None and request.objective is not Objective.LATENCY


def bound_chunk(request: PlanRequest, bound: StepBound) -> BoundTable:
    """Best optimistic batch and objective of a few strategies."""
    return best_batches(bound) if has_free_batch(request) else decided_batches(bound)


def bounded(
    request: PlanRequest, mapper: MeshMapper, space: StrategySpace
) -> tuple[Strategies, BoundTable, tuple[int, int]]:
    """Every strategy of a space that may meet the limits, with its bound.

    Returns
    -------
    (Strategies, BoundTable, (int, int))
        The third are the strategies over memory, and those that are too slow alone.
    """
    rates = strategy_rates(mapper, space.families)
    every, counts, seen = np.arange(len(space.families)), space.counts, [np.inf]
    kept: list[Strategies] = []
    tables: list[BoundTable] = []
    memory = late = 0
    # A part without strategies makes the result one where there are none.
    for run in (slice(0, 0), *runs(counts, CHUNK)):
        strategies, family = space.expand(every[run])
        bound = StepBound(request, strategies, rates.select(family))
        bound.share(seen)
        table = bound_chunk(request, bound)
        memory += int(np.count_nonzero(~table.fits_memory))
        late += int(np.count_nonzero(table.fits_memory & ~table.meets_tpot))
        rows = np.flatnonzero(np.isfinite(table.objective))
        kept.append(strategies.select(rows))
        tables.append(table.select(rows))
    return join_strategies(kept), join_tables(tables), (memory, late)


class Frontier:
    """Floors of families, bounds of the strategies of opened ones, counts by reason.

    Attributes
    ----------
    strategies, table : Strategies, BoundTable
        Those of opened families that may meet the limits. More are added behind when a
        family is opened, so a strategy keeps its number.
    """

    def __init__(
        self,
        request: PlanRequest,
        mapper: MeshMapper,
        space: StrategySpace,
        tell: Callable[[int], None] = _silent,
    ) -> None:
        self.request = request
        self.space = space
        self._tell = tell
        self._rates = strategy_rates(mapper, space.families)
        self._seen = [np.inf]
        self._closed = np.ones(len(space.families), dtype=np.bool_)
        self._floor = np.full(len(space.families), -np.inf)
        none = np.empty(0, dtype=np.int64)
        self.strategies = space.expand(none)[0]
        self.table = bound_chunk(
            request, StepBound(request, self.strategies, self._rates.select(none))
        )
        self._counted: tuple[int, int] | None = None
        tell(len(space))
        if request.batch is None:
            self._families = FamilyBounds(request, space, self._rates)
            self._open_promising()
        else:
            self._scan()
        # What is opened later is few, and the search tells how far it is itself.
        self._tell = _silent

    @property
    def infeasible(self) -> tuple[int, int]:
        """Strategies of the whole space that miss the limit of memory, and of the step alone.

        At the smallest batch; counted when first asked for.
        """
        if self._counted is None:
            self._counted = infeasible_counts(self.request, self.space, self._rates)
        return self._counted

    @property
    def closed_bound(self) -> float:
        """No strategy of a closed family has a smaller objective."""
        return float(np.min(self._floor, where=self._closed, initial=np.inf))

    def open_more(self, limit: float) -> None:
        """Open the best closed families, those with a floor below ``limit`` before others."""
        closed = np.flatnonzero(self._closed)
        order = closed[np.argsort(self._floor[closed], kind="stable")]
        below = int(np.searchsorted(self._floor[order], limit))
        picked = order[: max(1, below)]
        self._open(picked[next(runs(self.space.counts[picked], CHUNK))])

    def open_kinds(self, kinds: IntArray, most: int) -> None:
        """Open the best closed family of every kind that no opened one has, ``most`` at most.

        ``kinds`` has shape ``[families]``.
        """
        closed = np.flatnonzero(self._closed & np.isfinite(self._floor))
        order = closed[np.argsort(self._floor[closed], kind="stable")]
        _, first = np.unique(kinds[order], return_index=True)
        best = order[np.sort(first)]
        new = best[~np.isin(kinds[best], np.unique(kinds[~self._closed]))]
        self._open(new[:most])

    def _open(self, picked: IntArray) -> None:
        """Bound every strategy of some families at its best batch."""
        tables, kept = [self.table], [self.strategies]
        counts = self.space.counts[picked]
        left = int(counts.sum())
        for run in runs(counts, CHUNK):
            self._tell(left)
            left -= int(counts[run].sum())
            strategies, family = self.space.expand(picked[run])
            table = self._bounded(strategies, family)
            rows = np.flatnonzero(np.isfinite(table.objective))
            tables.append(table.select(rows))
            kept.append(strategies.select(rows))
        self._closed[picked] = False
        self.table = join_tables(tables)
        self.strategies = join_strategies(kept)

    def _bounded(self, strategies: Strategies, family: IntArray) -> BoundTable:
        bound = StepBound(self.request, strategies, self._rates.select(family))
        bound.share(self._seen)
        table = bound_chunk(self.request, bound)
        self._seen[0] = min(self._seen[0], float(table.objective.min(initial=np.inf)))
        return table

    def _open_promising(self) -> None:
        """Open families that may come near the best; what is best is learned on the way."""
        num_families = len(self.space.families)
        some = np.arange(0, num_families, max(1, num_families // FIRST_FAMILIES))
        self._bounded(self.space.first(some), some)
        pending, tried = np.arange(num_families), None
        while len(pending):
            target = PROMISING * self._seen[0]
            if tried is None or target < tried * (1 - RETRY):
                found = self._families.floors(pending, target)
                self._floor[pending] = np.where(found.is_proven, found.value, -np.inf)
                order = np.argsort(found.value, kind="stable")
                tried = target
                pending, worth = pending[order], found.value[order]
                closed = found.is_proven[order] & (worth >= target)
                pending = pending[~closed]
                if not len(pending):
                    break
            run = next(runs(self.space.counts[pending], CHUNK))
            self._open(pending[run])
            pending = pending[run.stop :]

    def _scan(self) -> None:
        """Bound every strategy once, and keep no more than the best of each family."""
        counts = self.space.counts
        every = np.arange(len(counts))
        left, memory, late = int(counts.sum()), 0, 0
        for run in runs(counts, CHUNK):
            self._tell(left)
            left -= int(counts[run].sum())
            table = self._bounded(*self.space.expand(every[run]))
            starts = np.cumsum(counts[run]) - counts[run]
            self._floor[run] = np.minimum.reduceat(table.objective, starts)
            memory += int(np.count_nonzero(~table.fits_memory))
            late += int(np.count_nonzero(table.fits_memory & ~table.meets_tpot))
        self._counted = memory, late
        self._open(np.flatnonzero(self._floor < PROMISING * self._seen[0]))
