"""The library behind every command: read, search, check, compose.

Each function answers one question and prints nothing. Paths and names in a
:class:`planner.domain.question.Question` are read here and nowhere deeper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, structs

from planner.catalog.machine_size import sized
from planner.catalog.machines import (
    load_machine,
    machine_facts,
    machine_from_facts,
)
from planner.catalog.model_config import (
    load_model,
    model_facts,
    model_from_facts,
    override_precision,
)
from planner.catalog.routing_file import load_routing
from planner.catalog.wounds_file import with_wounds
from planner.compose import (
    assignment_of,
    batch_records,
    degrees_record,
    expert_records,
    idle_chips,
    rank_records,
    reserved_chips,
    stage_records,
)
from planner.cost.evaluate import evaluate as price_assignment
from planner.cost.routing import FloatArray, moe_layer_indices, moe_shape, uniform_loads
from planner.cost.runs.gemm import sustained_chip
from planner.cost.runs.inference_engine import RESERVE_FRACTION
from planner.cost.step import Setting
from planner.domain.assignment import Assignment
from planner.domain.changed import UNCHANGED, Change, Changed
from planner.domain.cost import Prediction
from planner.domain.dtypes import DType, dtype_of
from planner.domain.hardware import MachineSpec, Sizing, ideal
from planner.domain.layout import (
    SCHEMA_VERSION,
    Inputs,
    Layout,
    MachineInput,
    ModelInput,
    RunnerUp,
)
from planner.domain.model import ModelSpec
from planner.domain.outcome import Infeasible
from planner.domain.question import Question, check_context, check_drafts, check_phase
from planner.domain.workload import Objective, Phase, TimeModel
from planner.errors import ModelBugError, SpecError
from planner.search.control import Progress
from planner.search.reason import why
from planner.search.recheck_numbers import gap_violations
from planner.search.request import PlanRequest
from planner.search.survival import failure_violations
from planner.search.validate import (
    RELATIVE_TOLERANCE,
    Limits,
    limit_violations,
    spares_are_listed,
    structure_violations,
)
from planner.topology.build import build_topology
from planner.topology.failures import failure_units
from planner.topology.graph import Spared, Topology
from planner.topology.mixed import common_chip
from planner.topology.spares import excluded_chips, sparing
from planner.version import VERSION

if TYPE_CHECKING:
    from planner.search.plan import SearchResult

__all__ = [
    "evaluate",
    "evaluate_layout",
    "load_model",
    "plan",
    "read_question",
    "verify",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """A question with its files read: what the search and the cost model need."""

    setting: Setting
    topology: Topology
    loads: FloatArray
    uniform: bool


def _dtype(name: str | None) -> DType | None:
    return None if name is None else dtype_of(name)


def _setting(model: ModelSpec, topology: Topology, inputs: Inputs) -> Setting:
    return Setting(
        model=model,
        chip=sustained_chip(topology.chip),
        context_tokens=inputs.context_tokens,
        time_model=TimeModel(inputs.time_model),
        reserve_fraction=0.0 if inputs.ideal else RESERVE_FRACTION,
        acceptance=inputs.acceptance or 0.0,
        new_tokens=float(inputs.seq_len or 0),
    )


def step_limit_s(inputs: Inputs) -> float | None:
    """Longest step that the question allows."""
    return inputs.ttft_s if Phase(inputs.phase) is Phase.PREFILL else inputs.tpot_s


def _check_numbers(question: Question) -> None:
    """Refuse numbers that no workload can have."""
    checks = (
        ("--batch", question.batch, 1),
        ("--gap", question.gap, 0),
        ("--reserve", question.reserve, 0),
        ("--reserve", question.reserve_per_domain, 0),
    )
    for option, value, least in checks:
        if value is not None and value < least:
            raise SpecError(f"{option}: {value} is less than {least}")
    check_drafts(question)
    check_phase(question)


def _check_experts(question: Question, model: ModelSpec) -> None:
    """Refuse degrees of experts of a model that has none."""
    limits = question.limits
    wanted = (("--ep", limits.ep), ("--expert-tp", limits.expert_tp), ("--slots", limits.slots))
    for option, values in wanted:
        if moe_shape(model) is None and values is not None and 1 not in values:
            raise SpecError(f"{option}: {model.name} has no experts", "leave it out")


def read_question(question: Question, change: Change | None = None) -> tuple[Inputs, _Case]:
    """Read the files of a question; ``change`` is applied to the machine at its size."""
    _check_numbers(question)
    spec = sized(load_machine(question.machine), question.sizing)
    spec = spec if change is None else change(spec)
    model = load_model(question.model)
    tokens = question.context_tokens + (question.seq_len or 0)
    check_context(model.max_context, tokens, "--context" if question.seq_len is None else "--seq")
    _check_experts(question, model)
    price = question.price_usd_per_hour
    routing = load_routing(question.loads, moe_shape(model), len(moe_layer_indices(model)))
    inputs = Inputs(
        model=ModelInput(
            name=model.name,
            config=model_facts(question.model),
            weights=question.weights,
            activations=question.activations,
            kv=question.kv,
        ),
        machine=MachineInput(
            name=spec.name,
            facts=with_wounds(machine_facts(question.machine), spec),
            nodes=question.nodes,
            racks=question.racks,
            slices=question.slices,
            shape=question.shape,
        ),
        phase=question.phase.value,
        context_tokens=question.context_tokens,
        objective=question.objective.value,
        time_model=question.time_model.value,
        ideal=question.ideal,
        tpot_s=question.tpot_s,
        batch=question.batch,
        price_usd_per_hour=common_chip(spec).price_usd_per_hour if price is None else price,
        routing_loads=routing,
        acceptance=question.acceptance,
        exclude=question.exclude,
        reserve=question.reserve,
        reserve_per_domain=question.reserve_per_domain,
        limits=question.limits.texts(),
        gap=question.gap,
        seq_len=question.seq_len,
        ttft_s=question.ttft_s,
        survive=question.survive,
    )
    return inputs, _case(inputs, model, spec)


def _case(inputs: Inputs, model: ModelSpec, spec: MachineSpec) -> _Case:
    if inputs.ideal:
        spec = ideal(spec)
    model = override_precision(
        model,
        _dtype(inputs.model.weights),
        _dtype(inputs.model.activations),
        _dtype(inputs.model.kv),
    )
    layers, shape = moe_layer_indices(model), moe_shape(model)
    loads = uniform_loads(len(layers), shape[0] if shape else 1)
    if inputs.routing_loads is not None:
        loads = np.array(inputs.routing_loads, dtype=np.float64)
    whole = build_topology(spec)
    spared = Spared(
        excluded=excluded_chips(whole, inputs.exclude),
        reserve=inputs.reserve,
        reserve_per_domain=inputs.reserve_per_domain,
    )
    topology = sparing(whole, spared)
    return _Case(
        setting=_setting(model, topology, inputs),
        topology=topology,
        loads=loads,
        uniform=inputs.routing_loads is None,
    )


def machine_of(given: MachineInput) -> MachineSpec:
    """The machine that a layout file describes, at its size."""
    spec = machine_from_facts(given.facts, "layout: inputs.machine.facts")
    sizing = Sizing(nodes=given.nodes, racks=given.racks, slices=given.slices, shape=given.shape)
    return sized(spec, sizing)


def case_of_layout(layout: Layout, changed: Changed = UNCHANGED) -> _Case:
    """Rebuild what a layout was planned for from the facts that it carries."""
    return case_of_inputs(layout.inputs, changed)


def case_of_inputs(inputs: Inputs, changed: Changed = UNCHANGED) -> _Case:
    """Read the facts that a file carries."""
    model = model_from_facts(inputs.model.config, inputs.model.name, "layout: inputs.model.config")
    return _case(inputs, changed.model(model), changed.machine(machine_of(inputs.machine)))


def request_of(question: Question, inputs: Inputs, case: _Case) -> PlanRequest:
    """What the search wants to know; of the question only what inputs do not hold."""
    return PlanRequest(
        setting=case.setting,
        topology=case.topology,
        loads=case.loads,
        uniform=case.uniform,
        objective=Objective(inputs.objective),
        limits=question.limits,
        step_limit_s=step_limit_s(inputs),
        batch=inputs.batch,
        price_usd_per_hour=inputs.price_usd_per_hour,
        gap=question.gap,
        time_limit_s=question.time_limit_s,
        seed=question.seed,
        units=failure_units(case.topology, inputs.survive),
    )


def plan(
    question: Question, progress: Progress | None = None, *, interruptible: bool = False
) -> Layout | Infeasible:
    """Find the best layout for a question and prove how good it is.

    Parameters
    ----------
    progress : callable, optional
        Called with the :class:`planner.search.control.SearchState` after every solved strategy.
    interruptible : bool
        Whether the first Ctrl-C returns the best layout so far, with its honest gap, instead
        of raising ``KeyboardInterrupt``; in the main thread only.

    Raises
    ------
    SpecError, CatalogError
        The question or one of its files cannot be understood.
    ModelBugError
        The search and the validator disagree.
    """
    from planner.search.plan import search_layout

    inputs, case = read_question(question)
    request = replace(
        request_of(question, inputs, case), progress=progress, interruptible=interruptible
    )
    found = search_layout(request)
    if isinstance(found, Infeasible):
        return found
    return _layout(inputs, case, found)


def evaluate(question: Question) -> Layout | Infeasible:
    """Price the layout that a question pins, without comparing it with others.

    Degrees that are not pinned take the best value for the pinned ones.
    """
    found = plan(question)
    if isinstance(found, Infeasible):
        return found
    return structs.replace(found, certificate=None, runners_up=(), why="")


def evaluate_layout(layout: Layout) -> Layout:
    """Price a layout file anew from its own decisions.

    Raises
    ------
    SpecError
        If the decisions contradict themselves and cannot be priced.
    """
    case = case_of_layout(layout)
    assignment = assignment_of(layout, case.topology)
    broken = structure_violations(assignment, case.setting.model, limits_of(layout, case))
    if broken:
        raise SpecError(
            "the layout cannot be priced: " + "; ".join(broken[:5]),
            "planner verify lists every violation",
        )
    fresh = price_decisions(layout.inputs, case, assignment)
    if fresh == layout.prediction:
        return layout
    # What was proved and explained belongs to the decisions before they were edited.
    return structs.replace(layout, prediction=fresh, certificate=None, runners_up=(), why="")


def price_decisions(inputs: Inputs, case: _Case, assignment: Assignment) -> Prediction:
    """Price decisions on the machine of a case."""
    return price_assignment(
        case.setting, case.topology, assignment, case.loads, inputs.price_usd_per_hour
    )


def limits_of(layout: Layout, case: _Case) -> Limits:
    """What a layout's own inputs fix, for the validator."""
    spared = case.topology.spared
    return Limits(
        num_chips=case.topology.num_chips,
        step_limit_s=step_limit_s(layout.inputs),
        batch=layout.inputs.batch,
        excluded=spared.excluded,
        reserve=spared.reserve,
        reserve_per_domain=spared.reserve_per_domain,
        domains=case.topology.domains if spared.reserve_per_domain else (),
    )


