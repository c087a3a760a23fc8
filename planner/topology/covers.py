"""How many cells can be laid over domains that are each too small for one.

Sets: domains ``d`` with capacity ``n_d`` (units of chips), cells that need ``m`` units,
``m > max n_d``. Decision: disjoint sets of domains, one per cell. Constraint: the domains
of a cell offer at least ``m`` units together. Objective: most cells, then fewest domains.

A domain serves one such cell only: two cells that share a domain would share its NICs and
each would have a small piece, which is what makes an all-to-all slow. With equal domains
of ``n`` units the answer is ``floor(num_domains / ceil(m / n))``; with unequal ones the
problem is bin covering, solved exactly over the counts of each size while the counts are
few, else by the greedy rule (largest first, then the smallest that completes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

# States of the exact search; beyond it, hundreds of domains of many different sizes, the
# greedy rule answers.
MAX_STATES = 20_000


def _minimal_covers(
    sizes: Sequence[int], counts: Sequence[int], need: int, start: int = 0
) -> Iterator[tuple[int, ...]]:
    """Multisets (counts per size, sizes descending) that just reach ``need``."""
    if need <= 0:
        yield (0,) * len(counts)
        return
    for index in range(start, len(sizes)):
        if counts[index]:
            left = list(counts)
            left[index] -= 1
            for rest in _minimal_covers(sizes, left, need - sizes[index], index):
                taken = list(rest)
                taken[index] += 1
                yield tuple(taken)


def _exact(sizes: tuple[int, ...], counts: tuple[int, ...], need: int) -> list[tuple[int, ...]]:
    """Most covers; in some optimum the largest remaining domain is used, so branch on it."""

    @cache
    def best(left: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        largest = next((i for i, count in enumerate(left) if count), None)
        top: tuple[int, int, tuple[int, ...]] = (0, 0, ())
        if largest is None or sum(s * c for s, c in zip(sizes, left, strict=True)) < need:
            return top
        rest = tuple(c - (i == largest) for i, c in enumerate(left))
        for cover in _minimal_covers(sizes, rest, need - sizes[largest], largest):
            after = tuple(c - taken for c, taken in zip(rest, cover, strict=True))
            count, bins, _ = best(after)
            used = tuple(taken + (i == largest) for i, taken in enumerate(cover))
            top = max(top, (count + 1, bins - sum(used), used))
        return top

    chosen = []
    left = counts
    while best(left)[0]:
        used = best(left)[2]
        chosen.append(used)
        left = tuple(c - taken for c, taken in zip(left, used, strict=True))
    return chosen


def _greedy(sizes: tuple[int, ...], counts: tuple[int, ...], need: int) -> list[tuple[int, ...]]:
    left = list(counts)
    chosen = []
    while sum(s * c for s, c in zip(sizes, left, strict=True)) >= need:
        used = [0] * len(sizes)
        gap = need
        while gap > 0:
            present = [i for i, count in enumerate(left) if count]
            closing = [i for i in present if sizes[i] >= gap]
            pick = closing[-1] if closing else present[0]
            used[pick] += 1
            left[pick] -= 1
            gap -= sizes[pick]
        chosen.append(tuple(used))
    return chosen


def cover_domains(capacities: Sequence[int], need: int) -> tuple[tuple[int, ...], ...]:
    """Disjoint sets of domains, each with at least ``need`` units.

    Parameters
    ----------
    capacities : sequence of int
        Units of each domain; zero means that it cannot be used.
    need : int
        Units of one cell.

    Returns
    -------
    tuple of tuple of int
        Domain indices of each cell, ascending; as many cells as possible.
    """
    sizes = tuple(sorted({size for size in capacities if size > 0}, reverse=True))
    members = {size: [d for d, c in enumerate(capacities) if c == size] for size in sizes}
    counts = tuple(len(members[size]) for size in sizes)
    chosen = _greedy(sizes, counts, need)
    states = 1
    for count in counts:
        states *= count + 1
    most = sum(s * c for s, c in zip(sizes, counts, strict=True)) // need
    if len(sizes) > 1 and len(chosen) < most and states <= MAX_STATES:
        chosen = _exact(sizes, counts, need)
    covers = []
    for used in chosen:
        picked: list[int] = []
        for size, taken in zip(sizes, used, strict=True):
            picked += members[size][:taken]
            members[size] = members[size][taken:]
        covers.append(tuple(sorted(picked)))
    return tuple(sorted(covers))


def level_pieces(capacities: Sequence[int], need: int) -> tuple[int, ...]:
    """Split ``need`` units over domains as equally as their capacities allow.

    The smallest piece is as large as it can be: an all-to-all over the NICs of a cell of
    ``N`` chips takes ``V / nic * (1 - smallest piece / N)``.
    """
    pieces = [0] * len(capacities)
    open_domains = sorted(range(len(capacities)), key=lambda d: (capacities[d], d))
    left = need
    for position, domain in enumerate(open_domains):
        # What a full domain cannot take is shared by the larger ones, which come later.
        share = math.ceil(left / (len(open_domains) - position))
        pieces[domain] = min(capacities[domain], share)
        left -= pieces[domain]
    return tuple(pieces)
