"""The best batch of many strategies at once, optimistically: see :mod:`planner.search.bounds`.

Free batches are found in two rounds. First full batches are bisected in lockstep over all
strategies: the rate of the first full batch beyond the limits bounds that of every batch within.
Then strategies near the best one are bisected within that last block, down to one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from planner.domain.workload import Objective
from planner.search.bounds import FloatArray, IntArray, Probe, StepBound, feasible

MAX_GROUP_SEQUENCES = 1 << 20
# Strategies that cannot come so near the best optimistic objective keep a looser bound.
WORTHWHILE = 1.03


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundTable:
    """Optimistic best batch and objective of every strategy, arrays of shape ``[n]``.

    ``most`` is an upper bound on the sequences of a replica, 0 where nothing fits;
    ``objective`` is smaller-is-better, infinite where infeasible. ``fits_memory`` and
    ``meets_tpot`` say why, at the smallest batch.
    """

    most: IntArray
    objective: FloatArray
    fits_memory: NDArray[np.bool_]
    meets_tpot: NDArray[np.bool_]

    def select(self, picked: IntArray) -> BoundTable:
        """Those of some strategies."""
        return BoundTable(**{f.name: getattr(self, f.name)[picked] for f in fields(self)})


def decided_batches(bound: StepBound) -> BoundTable:
    """Bounds where the batch is decided: pinned, or the smallest one for latency."""
    probe = bound.smallest()
    fits, meets = feasible(bound, probe)
    possible = fits & meets
    if bound.request.batch is None or bound.request.objective is Objective.LATENCY:
        value = bound.value(probe)
    else:
        value = _pinned_value(bound, probe, possible)
    return BoundTable(
        most=np.where(possible, probe.replica, 0).astype(np.int64),
        objective=np.where(possible, value, np.inf),
        fits_memory=fits,
        meets_tpot=meets,
    )


def _pinned_value(bound: StepBound, fullest: Probe, possible: NDArray[np.bool_]) -> FloatArray:
    """Objective of rates that add up over replicas with one sequence more and the others."""
    batch = bound.request.batch
    assert batch is not None
    replicas = bound.strategies.replicas
    extra = batch % replicas
    step_s = bound.step_s(fullest)
    rate = np.where(extra > 0, extra, replicas) * fullest.replica / step_s
    others = np.flatnonzero(possible & (extra > 0))
    if len(others):
        part = bound.select(others)
        less = part.probe(batch // replicas[others])
        rate[others] += (replicas - extra)[others] * less.replica / part.step_s(less)
    return bound.objective(step_s, bound.setting.sequence_tokens * rate)


def best_batches(bound: StepBound) -> BoundTable:
    """Largest batches within the limits, and bounds on the objective of all within.

    Strategies whose first full batch beyond the limits is more than ``WORTHWHILE`` times worse
    than the best that was seen keep that for a bound.
    """
    full = _full_batches(bound)
    one = np.flatnonzero(full.low == 0)
    fits, meets = np.ones((2, len(bound.strategies)), dtype=np.bool_)
    if len(one):
        part = bound.select(one)
        fits[one], meets[one] = feasible(part, part.probe(part.least))
    possible = fits & meets
    endless = full.high > MAX_GROUP_SEQUENCES
    most = np.where(endless, full.low * bound.full, full.high * bound.full - 1)
    value = full.value
    open_ones = possible & (bound.full > 1) & ~endless
    near = np.flatnonzero(open_ones & (value <= WORTHWHILE * bound.best_seen))
    if len(near):
        most[near], value[near] = _last_sequences(bound.select(near), full.low[near])
    return BoundTable(
        most=np.where(possible, most, 0),
        objective=np.where(possible, value, np.inf),
        fits_memory=fits,
        meets_tpot=meets,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _FullBatches:
    """Sequences per group of full batches: ``low`` is within the limits or 0, ``high`` beyond.

    ``value`` is the objective at ``high``, or at ``low`` where groups are full in any case.
    """

    low: IntArray
    high: IntArray
    value: FloatArray


def _full_batches(bound: StepBound) -> _FullBatches:
    n = len(bound.strategies)
    low = np.zeros(n, dtype=np.int64)
    high = np.full(n, MAX_GROUP_SEQUENCES + 1, dtype=np.int64)
    value = np.full(n, np.inf)
    # Where one sequence makes a batch full, there is nothing between two of them.
    between = bound.full > 1
    active = np.arange(n)
    probe = np.minimum(np.full(n, 64, dtype=np.int64), high - 1)
    while len(active):
        part = bound if len(active) == n else bound.select(active)
        tried = probe[active]
        batch = part.probe(tried * part.full)
        fits, meets = feasible(part, batch)
        own, good = part.value(batch), fits & meets
        bound.note(own[good])
        low[active[good]] = tried[good]
        high[active[~good]] = tried[~good]
        ended = ~good & (own > WORTHWHILE * bound.best_seen)
        last = np.where(between[active], ~good, good | ended)
        # Nothing may be beyond the limits up to the largest number of sequences.
        last |= good & (tried == MAX_GROUP_SEQUENCES)
        value[active[last]] = own[last]
        active = active[(high[active] - low[active] > 1) & ~ended]
        # Gallop upwards while nothing has failed yet, then halve.
        unbounded = high[active] > MAX_GROUP_SEQUENCES
        middle = (low[active] + high[active]) // 2
        probe[active] = np.where(
            unbounded, np.minimum(low[active] * 4, MAX_GROUP_SEQUENCES), middle
        )
    return _FullBatches(low=low, high=high, value=value)


def _last_sequences(bound: StepBound, full: IntArray) -> tuple[IntArray, FloatArray]:
    """Most sequences of a replica, and the objective of the best batch.

    Parameters
    ----------
    full : int array, shape ``[n]``
        Sequences per group of the largest full batch within the limits, 0 where the smallest
        batch alone is.
    """
    low = np.maximum(full * bound.full, bound.least)
    high = (full + 1) * bound.full
    active = np.flatnonzero(high - low > 1)
    while len(active):
        part = bound.select(active)
        tried = (low[active] + high[active]) // 2
        fits, meets = feasible(part, part.probe(tried))
        good = fits & meets
        low[active[good]] = tried[good]
        high[active[~good]] = tried[~good]
        active = active[high[active] - low[active] > 1]
    value = np.full(len(low), np.inf)
    for size in (bound.full, bound.strategies.microbatches, np.ones_like(low)):
        tried = np.maximum(low // size * size, bound.least)
        value = np.minimum(value, bound.value(bound.probe(tried)))
    bound.note(value)
    return low, value