def verify(layout: Layout) -> tuple[str, ...]:
    """Everything that is wrong with a layout: decisions, limits, and stated predictions."""
    case = case_of_layout(layout)
    try:
        assignment = assignment_of(layout, case.topology)
    except SpecError as error:
        return (error.message,)
    limits = limits_of(layout, case)
    broken = structure_violations(assignment, case.setting.model, limits)
    if broken:
        return broken
    fresh = price_decisions(layout.inputs, case, assignment)
    idle = idle_chips(assignment, case.topology)
    found = list(limit_violations(fresh, limits))
    if idle != layout.idle_chips:
        found.append("idle_chips does not list exactly the chips without a rank")
    found += _spare_violations(layout, assignment, case)
    if stage_records(assignment) != layout.stages:
        found.append("stages: first layers, embedding or head do not follow from the ends")
    found += differences(layout.prediction, fresh, "prediction")
    found += gap_violations(layout.certificate)
    found += _failures(layout.inputs, case, assignment)
    return tuple(found)


def _failures(inputs: Inputs, case: _Case, assignment: Assignment) -> list[str]:
    """What goes wrong when a part dies that the layout is to survive."""
    units = failure_units(case.topology, inputs.survive)
    return failure_violations(case.setting, case.topology, assignment, case.loads, units)


