"""What no placement of expert copies can beat, in plain loops.

Sets        experts e in 0..E-1, groups g in 0..G-1
Data        w_e >= 0   share of the routed tokens of expert e, adding up to W
            c_g        slots of group g: ``S`` slots dealt out evenly, so that counts differ
                       by at most one; ``S - E`` of them hold second and further copies
Result      a number below the load of the hottest group in every placement

``T`` is impossible when one of these fails, with ``k_e = max(1, ceil(w_e / T))`` copies that
expert e needs at least and ``R = S - sum k_e`` copies to spare:

mean     G T >= W
copies   R >= 0
whole    the slots that hold a split expert or a spare copy number at most
         sum (k_e over k_e > 1) + 2 R; the other groups hold whole experts alone, the j
         lightest that fill them weigh at most j T
hot      the j heaviest experts sit on some n <= (sum of their k_e) + R groups; the slots
         of those groups that no part of a split expert fills hold whole others, and all of it
         weighs at most n T

equal    for equal shares, with one expert's load as unit: a copy of an expert with r copies
         saves its group 1 - 1/r against a whole expert, and all groups together save S - E.
         A group with c slots must save c - T at least, and what copies can save has gaps:
         the least possible savings of all groups add up to at most S - E

All are necessary conditions, so the largest impossible ``T`` found by halving is a floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

_HALVINGS = 40
_ROUNDING = 1e-12
_SAVED_ROUNDING = 1e-9
# Copies of one expert beyond which what a copy saves is taken as any number below 1, and
# savings of one group beyond which gaps are neglected.
_MOST_COPIES = 12
_MOST_SAVED = 4.0


def even_slots(num_slots: int, groups: int) -> list[int]:
    """Slots of every group, larger ones first."""
    base, extra = divmod(num_slots, groups)
    return [base + 1] * extra + [base] * (groups - extra)


def hottest_floor(shares: Sequence[float], groups: int, num_slots: int) -> float:
    """Share of the routed tokens that the hottest group has in every placement.

    Parameters
    ----------
    shares : sequence of float
        Share of each expert, shape ``[num_experts]``.
    """
    heaviest = sorted(shares, reverse=True)
    low = sum(heaviest) / groups
    if not _impossible(heaviest, groups, num_slots, low * (1 + _ROUNDING)):
        return low
    high = sum(heaviest)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _impossible(heaviest, groups, num_slots, middle):
            low = middle
        else:
            high = middle
    return low


def _impossible(heaviest: Sequence[float], groups: int, num_slots: int, most: float) -> bool:
    needed = [max(1, math.ceil(share / most * (1 - _ROUNDING))) for share in heaviest]
    spare = num_slots - sum(needed)
    if spare < 0:
        return True
    slots = even_slots(num_slots, groups)
    sums = [0.0]
    for share in reversed(heaviest):
        sums.append(sums[-1] + share)
    limit = most * (1 + _ROUNDING)
    mixed = sum(count for count in needed if count > 1) + 2 * spare
    # Whichever groups hold whole experts alone, their slots are no fewer than the smallest.
    if heaviest[0] == heaviest[-1]:
        saved = sum(_least_saved(count - limit / heaviest[0]) for count in slots)
        if saved > num_slots - len(heaviest) + _SAVED_ROUNDING:
            return True
    pure = sorted(slots)[: max(0, groups - mixed)]
    filled = 0
    for number, count in enumerate(reversed(pure), start=1):
        filled += count
        if sums[min(filled, len(heaviest))] > number * limit:
            return True
    return _hot_ones_do_not_fit(needed, spare, (slots, sums), limit)


@lru_cache(maxsize=1 << 12)
def _least_saved(needed: float, most: float = 1.0) -> float:
    """Least sum of numbers 1 - 1/r, each at most ``most``, that is at least ``needed``."""
    if needed <= _SAVED_ROUNDING:
        return 0.0
    if needed > _MOST_SAVED or 1.0 - 1.0 / _MOST_COPIES < needed <= most == 1.0:
        return needed
    best = math.inf
    for copies in range(2, _MOST_COPIES + 1):
        own = 1.0 - 1.0 / copies
        if own <= most + _SAVED_ROUNDING:
            best = min(best, own + _least_saved(needed - own, own))
    if most == 1.0 and needed > 1.0:
        # One copy that saves nearly 1 may leave any rest up to 1/12 more than a full one.
        rest = needed - 1.0
        best = min(best, max(needed, 1.0 - 1.0 / _MOST_COPIES + _least_saved(rest)))
    return best


def _hot_ones_do_not_fit(
    needed: Sequence[int],
    spare: int,
    table: tuple[Sequence[int], Sequence[float]],
    limit: float,
) -> bool:
    """The condition ``hot``: see the module."""
    slots, sums = table
    experts = len(needed)
    fewest = [0]
    for count in reversed(slots):
        fewest.append(fewest[-1] + count)
    split = sum(count for count in needed if count > 1)
    used = 0
    for heavy in range(1, experts + 1):
        used += needed[heavy - 1]
        split -= needed[heavy - 1] if needed[heavy - 1] > 1 else 0
        # A spare copy makes two parts of an expert that was whole.
        parts = used + split + 2 * spare
        weight = sums[experts] - sums[experts - heavy]
        most = min(len(slots), used + spare)
        first = max(1, math.ceil(weight / limit * (1 - _ROUNDING)))

        def weighs(groups: int, parts: int = parts, heavy: int = heavy) -> float:
            whole = max(0, fewest[groups] - parts)
            return sums[min(whole, experts - heavy)]

        if all(weight + weighs(n) > n * limit for n in range(first, most + 1)):
            return True
    return False


def touched_floor(chances: Sequence[float], groups: int, num_slots: int, tokens: float) -> float:
    """Copies that the busiest group reads in every placement, expected.

    Parameters
    ----------
    chances : sequence of float
        Probability that one token picks each expert, shape ``[num_experts]``.

    Notes
    -----
    An expert with ``r`` copies has ``r (1 - (1 - p / r)^tokens)`` of them read, concave in
    ``r``: the chord to the largest ``r`` is below it. Without second copies the largest
    group holds ``ceil(E / G)`` experts, at best the coldest. With them see
    :func:`warm_copies_floor`.
    """
    once: list[float] = [1.0 - (1.0 - chance) ** tokens for chance in chances]
    total = sum(once)
    extra = num_slots - len(once)
    if extra <= 0:
        coldest = sorted(once)[: -(-len(once) // groups)]
        return max(total / groups, sum(coldest))
    most = extra + 1
    slope: float = min(
        (most * (1.0 - (1.0 - chance / most) ** tokens) - single) / extra
        for chance, single in zip(chances, once, strict=True)
    )
    return max((total + extra * slope) / groups, warm_copies_floor(chances, extra, groups, tokens))


@lru_cache(maxsize=1 << 12)
def _splits_below(
    chances: tuple[float, ...], groups: int
) -> tuple[tuple[float, int, tuple[tuple[float, int], ...]], ...]:
    """For some coldness ``q``: spare copies, and experts with the copies that make each colder."""
    coldest = sorted(chances)
    must_split = len(coldest) - (-(-len(coldest) // groups) - 1) * groups
    found = []
    place = 0
    while place < must_split:
        q = coldest[place] or 1e-300
        split = tuple((p, math.floor(p / q) + 1) for p in coldest[place:must_split])
        found.append((q, sum(copies - 1 for _, copies in split), split))
        place = max(1, 2 * place)
    return tuple(found)


def warm_copies_floor(chances: Sequence[float], extra: int, groups: int, tokens: float) -> float:
    """Copies that the busiest group reads, since some group has its share of warm ones.

    With ``k = ceil(E / G)`` a group has ``k`` copies at least as warm as ``q``, unless so many
    experts are split that at most ``(k - 1) G`` such copies are left. Splitting costs spare
    copies, and more copies are read; the coldest of all experts that are as warm as ``q``, which
    may be any, are the cheapest.
    """
    most = -(-len(chances) // groups)
    total = sum(1.0 - (1.0 - chance) ** tokens for chance in chances)
    best = 0.0
    for q, spare, split in _splits_below(tuple(chances), groups):
        floor = most * (1.0 - (1.0 - q) ** tokens)
        if spare <= extra:
            read = sum(r * (1.0 - (1.0 - p / r) ** tokens) for p, r in split)
            less = sum(1.0 - (1.0 - p) ** tokens for p, _ in split)
            floor = min(floor, (total + read - less) / groups)
        best = max(best, floor)
    return best
