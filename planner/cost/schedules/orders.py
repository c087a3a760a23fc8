"""The order of work of each device, for each schedule.

An order says what a device does next, never when: it does not depend on times, so a longer
pass can only delay what follows it, and the step time grows monotonically with every time.

Sources: GPipe (Huang 2019), 1F1B and its interleaved form (Narayanan 2021, section 2.2),
ZB-H1 and ZB-H2 (Qi 2023), ZB-V (Qi 2023 and 2024), DualPipe (DeepSeek-V3 2024, section
3.2.1, and its eight steps in the code published with it).

Decisions
---------
* ZB-H1 and ZB-H2 keep the memory of their papers by *lag*: device ``d`` runs the weight
  gradient of microbatch ``i`` after the input gradient of microbatch ``i + lag``. Warm-up
  passes plus lag is the same number on all devices, the limit. ZB-H2 uses all of ``2 p``:
  its paper draws ``2 p - 1``, its published scheduler takes ``2 p``.
* ZB-V is published as a search. Here it is an order: fill the memory (``2 p`` chunks), then
  one cycle on every device (both input gradients, then weight gradients as memory demands,
  each followed by a forward pass), which stays ahead of its neighbours whatever the times;
  at the end weight gradients fill the gaps of the last backward passes. Its step time is
  that of the published search in the cases known.
* Interleaved with ``m`` not a multiple of ``p``: groups of at least ``p`` microbatches, as
  equal as possible, as the training libraries demand. A last group of fewer deadlocks or
  leaves bubbles. Only ``m < p`` has one short group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from planner.cost.schedules.kinds import (
    Flow,
    PipelineKind,
    check_pipeline,
    chunk_devices,
    chunks_per_device,
)
from planner.domain.run import ScheduleKind


class Phase(IntEnum):
    """Parts of the work on one microbatch and chunk."""

    FORWARD = 0
    BACKWARD = 1  # both gradients
    INPUT = 2  # the gradient of the input alone
    WEIGHT = 3  # the gradient of the weights alone


class Piece(NamedTuple):
    """One phase of one microbatch on one chunk, both numbered from 0."""

    phase: Phase
    microbatch: int
    chunk: int


# One piece, or a forward and a backward piece that run together (DualPipe).
Task = tuple[Piece, ...]
Order = tuple[Task, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What each device does, in order.

    Parameters
    ----------
    kind : PipelineKind
        The schedule.
    microbatches : int
        Microbatches of a step.
    orders : tuple of tuple of Task
        Work by device, shape ``[p][tasks]``.
    devices : tuple of int
        Device of each chunk, shape ``[p v]``.
    reverse_from : int
        Microbatches from this one on meet the devices in reverse (DualPipe).
    rounds : int
        Decode: steps drawn; microbatch ``i`` of round ``r`` is number ``r m + i``.
    """

    kind: PipelineKind
    microbatches: int
    orders: tuple[Order, ...]
    devices: tuple[int, ...]
    reverse_from: int
    rounds: int = 1

    @property
    def num_stages(self) -> int:
        """Devices."""
        return len(self.orders)

    @property
    def virtual_stages(self) -> int:
        """Chunks per device; DualPipe holds each chunk twice."""
        return len(self.devices) // self.num_stages

    def device(self, chunk: int, microbatch: int) -> int:
        """Device that runs a chunk for a microbatch."""
        if microbatch >= self.reverse_from:
            return self.num_stages - 1 - self.devices[chunk]
        return self.devices[chunk]


def make_schedule(
    kind: PipelineKind, stages: int, microbatches: int, virtual_stages: int = 1, rounds: int = 1
) -> Schedule:
    """Orders of all devices.

    Raises
    ------
    SpecError
        If the schedule cannot run so many stages, microbatches or chunks.
    """
    check_pipeline(kind, stages, microbatches, virtual_stages)
    v = chunks_per_device(kind, virtual_stages)
    total = microbatches * (rounds if kind is Flow.DECODE else 1)
    if kind is ScheduleKind.INTERLEAVED:
        orders = [_interleaved(device, stages, microbatches, v) for device in range(stages)]
    else:
        orders = [_MAKERS[kind](device, stages, total) for device in range(stages)]
    return Schedule(
        kind=kind,
        microbatches=microbatches,
        orders=tuple(tuple(order) for order in orders),
        devices=chunk_devices(kind, stages, v),
        reverse_from=microbatches // 2 if kind is ScheduleKind.DUALPIPE else total,
        rounds=rounds if kind is Flow.DECODE else 1,
    )


def _one(phase: Phase, microbatch: int, chunk: int) -> Task:
    return (Piece(phase, microbatch, chunk),)


