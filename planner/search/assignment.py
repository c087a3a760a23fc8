"""One-to-one assignment with the largest total value.

Sets        things i, places j, equally many
Data        v_ij >= 0 whole numbers; which pairs are allowed
Variables   x_ij in {0, 1}
Objective   maximise sum v_ij x_ij
Constraint  every thing gets one place, every place one thing

Solved exactly by OR-Tools' push-relabel assignment. Of equal answers the one with most things
on their own numbers is taken: values are scaled by ``n + 1`` and the diagonal gets one more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

# Scaled values stay far below 2**63.
_MOST = 1 << 44


def best_assignment(values: NDArray[np.generic], allowed: NDArray[np.bool_]) -> IntArray:
    """Place of every thing.

    Parameters
    ----------
    values : array, shape ``[n, n]``
        Not negative; floats are rounded to 2**-30 of the largest.
    allowed : bool array, shape ``[n, n]``
        Some assignment of allowed pairs exists.

    Raises
    ------
    ValueError
        No such assignment exists.
    """
    size = len(values)
    if size == 0:
        return np.zeros(0, dtype=np.int64)
    whole = _whole(values) * (size + 1) + np.eye(size, dtype=np.int64)
    if (whole.max(axis=1) == np.diag(whole)).all() and np.diag(allowed).all():
        return np.arange(size)
    # This import takes a while: only who assigns pays for it.
    from ortools.graph.python import linear_sum_assignment

    things, places = np.nonzero(allowed)
    solver = linear_sum_assignment.SimpleLinearSumAssignment()
    solver.add_arcs_with_cost(things, places, -whole[things, places])
    if solver.solve() != solver.OPTIMAL:
        raise ValueError("no assignment of allowed pairs")
    return np.array([solver.right_mate(thing) for thing in range(size)], dtype=np.int64)


def _whole(values: NDArray[np.generic]) -> IntArray:
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64)
    largest = float(np.abs(values).max())
    scale = min(_MOST, 1 << 30) / largest if largest > 0 else 0.0
    return np.rint(np.asarray(values, dtype=np.float64) * scale).astype(np.int64)
