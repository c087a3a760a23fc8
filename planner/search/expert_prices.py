"""Prices of pieces: a bound for even splits that knows how large the copies are.

Sets        experts e, numbers of copies r in 1..G, chips g with c_g slots, thresholds t
Data        w_e   share of the routed tokens of expert e, x = w_e / r the load of a piece
            T     a load of the hottest chip that is to be refuted
            f_t   price of a piece: 0 below t, otherwise the largest v in 1..c with
                  x >= S_v,  S_1 = t,  S_v = T - (c - v + 1) t  (beside v - 1 of its
                  slots a piece of price v makes useless for pieces of t and more)
            P_t   dearest set of at most c_g pieces that weighs at most T
Variables   z(e, r) >= 0  part of expert e that has r copies
            s             excess
Objective   least s

Constraints
    copies   sum_r z(e, r) = 1
    prices   sum_(e, r) z(e, r) r f_t(w_e / r)  <=  sum_g P_t(c_g) + s        for all t

A placement that meets T has an integer solution with s <= 0: on every chip the prices of the
pieces add up to at most ``P_t``. Hence a least s above 0 refutes T. The dual, weights of the
thresholds, is the certificate: it is re-checked over *all* numbers of copies in floating
point, so that neither the solver nor the columns left out of the linear program matter.
With c = 2 the conditions are Hall's theorem for pairing the heaviest with the lightest
piece, and exact for given copies.

``expert_price_program`` solves it, ``expert_copies`` looks for integer solutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.search.expert_bounds import SLACK, FloatArray, IntArray

STEP = 1e-9
EXTRA_COPIES = 2
_ROWS_PER_ROUND = 6
_SPACING = 60
_MAX_PRICED_SLOTS = 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PriceCertificate:
    """Refutes a load of the hottest chip.

    Attributes
    ----------
    limit : float
        The refuted load, in the unit of the loads.
    sizes : int array, shape ``[num_thresholds]``
        ``c`` of each price.
    thresholds : array, shape ``[num_thresholds]``
        ``t / limit`` of each price.
    weights : array, shape ``[num_thresholds]``
        How much each price counts; they add up to 1.
    """

    limit: float
    sizes: IntArray
    thresholds: FloatArray
    weights: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PriceTable:
    """The program for one T, in units of T.

    ``expert[q]``, ``copies[q]`` describe column q, sorted by expert and copies;
    ``first[e]`` is the first column of an expert. ``prices[q, j]`` is ``r f`` and
    ``room[j]`` what the chips can hold.
    """

    row: FloatArray
    caps: IntArray
    fewest: IntArray
    most: IntArray
    expert: IntArray
    copies: IntArray
    first: IntArray
    sizes: IntArray
    thresholds: FloatArray
    prices: FloatArray
    room: FloatArray


def _steps(thresholds: FloatArray, size: int) -> FloatArray:
    """``S_v`` in units of T, shape ``[size, num_thresholds]``; row v - 1 belongs to v."""
    value = np.arange(1, size + 1)[:, None]
    steps = 1 - (size - value + 1) * thresholds + STEP
    steps[0] = thresholds
    return np.maximum(steps, thresholds)


def piece_prices(pieces: FloatArray, thresholds: FloatArray, size: int) -> FloatArray:
    """``f_t`` of pieces in units of T, shape ``[num_pieces, num_thresholds]``."""
    found = np.zeros((len(pieces), len(thresholds)))
    for steps in _steps(thresholds, size):
        found += pieces[:, None] >= steps * (1 - SLACK)
    return found


def dearest(thresholds: FloatArray, size: int, slots: int) -> FloatArray:
    """``P_t`` of a chip with ``slots`` slots, by dynamic programming over prices.

    Returns
    -------
    array, shape ``[num_thresholds]``
    """
    steps = _steps(thresholds, size) * (1 - SLACK)
    top = size * slots
    lightest = np.full((top + 1, len(thresholds)), np.inf)
    lightest[0] = 0.0
    for _ in range(slots):
        taken = lightest.copy()
        for value in range(1, size + 1):
            taken[value:] = np.minimum(taken[value:], lightest[:-value] + steps[value - 1])
        lightest = taken
    fits = lightest <= 1 + SLACK
    best: FloatArray = (fits * np.arange(top + 1)[:, None]).max(axis=0).astype(np.float64)
    return best


def columns_of(fewest: IntArray, most: IntArray, extra: int) -> tuple[IntArray, IntArray, IntArray]:
    """Expert and copies of each column, first column of each expert."""
    count = np.minimum(most - fewest, extra) + 1
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    expert = np.repeat(np.arange(len(count)), count)
    copies = np.arange(len(expert)) - first[expert] + fewest[expert]
    return expert, copies, first


def price_table(loads_row: FloatArray, caps: IntArray, limit: float) -> PriceTable | None:
    """Build the program for one T; None when the copies alone do not fit or chips are large.

    Parameters
    ----------
    loads_row : array, shape ``[num_experts]``
        Loads in descending order.
    caps : int array, shape ``[num_chips]``
    limit : float
        T, in the unit of the loads.
    """
    row = loads_row / limit
    num_chips, num_slots = len(caps), int(caps.sum())
    fewest = np.maximum(np.ceil(row - STEP), 1).astype(np.int64)
    spare = num_slots - int(fewest.sum())
    if spare < 0 or int(caps.max()) > _MAX_PRICED_SLOTS:
        return None
    most = np.minimum(fewest + spare, num_chips)
    expert, copies, first = columns_of(fewest, most, EXTRA_COPIES)
    pieces = row[expert] / copies
    grid = np.unique(np.concatenate([[0.0, 0.5], pieces[pieces <= 0.5]]))
    kinds, counts = np.unique(caps[caps > 0], return_counts=True)
    tables, rooms, sizes = [], [], []
    for size in kinds.tolist():
        tables.append(copies[:, None] * piece_prices(pieces, grid, size))
        room = np.zeros(len(grid))
        for slots, count in zip(kinds.tolist(), counts.tolist(), strict=True):
            room += count * dearest(grid, size, slots)
        rooms.append(room)
        sizes.append(np.full(len(grid), size))
    return PriceTable(
        row=row, caps=caps, fewest=fewest, most=most, expert=expert, copies=copies, first=first,
        sizes=np.concatenate(sizes), thresholds=np.tile(grid, len(kinds)),
        prices=np.concatenate(tables, axis=1), room=np.concatenate(rooms),
    )  # fmt: skip


def most_violated(violation: FloatArray, least: float) -> list[int]:
    """Rows violated by more than ``least``: the worst, and apart, since neighbours say the same."""
    spacing = max(1, len(violation) // _SPACING)
    chosen: list[int] = []
    for row in np.argsort(-violation, kind="stable").tolist():
        if violation[row] <= least or len(chosen) == _ROWS_PER_ROUND:
            break
        if all(abs(row - other) >= spacing for other in chosen):
            chosen.append(row)
    return chosen
