"""What a pipeline is made of: kinds of schedule, stage times, where chunks lie.

The model is cut into ``p v`` *chunks* in the order of its layers, numbered from 0; ``v`` of
them lie on each of the ``p`` devices. A *stage* is all that a device holds. Device ``d`` has

    one chunk per device             d
    interleaved                      d, d + p, d + 2 p, ...
    ZB-V (a V: down and up again)    d, 2 p - 1 - d
    DualPipe (the model twice)       d for one half of the microbatches, p - 1 - d for the other
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from planner.domain.run import ScheduleKind
from planner.errors import SpecError


class Flow(StrEnum):
    """Pipelines without a backward pass."""

    FORWARD = "forward"  # microbatches pass once: prefill
    DECODE = "decode"  # microbatches circulate: the end of one step starts the next


PipelineKind = ScheduleKind | Flow

# Schedules that run the two halves of a backward pass apart.
SPLIT = frozenset({ScheduleKind.ZB_H1, ScheduleKind.ZB_H2, ScheduleKind.ZB_V})


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """Seconds of one microbatch on each part of a pipeline.

    Parameters
    ----------
    forward, backward_input, backward_weight : tuple of float
        Forward pass, gradient of the input, gradient of the weights; shape ``[p]``, or
        ``[p * chunks]`` in the order of the model. Recomputation belongs to
        ``backward_input``. The backward times may be left out of pipelines without one.
    chunks : int
        1: one number per device, all of its chunks together, which share it equally.
        ``v``: one number per chunk.
    overlap : float
        DualPipe: share of the shorter of a forward and a backward pass that runs behind the
        longer one when the schedule pairs them, in [0, 1].

    Raises
    ------
    SpecError
        If the numbers do not describe a pipeline.
    """

    forward: tuple[float, ...]
    backward_input: tuple[float, ...] = ()
    backward_weight: tuple[float, ...] = ()
    chunks: int = 1
    overlap: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.forward)
        for name in ("backward_input", "backward_weight"):
            if not getattr(self, name):
                object.__setattr__(self, name, (0.0,) * count)
            if len(getattr(self, name)) != count:
                raise SpecError(
                    f"{name} has {len(getattr(self, name))} times, forward has {count}",
                    "give each the same number of times, one per stage",
                )
        if count == 0 or self.chunks < 1 or count % self.chunks:
            raise SpecError(
                f"{count} times do not fill stages of {self.chunks} chunks each",
                "give one time per stage, or one per chunk",
            )
        times = (*self.forward, *self.backward_input, *self.backward_weight)
        if not all(math.isfinite(seconds) and seconds >= 0 for seconds in times):
            raise SpecError("stage times must be finite and not negative")
        if not 0 <= self.overlap <= 1:
            raise SpecError(f"overlap {self.overlap} is not in [0, 1]", "0 hides nothing, 1 all")

    @property
    def num_stages(self) -> int:
        """Devices of the pipeline."""
        return len(self.forward) // self.chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkTimes:
    """Seconds of one microbatch on each chunk, shape ``[p v]`` in the order of the model."""

    forward: tuple[float, ...]
    backward_input: tuple[float, ...]
    backward_weight: tuple[float, ...]
    overlap: float = 0.0

    @property
    def even(self) -> bool:
        """Whether all chunks take the same times."""
        parts = (self.forward, self.backward_input, self.backward_weight)
        return all(min(part) == max(part) for part in parts)

    @property
    def totals(self) -> tuple[float, ...]:
        """Forward and backward of each chunk."""
        parts = zip(self.forward, self.backward_input, self.backward_weight, strict=True)
        return tuple(sum(part) for part in parts)

    def pair_s(self, forward: int, backward: int) -> float:
        """Seconds of a forward pass of one chunk together with a backward pass of another."""
        ahead = self.forward[forward]
        back = self.backward_input[backward] + self.backward_weight[backward]
        return ahead + back - self.overlap * min(ahead, back)


def chunk_devices(kind: PipelineKind, stages: int, virtual_stages: int) -> tuple[int, ...]:
    """Device of each chunk, shape ``[p v]``; of DualPipe for its first half of microbatches."""
    if kind is ScheduleKind.ZB_V:
        return (*range(stages), *reversed(range(stages)))
    return tuple(range(stages)) * virtual_stages


def chunks_per_device(kind: PipelineKind, virtual_stages: int) -> int:
    """Chunks per device: two for ZB-V whatever was asked, which has no other form."""
    return 2 if kind is ScheduleKind.ZB_V else virtual_stages


def split_times(kind: PipelineKind, times: StageTimes, virtual_stages: int) -> ChunkTimes:
    """Times per chunk: as given, or a stage's time shared equally by its chunks.

    Raises
    ------
    SpecError
        If times are given per chunk and their number is not that of the schedule.
    """
    v = chunks_per_device(kind, virtual_stages)
    if times.chunks not in (1, v):
        raise SpecError(
            f"{kind}: times of {times.chunks} chunks per stage, the schedule has {v}",
            "give one time per stage, or one per chunk",
        )
    devices = chunk_devices(kind, times.num_stages, v)

    def spread(part: tuple[float, ...]) -> tuple[float, ...]:
        return part if times.chunks == v else tuple(part[device] / v for device in devices)

    return ChunkTimes(
        forward=spread(times.forward),
        backward_input=spread(times.backward_input),
        backward_weight=spread(times.backward_weight),
        overlap=times.overlap if kind is ScheduleKind.DUALPIPE else 0.0,
    )


def check_pipeline(kind: PipelineKind, stages: int, microbatches: int, virtual_stages: int) -> None:
    """Refuse a pipeline that its schedule cannot run.

    Raises
    ------
    SpecError
        Naming what is wrong and what the schedule needs.
    """
    for name, value in (
        ("stages", stages),
        ("microbatches", microbatches),
        ("virtual stages", virtual_stages),
    ):
        if value < 1:
            raise SpecError(f"{value} {name}: a pipeline has at least one")
    if kind is ScheduleKind.NONE and stages > 1:
        raise SpecError(f"{stages} stages without a schedule", "name one, for example 1f1b")
    if kind is ScheduleKind.INTERLEAVED and virtual_stages < 2:
        raise SpecError(
            "interleaved needs at least two chunks per stage",
            "write for example --virtual-stages 2, or --kind 1f1b",
        )
    if kind is ScheduleKind.ZB_V and virtual_stages not in (1, 2):
        raise SpecError(
            f"zb-v has two chunks per stage, not {virtual_stages}", "leave --virtual-stages out"
        )
    if kind not in (ScheduleKind.INTERLEAVED, ScheduleKind.ZB_V) and virtual_stages > 1:
        raise SpecError(
            f"{kind} has one chunk per stage, not {virtual_stages}",
            "leave --virtual-stages out, or write --kind interleaved",
        )
    if kind is ScheduleKind.DUALPIPE:
        _check_dualpipe(stages, microbatches)


def _check_dualpipe(stages: int, microbatches: int) -> None:
    if stages % 2:
        raise SpecError(
            f"dualpipe runs in both directions: {stages} stages are odd",
            f"write for example --stages {stages + 1}",
        )
    if microbatches % 2 or microbatches < 2 * stages:
        raise SpecError(
            f"dualpipe with {stages} stages needs an even number of microbatches, "
            f"at least {2 * stages}, not {microbatches}",
            f"write for example --microbatches {max(2 * stages, microbatches + 1)}",
        )
