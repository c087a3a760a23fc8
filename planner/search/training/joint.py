"""A bound of an uneven pipeline: what the slowest device costs, and the bubble of the mean.

The step of a cut is priced as an even pipeline of some device time ``b = (b_f, b_i, b_w)`` plus
``m`` times what devices need beyond it (:mod:`planner.cost.schedules.step`, *Peeling*):

    step = m |b| + bubble(b) + m S,      S = sum over devices d and passes of (t_d - b)+

with ``sum_d t_d = T`` in every pass and ``|t_d| >= x`` on ``J`` devices. Let ``h <= bubble`` be
convex and positively homogeneous, and ``g`` a subgradient of ``h`` at the mean ``T / p``, so that
``h(b) >= g b`` everywhere. Since ``S >= J (x - |b|)`` and, by pass, ``S >= T - p b``,

    S >= lambda J (x - |b|) + sum over passes of mu (T - p b)

for multipliers of at least 0 with ``lambda + max mu <= 1``. With ``lambda = theta / J`` and
``mu = ((1 - theta) + g / m) / p`` the base ``b`` drops out of the sum, whatever it is:

    step >= theta m x + (1 - theta) m |T| / p + h(T / p)

for every ``0 <= theta <= 1`` that keeps the multipliers valid:

    theta <= 1 + min g / m
    theta <= 1 - max g / (m (p - 1))                                          J = 1
    theta <= (p - 1 - max g / m) / (p / 2 - 1), none for p = 2                J = 2

GPipe, 1F1B and interleaved pipelines have ``h = k |b|``: with the largest ``theta`` this is
``m x + k (|T| - x) / (p - 1)``. GPipe and the longest path of 1F1B cost ``|T| + (m - 1) max |t_d|``
at least, which is no less. A device of DualPipe has the time of its mirror image: ``J = 2``. Of
its ``m`` microbatches ``r`` meet every pass alone, where ``S`` is as above, and the others in
pairs, where it is ``A = sum over d of (|t_d| - |b|)+ <= S``. What ``g`` needs comes from the
former, ``p r >= max g - min g`` as ``r >= p``, and the rest of ``m S`` is at least that many times
``A``: the same conditions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.domain.run import ScheduleKind
from planner.search.training.cases import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Pipelines:
    """Pipelines of one schedule: devices, microbatches, chunks per device, time of the mean.

    ``mean`` has shape ``[3, n]``, all others ``[n]``.
    """

    p: FloatArray
    m: FloatArray
    v: FloatArray
    mean: FloatArray


def _pick(options: list[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """The larger of linear functions, with its gradient ``[3, n]``."""
    value, slope = options[0]
    for other, other_slope in options[1:]:
        slope = np.where(other > value, other_slope, slope)
        value = np.maximum(value, other)
    return value, slope


def _line(mean: FloatArray, *slopes: FloatArray) -> tuple[FloatArray, FloatArray]:
    slope = np.stack(np.broadcast_arrays(*(np.asarray(s, dtype=float) for s in slopes)))
    return (slope * mean).sum(axis=0), slope


def _sum(*parts: tuple[FloatArray, FloatArray]) -> tuple[FloatArray, FloatArray]:
    values, slopes = zip(*parts, strict=True)
    return np.sum(values, axis=0), np.sum(slopes, axis=0)


def convex_bubble(kind: ScheduleKind, pipes: Pipelines) -> tuple[FloatArray, FloatArray]:
    """Convex bubble ``h`` at the mean, and a subgradient there, ``[3, n]``.

    :mod:`planner.cost.schedules.forms`; that of ZB-V without what is not convex in it.
    """
    p, m, mean = pipes.p, pipes.m, pipes.mean
    zero, q = np.zeros_like(p), p - 1.0
    match kind:
        case ScheduleKind.ZB_H1:
            c = np.minimum(m, p) - 1.0
            return _pick(
                [
                    _line(mean, q, zero, zero),
                    _line(mean, q - c, q, zero),
                    _line(mean, q, q, -c),
                ]
            )
        case ScheduleKind.ZB_V:
            n, missing = np.minimum(m, p) - 1.0, np.maximum(0.0, p - m)
            longest = _pick([_line(mean, n, zero, zero), _line(mean, zero, n, zero)])
            filled = _pick(
                [
                    _line(mean, zero, -n / 2.0, zero),
                    _line(mean, -0.5 + zero, zero, -n),
                    _line(mean, zero, zero, -n - 0.5),
                ]
            )
            return _sum(longest, filled, _line(mean, missing, missing, zero))
        case ScheduleKind.DUALPIPE:
            n = p / 2.0 - 1.0
            fill = _pick([_line(mean, 2.0 * n, zero, zero), _line(mean, n - 1.0, n, zero)])
            return _sum(fill, _pick([_line(mean, zero, zero, zero), _line(mean, zero, n, -n)]))
        case ScheduleKind.INTERLEAVED:
            short = np.maximum(0.0, p - m)
            each = (q + (pipes.v - 1.0) * short) / pipes.v
            return _line(mean, each, each, each)
        case _:
            return _line(mean, q, q, q)


def joint_bound_s(
    kind: ScheduleKind, pipes: Pipelines, slowest: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The bound of this module, and how fast it grows with ``slowest``: ``theta m``."""
    p, m = pipes.p, pipes.m
    value, slope = convex_bubble(kind, pipes)
    least, most = slope.min(axis=0) / m, slope.max(axis=0) / m
    theta = np.minimum(1.0, 1.0 + least)
    if kind is ScheduleKind.DUALPIPE:
        limit = (p - 1.0 - most) / np.maximum(1e-9, p / 2.0 - 1.0)
        theta = np.where(p > 2, np.minimum(theta, limit), theta)
    else:
        theta = np.minimum(theta, 1.0 - most / np.maximum(1.0, p - 1.0))
    valid = theta >= -1e-12
    theta = np.maximum(0.0, theta)
    total = pipes.mean.sum(axis=0)
    found = m * (theta * slowest + (1.0 - theta) * total) + value
    return np.where(valid, found, 0.0), np.where(valid, theta * m, 0.0)
