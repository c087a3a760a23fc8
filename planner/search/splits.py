"""Many strategies by how they split a stage: what is priced once for all that split it alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.search.mapping import least_piece
from planner.search.strategies import Strategies
from planner.topology.graph import Topology
from planner.topology.groups import max_cells

Ints = NDArray[np.int64]

SPLIT_FIELDS = ("attn_tp", "attn_dp", "cp", "ep", "expert_tp")


def codes(columns: Sequence[Ints]) -> Ints:
    """One number for every distinct row."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        code = code * (int(column.max(initial=0)) + 1) + column
        code = np.unique(code, return_inverse=True)[1].astype(np.int64)
    return code


def distinct_splits(strategies: Strategies) -> tuple[Ints, Ints]:
    """A strategy of every distinct split, and the split of every strategy.

    Strategies of one split mostly follow each other: only the first of every run is sorted.
    """
    columns = [getattr(strategies, name) for name in SPLIT_FIELDS]
    new = np.zeros(len(strategies), dtype=np.bool_)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(new)
    code = codes([column[starts] for column in columns])
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    lengths = np.diff(np.append(starts, len(strategies)))
    return starts[first], np.repeat(inverse.astype(np.int64), lengths)


def stage_chips(strategies: Strategies) -> Ints:
    """Chips of a stage of every strategy."""
    return strategies.attn_tp * strategies.attn_dp * strategies.cp


def crowded_splits(
    topology: Topology, strategies: Strategies, splits: Strategies, split: Ints
) -> tuple[NDArray[np.bool_], Ints, list[tuple[int, int]]]:
    """Strategies with more cells than there are whole ones.

    Parameters
    ----------
    splits : Strategies
        One strategy of every split.
    split : array of int, shape ``[strategies]``
        The split of every strategy.

    Returns
    -------
    (array of bool, array of int, list of (int, int))
        Whether each strategy is crowded; the splits that are; for each of these the chips of
        a cell and the most that the smallest piece of one cell has: one cell at least is split
        in two, or takes a smaller piece than it would alone.
    """
    units = np.lcm(splits.attn_tp, splits.expert_tp)
    size = stage_chips(splits)
    _, first, alike = np.unique(
        size * (units.max() + 1) + units, return_index=True, return_inverse=True
    )
    pairs = [(int(size[index]), int(units[index])) for index in first]
    whole = np.array([max_cells(topology, *pair) for pair in pairs])[alike]
    may_share = (units <= topology.largest_open) & (splits.cp == 1)
    may_share &= size == splits.ep * splits.expert_tp
    crowded = may_share[split] & (strategies.pp * strategies.replicas > whole[split])
    rows = np.unique(split[crowded])
    pieces = [
        (pairs[alike[row]][0], least_piece(topology, pairs[alike[row]], int(whole[row]) + 1))
        for row in rows
    ]
    return crowded, rows, pieces
