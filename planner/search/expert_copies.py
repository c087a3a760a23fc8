"""Looks for whole numbers of copies that satisfy the prices of ``expert_prices``.

Multiple choice with many knapsacks: one number of copies per expert, one row per threshold.
Solved by local search that raises the weights of violated rows ("breakout"): most rows are
slack, so that rows are added only when a solution of the others violates them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.search.expert_bounds import IntArray
from planner.search.expert_prices import PriceTable, most_violated

Float32Array = NDArray[np.float32]

_FIRST_ROWS = 96
_TABU = 8


def search_copies(
    table: PriceTable, start: IntArray, rows: tuple[int, ...], moves: int
) -> IntArray | None:
    """Look for whole numbers of copies that satisfy all prices.

    Each step takes the change of one expert that leaves the least weighted violation; rows
    that stay violated gain weight, and a change is not undone for a few steps.

    Parameters
    ----------
    start : int array, shape ``[num_experts]``
        Column of each expert to begin with.
    rows : tuple of int
        Rows to look at beside an even selection of all.
    moves : int
        Steps at most.

    Returns
    -------
    int array, shape ``[num_experts]``, or None
        Copies, or None after ``moves`` steps without success.
    """
    columns = np.unique(np.linspace(0, len(table.room) - 1, _FIRST_ROWS).astype(np.int64))
    columns = np.union1d(columns, np.array(rows, dtype=np.int64))
    chosen = start.copy()
    blocked_until = np.zeros(len(table.expert), dtype=np.int64)
    step = 0
    while True:
        step = _satisfy(table, columns, chosen, blocked_until, (step, moves))
        if step >= moves:
            return None
        violation = table.prices[chosen].sum(axis=0) - table.room
        missing = most_violated(violation, 0.0)
        if not missing:
            return table.copies[chosen]
        columns = np.union1d(columns, np.array(missing, dtype=np.int64))


def _satisfy(
    table: PriceTable,
    columns: IntArray,
    chosen: IntArray,
    blocked_until: IntArray,
    steps: tuple[int, int],
) -> int:
    """Change ``chosen`` until the prices of ``columns`` hold; returns the step reached."""
    prices: Float32Array = table.prices[:, columns].astype(np.float32)
    room: Float32Array = table.room[columns].astype(np.float32)
    over = prices[chosen].sum(axis=0) - room
    change = prices - prices[chosen[table.expert]]
    weight = np.ones(len(columns), dtype=np.float32)
    ends = np.append(table.first, len(prices))
    for step in range(*steps):
        violation = np.maximum(over, 0)
        if not violation.any():
            return step
        # einsum, not a product of BLAS: its threads spin longer than this takes.
        cost = np.einsum("qj,j->q", np.maximum(change + over, 0), weight)
        cost[chosen] = np.inf
        cost[blocked_until > step] = np.inf
        column = int(cost.argmin())
        if cost[column] >= violation @ weight:
            weight += violation > 0
        expert = int(table.expert[column])
        old, chosen[expert] = int(chosen[expert]), column
        over += prices[column] - prices[old]
        own = slice(int(ends[expert]), int(ends[expert + 1]))
        change[own] = prices[own] - prices[column]
        blocked_until[old] = step + _TABU
    return steps[1]
