"""Layers to pipeline stages, exactly, by dynamic programming.

Sets        layers ``l`` in model order, stages ``s = 0 .. pp-1``
Data        ``t_l`` seconds and ``b_l`` bytes of a layer, tables on the first and last stage,
            ``capacity`` bytes of a chip
Variables   ends ``0 < e_0 < ... < e_{pp-1} = num_layers``
Objective   minimise ``max_s t(e_{s-1}, e_s)``; the sum over stages does not depend on the
            cut, so this also minimises the decode step ``max(sum t_s, m max t_s)``
Constraint  ``b(e_{s-1}, e_s) <= capacity`` for every stage

``f_s[j] = min_{i < j} max(f_{s-1}[i], C_s(i, j))`` with ``C_s`` infinite where the bytes do
not fit. Exact in ``O(pp L^2)``; one row of the table is one NumPy expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Ends = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCosts:
    """Time and memory of layers and tables on one chip.

    Parameters
    ----------
    layer_s, layer_bytes : array, shape ``[num_layers]``
    table_s, table_bytes : (float, float)
        Embedding side (first stage) and head side (last stage).
    capacity_bytes : float
        Bytes that a stage may take.
    """

    layer_s: FloatArray
    layer_bytes: FloatArray
    table_s: tuple[float, float]
    table_bytes: tuple[float, float]
    capacity_bytes: float


def interval_costs(costs: StageCosts, is_first: bool, is_last: bool) -> FloatArray:
    """``C[i, j]``: seconds of a stage of layers ``i .. j-1``, infinite where it does not fit.

    Returns
    -------
    array, shape ``[num_layers + 1, num_layers + 1]``
    """
    seconds = np.concatenate([[0.0], np.cumsum(costs.layer_s)])
    num_bytes = np.concatenate([[0.0], np.cumsum(costs.layer_bytes)])
    tables_s = costs.table_s[0] * is_first + costs.table_s[1] * is_last
    tables_b = costs.table_bytes[0] * is_first + costs.table_bytes[1] * is_last
    cost = seconds[None, :] - seconds[:, None] + tables_s
    held = num_bytes[None, :] - num_bytes[:, None] + tables_b
    # Differences of running sums are a few ulp off: a stage that fits exactly must fit.
    too_much = held > costs.capacity_bytes * (1 + 1e-12)
    position = np.arange(len(seconds))
    empty = position[None, :] <= position[:, None]
    return np.where(too_much | empty, np.inf, cost)


def cut_stages(costs: StageCosts, num_stages: int) -> Ends | None:
    """Contiguous cut with the fastest slowest stage; None when no cut fits in memory.

    Returns
    -------
    tuple of int or None
        ``ends[s]`` is one past the last layer of stage ``s``; of equal cuts the one with
        the earliest ends.
    """
    num_layers = len(costs.layer_s)
    if not 1 <= num_stages <= num_layers:
        return None
    best = np.full(num_layers + 1, np.inf)
    best[0] = 0.0
    middle = interval_costs(costs, is_first=False, is_last=False) if num_stages > 2 else None
    parents = []
    for stage in range(num_stages):
        is_first, is_last = stage == 0, stage == num_stages - 1
        inner = not is_first and not is_last
        cost = middle if inner and middle is not None else interval_costs(costs, is_first, is_last)
        reached = np.maximum(best[:, None], cost)
        parents.append(reached.argmin(axis=0))
        best = reached.min(axis=0)
    if not np.isfinite(best[num_layers]):
        return None
    ends = [num_layers]
    for parent in reversed(parents[1:]):
        ends.append(int(parent[ends[-1]]))
    return tuple(reversed(ends))
