"""Layers on pipeline stages, and what a pipeline adds to the work of its slowest stage.

Bubbles are those of :mod:`planner.cost.schedules`, hops apart. One measure differs: published
steps of ZB-H2 overlap, since the optimizer validates its step afterwards (Qi 2023, section 4),
so its bubble is what idles inside each device's span,

    (p - 1)(F + Bi - 2 W)        F forward, Bi input gradient, W weight gradient of one stage.
"""

from __future__ import annotations

from collections import Counter

from planner.cost.runs.training_matmul import PassTimes
from planner.cost.schedules import StageTimes, schedule_time
from planner.domain.model import Layer, ModelSpec
from planner.domain.run import Mesh, Run, ScheduleKind


def chunk_layers(num_layers: int, num_chunks: int) -> tuple[int, ...]:
    """Layers of each chunk in the order of the model.

    As equal as possible; what is missing for equality is missing at the two ends, which hold
    embedding and head beside them, the last chunk first (Megatron-LM's flags
    ``account_for_embedding_in_pipeline_split`` and ``..._loss_...``, zero-bubble's note on its
    number of layers).
    """
    most = -(-num_layers // num_chunks)
    missing = most * num_chunks - num_layers
    counts = [most] * num_chunks
    order = [num_chunks - 1, 0, num_chunks - 1, *range(1, num_chunks - 1)]
    for chunk in order * 2:
        if missing and counts[chunk]:
            counts[chunk] -= 1
            missing -= 1
    return tuple(counts)


StageLayers = tuple[tuple[Layer, int], ...]


def stage_layers(model: ModelSpec, mesh: Mesh) -> tuple[StageLayers, ...]:
    """Layers of each stage with their number; chunk ``c`` of the model lies on ``c mod pp``.

    In a V-shaped schedule the second half runs back; its sizes are the same. Layers of
    multi-token prediction stand before the head.
    """
    counts = chunk_layers(len(model.layers), mesh.pp * max(1, mesh.virtual_stages))
    stages: list[Counter[Layer]] = [Counter() for _ in range(mesh.pp)]
    start = 0
    for chunk, count in enumerate(counts):
        stages[chunk % mesh.pp].update(model.layers[start : start + count])
        start += count
    stages[-1].update(model.mtp_layers)
    return tuple(tuple(stage.items()) for stage in stages)


def bubble_seconds(run: Run, stages: tuple[PassTimes, ...]) -> float:
    """Idle time of the slowest stage in one step; see the module.

    Parameters
    ----------
    stages : tuple of PassTimes
        One microbatch on each stage, all of its chunks together.

    Raises
    ------
    SpecError
        The schedule cannot run this pipeline.
    """
    p = run.mesh.pp
    if p == 1:
        return 0.0
    if run.schedule is ScheduleKind.ZB_H2:
        slowest = max(stages, key=lambda stage: stage.total)
        busy = slowest.forward + slowest.input_grad
        return max(0.0, (p - 1) * (busy - 2.0 * slowest.weight_grad))
    times = StageTimes(
        forward=tuple(stage.forward for stage in stages),
        backward_input=tuple(stage.input_grad for stage in stages),
        backward_weight=tuple(stage.weight_grad for stage in stages),
    )
    chunks = max(1, run.mesh.virtual_stages)
    return schedule_time(run.schedule, times, run.num_microbatches, chunks).bubble_s