def _forward_only(device: int, _stages: int, microbatches: int) -> list[Task]:
    return [_one(Phase.FORWARD, i, device) for i in range(microbatches)]


def _gpipe(device: int, _stages: int, microbatches: int) -> list[Task]:
    forward = [_one(Phase.FORWARD, i, device) for i in range(microbatches)]
    return forward + [_one(Phase.BACKWARD, i, device) for i in range(microbatches)]


def _one_f_one_b(device: int, stages: int, microbatches: int) -> list[Task]:
    warm_up = min(microbatches, stages - device)
    order = [_one(Phase.FORWARD, i, device) for i in range(warm_up)]
    for i in range(microbatches):
        order.append(_one(Phase.BACKWARD, i, device))
        if i + warm_up < microbatches:
            order.append(_one(Phase.FORWARD, i + warm_up, device))
    return order


def group_sizes(microbatches: int, stages: int) -> list[int]:
    """Groups of microbatches that an interleaved schedule sends through one chunk together."""
    groups = max(1, microbatches // stages)
    return [microbatches // groups + (g < microbatches % groups) for g in range(groups)]


def _interleaved(device: int, stages: int, microbatches: int, v: int) -> list[Task]:
    forward: list[Task] = []
    backward: list[Task] = []
    first = 0
    sizes = group_sizes(microbatches, stages)
    for size in sizes:
        for position in range(v):
            for i in range(first, first + size):
                forward.append(_one(Phase.FORWARD, i, position * stages + device))
                last_first = (v - 1 - position) * stages + device
                backward.append(_one(Phase.BACKWARD, i, last_first))
        first += size
    warm_up = 2 * (stages - device - 1) + (v - 1) * sizes[0] + 1
    order = forward[:warm_up]
    for n, task in enumerate(backward):
        order.append(task)
        order += forward[warm_up + n : warm_up + n + 1]
    return order


def warm_up_passes(kind: PipelineKind, device: int, stages: int, microbatches: int) -> int:
    """Forward passes before the first backward pass, of ZB-H1 and ZB-H2."""
    ahead = stages - device
    return min(microbatches, ahead if kind is ScheduleKind.ZB_H1 else 2 * ahead - 1)


def _zero_bubble(kind: ScheduleKind, device: int, stages: int, microbatches: int) -> list[Task]:
    warm_up = warm_up_passes(kind, device, stages, microbatches)
    final_lag = warm_up_passes(kind, 0, stages, microbatches) - warm_up
    # ZB-H2 has room for one more microbatch until the last forward pass is done.
    spare = int(kind is ScheduleKind.ZB_H2 and microbatches >= 2 * stages)
    order = [_one(Phase.FORWARD, i, device) for i in range(warm_up)]
    weights = 0
    for i in range(microbatches):
        order.append(_one(Phase.INPUT, i, device))
        more = i + warm_up < microbatches
        while weights <= i - final_lag - (spare if more else 0):
            order.append(_one(Phase.WEIGHT, weights, device))
            weights += 1
        if more:
            order.append(_one(Phase.FORWARD, i + warm_up, device))
    return order + [_one(Phase.WEIGHT, i, device) for i in range(weights, microbatches)]


def _zb_h1(device: int, stages: int, microbatches: int) -> list[Task]:
    return _zero_bubble(ScheduleKind.ZB_H1, device, stages, microbatches)


def _zb_h2(device: int, stages: int, microbatches: int) -> list[Task]:
    return _zero_bubble(ScheduleKind.ZB_H2, device, stages, microbatches)


class _VDevice:
    """One device of ZB-V: counts what is done and keeps within the memory."""

    def __init__(self, device: int, stages: int, microbatches: int) -> None:
        self.chunks = (device, 2 * stages - 1 - device)
        self.microbatches = microbatches
        self.limit = 2 * stages
        self.in_flight = 0
        self.forwards = [0, 0]
        self.inputs = [0, 0]
        self.pending: list[Task] = []
        self.order: list[Task] = []

    def forward(self, way: int) -> None:
        """Next forward pass of the down (0) or up (1) chunk, once memory allows it."""
        i = self.forwards[way]
        if i == self.microbatches:
            return
        while self.in_flight >= self.limit:
            self.weight()
        self.order.append(_one(Phase.FORWARD, i, self.chunks[way]))
        self.forwards[way] += 1
        self.in_flight += 1

    def input(self, way: int) -> None:
        """Next input gradient of a chunk; its weight gradient stays to be done."""
        i = self.inputs[way]
        if i == self.microbatches:
            return
        self.order.append(_one(Phase.INPUT, i, self.chunks[way]))
        self.pending.append(_one(Phase.WEIGHT, i, self.chunks[way]))
        self.inputs[way] += 1

    def weight(self) -> None:
        """Oldest weight gradient that is left."""
        self.order.append(self.pending.pop(0))
        self.in_flight -= 1


def _zb_v(device: int, stages: int, microbatches: int) -> list[Task]:
    work = _VDevice(device, stages, microbatches)
    for _ in range(2 * (stages - device) - 1):
        work.forward(0)
    for _ in range(device):
        work.forward(1)
        work.forward(0)
    work.forward(1)
    for _ in range(stages - 1 - device):
        work.input(1)
        work.forward(1)
    while work.inputs[0] < microbatches:
        ended = [*work.forwards, work.inputs[1]].count(microbatches)
        work.input(1)
        work.input(0)
        work.forward(0)
        work.forward(1)
        # Weight gradients left over while the last passes drain: the later a device
        # is on the way down, the more of them wait for the end.
        left = {2: max(0, stages - 2 + device), 3: 2 * device}.get(ended, work.limit)
        while len(work.pending) > left:
            work.weight()
    return work.order + work.pending


class _DualDevice:
    """One device of DualPipe; direction 0 is the one whose start is nearer."""

    def __init__(self, device: int, stages: int, microbatches: int) -> None:
        far_half = device >= stages // 2
        self.half = microbatches // 2
        self.first = (self.half, 0) if far_half else (0, self.half)
        self.chunks = (stages - 1 - device, device) if far_half else (device, stages - 1 - device)
        self.forwards = [0, 0]
        self.backwards = [0, 0]
        self.pending: list[Task] = []
        self.order: list[Task] = []

    def _forward(self, way: int) -> Piece:
        i = self.forwards[way]
        self.forwards[way] += 1
        return Piece(Phase.FORWARD, self.first[way] + i, self.chunks[way])

    def _backward(self, way: int, phase: Phase = Phase.BACKWARD) -> Piece:
        i = self.backwards[way]
        self.backwards[way] += 1
        return Piece(phase, self.first[way] + i, self.chunks[way])

    def forward(self, way: int) -> None:
        """A forward pass alone."""
        self.order.append((self._forward(way),))

    def backward(self, way: int, split: bool = False) -> None:
        """A backward pass alone; split, its weight gradient stays to be done."""
        piece = self._backward(way, Phase.INPUT if split else Phase.BACKWARD)
        self.order.append((piece,))
        if split:
            self.pending.append((piece._replace(phase=Phase.WEIGHT),))

    def pair(self, ahead: int, back: int) -> None:
        """A forward pass of one direction with a backward pass of the other."""
        self.order.append((self._forward(ahead), self._backward(back)))

    def weight(self) -> None:
        """Oldest weight gradient that is left."""
        self.order.append(self.pending.pop(0))


def middle_distance(device: int, stages: int) -> int:
    """Devices between this one and the middle of a bidirectional pipeline, on its side."""
    return stages // 2 - 1 - min(device, stages - 1 - device)


def num_pairs(device: int, stages: int, microbatches: int) -> tuple[int, int]:
    """Forward passes of the near and of the far direction that DualPipe pairs on a device."""
    away = middle_distance(device, stages)
    main = microbatches // 2 - stages // 2 - away
    return main - (away == 0), main + away


def _dualpipe(device: int, stages: int, microbatches: int) -> list[Task]:
    work = _DualDevice(device, stages, microbatches)
    away = middle_distance(device, stages)
    near = stages // 2 - away
    for _ in range(2 * away):
        work.forward(0)
    for _ in range(near):
        work.forward(0)
        work.forward(1)
    for _ in range(away):
        work.backward(1, split=True)
        work.weight()
        work.forward(1)
    for step in range(microbatches // 2 - stages // 2 - away):
        if step == 0 and away == 0:
            # The two devices in the middle start apart, to send the first gradient earlier.
            work.forward(0)
            work.backward(1)
        else:
            work.pair(0, 1)
        work.pair(1, 0)
    for _ in range(away):
        work.backward(1)
        work.pair(1, 0)
    for step in range(2 * near):
        work.backward(1 - step % 2, split=step >= near)
    for _ in range(away):
        work.weight()
        work.backward(0, split=True)
    return work.order + work.pending


_MAKERS: dict[PipelineKind, Callable[[int, int, int], list[Task]]] = {
    Flow.FORWARD: _forward_only,
    Flow.DECODE: _forward_only,
    ScheduleKind.NONE: _gpipe,
    ScheduleKind.GPIPE: _gpipe,
    ScheduleKind.ONE_F_ONE_B: _one_f_one_b,
    ScheduleKind.ZB_H1: _zb_h1,
    ScheduleKind.ZB_H2: _zb_h2,
    ScheduleKind.ZB_V: _zb_v,
    ScheduleKind.DUALPIPE: _dualpipe,
}
