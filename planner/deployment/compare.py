"""How far a deployment is from the best one, and which of its flags make the difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from msgspec import structs

from planner.api import plan, read_question
from planner.cost.routing import moe_shape
from planner.deployment.assemble import Case
from planner.deployment.express import cost_of, express
from planner.deployment.flag_view import changed_flags
from planner.deployment.serving import (
    Deployment,
    chips_on,
    degrees_of_told,
    deploy,
    stage_layers_of,
    told_to,
)
from planner.domain.deployment import PoolRole, ServingDeployment
from planner.domain.layout import Inputs, Layout
from planner.domain.outcome import Infeasible
from planner.domain.question import Question
from planner.errors import SpecError
from planner.search.control import Progress

# Decisions that change together are one: a pipeline and the layers of its stages, copies of
# experts and where they lie.
DECISIONS: tuple[tuple[str, ...], ...] = (
    ("tp",),
    ("dp",),
    ("cp",),
    ("pp", "stage_layers"),
    ("ep",),
    ("instances",),
    ("extra_slots", "total_slots", "placement", "rebalances"),
    ("max_sequences",),
    ("draft",),
    ("overlap_ep",),
)
# So much of the way, on a logarithmic scale, counts as the difference.
ENOUGH = 0.9
MOST_CHANGES = 4
ALIKE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """The fewest decisions that make most of the difference.

    Parameters
    ----------
    flags : tuple of (str, str, str)
        Flag, its value now, its value then.
    gain : float
        How many times better the deployment gets by them alone.
    layout : Layout
        What it then is.
    """

    flags: tuple[tuple[str, str, str], ...]
    gain: float
    layout: Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A deployment beside the best layout under the same limits.

    Parameters
    ----------
    best : Layout
        The plan.
    told : Layout
        The nearest to it that the engine can express.
    ratio, told_ratio : float
        How many times better they are.
    """

    current: Deployment
    best: Layout
    told: Layout
    ratio: float
    told_ratio: float
    explanation: Explanation | None


def read_deployment(
    told: ServingDeployment, question: Question, ranks: Sequence[tuple[str, int]] | None
) -> tuple[Deployment, Inputs, Case]:
    """Price a deployment of the model, machine and workload of a question.

    Parameters
    ----------
    ranks : sequence of (str, int), optional
        Host and device of every rank, instance after instance.

    Raises
    ------
    SpecError, CatalogError
        The deployment fits neither model nor machine, or a file cannot be read.
    """
    if told.draft and question.acceptance is None:
        raise SpecError(
            f"the deployment drafts {told.draft} tokens: their acceptance is not known",
            "write for example --acceptance 0.8",
        )
    inputs, case = read_question(replace(question, kv=question.kv or told.kv))
    own = _effective(told, case)
    chips = None
    if ranks is not None:
        chips = chips_on(ranks, case, degrees_of_told(own, case).replicas)
    found = deploy(own, inputs, case, chips)
    return replace(found, told=filled(found)), inputs, case


def _effective(told: ServingDeployment, case: Case) -> ServingDeployment:
    """Data parallelism of a model without experts is copies of it."""
    if moe_shape(case.setting.model) is not None:
        return told
    return replace(told, dp=1, instances=told.instances * told.dp, overlap_ep=False)


def filled(found: Deployment, *, role: PoolRole | None = None) -> ServingDeployment:
    """A deployment with what its engine chose by itself."""
    told, layout = found.told, found.layout
    slots = layout.degrees.num_slots
    return replace(
        told,
        ep=layout.degrees.ep,
        stage_layers=stage_layers_of(layout) if told.pp > 1 else None,
        max_sequences=found.running,
        extra_slots=slots - len({e for m in layout.experts[:1] for g in m.slots for e in g})
        if slots
        else None,
        total_slots=slots or None,
        role=role,
    )


def compare(
    current: Deployment,
    question: Question,
    case: Case,
    progress: Progress | None = None,
) -> Comparison:
    """Find the best layout under the same limits, and explain the difference.

    The limit on the time per token is the question's; without one, what the deployment reaches.

    Raises
    ------
    SpecError
        Nothing meets the limits.
    """
    layout = current.layout
    asked = replace(
        question,
        kv=question.kv or current.told.kv,
        # The step itself must pass, in whatever order its terms are added.
        tpot_s=question.tpot_s or layout.prediction.step_s * (1 + ALIKE),
    )
    best = plan(asked, progress)
    if isinstance(best, Infeasible):
        raise SpecError(
            f"no layout meets the limits: {best.message}", "relax --tpot, or leave it out"
        )
    expressed = express(best, current.told.engine, has_draft_model=True)
    target = told_to(expressed)
    found = _explain(current, target, expressed.layout, case, asked.tpot_s)
    return Comparison(
        current=current,
        best=best,
        told=expressed.layout,
        ratio=cost_of(layout) / cost_of(best),
        told_ratio=cost_of(layout) / cost_of(expressed.layout),
        explanation=found,
    )


def _mixed(
    current: ServingDeployment, target: ServingDeployment, names: Sequence[str]
) -> ServingDeployment:
    """Some decisions of another deployment; experts stay spread over all of a stage."""
    own = replace(current, **{name: getattr(target, name) for name in names})
    source = target if "ep" in names else current
    stage = own.tp * own.dp * own.cp
    if source.ep > 1 and source.ep == source.tp * source.dp * source.cp:
        own = replace(own, ep=stage)
    if "pp" not in names and own.pp == 1:
        own = replace(own, stage_layers=None)
    # A placement belongs to its ranks.
    if own.ep != source.ep or "extra_slots" not in names:
        own = replace(own, placement=own.placement if own.ep == current.ep else None)
    return own


def _explain(
    current: Deployment,
    target: ServingDeployment,
    goal: Layout,
    case: Case,
    tpot_s: float | None,
) -> Explanation | None:
    """The smallest set of decisions that goes most of the way."""
    told, layout = current.told, current.layout
    whole = cost_of(layout) / cost_of(goal)
    if whole <= 1.0 + ALIKE:
        return None
    differing = [
        names
        for names in DECISIONS
        if any(getattr(told, name) != getattr(target, name) for name in names)
    ]
    inputs = structs.replace(layout.inputs, tpot_s=tpot_s)
    best: Explanation | None = None
    for count in range(1, min(MOST_CHANGES, len(differing)) + 1):
        for chosen in combinations(differing, count):
            names = [name for own in chosen for name in own]
            found = _tried(_mixed(told, target, names), inputs, case, tpot_s)
            if found is None:
                continue
            gain = cost_of(layout) / cost_of(found.layout)
            if best is None or gain > best.gain * (1 + ALIKE):
                flags = changed_flags(told, found.told)
                best = Explanation(flags=flags, gain=gain, layout=found.layout)
        if best is not None and math.log(max(best.gain, 1.0)) >= ENOUGH * math.log(whole):
            return best
    return Explanation(flags=changed_flags(told, target), gain=whole, layout=goal)


def _tried(
    told: ServingDeployment, inputs: Inputs, case: Case, tpot_s: float | None
) -> Deployment | None:
    """A deployment that can be, and that meets the limit on the time per token."""
    try:
        found = deploy(told, inputs, case)
    except SpecError:
        return None
    step = found.layout.prediction.step_s
    if tpot_s is not None and step > tpot_s * (1 + ALIKE):
        return None
    return found
