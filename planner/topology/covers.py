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
from dataclasses import dataclass
from functools import cache, lru_cache

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


def _fill_one(sizes: Sequence[int], left: Sequence[int], need: int) -> tuple[int, ...]:
    """One cover: largest first, then the smallest that completes it."""
    used = [0] * len(sizes)
    gap = need
    while gap > 0:
        present = [i for i, count in enumerate(left) if count > used[i]]
        closing = [i for i in present if sizes[i] >= gap]
        pick = closing[-1] if closing else present[0]
        # Whole rows of the largest at once, as long as none of them completes the cover.
        rows = 1 if closing else min(left[pick] - used[pick], (gap - 1) // sizes[pick])
        used[pick] += rows
        gap -= rows * sizes[pick]
    return tuple(used)


def _greedy(
    sizes: Sequence[int], counts: Sequence[int], need: int
) -> list[tuple[tuple[int, ...], int]]:
    left = list(counts)
    chosen = []
    while sum(s * c for s, c in zip(sizes, left, strict=True)) >= need:
        used = _fill_one(sizes, left, need)
        # The rule repeats itself until a size that it uses is about to run out.
        times = max(1, min((left[i] - 1) // u for i, u in enumerate(used) if u))
        left = [count - times * u for count, u in zip(left, used, strict=True)]
        chosen.append((used, times))
    return chosen


@lru_cache(maxsize=1 << 14)
def choose_covers(
    sizes: tuple[int, ...], counts: tuple[int, ...], need: int
) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Covers by kind: domains taken of each size, and how many covers are alike.

    Parameters
    ----------
    sizes : tuple of int
        Units of a domain, descending, at least 1.
    counts : tuple of int
        Domains of each size.
    need : int
        Units of one cell.

    Returns
    -------
    tuple of (tuple of int, int)
        The work grows with the number of kinds, not with the number of domains.
    """
    chosen = _greedy(sizes, counts, need)
    states = math.prod(count + 1 for count in counts)
    # Neither more units than there are, nor more domains.
    most = sum(s * c for s, c in zip(sizes, counts, strict=True)) // need
    if sizes:
        most = min(most, sum(counts) // math.ceil(need / sizes[0]))
    if len(sizes) > 1 and sum(n for _, n in chosen) < most and states <= MAX_STATES:
        chosen = [(used, 1) for used in _exact(sizes, counts, need)]
    return tuple(chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rooms:
    """Domains by the units that they hold.

    Parameters
    ----------
    sizes : tuple of int
        Units of a domain, descending, at least 1.
    members : tuple of tuple of int
        Domains of each size, ascending.
    """

    sizes: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Domains of each size."""
        return tuple(len(own) for own in self.members)

    @classmethod
    def of(cls, capacities: Sequence[int]) -> Rooms:
        """Sort domains by their capacities; zero means that a domain cannot be used."""
        found: dict[int, list[int]] = {}
        for domain, size in enumerate(capacities):
            if size > 0:
                found.setdefault(size, []).append(domain)
        sizes = tuple(sorted(found, reverse=True))
        return cls(sizes=sizes, members=tuple(tuple(found[size]) for size in sizes))


def count_covers(rooms: Rooms, need: int) -> int:
    """Number of covers that :func:`cover_domains` finds."""
    return sum(times for _, times in choose_covers(rooms.sizes, rooms.counts, need))


def first_covers(rooms: Rooms, need: int) -> tuple[tuple[int, ...], ...]:
    """One cover of every kind: domain indices, ascending."""
    return tuple(_covers(rooms, need, first=True))


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
    rooms = Rooms.of(capacities)
    return tuple(sorted(_covers(rooms, need, first=False)))


def _covers(rooms: Rooms, need: int, first: bool) -> Iterator[tuple[int, ...]]:
    """All covers, or one of every kind, in the order in which they were chosen."""
    taken = [0] * len(rooms.sizes)
    for used, times in choose_covers(rooms.sizes, rooms.counts, need):
        for repeat in range(1 if first else times):
            picked: list[int] = []
            for members, start, take in zip(rooms.members, taken, used, strict=True):
                picked += members[start + repeat * take : start + (repeat + 1) * take]
            yield tuple(sorted(picked))
        taken = [start + times * take for start, take in zip(taken, used, strict=True)]


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
