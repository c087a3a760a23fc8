"""Error statistics: pure functions of predicted and measured numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def quantile(values: Sequence[float], fraction: float) -> float:
    """Quantile with linear interpolation between order statistics.

    The sorted values stand at the fractions 0, 1/(n-1), ..., 1 (Hyndman and Fan 1996,
    type 7).

    Parameters
    ----------
    values : sequence of float
        At least one, in any order.
    fraction : float
        In [0, 1].

    Raises
    ------
    ValueError
        There are no values.
    """
    if not values:
        raise ValueError("a quantile needs at least one value")
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def median(values: Sequence[float]) -> float:
    """Middle value; the mean of the two middle ones of an even number."""
    return quantile(values, 0.5)


def relative_error(predicted: float, measured: float) -> float:
    """``|predicted - measured| / measured``."""
    return abs(predicted - measured) / measured


def bias(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Median of ``ln(predicted / measured)``: above 0 where predictions are too slow."""
    pairs = zip(predicted, measured, strict=True)
    return median([math.log(guess / truth) for guess, truth in pairs])


def average_ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Rank of each value from 1; equal values share the mean of their places. Shape ``[n]``."""
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = ((last - counts + 1 + last) / 2.0)[places]
    return ranks


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation: Pearson's of the ranks, ties by their average rank.

    Returns
    -------
    float or None
        In [-1, 1]; None where all values of one side are equal, or there are fewer than two.

    Raises
    ------
    ValueError
        The sequences differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values against {len(second)}")
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    a, b = average_ranks(first), average_ranks(second)
    a, b = a - a.mean(), b - b.mean()
    # Rounding may leave a perfect correlation a hair beyond 1.
    found = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
    return max(-1.0, min(1.0, found))


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorStats:
    """Errors of some rows, relative to the measurement.

    ``median``, ``mean`` and ``p90`` are of the absolute relative error; ``bias`` is defined
    by :func:`bias`.
    """

    median: float
    mean: float
    p90: float
    bias: float


def error_stats(predicted: Sequence[float], measured: Sequence[float]) -> ErrorStats | None:
    """Statistics of pairs of positive numbers; None where there are none.

    Raises
    ------
    ValueError
        The sequences differ in length.
    """
    errors = [
        relative_error(guess, truth) for guess, truth in zip(predicted, measured, strict=True)
    ]
    if not errors:
        return None
    return ErrorStats(
        median=median(errors),
        mean=math.fsum(errors) / len(errors),
        p90=quantile(errors, 0.9),
        bias=bias(predicted, measured),
    )
