"""How far a training run is from the best layout, and which decisions make the difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from msgspec import structs

from planner.cost.routing import moe_shape
from planner.deployment.train_express import (
    TrainCase,
    express_training,
    fits,
    training_layout,
)
from planner.domain.deployment import Engine, TrainingDeployment
from planner.domain.dtypes import DType
from planner.domain.outcome import Infeasible
from planner.domain.run import Optimizer
from planner.domain.train_layout import TrainDegrees, TrainInputs, TrainLayout
from planner.domain.training import TrainQuestion
from planner.errors import SpecError
from planner.search.control import Progress
from planner.train_api import plan_training, read_training
from planner.training.compose import counts_of
from planner.training.parts import MachinePart

DECISIONS: tuple[tuple[str, ...], ...] = (
    ("tp", "sequence_parallel"),
    ("cp",),
    ("dp",),
    ("pp", "schedule"),
    ("virtual_stages", "schedule"),
    ("ep",),
    ("expert_tp",),
    ("microbatch", "microbatches"),
    ("recompute",),
    ("zero_stage",),
    ("overlap",),
)
ENOUGH = 0.9
MOST_CHANGES = 4
ALIKE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainExplanation:
    """The fewest decisions that make most of the difference: name, value now, value then."""

    changes: tuple[tuple[str, str, str], ...]
    gain: float
    layout: TrainLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainComparison:
    """A run beside the best layout, and the nearest to that which the engine can express."""

    current: TrainLayout
    best: TrainLayout
    told: TrainLayout
    ratio: float
    told_ratio: float
    explanation: TrainExplanation | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainDeployed:
    """A run, priced, and what it was priced on."""

    layout: TrainLayout
    inputs: TrainInputs
    case: TrainCase
    part: MachinePart


def asked_of(told: TrainingDeployment, question: TrainQuestion) -> TrainQuestion:
    """The question that a run answers: its batch, sequences, optimizer and formats."""
    return replace(
        question,
        global_batch=told.global_batch,
        seq_len=told.seq_len,
        optimizer=Optimizer(told.optimizer),
        optimizer_state=DType(told.optimizer_state),
        gradients=DType(told.gradients),
        activations=question.activations or told.activations,
    )


def deploy_training(told: TrainingDeployment, question: TrainQuestion) -> TrainDeployed:
    """Price a run as it is.

    Raises
    ------
    SpecError, CatalogError
        It contradicts the model or the machine, or a file cannot be read.
    """
    inputs, case = read_training(asked_of(told, question))
    degrees = told.degrees
    if moe_shape(case.model) is None:
        if degrees.ep > 1:
            raise SpecError(
                f"EP {degrees.ep}: {case.model.name} has no experts", "is --model the right one?"
            )
        degrees = structs.replace(degrees, ep=1, expert_tp=1)
    elif told.engine is Engine.MAXTEXT:
        degrees = structs.replace(degrees, expert_tp=degrees.tp)
    part = case.parts[0]
    layout = training_layout(inputs, case, part, degrees, told.chunk_layers)
    return TrainDeployed(layout=layout, inputs=inputs, case=case, part=part)


def compare_training(
    found: TrainDeployed,
    told: TrainingDeployment,
    question: TrainQuestion,
    progress: Progress | None = None,
) -> TrainComparison:
    """Find the best layout of the same step, and explain the difference.

    Raises
    ------
    SpecError
        Nothing fits.
    """
    current = found.layout
    best = plan_training(asked_of(told, question), progress)
    if isinstance(best, Infeasible):
        raise SpecError(f"no layout fits: {best.message}", "size the machine up")
    expressed = express_training(best, told.engine).layout
    step = current.prediction.step_s
    return TrainComparison(
        current=current,
        best=best,
        told=expressed,
        ratio=step / best.prediction.step_s,
        told_ratio=step / expressed.prediction.step_s,
        explanation=_explain(found, expressed),
    )


def _explain(found: TrainDeployed, goal: TrainLayout) -> TrainExplanation | None:
    current, target = found.layout.degrees, goal.degrees
    step = found.layout.prediction.step_s
    whole = step / goal.prediction.step_s
    if whole <= 1.0 + ALIKE:
        return None
    differing = [
        names for names in DECISIONS if getattr(current, names[0]) != getattr(target, names[0])
    ]
    best: TrainExplanation | None = None
    for count in range(1, min(MOST_CHANGES, len(differing)) + 1):
        for chosen in combinations(differing, count):
            names = [name for own in chosen for name in own]
            own = structs.replace(current, **{name: getattr(target, name) for name in names})
            layout = _tried(found, own, goal)
            if layout is None:
                continue
            gain = step / layout.prediction.step_s
            if best is None or gain > best.gain * (1 + ALIKE):
                best = TrainExplanation(changes=_changes(current, own), gain=gain, layout=layout)
        if best is not None and math.log(max(best.gain, 1.0)) >= ENOUGH * math.log(whole):
            return best
    return TrainExplanation(changes=_changes(current, target), gain=whole, layout=goal)


def _tried(found: TrainDeployed, degrees: TrainDegrees, goal: TrainLayout) -> TrainLayout | None:
    """A layout of these degrees that fits; layers as the goal has them where they can be."""
    same = ("pp", "virtual_stages", "schedule")
    alike = all(getattr(degrees, name) == getattr(goal.degrees, name) for name in same)
    counts: Sequence[int] | None = counts_of(goal) if alike else None
    try:
        layout = training_layout(found.inputs, found.case, found.part, degrees, counts)
    except SpecError:
        return None
    return layout if fits(layout) else None


def _changes(before: TrainDegrees, after: TrainDegrees) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (name, _shown(getattr(before, name)), _shown(getattr(after, name)))
        for name in before.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    )


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(getattr(value, "value", value))
