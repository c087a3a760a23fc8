"""The time of one step of one pipeline, stages even or not, without simulating it.

GPipe, forward and decode are exact for any stages (the flow shop of identical jobs: Alpa 2022
and Metis 2024 use ``sum t + (m - 1) max t``):

    forward   sum F + (m - 1) max F + (p - 1) h
    GPipe     sum t + (m - 1)(max F + max Bf) + 2 (p - 1) h        t = F + Bf, Bf = B + W
    decode    max(sum F + p h, m max F)                            p > 1

All others are exact for even stages (:mod:`planner.cost.schedules.forms`), and for uneven
ones the smallest of these upper bounds, which hold for every order of work that does not
depend on times (:func:`simulated_time` is exact, and slower):

*Peeling.* A longest path meets a task at most once. So a pipeline takes no longer than an
even one of chunk times ``f, b, w``, plus ``m`` times what each chunk needs beyond them. Each
chunk of the pipeline is tried as the even one, and the largest, second largest, ... time of each
pass over the chunks.

Of DualPipe a forward and a backward pass that it pairs are one task; what one of them needs
less than the even one, the other may need more.

*1F1B.* A path that reaches stage ``k`` and no further, with ``M`` the largest ``t`` up to it:

    sum t + (m - 1) M + (p - 1 - k)(max F + max Bf - M) + 2 (k + floor(k (m - 1) / (k + 1))) h

all sums and maxima over the stages ``0 .. k``; the step takes at most the largest of these.
It is ``sum t + (m - 1) max t`` where forward and backward passes are in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from operator import add

import numpy as np

from planner.cost.pipeline import decode_step_s
from planner.cost.schedules.forms import Floats, Work, exact_hops, stage_peaks, step_seconds
from planner.cost.schedules.kinds import (
    SPLIT,
    ChunkTimes,
    Flow,
    PipelineKind,
    StageTimes,
    check_pipeline,
    chunk_devices,
    chunks_per_device,
    split_times,
)
from planner.cost.schedules.orders import make_schedule, num_pairs
from planner.cost.schedules.simulate import simulate
from planner.domain.run import ScheduleKind

# Even pipelines that are tried under an uneven one.
MAX_BASES = 16
# Two ways to add the same numbers differ by rounding alone.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleTime:
    """One step.

    Parameters
    ----------
    seconds : float
        From the first start to the last end; of decode the time between two tokens.
    bubble_s : float
        What of it lies beyond the work of the busiest device.
    bubble_fraction : float
        ``bubble_s / seconds``: ``(p - 1)/(m + p - 1)`` for even stages under 1F1B.
    peak_microbatches : tuple of float
        Most microbatches in flight by device, in microbatches of one stage.
    exact : bool
        Whether ``seconds`` is exact; otherwise it is an upper bound.
    """

    seconds: float
    bubble_s: float
    bubble_fraction: float
    peak_microbatches: tuple[float, ...]
    exact: bool


def schedule_time(
    kind: PipelineKind,
    stage_times: StageTimes,
    microbatches: int,
    virtual_stages: int = 1,
    hop_s: float = 0.0,
) -> ScheduleTime:
    """Step time, bubble and activations of a pipeline.

    Parameters
    ----------
    kind : PipelineKind
        The schedule. Flows use the forward times alone.
    stage_times : StageTimes
        Seconds of one microbatch.
    microbatches : int
        Of one step; of decode those in flight.
    virtual_stages : int
        Chunks per device; ZB-V has two in any case.
    hop_s : float
        Seconds from one device to another.

    Raises
    ------
    SpecError
        If the schedule cannot run this pipeline.
    """
    p = stage_times.num_stages
    check_pipeline(kind, p, microbatches, virtual_stages)
    v = chunks_per_device(kind, virtual_stages)
    times = split_times(kind, stage_times, virtual_stages)
    work = max(device_work_s(kind, times, p, microbatches))
    seconds, exact = _step_s(kind, times, (p, microbatches, v), hop_s)
    if not exact:
        floor = lower_bound_s(kind, stage_times, microbatches, virtual_stages, hop_s)
        exact = seconds <= floor * (1.0 + _ROUNDING)
    return _answer(seconds, work, stage_peaks(kind, p, microbatches, v), exact=exact)


def simulated_time(
    kind: PipelineKind,
    stage_times: StageTimes,
    microbatches: int,
    virtual_stages: int = 1,
    hop_s: float = 0.0,
) -> ScheduleTime:
    """What :func:`schedule_time` answers, exact for any stages, by event simulation.

    Takes milliseconds: a few per thousand tasks.
    """
    if kind is Flow.DECODE:
        # The pace of a loop shows only after many rounds, and its form is exact.
        return schedule_time(kind, stage_times, microbatches, virtual_stages, hop_s)
    p = stage_times.num_stages
    times = split_times(kind, stage_times, virtual_stages)
    timeline = simulate(make_schedule(kind, p, microbatches, virtual_stages), times, hop_s)
    seconds = timeline.makespan_s
    work = max(device_work_s(kind, times, p, microbatches))
    return _answer(seconds, work, timeline.peak_microbatches, exact=True)


def _answer(seconds: float, work: float, peaks: tuple[float, ...], *, exact: bool) -> ScheduleTime:
    bubble = no_less_than_zero(seconds - work, seconds)
    return ScheduleTime(
        seconds=seconds,
        bubble_s=bubble,
        bubble_fraction=bubble / seconds if seconds else 0.0,
        peak_microbatches=peaks,
        exact=exact,
    )


def no_less_than_zero(difference: float, scale: float) -> float:
    """A difference of two sums of the size of ``scale``, without the dust of rounding."""
    return difference if difference > _ROUNDING * scale else 0.0


def lower_bound_s(
    kind: PipelineKind,
    stage_times: StageTimes,
    microbatches: int,
    virtual_stages: int = 1,
    hop_s: float = 0.0,
) -> float:
    """No order of work of this placement makes a step shorter.

    A device starts when the first forward passes have reached it and then does all of its
    work. With whole backward passes its last one must also travel back to the first device.
    Parameters as in :func:`schedule_time`.
    """
    p = stage_times.num_stages
    check_pipeline(kind, p, microbatches, virtual_stages)
    times = split_times(kind, stage_times, virtual_stages)
    if kind is Flow.DECODE:
        return decode_step_s(times.forward, microbatches, hop_s)
    first = times.forward[: p - 1]
    arrive = list(accumulate(first, lambda at, f: at + f + hop_s, initial=0.0))
    if kind is ScheduleKind.DUALPIPE:
        # A device waits for the direction whose start is nearer to it.
        arrive = [min(pair) for pair in zip(arrive, reversed(arrive), strict=True)]
    leave = [0.0] * p
    if kind in (ScheduleKind.GPIPE, ScheduleKind.ONE_F_ONE_B, ScheduleKind.INTERLEAVED):
        back = map(add, times.backward_input[: p - 1], times.backward_weight[: p - 1])
        leave = list(accumulate(back, lambda at, b: at + b + hop_s, initial=0.0))
    if kind is Flow.FORWARD:
        rest = reversed(times.forward[1:])
        leave = list(accumulate(rest, lambda at, f: at + f + hop_s, initial=0.0))[::-1]
    work = device_work_s(kind, times, p, microbatches)
    return max(map(sum, zip(arrive, work, leave, strict=True)))


def device_work_s(
    kind: PipelineKind, times: ChunkTimes, stages: int, microbatches: int
) -> tuple[float, ...]:
    """Seconds that each device works in a step, shape ``[p]``."""
    per_chunk = times.forward if isinstance(kind, Flow) else times.totals
    if kind is ScheduleKind.DUALPIPE:
        return tuple(_dual_work_s(times, d, stages, microbatches) for d in range(stages))
    v = len(per_chunk) // stages
    work = [0.0] * stages
    for seconds, device in zip(per_chunk, chunk_devices(kind, stages, v), strict=True):
        work[device] += microbatches * seconds
    return tuple(work)


def _dual_work_s(times: ChunkTimes, device: int, stages: int, microbatches: int) -> float:
    mirror = stages - 1 - device
    near, far = (device, mirror) if device < mirror else (mirror, device)
    totals = times.totals
    work = microbatches / 2 * (totals[near] + totals[far])
    for count, (ahead, back) in zip(
        num_pairs(device, stages, microbatches), ((near, far), (far, near)), strict=True
    ):
        apart = times.forward[ahead] + times.backward_input[back] + times.backward_weight[back]
        work -= count * (apart - times.pair_s(ahead, back))
    return work


def _step_s(
    kind: PipelineKind, times: ChunkTimes, size: tuple[int, int, int], hop_s: float
) -> tuple[float, bool]:
    """Seconds of a step, and whether they are exact."""
    p, m, v = size
    forward = times.forward
    if kind is Flow.DECODE:
        return decode_step_s(forward, m, hop_s), True
    if kind is Flow.FORWARD:
        return sum(forward) + (m - 1) * max(forward) + (p - 1) * hop_s, True
    backward = tuple(map(add, times.backward_input, times.backward_weight))
    if kind in (ScheduleKind.GPIPE, ScheduleKind.NONE):
        slowest = max(forward) + max(backward)
        return sum(times.totals) + (m - 1) * slowest + 2 * (p - 1) * hop_s, True
    if times.even:
        work = Work(v * forward[0], v * times.backward_input[0], v * times.backward_weight[0])
        work = work._replace(overlap=times.overlap)
        exact = p == 1 or not hop_s or exact_hops(kind)
        return float(step_seconds(kind, p, m, v, work, hop_s)), exact
    bound = _peeled_s(kind, times, size, hop_s)
    if kind is ScheduleKind.ONE_F_ONE_B:
        bound = min(bound, _one_f_one_b_s(forward, backward, m, hop_s))
    return bound, False


def _peeled_s(
    kind: PipelineKind, times: ChunkTimes, size: tuple[int, int, int], hop_s: float
) -> float:
    """The smallest bound by an even pipeline and what lies above it."""
    p, m, v = size
    parts = np.array((times.forward, times.backward_input, times.backward_weight))
    if kind not in SPLIT and kind is not ScheduleKind.DUALPIPE:
        # A backward pass is one task.
        parts = np.array((parts[0], parts[1] + parts[2], np.zeros_like(parts[0])))
    bases = np.unique(parts, axis=1)
    largest = np.argsort(-bases.sum(axis=0), kind="stable")[:MAX_BASES]
    # Of each pass the largest time, the second largest, and so on.
    ranked = -np.sort(-parts, axis=1)[:, :MAX_BASES]
    bases = np.column_stack((bases[:, largest], ranked))
    if kind is ScheduleKind.DUALPIPE:
        above = _dual_above_s(parts, bases, m, times.overlap)
    else:
        above = m * np.maximum(0.0, parts[:, :, None] - bases[:, None, :]).sum(axis=(0, 1))
    f, b, w = v * bases
    even = Work(f, b, w, times.overlap)
    return float(np.min(step_seconds(kind, p, m, v, even, hop_s) + above))


def _dual_above_s(parts: Floats, bases: Floats, m: int, overlap: float) -> Floats:
    """What the tasks of DualPipe take beyond those of even pipelines; pairs are one task.

    Parameters
    ----------
    parts, bases : array, shape ``[3, p]`` and ``[3, bases]``
        Seconds of the three passes.
    """
    p = parts.shape[1]

    def pair_s(ahead: Floats, back: Floats) -> Floats:
        found: Floats = ahead + back - overlap * np.minimum(ahead, back)
        return found

    even = pair_s(bases[0], bases[1] + bases[2])
    found = np.zeros(bases.shape[1])
    for near in range(p // 2):
        far = p - 1 - near
        # Two devices hold these chunks, one for each half of the microbatches.
        for (ahead, back), count in zip(
            ((near, far), (far, near)), num_pairs(near, p, m), strict=True
        ):
            own = pair_s(parts[0, ahead], parts[1, back] + parts[2, back])
            found += 2.0 * count * np.maximum(0.0, own - even)
            alone = np.maximum(0.0, parts[0, ahead] - bases[0])
            alone += np.maximum(0.0, parts[1:, back, None] - bases[1:]).sum(axis=0)
            found += (m - 2.0 * count) * alone
    return found


def _one_f_one_b_s(
    forward: tuple[float, ...], backward: tuple[float, ...], m: int, hop_s: float
) -> float:
    """The longest of the paths that turn back at stage ``k``, for every ``k``."""
    p = len(forward)
    bound = through = most = most_f = most_b = 0.0
    for k, (f, b) in enumerate(zip(forward, backward, strict=True)):
        through += f + b
        most, most_f, most_b = max(most, f + b), max(most_f, f), max(most_b, b)
        hops = 2 * (k + k * (m - 1) // (k + 1))
        path = through + (m - 1) * most + (p - 1 - k) * (most_f + most_b - most)
        bound = max(bound, path + hops * hop_s)
    return bound
