"""Sequences to groups: equal ones, replicas of unequal speed, requests of unequal length.

Sequences to replicas
    Sets        replicas ``r = 0 .. R-1``
    Data        ``t_r(n)`` seconds of a step of ``n`` sequences, never falling in ``n``;
                ``least_r <= most_r`` sequences; ``total`` sequences
    Variables   integers ``least_r <= n_r <= most_r``
    Objective   minimise ``max_r t_r(n_r)``
    Constraint  ``sum_r n_r = total``

A time ``T`` is enough if ``sum_r cap_r(T) >= total`` with ``cap_r(T) = max {n: t_r(n) <= T}``.
The optimum is a value that some ``t_r`` takes, so integers are bisected, never seconds: the
answer is exact.

Requests to groups
    Sets        requests ``i``, groups ``g``
    Data        ``w_i`` tokens that a step reads of request ``i``
    Variables   the group of every request
    Objective   minimise ``max_g sum of w``
    Constraint  groups hold given numbers of requests

Longest first to the emptiest group with room, then exchanges between the fullest and the
emptiest group; the bound of :func:`spread_bound` says how far from the optimum that can be.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

StepTime = Callable[[int], float]


def split_evenly(total: int, parts: int) -> tuple[int, ...]:
    """Split ``total`` into ``parts`` counts that differ by at most one, larger ones first.

    For groups of equal speed this minimises the largest count, ``ceil(total / parts)``,
    and so the slowest group.

    Raises
    ------
    ValueError
        If ``total`` is negative or ``parts`` is less than 1.
    """
    if total < 0 or parts < 1:
        raise ValueError(f"cannot split {total} into {parts} parts")
    base, extra = divmod(total, parts)
    return (base + 1,) * extra + (base,) * (parts - extra)


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """What a split needs to know of one replica; equal replicas share one record.

    Parameters
    ----------
    step_s : callable
        Seconds of a step of so many sequences; never falls as they grow, infinite where
        they do not fit.
    least, most : int
        Fewest and most sequences.
    """

    step_s: StepTime
    least: int
    most: int


def most_within(replica: Replica, limit_s: float) -> int:
    """Most sequences whose step takes at most ``limit_s``; ``least - 1`` when too many do."""
    low, high = replica.least - 1, replica.most + 1
    while high - low > 1:
        probe = (low + high) // 2
        if replica.step_s(probe) <= limit_s:
            low = probe
        else:
            high = probe
    return low


def _below(replica: Replica, limit_s: float) -> int:
    """Most sequences whose step takes less than ``limit_s``, at least ``least``."""
    low, high = replica.least, replica.most + 1
    while high - low > 1:
        probe = (low + high) // 2
        if replica.step_s(probe) < limit_s:
            low = probe
        else:
            high = probe
    return low


def _kinds(replicas: Sequence[Replica]) -> list[tuple[Replica, int]]:
    """Distinct records and how often each occurs, in order of first appearance."""
    found: dict[int, tuple[Replica, int]] = {}
    for replica in replicas:
        known, count = found.get(id(replica), (replica, 0))
        found[id(replica)] = known, count + 1
    return list(found.values())


def slowest_step(total: int, replicas: Sequence[Replica]) -> float | None:
    """``min max_r t_r(n_r)``: seconds of the slowest replica in the best split.

    None when the replicas cannot take ``total`` sequences.
    """
    kinds = _kinds(replicas)
    if not sum(r.least * n for r, n in kinds) <= total <= sum(r.most * n for r, n in kinds):
        return None

    def is_enough(limit_s: float) -> bool:
        caps = [(most_within(replica, limit_s), replica, n) for replica, n in kinds]
        if any(cap < replica.least for cap, replica, _ in caps):
            return False
        return sum(cap * n for cap, _, n in caps) >= total

    best: float | None = None
    for replica, _ in kinds:
        low, high = replica.least - 1, replica.most + 1
        while high - low > 1:
            probe = (low + high) // 2
            if is_enough(replica.step_s(probe)):
                high = probe
            else:
                low = probe
        if high <= replica.most:
            own = replica.step_s(high)
            best = own if best is None else min(best, own)
    return None if best is None or best == float("inf") else best


def split_by_speed(total: int, replicas: Sequence[Replica]) -> tuple[int, ...] | None:
    """Sequences of every replica so that the slowest one is as fast as it can be.

    Parameters
    ----------
    total : int
        Sequences to hand out.
    replicas : sequence of Replica
        Replicas that are the same record are equal: they get counts that differ by at most
        one, larger ones first.

    Returns
    -------
    tuple of int or None
        Shape ``[replicas]``; None when they cannot take ``total`` sequences.
    """
    slowest = slowest_step(total, replicas)
    if slowest is None:
        return None
    caps = {id(r): (_below(r, slowest), most_within(r, slowest)) for r, _ in _kinds(replicas)}
    floors = [caps[id(replica)][0] for replica in replicas]
    ceilings = [caps[id(replica)][1] for replica in replicas]
    if sum(floors) >= total:
        # Only replicas that cannot have fewer are as slow as that; the others take less.
        least = [replica.least for replica in replicas]
        return _raise_level(total, least, floors)
    return _raise_level(total, floors, ceilings)


def _raise_level(total: int, low: Sequence[int], high: Sequence[int]) -> tuple[int, ...]:
    """Counts between ``low`` and ``high`` that add up to ``total``, as level as they can be."""

    def filled(level: int) -> list[int]:
        return [min(max(a, level), b) for a, b in zip(low, high, strict=True)]

    below, above = min(low), max(high)
    while above - below > 1:
        middle = (below + above) // 2
        if sum(filled(middle)) <= total:
            below = middle
        else:
            above = middle
    if sum(filled(above)) <= total:
        below = above
    counts = filled(below)
    left = total - sum(counts)
    for place, (count, most) in enumerate(zip(counts, high, strict=True)):
        if left and count == below and count < most:
            counts[place] += 1
            left -= 1
    return tuple(counts)


def spread_bound(weights: Sequence[int], groups: int) -> int:
    """No spread of requests has a smaller fullest group: mean, largest, pigeonhole.

    Of the ``k * groups + 1`` largest requests some group holds ``k + 1``.
    """
    ordered = sorted(weights, reverse=True)
    bound = -(-sum(ordered) // groups)
    for held in range(1, -(-len(ordered) // groups) + 1):
        last = (held - 1) * groups + 1
        if last <= len(ordered):
            bound = max(bound, sum(ordered[last - held : last]))
    return bound


def spread_requests(
    weights: Sequence[int], sizes: Sequence[int], rounds: int = 1000
) -> tuple[tuple[int, ...], ...]:
    """Requests of each group, so that the fullest group carries little.

    Parameters
    ----------
    weights : sequence of int
        Tokens of every request.
    sizes : sequence of int
        Requests of every group; they add up to the number of requests.
    rounds : int
        Most exchanges.

    Returns
    -------
    tuple of tuple of int
        Indices of requests, ascending, shape ``[groups]``.

    Raises
    ------
    ValueError
        ``sizes`` do not add up to the number of requests.
    """
    if sum(sizes) != len(weights):
        raise ValueError(f"groups hold {sum(sizes)} requests, there are {len(weights)}")
    members: list[list[int]] = [[] for _ in sizes]
    open_groups = [(0, group) for group, size in enumerate(sizes) if size]
    for request in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        load, group = heapq.heappop(open_groups)
        members[group].append(request)
        if len(members[group]) < sizes[group]:
            heapq.heappush(open_groups, (load + weights[request], group))
    loads = [sum(weights[i] for i in group) for group in members]
    bound = spread_bound(weights, max(1, sum(size > 0 for size in sizes)))
    for _ in range(rounds):
        if max(loads, default=0) <= bound or not _exchange(weights, members, loads):
            break
    return tuple(tuple(sorted(group)) for group in members)


def _exchange(weights: Sequence[int], members: list[list[int]], loads: list[int]) -> bool:
    """Swap one request of the fullest group for a lighter one of the emptiest, if that helps."""
    held = [group for group, requests in enumerate(members) if requests]
    full = max(held, key=lambda g: (loads[g], -g))
    empty = min(held, key=lambda g: (loads[g], g))
    mine = np.array([weights[i] for i in members[full]])
    theirs = np.array([weights[i] for i in members[empty]])
    moved = mine[:, None] - theirs[None, :]
    after = np.maximum(loads[full] - moved, loads[empty] + moved)
    a, b = np.unravel_index(int(after.argmin()), after.shape)
    if after[a, b] >= loads[full]:
        return False
    members[full][a], members[empty][b] = members[empty][b], members[full][a]
    loads[full] -= int(moved[a, b])
    loads[empty] += int(moved[a, b])
    return True
