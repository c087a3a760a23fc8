"""Event simulation of a pipeline: every task starts when its device and its inputs are ready.

What a task waits for, besides the task before it on its device:

* a forward pass: the one of the chunk before, and a hop if that lies on another device;
* a backward pass or input gradient: that of the chunk behind, and a hop; on the last chunk
  its own forward pass;
* a weight gradient: the input gradient of its chunk;
* decode: the first chunk waits for the last one of the round before, and a hop.

Assumptions
-----------
A hop delays the receiver and occupies no device. Two passes that DualPipe pairs start
together, when both can, and end together. A microbatch is in flight on a chunk from the
start of its forward pass to the end of its (last) backward part.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from planner.cost.schedules.kinds import ChunkTimes, Flow
from planner.cost.schedules.orders import Order, Phase, Piece, Schedule, Task
from planner.errors import ModelBugError


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One task in time."""

    task: Task
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """What happened.

    Parameters
    ----------
    spans : tuple of tuple of Span
        Tasks by device in order, shape ``[p][tasks]``.
    peak_microbatches : tuple of float
        Most microbatches in flight, in microbatches of one stage, by device.
    """

    spans: tuple[tuple[Span, ...], ...]
    peak_microbatches: tuple[float, ...]

    @property
    def makespan_s(self) -> float:
        """From the first start to the last end."""
        return max(row[-1].end_s for row in self.spans)

    @property
    def busy_s(self) -> tuple[float, ...]:
        """Work by device."""
        return tuple(sum(span.end_s - span.start_s for span in row) for row in self.spans)

    @property
    def own_span_idle_s(self) -> float:
        """Longest idle time of a device between its own first start and last end.

        The bubble in the sense of the zero-bubble papers: the stagger of the devices is no
        part of it, since the next step fills it where steps may overlap.
        """
        spans = (row[-1].end_s - row[0].start_s for row in self.spans)
        return max(span - busy for span, busy in zip(spans, self.busy_s, strict=True))


def simulate(schedule: Schedule, times: ChunkTimes, hop_s: float = 0.0) -> Timeline:
    """Run a schedule.

    Parameters
    ----------
    times : ChunkTimes
        Seconds by chunk, as many as the schedule has.
    hop_s : float
        Seconds from one device to another.

    Raises
    ------
    ModelBugError
        If the orders wait for each other in a circle.
    """
    spans = _Run(schedule, times, hop_s).finish()
    return Timeline(
        spans=spans,
        peak_microbatches=tuple(peak_in_flight(schedule, order) for order in schedule.orders),
    )


def peak_in_flight(schedule: Schedule, order: Order) -> float:
    """Most microbatches in flight at once under an order, in microbatches of one stage.

    It follows from the order alone: what holds a microbatch and what frees it run on the
    same device. A stage of DualPipe is one of the two that a device holds.
    """
    count = peak = 0
    keeps = schedule.kind not in (Flow.FORWARD, Flow.DECODE)
    for task in order:
        ahead = sum(piece.phase is Phase.FORWARD for piece in task)
        done = sum(piece.phase in (Phase.BACKWARD, Phase.WEIGHT) for piece in task)
        peak = max(peak, count + ahead)
        count += ahead - done if keeps else 0
    return peak / schedule.virtual_stages


class _Run:
    """State of one simulation."""

    def __init__(self, schedule: Schedule, times: ChunkTimes, hop_s: float) -> None:
        self.schedule = schedule
        self.times = times
        self.hop_s = hop_s
        self.last = len(schedule.devices) - 1
        self.circulating = schedule.microbatches if schedule.kind is Flow.DECODE else 0
        self.ends: dict[Piece, float] = {}
        self.waiting: dict[Piece, list[int]] = {}

    def finish(self) -> tuple[tuple[Span, ...], ...]:
        """Run all devices to their end."""
        orders = self.schedule.orders
        spans: list[list[Span]] = [[] for _ in orders]
        ready = list(range(len(orders)))
        while ready:
            device = ready.pop()
            row = spans[device]
            clock = row[-1].end_s if row else 0.0
            for task in islice(orders[device], len(row), None):
                start = self._start(task, clock, device)
                if start is None:
                    break
                clock = start + self._seconds(task)
                row.append(Span(task=task, start_s=start, end_s=clock))
                for piece in task:
                    done = _result(piece)
                    self.ends[done] = clock
                    ready += self.waiting.pop(done, [])
        if any(len(row) < len(order) for row, order in zip(spans, orders, strict=True)):
            raise ModelBugError(f"{self.schedule.kind}: the devices wait for each other")
        return tuple(tuple(row) for row in spans)

    def _start(self, task: Task, clock: float, device: int) -> float | None:
        """When a task can start; None, and a note to wake its device, if not known yet."""
        for piece in task:
            needed = self._needed(piece)
            if needed is None:
                continue
            end = self.ends.get(needed)
            if end is None:
                self.waiting.setdefault(needed, []).append(device)
                return None
            if self.schedule.device(needed.chunk, needed.microbatch) != device:
                end += self.hop_s
            clock = max(clock, end)
        return clock

    def _needed(self, piece: Piece) -> Piece | None:
        phase, microbatch, chunk = piece
        if phase is Phase.WEIGHT:
            return Piece(Phase.BACKWARD, microbatch, chunk)
        if phase is not Phase.FORWARD:
            if chunk < self.last:
                return Piece(Phase.BACKWARD, microbatch, chunk + 1)
            return Piece(Phase.FORWARD, microbatch, chunk)
        if chunk:
            return Piece(Phase.FORWARD, microbatch, chunk - 1)
        if 0 < self.circulating <= microbatch:
            return Piece(Phase.FORWARD, microbatch - self.circulating, self.last)
        return None

    def _seconds(self, task: Task) -> float:
        if len(task) > 1:
            return self.times.pair_s(task[0].chunk, task[1].chunk)
        phase, _, chunk = task[0]
        if phase is Phase.FORWARD:
            return self.times.forward[chunk]
        seconds = 0.0
        if phase is not Phase.WEIGHT:
            seconds += self.times.backward_input[chunk]
        if phase is not Phase.INPUT:
            seconds += self.times.backward_weight[chunk]
        return seconds


def _result(piece: Piece) -> Piece:
    """Under which name others wait for a piece: a gradient, whole or of the input alone."""
    phase, microbatch, chunk = piece
    return Piece(Phase.BACKWARD, microbatch, chunk) if phase is Phase.INPUT else piece