def _spare_violations(layout: Layout, assignment: Assignment, case: _Case) -> list[str]:
    """Other spares than the planner's are as good, as long as they are free."""
    chips = {name: chip for chip, name in enumerate(case.topology.chip_names)}
    unknown = [name for name in layout.reserved_chips if name not in chips]
    if unknown:
        return [f"reserved_chips: there is no chip '{name}' on this machine" for name in unknown]
    spares = tuple(chips[name] for name in layout.reserved_chips)
    return spares_are_listed(spares, assignment, limits_of(layout, case))


def differences(stated: object, fresh: object, field: str) -> list[str]:
    """Where stated records differ from recomputed ones, field by field; floats to 1e-9."""
    if isinstance(fresh, Struct) and type(stated) is type(fresh):
        return [
            problem
            for name in fresh.__struct_fields__
            for problem in differences(
                getattr(stated, name), getattr(fresh, name), f"{field}.{name}"
            )
        ]
    if isinstance(fresh, tuple) and isinstance(stated, tuple) and len(fresh) == len(stated):
        return [
            problem
            for index, (told, real) in enumerate(zip(stated, fresh, strict=True))
            for problem in differences(told, real, f"{field}[{index}]")
        ]
    if isinstance(fresh, float) and isinstance(stated, float):
        same = abs(stated - fresh) <= RELATIVE_TOLERANCE * abs(fresh)
    else:
        same = stated == fresh
    return [] if same else [f"{field} says {stated!r}, the decisions give {fresh!r}"]


