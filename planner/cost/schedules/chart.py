"""A simulated schedule with all that is said about it, ready to be drawn or written."""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.schedules.kinds import (
    Flow,
    PipelineKind,
    StageTimes,
    chunks_per_device,
    split_times,
)
from planner.cost.schedules.orders import Phase, Schedule, make_schedule
from planner.cost.schedules.simulate import Span, simulate
from planner.cost.schedules.step import lower_bound_s, no_less_than_zero, schedule_time
from planner.errors import SpecError

MAX_TASKS = 60_000
# Rounds of a decode that are drawn: the pipe fills in the first.
ROUNDS = 3

_NAMES = {
    Phase.FORWARD: "forward",
    Phase.BACKWARD: "backward",
    Phase.INPUT: "input_gradient",
    Phase.WEIGHT: "weight_gradient",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartPass:
    """One pass of one microbatch through one chunk, numbered from 0.

    ``part`` is 0 for the first chunk of the device (of DualPipe: for the direction that
    starts at device 0), 1 for the next and so on.
    """

    phase: str
    microbatch: int
    chunk: int
    part: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartTask:
    """One pass, or two that DualPipe runs together, in time."""

    passes: tuple[ChartPass, ...]
    start: float
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleChart:
    """One step of a pipeline.

    Parameters
    ----------
    time_unit : str
        ``s``, or ``units`` where the times were given without a unit.
    step : float
        First start to last end; of decode the time between two tokens.
    work : float
        Of the busiest device.
    bubble : float
        ``step - work``.
    bubble_fraction, bubble_rate : float
        The bubble over the step, ``(p - 1)/(m + p - 1)`` for even 1F1B, and over the work,
        ``(p - 1)/m``.
    own_span_idle : float
        The bubble of the zero-bubble papers: longest idle time of a device between its own
        first start and last end.
    closed_form, closed_form_exact : float, bool
        What :func:`planner.cost.schedules.step.schedule_time` says: exact or an upper bound.
    lower_bound : float
        No order of work makes the step shorter.
    peak_microbatches : tuple of float
        Most microbatches in flight by device, in microbatches of one stage.
    devices : tuple of tuple of ChartTask
        Shape ``[p][tasks]``; of decode the first rounds.
    """

    kind: str
    stages: int
    microbatches: int
    virtual_stages: int
    time_unit: str
    step: float
    work: float
    bubble: float
    bubble_fraction: float
    bubble_rate: float
    own_span_idle: float
    closed_form: float
    closed_form_exact: bool
    lower_bound: float
    peak_microbatches: tuple[float, ...]
    devices: tuple[tuple[ChartTask, ...], ...]

    @property
    def end(self) -> float:
        """Where the drawing ends: the step, or the rounds of a decode."""
        return max(row[-1].end for row in self.devices)


def chart_schedule(
    kind: PipelineKind,
    stage_times: StageTimes,
    microbatches: int,
    virtual_stages: int = 1,
    hop: float = 0.0,
    time_unit: str = "s",
) -> ScheduleChart:
    """Simulate a schedule.

    Parameters as in :func:`planner.cost.schedules.step.schedule_time`.

    Raises
    ------
    SpecError
        If the schedule cannot run this pipeline, takes no time, or is too large to simulate.
    """
    p = stage_times.num_stages
    chunks = p * chunks_per_device(kind, virtual_stages)
    if 3 * chunks * microbatches > MAX_TASKS:
        raise SpecError(
            f"{chunks} chunks of {microbatches} microbatches are too many to draw",
            f"chunks x microbatches may be {MAX_TASKS // 3:,d} at most",
        )
    closed = schedule_time(kind, stage_times, microbatches, virtual_stages, hop)
    if closed.seconds <= 0:
        raise SpecError("the pipeline takes no time", "write for example --forward 1")
    schedule = make_schedule(kind, p, microbatches, virtual_stages, ROUNDS)
    timeline = simulate(schedule, split_times(kind, stage_times, virtual_stages), hop)
    step = closed.seconds if kind is Flow.DECODE else timeline.makespan_s
    work = closed.seconds - closed.bubble_s
    bubble = no_less_than_zero(step - work, step)
    own_span_idle = no_less_than_zero(timeline.own_span_idle_s, step)
    return ScheduleChart(
        kind=kind.value,
        stages=p,
        microbatches=microbatches,
        virtual_stages=schedule.virtual_stages,
        time_unit=time_unit,
        step=step,
        work=work,
        bubble=bubble,
        bubble_fraction=bubble / step,
        bubble_rate=bubble / work,
        own_span_idle=bubble if kind is Flow.DECODE else own_span_idle,
        closed_form=closed.seconds,
        closed_form_exact=closed.exact,
        lower_bound=lower_bound_s(kind, stage_times, microbatches, virtual_stages, hop),
        peak_microbatches=timeline.peak_microbatches,
        devices=tuple(tuple(_task(schedule, span) for span in row) for row in timeline.spans),
    )


def _task(schedule: Schedule, span: Span) -> ChartTask:
    def part(microbatch: int, chunk: int) -> int:
        if schedule.virtual_stages > 1:
            return chunk // schedule.num_stages
        return int(microbatch >= schedule.reverse_from)

    return ChartTask(
        passes=tuple(
            ChartPass(
                phase=_NAMES[piece.phase],
                microbatch=piece.microbatch % schedule.microbatches,
                chunk=piece.chunk,
                part=part(piece.microbatch, piece.chunk),
            )
            for piece in span.task
        ),
        start=span.start_s,
        end=span.end_s,
    )
