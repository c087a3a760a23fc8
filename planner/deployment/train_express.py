"""The training layout of an engine: as planned, or the nearest that the engine can express."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import structs

from planner.cost.runs.training import predict_training
from planner.cost.runs.training_pipeline import chunks_of
from planner.deployment.ranks import Instance, devices_of, instance_of
from planner.deployment.train_rules import (
    TrainRuleCase,
    fitting_inputs,
    train_expressible,
    train_misfits,
)
from planner.domain.deployment import Engine, TrainingDeployment
from planner.domain.dtypes import DType
from planner.domain.model import ModelSpec
from planner.domain.run import Mesh, Optimizer, Overlap, Run, RunKind
from planner.domain.train_layout import (
    RANK_ORDER,
    TRAIN_SCHEMA_VERSION,
    TrainDegrees,
    TrainInputs,
    TrainLayout,
)
from planner.errors import SpecError
from planner.topology.graph import Topology
from planner.train_api import evaluate_training, training_case
from planner.training.checks import layout_violations
from planner.training.compose import (
    chunk_records,
    counts_of,
    degrees_record,
    idle_names,
    prediction_of,
    rank_chips,
)
from planner.training.parts import MachinePart
from planner.training.reason import run_name
from planner.units import format_bytes, format_percent, format_seconds
from planner.version import VERSION

_SAME_PRICE = 1e-9


class TrainCase(Protocol):
    """What training layouts are priced on."""

    @property
    def model(self) -> ModelSpec:
        """The model."""

    @property
    def whole(self) -> Topology:
        """The machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainExpressed:
    """A training layout that an engine can be told.

    Parameters
    ----------
    notes : tuple of str
        What the engine cannot express, what is done instead and what it costs.
    instance : Instance
        Nodes in the order of their ranks.
    """

    engine: Engine
    layout: TrainLayout
    as_planned: bool
    notes: tuple[str, ...]
    instance: Instance


def run_from(degrees: TrainDegrees, inputs: TrainInputs) -> Run:
    """A run of these degrees."""
    return Run(
        kind=RunKind.TRAIN,
        mesh=Mesh(
            attn_tp=degrees.tp,
            cp=degrees.cp,
            attn_dp=degrees.dp,
            pp=degrees.pp,
            virtual_stages=degrees.virtual_stages,
            ep=degrees.ep,
            expert_tp=degrees.expert_tp,
        ),
        global_batch=inputs.global_batch,
        seq_len=inputs.seq_len,
        microbatch=degrees.microbatch,
        schedule=degrees.schedule,
        recompute=degrees.recompute,
        zero_stage=degrees.zero_stage,
        sequence_parallel=degrees.sequence_parallel,
        overlap=frozenset(Overlap(name) for name in degrees.overlap),
        optimizer=Optimizer(inputs.optimizer),
        optimizer_state=DType(inputs.optimizer_state),
        gradients=DType(inputs.gradients),
    )


def even_counts(num_layers: int, chunks: int) -> tuple[int, ...]:
    """Layers of each chunk, as equal as possible; those beside the tables hold fewer."""
    base, more = divmod(num_layers, chunks)
    counts = [base] * chunks
    # The first and the last chunk hold embedding and head: they get theirs last.
    order = [*range(1, chunks - 1), 0, chunks - 1] if chunks > 2 else list(range(chunks))
    for index in order[:more]:
        counts[index] += 1
    return tuple(counts)


def training_layout(
    inputs: TrainInputs,
    case: TrainCase,
    part: MachinePart,
    degrees: TrainDegrees,
    counts: Sequence[int] | None = None,
) -> TrainLayout:
    """Price degrees as they are, ranks on the chips in order.

    Parameters
    ----------
    counts : sequence of int, optional
        Layers of each chunk; an even split when absent.

    Raises
    ------
    SpecError
        The decisions contradict themselves or the machine.
    """
    run = run_from(degrees, inputs)
    if run.mesh.num_chips > len(part.chips):
        raise SpecError(
            f"the run takes {run.mesh.num_chips} chips, the machine has {len(part.chips)}",
            "size the machine up, for example --nodes 4",
        )
    split = tuple(counts or even_counts(len(case.model.layers), chunks_of(run)))
    if len(split) != chunks_of(run):
        raise SpecError(f"{len(split)} chunks of layers, the pipeline has {chunks_of(run)}")
    free = structs.replace(inputs, limits={}, overlap=degrees.overlap)
    priced = (run, predict_training(case.model, part.topology, run, split))
    layout = TrainLayout(
        schema_version=TRAIN_SCHEMA_VERSION,
        planner_version=VERSION,
        inputs=free,
        degrees=degrees_record(run),
        chunks=chunk_records(run, split),
        rank_order=RANK_ORDER,
        domain_chips=part.domain_chips,
        chips=rank_chips(case.whole, part, run),
        idle_chips=idle_names(case.whole, part, run),
        prediction=prediction_of(case.model, part, free, priced),
    )
    broken = layout_violations(layout, case.model, case.whole, part)
    if broken:
        raise SpecError("the run cannot be priced: " + "; ".join(broken[:3]))
    return layout


