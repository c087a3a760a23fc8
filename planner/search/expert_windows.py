"""Perfect balance by weighted splits where spare slots allow it.

Sets        experts e, chips g with c slots each, spare slots R = c G - E >= G - 1
Data        w_e  share of the routed tokens of expert e, T = sum w_e / G
Variables   which c pieces of experts each chip holds, and how much of each expert a piece is
Objective   every chip carries T, which is least

Chip after chip takes, of the remaining pieces in ascending order, the leftmost window of c
neighbours that weighs T or more, and as much of its last piece as makes it T; what is left of
that piece goes back. All but the last chip split at most one piece, hence G - 1 spare slots
suffice; others stay empty (pieces of no load). The window before the leftmost one weighs less
than T, so that the last piece is never refused; a piece and its remainder are never in one
window, so that no chip holds an expert twice.
"""

from __future__ import annotations

import bisect

import numpy as np

from planner.search.expert_bounds import FloatArray, IntArray


def place_windows(loads_row: FloatArray, num_chips: int, slots: int) -> tuple[IntArray, FloatArray]:
    """Place one layer so that every chip carries the mean.

    Parameters
    ----------
    loads_row : array, shape ``[num_experts]``
        Not all 0.
    num_chips, slots : int
        ``num_chips * slots >= num_experts + num_chips - 1``.

    Returns
    -------
    (int array, array), shape ``[num_chips, slots]``
        Expert of each slot, -1 for none; fraction of its expert's tokens.
    """
    target = float(loads_row.sum()) / num_chips
    order = np.argsort(loads_row, kind="stable").tolist()
    values = loads_row.tolist()
    padding = num_chips * slots - len(values) - (num_chips - 1)
    # (load, expert), ascending; -1 pads.
    pieces = [(0.0, -1)] * padding + [(values[expert], expert) for expert in order]
    placed = np.full((num_chips, slots), -1, dtype=np.int64)
    amount = np.zeros((num_chips, slots))
    for chip in range(num_chips - 1):
        sums = np.cumsum([0.0, *(load for load, _ in pieces)])
        weights = sums[slots:] - sums[:-slots]
        reaching = np.flatnonzero(weights >= target * (1 - 1e-12))
        start = int(reaching[0]) if len(reaching) else len(weights) - 1
        window = pieces[start : start + slots]
        del pieces[start : start + slots]
        last, expert = window.pop()
        used = min(last, max(target - sum(load for load, _ in window), 0.0))
        _fill(placed[chip], amount[chip], [*window, (used, expert)])
        bisect.insort(pieces, (last - used, expert))
    _fill(placed[-1], amount[-1], pieces)
    total = np.append(np.where(loads_row > 0, loads_row, 1.0), 1.0)
    weights = amount / total[placed]
    _share_unused(placed, weights, loads_row)
    return placed, weights


def _fill(slots: IntArray, amount: FloatArray, pieces: list[tuple[float, int]]) -> None:
    """Write the pieces of one chip; a remainder of nothing is no copy, unless it is the only."""
    place = 0
    for load, expert in pieces:
        if expert >= 0:
            slots[place] = expert
            amount[place] = load
            place += 1


def _share_unused(placed: IntArray, weights: FloatArray, loads_row: FloatArray) -> None:
    """Experts without tokens: their copies share what may come evenly."""
    copies = np.bincount(placed[placed >= 0], minlength=len(loads_row))
    idle = np.append(loads_row <= 0, False)[placed]
    weights[idle] = (1.0 / np.maximum(np.append(copies, 1), 1))[placed[idle]]
