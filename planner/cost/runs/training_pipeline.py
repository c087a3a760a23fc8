"""Layers on pipeline stages, and what a pipeline adds to the work of its slowest stage.

Bubbles are those of :mod:`planner.cost.schedules`, hops apart. One measure differs: published
steps of ZB-H2 overlap, since the optimizer validates its step afterwards (Qi 2023, section 4),
so its bubble is what idles inside each device's span,

    (p - 1)(F + Bi - 2 W)        F forward, Bi input gradient, W weight gradient of one stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from planner.cost.runs.training_matmul import PassTimes
from planner.cost.schedules import StageTimes, schedule_time
from planner.cost.schedules.kinds import chunk_devices, chunks_per_device
from planner.cost.weights import layer_weights
from planner.domain.model import Layer, ModelSpec, MoeFfn, WeightRole
from planner.domain.run import Run, ScheduleKind


def chunk_layers(num_layers: int, num_chunks: int, extra: float = 0.0) -> tuple[int, ...]:
    """Layers of each chunk in the order of the model.

    As equal as possible. What is missing for equality is missing at the last chunk, which holds
    the head, then at the first, which holds the embedding (Megatron-LM's
    ``account_for_loss_in_pipeline_split`` and ``..._embedding_...``), then wherever most is
    left. With ``extra`` layers' worth of work on the last chunk that must be balanced (layers
    of multi-token prediction and their heads), it gives up layers for as long as it has most,
    as the layouts of DeepSeek-V3 in Megatron-Bridge do: 4, ..., 4, 1 on 16 stages.
    """
    most = -(-num_layers // num_chunks)
    counts = [most] * num_chunks
    ends = [] if extra else [num_chunks - 1, 0]
    for _ in range(most * num_chunks - num_layers):
        loads = [*counts[:-1], counts[-1] + extra if counts[-1] else 0.0]
        heaviest = max(range(num_chunks), key=lambda chunk: (loads[chunk], chunk))
        chunk = ends.pop(0) if ends else heaviest
        counts[chunk] -= 1
    return tuple(counts)


def prediction_work(model: ModelSpec) -> float:
    """Layers' worth of multi-token prediction: its layers, and a head for each and the model."""
    if not model.mtp_layers:
        return 0.0
    layer = model.layers[-1]
    top_k = layer.ffn.top_k if isinstance(layer.ffn, MoeFfn) else 1
    active = 0.0
    for weight in layer_weights(model, layer):
        routed = weight.role is WeightRole.ROUTED_EXPERT
        active += weight.matmul_params * (top_k if routed else 1)
    count = len(model.mtp_layers)
    return count + (count + 1) * model.vocab_size * model.hidden_size / active


StageLayers = tuple[tuple[Layer, int], ...]


def chunks_of(run: Run) -> int:
    """Chunks of the model: ``pp`` times those on each device."""
    return run.mesh.pp * chunks_per_device(run.schedule, max(1, run.mesh.virtual_stages))


def head_stage(run: Run) -> int:
    """Device of the last chunk, which holds the output head."""
    return chunk_devices(run.schedule, run.mesh.pp, chunks_of(run) // run.mesh.pp)[-1]


def stage_layers(
    model: ModelSpec, run: Run, counts: Sequence[int] | None = None
) -> tuple[StageLayers, ...]:
    """Layers of each device with their number; layers of multi-token prediction with the head.

    Parameters
    ----------
    counts : sequence of int, optional
        Layers of each chunk in the order of the model; as even as they divide by default
        (:func:`chunk_layers`).
    """
    num_chunks = chunks_of(run)
    if counts is None:
        counts = chunk_layers(len(model.layers), num_chunks, prediction_work(model))
    devices = chunk_devices(run.schedule, run.mesh.pp, num_chunks // run.mesh.pp)
    stages: list[Counter[Layer]] = [Counter() for _ in range(run.mesh.pp)]
    start = 0
    for device, count in zip(devices, counts, strict=True):
        stages[device].update(model.layers[start : start + count])
        start += count
    stages[devices[-1]].update(model.mtp_layers)
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
