"""The batch of one replica with the most sequences per second.

Data        ``t(b)`` seconds of a step of ``b`` sequences in the best stages that fit in memory,
            absent beyond the limits; the sequences ``d`` that fill a microbatch of one per
            group, and ``m`` microbatches
Variable    ``least <= b <= most``
Objective   maximise ``b / t(b)``

What fits falls as ``b`` grows, so the largest batch is found by halving. With given stages the
best batch up to ``h`` is one of three (:func:`candidates`; :mod:`planner.search.bounds` says
why). Only where memory decides between stages may a smaller batch be better still: its
stages may be faster. The batches between ``l`` and ``h`` are at best what ``h`` reaches in the
stages that fit for ``l``; the range is halved until that is no more than what was found.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from planner.search.cuts import Cut

CutOf = Callable[[int, int], Cut | None]
# Ranges of batches that are looked into before the bound is left as it is.
MAX_RANGES = 200
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class BestBatch:
    """The best batch that was found, and a rate that none exceeds."""

    cut: Cut
    rate_bound: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRange:
    """Batches to choose from.

    Parameters
    ----------
    microbatch, full : int
        Sequences of a replica with one in every microbatch, and one in every group of each.
    most : int
        Largest batch, which is known to bound all that meet the limits.
    """

    microbatch: int
    full: int
    most: int

    def candidates(self, most: int) -> list[int]:
        """The best batches up to ``most`` in given stages: see the module."""
        sizes = (1, self.microbatch, self.full)
        found = {most // size * size for size in sizes}
        return sorted((batch for batch in found if batch >= self.microbatch), reverse=True)


def best_batch(cut: CutOf, batches: BatchRange, is_staged: bool) -> BestBatch | None:
    """Search the batches; None when the smallest one does not meet the limits.

    Parameters
    ----------
    cut : callable
        The stages of a batch, with memory as if it were of another size.
    is_staged : bool
        Whether there is more than one stage, so that memory may decide between stages.
    """
    largest = _largest(cut, batches)
    if largest is None:
        return None

    def upper(low: int, high: int) -> float:
        cuts = (cut(batch, min(low, batch)) for batch in batches.candidates(high))
        return max(found.rate for found in cuts if found is not None)

    def reached(high: int) -> Cut:
        cuts = (cut(batch, batch) for batch in batches.candidates(high))
        return max((found for found in cuts if found is not None), key=lambda found: found.rate)

    best = reached(largest)
    if not is_staged:
        return BestBatch(cut=best, rate_bound=best.rate)
    first = (batches.microbatch, largest)
    heap = [(-upper(*first), first)]
    ranges = 1
    while heap and -heap[0][0] > best.rate * (1 + _ROUNDING) and ranges < MAX_RANGES:
        _, (low, high) = heapq.heappop(heap)
        middle = (low + high) // 2
        for part in ((low, middle), (middle + 1, high)):
            best = max(best, reached(part[1]), key=lambda found: found.rate)
            heapq.heappush(heap, (-upper(*part), part))
            ranges += 1
    left = -heap[0][0] if heap else best.rate
    return BestBatch(cut=best, rate_bound=max(best.rate, left))


def _largest(cut: CutOf, batches: BatchRange) -> int | None:
    """Largest batch within the limits."""
    low, high, probe = batches.microbatch - 1, batches.most + 1, batches.most
    while high - low > 1:
        if cut(probe, probe) is None:
            high = probe
        else:
            low = probe
        probe = (low + high) // 2
    return None if low < batches.microbatch else low
