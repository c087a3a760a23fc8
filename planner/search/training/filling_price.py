"""Prices of fillings, as arrays over them; see :mod:`~planner.search.training.fillings`.

What a device has is one of few *types*: a filling is how many devices are of each type. The
pipeline is priced as :mod:`planner.cost.schedules.step` does, by the smallest of several even
pipelines with what lies above them; every type, and the ``k``-th largest time of each pass, is
tried as the even one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.cost.schedules.forms import Work, step_seconds
from planner.cost.schedules.kinds import SPLIT
from planner.cost.schedules.orders import num_pairs
from planner.cost.schedules.step import MAX_BASES
from planner.domain.run import ScheduleKind
from planner.search.training.cases import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Shape:
    """A pipeline: schedule, devices, microbatches and chunks per device."""

    kind: ScheduleKind
    p: int
    m: int
    v: int


def pipeline_s(shape: Shape, times: FloatArray, number: FloatArray) -> FloatArray:
    """Least seconds of all microbatches and the bubble of every filling.

    Exact but for 1F1B, of which only the longest path is counted, and for DualPipe, whose
    common devices pair as many passes as those in the middle do.

    Parameters
    ----------
    times : array, shape ``[fillings, types, 3]``
        Seconds of one microbatch on a device of each type; of DualPipe of a pair of devices,
        half of both stages.
    number : array, shape ``[fillings, types]``
        Devices of each type, or pairs.
    """
    present = number > 0
    total = np.where(present, times.sum(axis=2), 0.0)
    slowest = total.max(axis=1)
    kind, p, m = shape.kind, shape.p, shape.m
    if kind is ScheduleKind.NONE:
        return np.asarray(m * slowest)
    if kind is ScheduleKind.ZB_H2:
        idle = times[..., 0] + times[..., 1] - 2.0 * times[..., 2]
        least = np.where(total >= slowest[:, None] * (1 - 1e-12), idle, np.inf).min(axis=1)
        return np.asarray(m * slowest + (p - 1) * np.maximum(0.0, least))
    through = (number * total).sum(axis=1)
    if kind is ScheduleKind.GPIPE:
        forward = np.where(present, times[..., 0], 0.0).max(axis=1)
        backward = np.where(present, times[..., 1] + times[..., 2], 0.0).max(axis=1)
        return np.asarray(through + (m - 1) * (forward + backward))
    if kind is ScheduleKind.ONE_F_ONE_B:
        # No even pipeline with what lies above it is shorter than this.
        return np.asarray(through + (m - 1) * slowest)
    found = _peeled_s(shape, times, number)
    return np.asarray(np.maximum(found, m * slowest))


def _peeled_s(shape: Shape, times: FloatArray, number: FloatArray) -> FloatArray:
    kind = shape.kind
    parts = times
    if kind not in SPLIT and kind is not ScheduleKind.DUALPIPE:
        back = times[..., 1] + times[..., 2]
        parts = np.stack([times[..., 0], back, np.zeros_like(back)], axis=2)
    best = np.full(len(times), np.inf)
    for place in range(parts.shape[1]):
        base = parts[:, place]
        own = _above_s(shape, parts, number, base)
        best = np.minimum(best, np.where(number[:, place] > 0, own, np.inf))
    for base in _ranked(shape, parts, number):
        best = np.minimum(best, _above_s(shape, parts, number, base))
    return best


def _ranked(shape: Shape, parts: FloatArray, number: FloatArray) -> list[FloatArray]:
    """Of each pass the largest time, the second largest, and so on, as the cost model takes them.

    It ranks chunks: all chunks of a device are alike, and so are the two devices of a pair.
    """
    copies = {ScheduleKind.ZB_V: 2, ScheduleKind.DUALPIPE: 2}.get(shape.kind, shape.v)
    order = np.argsort(-parts, axis=1)
    ranked = np.take_along_axis(parts, order, axis=1)
    counts = np.take_along_axis(np.repeat(number[..., None], 3, axis=2), order, axis=1)
    reached = np.cumsum(counts, axis=1)
    found = []
    for rank in range(1, min(shape.p, -(-MAX_BASES // copies)) + 1):
        place = np.minimum((reached < rank).sum(axis=1), parts.shape[1] - 1)
        found.append(np.take_along_axis(ranked, place[:, None, :], axis=1)[:, 0])
    return found


def _above_s(shape: Shape, parts: FloatArray, number: FloatArray, base: FloatArray) -> FloatArray:
    """An even pipeline of ``base``, and what the devices take beyond it."""
    m, p = shape.m, shape.p
    even = step_seconds(shape.kind, p, m, shape.v, Work(base[:, 0], base[:, 1], base[:, 2]))
    alone = np.maximum(0.0, parts - base[:, None, :]).sum(axis=2)
    if shape.kind is not ScheduleKind.DUALPIPE:
        return np.asarray(even + m * (number * alone).sum(axis=1))
    # The first type is the pair of the first and the last device.
    pairs = np.full(parts.shape[1], max(sum(num_pairs(d, p, m)) for d in range(p // 2)))
    pairs[0] = sum(num_pairs(0, p, m))
    paired = np.maximum(0.0, parts.sum(axis=2) - base.sum(axis=1)[:, None])
    above = 2.0 * pairs * paired + (2.0 * m - 2.0 * pairs) * alone
    return np.asarray(even + (number * above).sum(axis=1))