def _layout(inputs: Inputs, case: _Case, found: SearchResult) -> Layout:
    """Compose the record, after the validator's and the cost model's second opinion."""
    best = found.best
    layout = Layout(
        schema_version=SCHEMA_VERSION,
        planner_version=VERSION,
        inputs=inputs,
        degrees=degrees_record(best.assignment.degrees),
        stages=stage_records(best.assignment),
        ranks=rank_records(best.assignment, case.topology),
        idle_chips=idle_chips(best.assignment, case.topology),
        reserved_chips=reserved_chips(best.assignment, case.topology),
        experts=expert_records(best.assignment),
        batches=batch_records(best.assignment),
        prediction=best.prediction,
        certificate=found.certificate,
        runners_up=tuple(
            RunnerUp(
                degrees=degrees_record(other.assignment.degrees),
                batch=other.prediction.batch,
                step_s=other.prediction.step_s,
                tokens_per_s_per_chip=other.prediction.tokens_per_s_per_chip,
                bound_only=False,
            )
            for other in found.runners_up
        ),
        why=why(found),
    )
    limits = limits_of(layout, case)
    broken = structure_violations(best.assignment, case.setting.model, limits)
    broken += limit_violations(price_decisions(inputs, case, best.assignment), limits)
    broken += tuple(_failures(inputs, case, best.assignment))
    if broken:
        raise ModelBugError("the search returned an invalid layout: " + "; ".join(broken))
    return layout
