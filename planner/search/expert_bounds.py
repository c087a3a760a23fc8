"""Lower bounds on the load of the hottest chip of an expert-parallel group.

Sets     experts e in 0..E-1, chips g in 0..G-1
Data     w_e >= 0  share of the routed tokens of expert e, sum w_e = W (usually 1)
         c_g       slots of chip g, S = sum c_g >= E, R = S - E spare slots
Goal     T* = least load of the hottest chip over all placements

A number T is *refuted* when one of four necessary conditions fails; ``k_e = max(1,
ceil(w_e / T))`` are the copies that expert e needs at least and ``R' = S - sum k_e`` the
slots left over:

mean      G T >= W
copies    sum k_e <= S
top       the j heaviest experts sit on n chips, n <= S - sum of the other k_e; at most
          S - cap(n) of the other experts reach outside those chips, so
          w(top j) + (E - j - S + cap(n)) lightest  <=  n T          for some n
full      a chip without a split piece and without an empty slot holds c_g whole experts;
          sum_{k_e > 1} k_e + 2 R' pieces and empty slots leave at least F such chips, so
          lightest(slots of any j of them)  <=  j T                  for all j <= F

None of them uses how copies share an expert's tokens: they hold for even and uneven splits.
A refuted T refutes every smaller one (a placement that meets T' < T meets T), hence the
largest refuted T found by bisection is a proven lower bound whatever the conditions do.

Roundings go the safe way: a value is refuted only when a condition fails by more than
``SLACK`` relative.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.errors import SpecError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SLACK = 1e-12
_CEIL_SLACK = 1e-9
_BISECTION_STEPS = 40
_BISECTION_WIDTH = 1e-9


def even_caps(num_slots: int, num_chips: int) -> IntArray:
    """Spread ``num_slots`` slots over chips: counts differ by at most one, larger ones first.

    Returns
    -------
    int array, shape ``[num_chips]``
    """
    floor, rest = divmod(num_slots, num_chips)
    caps = np.full(num_chips, floor, dtype=np.int64)
    caps[:rest] += 1
    return caps


def as_caps(num_chips: int, slots_per_chip: int | IntArray) -> IntArray:
    """Slots of every chip as an array, shape ``[num_chips]``.

    Raises
    ------
    SpecError
        If there is no chip, a count is negative, or the array has another length.
    """
    if num_chips < 1:
        raise SpecError(f"expert placement needs at least one chip, got {num_chips}")
    caps = np.asarray(slots_per_chip, dtype=np.int64)
    if caps.ndim == 0:
        caps = np.full(num_chips, int(caps), dtype=np.int64)
    if caps.shape != (num_chips,):
        raise SpecError(f"slots_per_chip has shape {caps.shape}, expected ({num_chips},)")
    if int(caps.min()) < 0:
        raise SpecError("slots_per_chip has a negative entry")
    return caps


def require_slots(num_experts: int, num_slots: int) -> None:
    """Raise :class:`SpecError` when some expert would have no slot."""
    if num_slots < num_experts:
        raise SpecError(
            f"{num_experts} experts do not fit in {num_slots} slots",
            "Use more chips or more slots per chip.",
        )


def fill_copies(loads_row: FloatArray, num_slots: int, num_chips: int) -> IntArray:
    """Copies of each expert that minimise the heaviest copy, ``max w_e / r_e``.

    Greedy: the next slot goes to the expert whose copies are heaviest (ties: lowest index).
    It is optimal because the value reached is the least T with ``sum ceil(w_e / T) <= S``.
    An expert has at most one copy per chip; slots that would only hold copies of experts
    without load stay empty.

    Returns
    -------
    int array, shape ``[num_experts]``
    """
    values = loads_row.tolist()
    copies = [1] * len(values)
    heap = [(-load, expert) for expert, load in enumerate(values) if load > 0 and num_chips > 1]
    heapq.heapify(heap)
    for _ in range(num_slots - len(values)):
        if not heap:
            break
        expert = heap[0][1]
        copies[expert] += 1
        if copies[expert] < num_chips:
            heapq.heapreplace(heap, (-values[expert] / copies[expert], expert))
        else:
            heapq.heappop(heap)
    return np.array(copies, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Conditions:
    """One row prepared so that a value of T is checked in O(E + G).

    ``heavy`` are loads in descending order, ``lightest[m]`` is the sum of the m smallest,
    ``cap_low[n]`` the slots of the n smallest chips, ``top_need[j - 1, n]`` the least T for
    which condition *top* holds with at most n chips.
    """

    heavy: FloatArray
    lightest: FloatArray
    cap_low: IntArray
    top_need: FloatArray

    @property
    def num_chips(self) -> int:
        return len(self.cap_low) - 1

    @property
    def num_slots(self) -> int:
        return int(self.cap_low[-1])

    def copies_needed(self, limit: float) -> IntArray:
        """``k_e`` in the order of ``heavy``."""
        needed = np.ceil(self.heavy / limit - _CEIL_SLACK).astype(np.int64)
        return np.maximum(needed, 1)

    def copies_fit(self, needed: IntArray) -> bool:
        """``sum k_e <= S``."""
        return int(needed.sum()) <= self.num_slots

    def top_fits(self, needed: IntArray, limit: float) -> bool:
        """``w(top j) + lightest((cap(n) - R - j)+) <= n T`` for every j and some n."""
        others = int(needed.sum()) - np.cumsum(needed)
        most_chips = np.minimum(self.num_chips, self.num_slots - others)
        need = self.top_need[np.arange(len(needed)), most_chips]
        return bool(need.max() <= limit * (1 + SLACK))

    def full_fits(self, needed: IntArray, limit: float) -> bool:
        """``lightest(slots of the j largest of F full chips) <= j T`` for every j <= F."""
        spare = self.num_slots - int(needed.sum())
        touched = int(needed[needed > 1].sum()) + 2 * spare
        full = self.num_chips - touched
        if full <= 0:
            return True
        chips = np.arange(1, full + 1)
        held = self.cap_low[full] - self.cap_low[full - chips]
        if int(held[-1]) >= len(self.lightest):
            return False
        return bool((self.lightest[held] <= chips * (limit * (1 + SLACK))).all())

    def allow(self, limit: float) -> bool:
        """Whether no condition refutes ``limit``."""
        needed = self.copies_needed(limit)
        return (
            self.copies_fit(needed)
            and self.top_fits(needed, limit)
            and self.full_fits(needed, limit)
        )


def _conditions(loads_row: FloatArray, caps: IntArray) -> _Conditions:
    """Tabulate the right-hand sides that do not depend on T."""
    heavy = np.sort(loads_row)[::-1]
    num_experts, num_chips = len(heavy), len(caps)
    ascending = np.sort(caps)
    cap_low = np.concatenate([[0], np.cumsum(ascending)])
    cap_high = np.concatenate([[0], np.cumsum(ascending[::-1])])
    lightest = np.concatenate([[0.0], np.cumsum(heavy[::-1])])
    top = np.cumsum(heavy)[:, None]
    spare = int(cap_low[-1]) - num_experts
    j = np.arange(1, num_experts + 1)[:, None]
    dragged = np.maximum(cap_low[None, 1:] - spare - j, 0)
    load = (top + lightest[dragged]) / np.arange(1, num_chips + 1)
    load[cap_high[None, 1:] < j] = np.inf
    need = np.full((num_experts, num_chips + 1), np.inf)
    need[:, 1:] = np.minimum.accumulate(load, axis=1)
    return _Conditions(heavy=heavy, lightest=lightest, cap_low=cap_low, top_need=need)


def expert_lower_bound(
    loads_row: FloatArray, num_chips: int, slots_per_chip: int | IntArray
) -> float:
    """Lower bound on the load of the hottest chip, for even and uneven token splits.

    Parameters
    ----------
    loads_row : array, shape ``[num_experts]``
        Share of the routed tokens of each expert.
    num_chips : int
    slots_per_chip : int or int array, shape ``[num_chips]``

    Returns
    -------
    float
        In the unit of ``loads_row``; never above the optimum (up to 1e-12 relative).

    Raises
    ------
    SpecError
        If the experts do not fit in the slots.
    """
    caps = as_caps(num_chips, slots_per_chip)
    row = np.asarray(loads_row, dtype=np.float64)
    num_slots = int(caps.sum())
    require_slots(len(row), num_slots)
    copies = fill_copies(row, num_slots, num_chips)
    start = max(float(row.sum()) / num_chips, float((row / copies).max()))
    if start <= 0:
        return 0.0
    conditions = _conditions(row, caps)
    if conditions.allow(start):
        return start
    return _largest_refuted(conditions, start)


def _largest_refuted(conditions: _Conditions, start: float) -> float:
    """Bisect between a refuted value and one that no condition refutes."""
    low, high = start, 2 * start
    while not conditions.allow(high):
        low, high = high, 2 * high
    for _ in range(_BISECTION_STEPS):
        if high - low <= _BISECTION_WIDTH * low:
            break
        middle = (low + high) / 2
        if conditions.allow(middle):
            high = middle
        else:
            low = middle
    return low


def _least_saving(saving: float) -> float:
    """Least amount that a chip can save, given that it must save ``saving`` expert loads.

    An empty slot saves 1, a copy of an expert with r copies ``1 - 1/r``: sums start
    1/2, 2/3, 3/4, ..., 1, 7/6; beyond that the amount asked for is used.
    """
    if saving <= _CEIL_SLACK:
        return 0.0
    if saving < 1 - _CEIL_SLACK:
        return 1 - 1 / int(np.ceil(1 / (1 - saving) - _CEIL_SLACK))
    if saving <= 1 + _CEIL_SLACK:
        return 1.0
    return max(saving, 7 / 6)


@lru_cache(maxsize=1 << 16)
def uniform_imbalance(num_experts: int, num_chips: int, num_slots: int) -> float:
    """Lower bound on max/mean chip load when all experts are equally loaded.

    Copies split tokens evenly and slots are spread as :func:`even_caps` does.

    Parameters
    ----------
    num_experts, num_chips, num_slots : int
        ``num_slots`` is the total over the chips, at least ``num_experts``.

    Returns
    -------
    float
        At least 1.

    Raises
    ------
    SpecError
        If the experts do not fit in the slots.

    Notes
    -----
    Proof, with the load of one expert as unit. A chip with ``c_g`` slots and load ``T_g``
    saves ``c_g - T_g``; summed over chips the savings are ``S - E``, because the loads add
    up to E. A chip saves 1 with each empty slot and ``1 - 1/r`` with each copy of an expert
    that has r copies, so its saving is 0 or at least 1/2. If ``T_g <= T`` everywhere, then
    ``sum_g h(c_g - T) <= S - E`` where ``h(s)`` is the least possible saving that is at
    least s. The smallest T which satisfies this, the mean ``E/G`` and ``1 / min(G,
    floor(S/E))`` (some expert has no more copies) is the bound.

    It equals the optimum for 256 experts in 288 slots of 72 chips (2 x 32 < 72, so some
    chip holds four whole experts: 4 against a mean of 3.556, 1.125) and without copies
    (``ceil(E/G)`` whole experts).
    """
    require_slots(num_experts, num_slots)
    spare = num_slots - num_experts
    floor, num_large = divmod(num_slots, num_chips)
    num_small = num_chips - num_large
    mean = num_experts / num_chips
    low = max(mean, 1 / min(num_chips, num_slots // num_experts))

    def allows(limit: float) -> bool:
        small = num_small * _least_saving(floor - limit)
        return small + num_large * _least_saving(floor + 1 - limit) <= spare + _CEIL_SLACK

    if allows(low):
        return low / mean
    high = float(floor + (num_large > 0))
    while high - low > SLACK * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if allows(middle) else (middle, high)
    # Limits are fractions of small denominators: undo the last bits of the bisection.
    exact = float(Fraction(low).limit_denominator(4 * num_chips))
    return (exact if abs(exact - low) <= 1e-9 * low else low) / mean
