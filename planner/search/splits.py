"""Many strategies by how they split a stage: what is priced once for all that split it alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.search.strategies import Strategies

Ints = NDArray[np.int64]

SPLIT_FIELDS = ("attn_tp", "attn_dp", "cp", "ep", "expert_tp")


def distinct(values: Ints) -> tuple[Ints, Ints]:
    """Different values, ascending, and which of them every entry is.

    For numbers from 0 up to chips of a machine, without sorting them.
    """
    seen = np.zeros(int(values.max(initial=-1)) + 1, dtype=np.bool_)
    seen[values] = True
    found = np.flatnonzero(seen)
    place = np.cumsum(seen) - 1
    return found, np.asarray(place[values], dtype=np.int64)


def codes(columns: Sequence[Ints]) -> Ints:
    """One number for every distinct row."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        code = code * (int(column.max(initial=0)) + 1) + column
        code = np.unique(code, return_inverse=True)[1].astype(np.int64)
    return code


def stage_chips(strategies: Strategies) -> Ints:
    """Chips of a stage of every strategy."""
    return strategies.attn_tp * strategies.attn_dp * strategies.cp