def fits(layout: TrainLayout) -> bool:
    """Whether the fullest chip holds what it must."""
    memory = layout.prediction.memory
    return memory.used_bytes <= memory.capacity_bytes * (1 + 1e-9)


def name_of(layout: TrainLayout) -> str:
    """Degrees in one line."""
    return run_name(run_from(layout.degrees, layout.inputs))


def express_training(layout: TrainLayout, engine: Engine, *, old: bool = False) -> TrainExpressed:
    """The layout that an engine can be told, and what is lost.

    Parameters
    ----------
    old : bool
        Whether torchtitan is older than 2026.

    Raises
    ------
    SpecError
        Nothing near the layout can be expressed, or fits.
    """
    # An edited file is worth what its decisions are.
    layout = evaluate_training(layout)
    case, part = training_case(layout)
    inputs, changed = fitting_inputs(engine, layout.inputs)
    rules = TrainRuleCase(engine=engine, model=case.model, inputs=inputs, old=old)
    reasons = [*changed, *(found.reason for found in train_misfits(rules, layout.degrees))]
    chosen = layout
    if reasons:
        chosen = _nearest(rules, layout, case, part, reasons)
    devices = devices_of(case.whole.chip_names)
    return TrainExpressed(
        engine=engine,
        layout=chosen,
        as_planned=not reasons,
        notes=tuple(_explained(rules, layout, chosen, reasons)) if reasons else (),
        instance=instance_of(chosen.chips, devices),
    )


def _nearest(
    rules: TrainRuleCase,
    layout: TrainLayout,
    case: TrainCase,
    part: MachinePart,
    reasons: Sequence[str],
) -> TrainLayout:
    found = []
    for degrees in train_expressible(rules, layout.degrees):
        same = (degrees.pp, degrees.virtual_stages, degrees.schedule)
        planned = layout.degrees
        kept = same == (planned.pp, planned.virtual_stages, planned.schedule)
        even = rules.engine is Engine.MAXTEXT
        counts = counts_of(layout) if kept and not even else None
        try:
            one = training_layout(rules.inputs, case, part, degrees, counts)
        except SpecError:
            continue
        if fits(one):
            found.append(one)
    if not found:
        raise SpecError(
            f"{rules.name} cannot express the layout ({'; '.join(reasons)}), and nothing near it "
            "fits",
            "plan with limits that the engine knows, for example --schedule 1f1b,interleaved",
        )
    return min(found, key=lambda one: one.prediction.step_s)


def _explained(
    rules: TrainRuleCase, planned: TrainLayout, best: TrainLayout, reasons: Sequence[str]
) -> Iterator[str]:
    for reason in reasons:
        yield f"{rules.name} cannot express {reason}"
    old, new = planned.prediction.step_s, best.prediction.step_s
    change = new / old - 1.0
    if abs(change) <= _SAME_PRICE:
        yield f"nearest: {name_of(best)}, at the same price"
        return
    word = "worse" if change > 0 else "better"
    yield (
        f"nearest: {name_of(best)}: step {format_seconds(old)} -> {format_seconds(new)}, "
        f"{format_percent(abs(change))} {word}, "
        f"{format_bytes(best.prediction.memory.used_bytes)} per chip"
    )


def told_training(expressed: TrainExpressed, model: ModelSpec) -> TrainingDeployment:
    """What the engine is told about a layout that it can express."""
    layout, inputs = expressed.layout, expressed.layout.inputs
    return TrainingDeployment(
        engine=expressed.engine,
        degrees=layout.degrees,
        global_batch=inputs.global_batch,
        seq_len=inputs.seq_len,
        chunk_layers=counts_of(layout) if layout.degrees.pp > 1 else None,
        optimizer=inputs.optimizer,
        optimizer_state=inputs.optimizer_state,
        gradients=inputs.gradients,
        activations=model.precision.activations,
    )
