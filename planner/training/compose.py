"""Between a training run and its chunks (search, cost) and the record that is written down."""

from __future__ import annotations

from planner.cost.block import matmul_rate
from planner.cost.price import CORE_RATE
from planner.cost.runs.model_flop import train_flop
from planner.cost.runs.record import RunPrediction
from planner.cost.runs.training_pipeline import chunks_of
from planner.cost.schedules.kinds import chunk_devices
from planner.domain.cost import Bound
from planner.domain.dtypes import DType
from planner.domain.model import ModelSpec
from planner.domain.run import Mesh, Optimizer, Overlap, Run, RunKind
from planner.domain.train_layout import (
    Chunk,
    TrainDegrees,
    TrainInputs,
    TrainLayout,
    TrainMemory,
    TrainPrediction,
    TrainTerm,
)
from planner.topology.graph import Topology
from planner.training.parts import MachinePart
from planner.units import MILLION, usd_per_second


def degrees_record(run: Run) -> TrainDegrees:
    """Degrees and policy of a run."""
    mesh = run.mesh
    return TrainDegrees(
        tp=mesh.attn_tp,
        cp=mesh.cp,
        dp=mesh.attn_dp,
        pp=mesh.pp,
        virtual_stages=mesh.virtual_stages,
        ep=mesh.ep,
        expert_tp=mesh.expert_tp,
        microbatch=run.microbatch,
        microbatches=run.num_microbatches,
        schedule=run.schedule,
        recompute=run.recompute,
        zero_stage=run.zero_stage,
        sequence_parallel=run.sequence_parallel,
        overlap=tuple(sorted(item.value for item in run.overlap or ())),
    )


def run_of_layout(layout: TrainLayout) -> Run:
    """The run that a layout describes."""
    d, inputs = layout.degrees, layout.inputs
    return Run(
        kind=RunKind.TRAIN,
        mesh=Mesh(
            attn_tp=d.tp,
            cp=d.cp,
            attn_dp=d.dp,
            pp=d.pp,
            virtual_stages=d.virtual_stages,
            ep=d.ep,
            expert_tp=d.expert_tp,
        ),
        global_batch=inputs.global_batch,
        seq_len=inputs.seq_len,
        microbatch=d.microbatch,
        schedule=d.schedule,
        recompute=d.recompute,
        zero_stage=d.zero_stage,
        sequence_parallel=d.sequence_parallel,
        overlap=frozenset(Overlap(name) for name in d.overlap),
        optimizer=Optimizer(inputs.optimizer),
        optimizer_state=DType(inputs.optimizer_state),
        gradients=DType(inputs.gradients),
    )


def chunk_records(run: Run, counts: tuple[int, ...]) -> tuple[Chunk, ...]:
    """Chunks in the order of the model."""
    devices = chunk_devices(run.schedule, run.mesh.pp, chunks_of(run) // run.mesh.pp)
    found, start = [], 0
    for place, (device, count) in enumerate(zip(devices, counts, strict=True)):
        found.append(
            Chunk(
                pp_rank=device,
                first_layer=start,
                end_layer=start + count,
                has_embedding=place == 0,
                has_head=place == len(counts) - 1,
            )
        )
        start += count
    return tuple(found)


def counts_of(layout: TrainLayout) -> tuple[int, ...]:
    """Layers of each chunk."""
    return tuple(chunk.end_layer - chunk.first_layer for chunk in layout.chunks)


def rank_chips(whole: Topology, part: MachinePart, run: Run) -> tuple[str, ...]:
    """Name of the chip of every rank."""
    names = whole.chip_names
    return tuple(names[chip] for chip in part.chips[: run.mesh.num_chips])


def idle_names(whole: Topology, part: MachinePart, run: Run) -> tuple[str, ...]:
    """Chips of the machine without a rank."""
    used = set(part.chips[: run.mesh.num_chips])
    return tuple(name for chip, name in enumerate(whole.chip_names) if chip not in used)


def prediction_of(
    model: ModelSpec, part: MachinePart, inputs: TrainInputs, priced: tuple[Run, RunPrediction]
) -> TrainPrediction:
    """Figures of a priced run."""
    run, found = priced
    topology, seconds = part.topology, found.seconds
    used = run.mesh.num_chips
    rented = sum(topology.rental_units(range(used))) * part.rented_chips // part.domain_chips
    tokens_per_s = inputs.global_batch * inputs.seq_len / seconds
    dtype = model.precision.activations
    peaks = dict(topology.chip.peak_flop_per_s)
    peak = max(peaks[matmul_rate(topology.chip, dtype, dtype)], peaks[CORE_RATE])
    flop = train_flop(model, float(inputs.global_batch), float(inputs.seq_len)).total
    price = inputs.price_usd_per_hour
    usd = None
    if price is not None:
        usd = rented * usd_per_second(price) / tokens_per_s * MILLION
    idle = sum(term.seconds for term in found.terms if term.bound is Bound.IDLE)
    memory = found.memory
    return TrainPrediction(
        step_s=seconds,
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_chip=tokens_per_s / used,
        mfu=flop / seconds / used / peak,
        bubble=idle / seconds,
        usd_per_million_tokens=usd,
        chips_rented=rented,
        terms=tuple(
            TrainTerm(name=term.name, seconds=term.seconds, bound=term.bound)
            for term in found.terms
        ),
        memory=TrainMemory(
            weights_bytes=memory.weights_bytes,
            gradients_bytes=memory.gradients_bytes,
            optimizer_bytes=memory.optimizer_bytes,
            activations_bytes=memory.activations_bytes,
            reserve_bytes=memory.reserve_bytes,
            capacity_bytes=memory.capacity_bytes,
        ),
    )
