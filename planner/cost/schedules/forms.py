"""Closed forms for even stages, on numbers and arrays alike.

``F``, ``B`` and ``W`` are the forward pass, input gradient and weight gradient of one
microbatch on one device (all of its chunks), ``m`` microbatches, ``p`` stages, ``v`` chunks.

**Which bubble.** The bubble here is the step's: from the first start to the last end, less
the work of the busiest device. It is what a synchronous step pays. The zero-bubble papers
count the idle time inside each device's own span instead, which omits the stagger of the
devices and is paid only once if consecutive steps overlap (optimizer post-validation).

    GPipe, 1F1B   (p - 1)(F + B + W)                              Huang 2019, Narayanan 2021
    interleaved   (p - 1)(F + B + W) / v                          Narayanan 2021, section 2.2
                  + (v - 1)(p - m)(F + B + W) / v  if m < p
    ZB-H1         max((p - 1) F, (p - 1)(F + B) - (min(m, p) - 1) min(F, W))
                  (p - 1)(F + B - W) where W <= F, W <= B         Qi 2023
    ZB-H2         (p - 1) max(F, F + B - 2 W) up to a W           Qi 2023; see _zb_h2
    ZB-V          (p - 1)(max(F, B) - min(B / 2, W)) for m >= p   Qi 2023 and 2024; see _zb_v
    DualPipe      max(2 n F, (n - 1) F + n B) + n max(0, B - W), n = p / 2 - 1; see _dualpipe
    forward       (p - 1) F
    decode        max(p F, m F) - m F

The last six, in this generality, are ours: derived from longest paths through the orders of
:mod:`planner.cost.schedules.orders` and equal to their simulation for every ratio of
``F``, ``B`` and ``W`` and every ``m``. Where the published form differs, it says so below.

**Hops.** ``h`` seconds between neighbours delay the receiver. GPipe, forward and 1F1B are
exact; 1F1B waits in its steady state as well as while it fills and drains:

    GPipe     2 (p - 1) h         1F1B  2 (p - 1 + floor((p - 1)(m - 1) / p)) h

The others have slack and pay while they fill and drain, at most the counts of
``_hop_count`` as long as a hop is at most half of each pass of a chunk: an upper bound in every
case simulated, met in most. Longer hops are charged as if they occupied both devices, an
upper bound by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planner.cost.schedules.kinds import SPLIT, Flow, PipelineKind
from planner.domain.run import ScheduleKind

Floats = NDArray[np.float64]


class Work(NamedTuple):
    """Seconds of one microbatch on one device, numbers or arrays; see :class:`StageTimes`."""

    forward: ArrayLike
    backward_input: ArrayLike = 0.0
    backward_weight: ArrayLike = 0.0
    overlap: ArrayLike = 0.0


class _Even(NamedTuple):
    """The symbols of the formulas."""

    p: Floats
    m: Floats
    v: Floats
    f: Floats
    b: Floats
    w: Floats
    overlap: Floats

    @property
    def total(self) -> Floats:
        return self.f + self.b + self.w

    @property
    def hidden(self) -> Floats:
        """Seconds that a pair of DualPipe saves."""
        return self.overlap * np.minimum(self.f, self.b + self.w)


def bubble_seconds(
    kind: PipelineKind,
    p: ArrayLike,
    m: ArrayLike,
    v: ArrayLike,
    work: Work,
    hop_s: ArrayLike = 0.0,
) -> Floats:
    """Seconds of a step beyond the work of the busiest device.

    Parameters
    ----------
    p, m, v : array_like of int
        Stages, microbatches, chunks per device (ZB-V has two whatever ``v`` says).
    work : Work
        Seconds of one microbatch on one device.
    hop_s : array_like
        Seconds between neighbours.

    Returns
    -------
    ndarray
        The arguments broadcast against each other. Infinite where the schedule does not exist
        (:func:`planner.cost.schedules.kinds.check_pipeline` says why).
    """
    even = _even(kind, p, m, v, work)
    return step_seconds(kind, p, m, v, work, hop_s) - _busiest(kind, even)


def step_seconds(
    kind: PipelineKind,
    p: ArrayLike,
    m: ArrayLike,
    v: ArrayLike,
    work: Work,
    hop_s: ArrayLike = 0.0,
) -> Floats:
    """Seconds of a step; parameters and result as in :func:`bubble_seconds`."""
    even = _even(kind, p, m, v, work)
    hop = np.asarray(hop_s, dtype=float) * (even.p > 1)
    unhidden = even.m * (even.f if isinstance(kind, Flow) else even.total)
    seconds = unhidden + _with_hops(kind, even, hop)
    if kind in (ScheduleKind.NONE, ScheduleKind.ZB_V, ScheduleKind.DUALPIPE):
        exists = _exists(kind, even)
        return np.where(exists, seconds, np.inf)
    return seconds


def peak_microbatches(kind: PipelineKind, p: ArrayLike, m: ArrayLike, v: ArrayLike = 1) -> Floats:
    """Most microbatches in flight on any device, in microbatches of one stage.

    From the start of a forward pass to the end of its last backward part. GPipe ``m``, 1F1B
    and ZB-H1 ``min(p, m)``, interleaved ``p + (p - 1) / v`` (``m`` a multiple of ``p``;
    Korthikanti 2022), ZB-H2 ``min(2 p, m)``, ZB-V ``min(p, m)``, DualPipe ``p + 1`` of the two
    stages that a device holds. Pipelines without backward pass keep nothing: 1.
    """
    return _peak(kind, np.asarray(0.0), *(np.asarray(x, dtype=float) for x in (p, m, v)))


def stage_peaks(kind: PipelineKind, p: int, m: int, v: int) -> tuple[float, ...]:
    """:func:`peak_microbatches` of every device: 1F1B holds ``p - i`` on device ``i``."""
    stages, count, chunks = (np.asarray(float(x)) for x in (p, m, v))
    devices = np.arange(float(p))
    return tuple(np.broadcast_to(_peak(kind, devices, stages, count, chunks), (p,)).tolist())


def _peak(kind: PipelineKind, device: Floats, p: Floats, m: Floats, v: Floats) -> Floats:
    if isinstance(kind, Flow):
        return np.ones_like(p * m)
    if kind is ScheduleKind.INTERLEAVED:
        group = np.ceil(m / np.maximum(1.0, np.floor(m / p)))
        chunks = 2.0 * (p - 1.0 - device) + (v - 1.0) * group + 1.0
        return np.asarray(np.minimum(m, chunks / v))
    limits = {
        ScheduleKind.ONE_F_ONE_B: p - device,
        ScheduleKind.ZB_H1: p,
        ScheduleKind.ZB_H2: 2.0 * p,
        ScheduleKind.ZB_V: p,
        ScheduleKind.DUALPIPE: p + 1.0,
    }
    return np.asarray(np.minimum(m, limits.get(kind, m)))


def _even(kind: PipelineKind, p: ArrayLike, m: ArrayLike, v: ArrayLike, work: Work) -> _Even:
    overlap = work.overlap if kind is ScheduleKind.DUALPIPE else 0.0
    symbols = (p, m, v, work.forward, work.backward_input, work.backward_weight, overlap)
    return _Even(*(np.asarray(symbol, dtype=float) for symbol in symbols))


def _exists(kind: PipelineKind, even: _Even) -> NDArray[np.bool_]:
    if kind is ScheduleKind.NONE:
        return np.asarray(even.p == 1)
    if kind is ScheduleKind.ZB_V:
        return np.asarray(even.v <= 2)
    return np.asarray((even.p % 2 == 0) & (even.m % 2 == 0) & (even.m >= 2 * even.p))


def _busiest(kind: PipelineKind, even: _Even) -> Floats:
    """Work of the busiest device: of DualPipe the one that pairs the fewest passes."""
    if isinstance(kind, Flow):
        return even.m * even.f
    if kind is ScheduleKind.DUALPIPE:
        pairs = np.where(even.p > 2, even.m - 1.5 * even.p + 1.0, even.m - 3.0)
        return even.m * even.total - pairs * even.hidden
    return even.m * even.total


def _ragged(even: _Even) -> Floats:
    """Interleaved: a short group leaves room between its chunks (Calculon's term)."""
    short = np.maximum(0.0, even.p - even.m)
    return ((even.p - 1.0) + (even.v - 1.0) * short) * even.total / even.v


def _zb_h1(even: _Even) -> Floats:
    """``(p - 1)(F + B - W)`` (Qi 2023) needs ``W <= F``, ``W <= B`` and ``m >= p``."""
    p, m, _, f, b, w, _ = even
    filled = (np.minimum(m, p) - 1.0) * np.minimum(f, w)
    return np.maximum((p - 1.0) * f, (p - 1.0) * (f + b) - filled)


def _zb_h2(even: _Even) -> Floats:
    """Longest paths of ZB-H2; at ``F = B = W`` the stagger ``(p - 1) F`` alone.

    Qi 2023 states ``(p - 1)(F + B - 2 W)``, inside a device's own span and for a memory of
    ``2 p - 1``. With ``2 p`` one more weight gradient fills the end:
    ``(p - 1)(F + B) - (2 p - 1) W``.
    """
    p, m, _, f, b, w, _ = even
    q = p - 1.0

    def passes(device: Floats) -> Floats:
        return np.minimum(m, 2.0 * (p - device) - 1.0)

    less = np.minimum(f, w)
    most = passes(np.zeros_like(p))
    few = np.maximum(q * f, q * (f + b) - (most - 1.0) * less)
    turn = np.maximum(0.0, np.floor((2.0 * p - 1.0 - m) / 2.0))
    for device in (np.minimum(q, turn), np.minimum(q, turn + 1.0)):
        few = np.maximum(few, device * (f + b) - (most - passes(device)) * less)
    many = np.maximum(q * f, np.maximum(q * (b - f), q * (f + b) - (2.0 * p - 1.0) * w))
    inner = np.maximum((p - 2.0) * (f + b - 2.0 * w), (p - 3.0) * f + q * b - (2.0 * p - 4.0) * w)
    many = np.where(p > 1, np.maximum(many, inner), many)
    return np.where(m < 2.0 * p, few, many)


def _zb_v(even: _Even) -> Floats:
    """Longest paths of ZB-V, in chunks of half a stage.

    ``(p - 1) max(F / 2, B / 2, B - W)`` where ``F <= B``, which is what the published
    scheduler reaches in the cases known; its authors state 0, inside a device's own span.
    """
    p, m, _, f, b, w, _ = even
    f, b, w = f / 2.0, b / 2.0, w / 2.0
    missing = np.maximum(0.0, p - m)
    n = np.minimum(m, p) - 1.0
    extra = np.where(m < p, w, np.clip(f - b, 0.0, w))
    longest = 2.0 * missing * (f + b) + 2.0 * n * np.maximum(f, b)
    return longest - np.minimum(n * b, 2.0 * n * w + extra)


def _dualpipe(even: _Even) -> Floats:
    """Longest paths of DualPipe, less what its pairs hide.

    DeepSeek-V3 states ``n (F&B + B' - 3 W)`` with ``B' = B + W``: the same at ``F = B = W``,
    never less where ``W <= B`` and ``F <= B``.
    """
    p, m, _, f, b, w, _ = even
    n = p / 2.0 - 1.0
    hidden = even.hidden
    alone = np.maximum(2.0 * n * f, (n - 1.0) * f + n * b) + n * np.maximum(0.0, b - w)
    return alone - (m - n - 3.0) * hidden + 2.0 * n * np.maximum(0.0, hidden - f)


_BUBBLES: dict[PipelineKind, Callable[[_Even], Floats]] = {
    Flow.FORWARD: lambda even: (even.p - 1.0) * even.f,
    Flow.DECODE: lambda even: np.maximum(0.0, even.p - even.m) * even.f,
    ScheduleKind.NONE: lambda even: 0.0 * even.total,
    ScheduleKind.GPIPE: lambda even: (even.p - 1.0) * even.total,
    ScheduleKind.ONE_F_ONE_B: lambda even: (even.p - 1.0) * even.total,
    ScheduleKind.INTERLEAVED: _ragged,
    ScheduleKind.ZB_H1: _zb_h1,
    ScheduleKind.ZB_H2: _zb_h2,
    ScheduleKind.ZB_V: _zb_v,
    ScheduleKind.DUALPIPE: _dualpipe,
}


def _with_hops(kind: PipelineKind, even: _Even, hop: Floats) -> Floats:
    """Seconds beyond ``m`` times all work of a device that nothing hides."""
    bubble = _BUBBLES[kind](even)
    if not hop.any():
        return bubble + 0.0 * hop
    if kind is Flow.DECODE:
        around = even.p * (even.f + hop)
        return np.maximum(0.0, around - even.m * even.f)
    short = bubble + _hop_count(kind, even) * hop
    if kind in (Flow.FORWARD, ScheduleKind.GPIPE, ScheduleKind.ONE_F_ONE_B, ScheduleKind.NONE):
        return short
    chunks = 2.0 if kind is ScheduleKind.ZB_V else even.v
    longer = chunks * hop
    slow = even._replace(f=even.f + longer, b=even.b + longer)
    occupied = _BUBBLES[kind](slow) + 2.0 * even.m * longer
    back = even.b if kind in SPLIT or kind is ScheduleKind.DUALPIPE else even.b + even.w
    smallest = np.minimum(even.f, back)
    if kind is not ScheduleKind.INTERLEAVED:
        smallest = np.minimum(smallest, even.w)
    return np.where(2.0 * longer <= smallest, np.minimum(short, occupied), occupied)


def _hop_count(kind: PipelineKind, even: _Even) -> Floats:
    """Hops on the longest path, where they are shorter than half a pass of a chunk."""
    p, m, v = even.p, even.m, even.v
    q = p - 1.0
    counts = {
        Flow.FORWARD: q,
        ScheduleKind.NONE: 0.0 * q,
        ScheduleKind.GPIPE: 2.0 * q,
        ScheduleKind.ONE_F_ONE_B: 2.0 * (q + np.floor(q * (m - 1.0) / p)),
        ScheduleKind.INTERLEAVED: 2.0 * (p * v - 1.0),
        ScheduleKind.ZB_H1: 4.0 * q,
        ScheduleKind.ZB_H2: 2.0 * q,
        ScheduleKind.ZB_V: 6.0 * p - 8.0,
        ScheduleKind.DUALPIPE: m * q / p + 2.0 * p - 3.0,
    }
    return counts[kind]


def exact_hops(kind: PipelineKind) -> bool:
    """Whether the form of an even pipeline with hops is exact, not an upper bound."""
    return isinstance(kind, Flow) or kind in (
        ScheduleKind.NONE,
        ScheduleKind.GPIPE,
        ScheduleKind.ONE_F_ONE_B,
    )
