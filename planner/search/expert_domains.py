"""Placement under constraints of domains (nodes or racks).

Two constraints are known:

spread   the copies of each expert are spread over the domains (``expert_spread``)
groups   routing picks groups of experts first (node-limited routing): all copies of all
         experts of a group stay in one domain, and every domain gets equally many groups

Groups
------
Sets        groups i, domains d, sets B of q = groups / domains groups
Data        b_B  lower bound on the hottest chip of a domain that holds B
Variables   a partition of the groups into sets B
Objective   least max_B b_B

Domains are alike, so that only the partition matters. Where the sets are few the bottleneck
partition is found exactly; its value bounds every placement. The chosen sets are placed one
by one, which sharpens their bounds; the partition is then chosen again until it stays.
Where the sets are many a partition by descending load and swaps is used, and the bound
without the constraint.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from planner.errors import SpecError
from planner.search.expert_bounds import (
    FloatArray,
    IntArray,
    even_caps,
    expert_lower_bound,
    require_slots,
)
from planner.search.expert_greedy import pack_greedily
from planner.search.expert_layers import place_layers
from planner.search.expert_spread import SpreadPacking
from planner.search.experts import (
    TOLERANCE,
    ExpertPlacement,
    place_experts,
    refine_placement,
    with_slots,
)

_MAX_SETS = 256
_CHOICES = 24
_HEAVY_GROUPS = 4
_MOVES_PER_CHIP = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Domains:
    """Chips in domains: domain d owns chips ``d * chips .. (d + 1) * chips - 1``.

    Attributes
    ----------
    num_domains, chips : int
        Domains, and chips of each.
    num_groups : int or None
        Groups of experts that stay whole, group i the i-th part of the experts; None spreads
        the copies of each expert instead.
    """

    num_domains: int
    chips: int
    num_groups: int | None = None


def domain_caps(num_slots: int, domains: Domains) -> IntArray:
    """Slots of each chip: evenly over the domains, then over the chips of each.

    Returns
    -------
    int array, shape ``[num_chips]``
    """
    return np.concatenate(
        [
            even_caps(int(slots), domains.chips)
            for slots in even_caps(num_slots, domains.num_domains)
        ]
    )


def check_groups(num_experts: int, num_slots: int, domains: Domains) -> None:
    """Raise :class:`SpecError` when groups cannot be dealt equally."""
    groups = domains.num_groups
    if groups is None:
        return
    if groups < 1 or num_experts % groups:
        raise SpecError(
            f"{num_experts} experts do not split into {groups} equal groups",
            "give a number of groups that divides the experts",
        )
    if groups % domains.num_domains:
        raise SpecError(
            f"{groups} groups cannot be dealt equally to {domains.num_domains} domains",
            "give a number of domains that divides the groups, or leave --groups out",
        )
    if num_slots % domains.num_domains:
        raise SpecError(
            f"{num_slots} slots do not split into {domains.num_domains} equal domains",
            "give a number of slots that the domains divide",
        )


def place_in_domains(
    loads: FloatArray,
    num_slots: int,
    domains: Domains,
    *,
    gap: float,
    jobs: int = 1,
    deadline: float | None = None,
) -> tuple[ExpertPlacement, ...]:
    """Place the experts of every layer under the constraint of the domains.

    Parameters
    ----------
    loads : array, shape ``[num_layers, num_experts]``
        Rows add up to 1.
    num_slots : int
    domains : Domains
    gap : float
        ``(reached - bound) / reached`` to prove.
    jobs : int
        Processes at most.
    deadline : float or None
        ``time.monotonic()`` after which no layer is refined further.

    Raises
    ------
    SpecError
        If the experts do not fit in the slots, or groups cannot be dealt equally.
    """
    require_slots(loads.shape[1], num_slots)
    check_groups(loads.shape[1], num_slots, domains)
    caps = domain_caps(num_slots, domains)
    if domains.num_groups is None:
        free = place_layers(loads, caps, gap=gap, jobs=jobs, deadline=deadline)
        return tuple(
            _place_spread(row, caps, domains.num_domains, one)
            for row, one in zip(loads, free, strict=True)
        )
    return tuple(_GroupedLayer(row, caps, domains, gap, deadline).solve() for row in loads)


def _place_spread(
    row: FloatArray, caps: IntArray, num_domains: int, free: ExpertPlacement
) -> ExpertPlacement:
    """As many copies as without the constraint, which bounds what can be reached with it."""
    order = np.argsort(-row, kind="stable")
    best: ExpertPlacement | None = None
    for copies in (free.num_copies[order], None):
        packing = SpreadPacking(row[order], caps, num_domains, copies)
        packing.improve(free.bound * (1 + TOLERANCE), _MOVES_PER_CHIP * len(caps))
        found = with_slots(free, row, np.append(order, -1)[packing.slots])
        if best is None or found.max_load < best.max_load:
            best = found
        if best.max_load <= free.max_load:
            break
    assert best is not None
    return best


class _GroupedLayer:
    """One layer whose groups stay whole."""

    def __init__(
        self,
        row: FloatArray,
        caps: IntArray,
        domains: Domains,
        gap: float,
        deadline: float | None,
    ) -> None:
        assert domains.num_groups is not None
        self.row = row
        self.caps = caps
        self.domains = domains
        self.gap = gap
        self.deadline = deadline
        self.own_caps = caps[: domains.chips]
        self.per_domain = domains.num_groups // domains.num_domains
        self.size = len(row) // domains.num_groups
        self.placed: dict[tuple[int, ...], ExpertPlacement] = {}

    def solve(self) -> ExpertPlacement:
        """Choose sets and place them until the choice stays."""
        assert self.domains.num_groups is not None
        if comb(self.domains.num_groups, self.per_domain) > _MAX_SETS:
            bound = expert_lower_bound(self.row, len(self.caps), self.caps)
            return self._joined(self._dealt(), max(bound, self._companions()))
        bounds = {
            one: expert_lower_bound(self._loads(one), self.domains.chips, self.own_caps)
            for one in combinations(range(self.domains.num_groups), self.per_domain)
        }
        best: tuple[float, list[tuple[int, ...]]] | None = None
        bound = 0.0
        for _ in range(_CHOICES):
            bound, sets = bottleneck_partition(bounds, self.domains.num_groups)
            reached = max(self._place(one).max_load for one in sets)
            if best is None or reached < best[0]:
                best = reached, sets
            if bound >= best[0] * (1 - self.gap):
                break
            sharper = {one: max(bounds[one], self._place(one).bound) for one in sets}
            if all(sharper[one] <= bounds[one] for one in sets):
                break
            bounds.update(sharper)
        assert best is not None
        return self._joined(best[1], bound)

    def _experts(self, groups: tuple[int, ...]) -> IntArray:
        return (np.array(groups)[:, None] * self.size + np.arange(self.size)).ravel()

    def _loads(self, groups: tuple[int, ...]) -> FloatArray:
        return self.row[self._experts(groups)]

    def _place(self, groups: tuple[int, ...]) -> ExpertPlacement:
        """The best placement of a set on the chips of a domain."""
        if groups not in self.placed:
            loads = self._loads(groups)
            (found,) = place_experts(loads[None], self.domains.chips, self.own_caps)
            found = refine_placement(found, loads, self.own_caps, self.gap, self._expired)
            self.placed[groups] = found
        return self.placed[groups]

    def _expired(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _companions(self) -> float:
        """Bound of the domain of any group, whose companions are no lighter than the lightest.

        The mean of its chips counts whole groups; the closed forms take single experts.
        Replacing the other experts of its domain by the lightest experts that there are, one
        by one, makes no placement worse.
        """
        others = (self.per_domain - 1) * self.size
        groups = np.sort(self._group_loads())
        lightest = float(groups[: self.per_domain - 1].sum())
        found = (float(groups[-1]) + lightest) / self.domains.chips
        for group in np.argsort(-self._group_loads(), kind="stable")[:_HEAVY_GROUPS].tolist():
            own = np.zeros(len(self.row), dtype=bool)
            own[group * self.size : (group + 1) * self.size] = True
            loads = np.concatenate([self.row[own], np.sort(self.row[~own])[:others]])
            found = max(found, expert_lower_bound(loads, self.domains.chips, self.own_caps))
        return found

    def _group_loads(self) -> FloatArray:
        sums: FloatArray = self.row.reshape(-1, self.size).sum(axis=1)
        return sums

    def _dealt(self) -> list[tuple[int, ...]]:
        """Groups in descending order to the coldest domain, then swaps of two groups."""
        loads = self._group_loads()
        num = self.domains.num_domains
        home = pack_greedily(loads, np.full(num, self.per_domain))
        for _ in range(_MOVES_PER_CHIP * num):
            total = np.bincount(home, weights=loads, minlength=num)
            hot = int(total.argmax())
            moved = loads[home == hot][:, None] - loads[None, home != hot]
            after = np.maximum(total[hot] - moved, total[home[home != hot]][None] + moved)
            best = int(after.argmin())
            if not after.flat[best] < total[hot] * (1 - 1e-9):
                break
            mine, theirs = np.unravel_index(best, after.shape)
            first = np.flatnonzero(home == hot)[mine]
            second = np.flatnonzero(home != hot)[theirs]
            home[first], home[second] = home[second], home[first]
        return [tuple(np.flatnonzero(home == domain).tolist()) for domain in range(num)]

    def _joined(self, sets: list[tuple[int, ...]], bound: float) -> ExpertPlacement:
        """Put the sets on the domains, in the order of their first groups."""
        parts = []
        for groups in sorted(sets):
            numbers = np.append(self._experts(groups), -1)
            parts.append(numbers[self._place(groups).slots])
        empty = ExpertPlacement(
            slots=np.empty((0, 0), dtype=np.int64), max_load=0.0, bound=bound,
            num_copies=np.empty(0, dtype=np.int64),
        )  # fmt: skip
        return with_slots(empty, self.row, np.concatenate(parts))


def bottleneck_partition(
    values: dict[tuple[int, ...], float], num_items: int
) -> tuple[float, list[tuple[int, ...]]]:
    """Partition items into sets of equal size so that the largest value is least.

    Parameters
    ----------
    values : dict
        Value of every set, a sorted tuple of items ``0 .. num_items - 1``.
    num_items : int

    Returns
    -------
    (float, list of tuple)
        The largest value, and the sets.
    """
    ordered = sorted(values.items(), key=lambda item: (item[1], item[0]))
    by_first: list[list[tuple[float, tuple[int, ...], int]]] = [[] for _ in range(num_items)]
    for one, value in ordered:
        by_first[one[0]].append((value, one, sum(1 << item for item in one)))
    best: dict[int, tuple[float, tuple[int, ...] | None]] = {(1 << num_items) - 1: (0.0, None)}

    def rest(taken: int) -> float:
        if taken in best:
            return best[taken][0]
        first = next(item for item in range(num_items) if not taken >> item & 1)
        found: tuple[float, tuple[int, ...] | None] = (np.inf, None)
        for value, one, mask in by_first[first]:
            if value >= found[0]:
                break
            if not taken & mask:
                found = min(found, (max(value, rest(taken | mask)), one), key=lambda pair: pair[0])
        best[taken] = found
        return found[0]

    largest = rest(0)
    sets, taken = [], 0
    while (chosen := best[taken][1]) is not None:
        sets.append(chosen)
        taken |= sum(1 << item for item in chosen)
    return largest, sets
