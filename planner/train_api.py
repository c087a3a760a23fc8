"""Library of training plans: search, check, price anew.

Paths and names in a :class:`planner.domain.training.TrainQuestion` are read here and nowhere
deeper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from msgspec import structs

from planner.api import differences, machine_of
from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine, machine_facts
from planner.catalog.model_config import (
    load_model,
    model_facts,
    model_from_facts,
    override_precision,
)
from planner.catalog.wounds_file import with_wounds
from planner.cost.block import matmul_rate
from planner.cost.runs.training import predict_training
from planner.domain.changed import UNCHANGED, Change, Changed
from planner.domain.dtypes import DType, dtype_of
from planner.domain.hardware import MachineSpec, Sizing, ideal
from planner.domain.layout import MachineInput, ModelInput
from planner.domain.model import ModelSpec
from planner.domain.outcome import Infeasible
from planner.domain.run import Optimizer, Overlap
from planner.domain.scale_up import GraphDomain
from planner.domain.train_layout import (
    RANK_ORDER,
    TRAIN_SCHEMA_VERSION,
    TrainInputs,
    TrainLayout,
    TrainPrediction,
    TrainRunnerUp,
)
from planner.domain.training import TrainLimits, TrainQuestion
from planner.domain.workload import Objective
from planner.errors import ModelBugError, SpecError
from planner.search.control import Progress
from planner.search.training.request import TrainRequest
from planner.search.training.result import TrainResult, search_training
from planner.topology.build import build_topology
from planner.topology.graph import Topology
from planner.topology.mixed import common_chip
from planner.topology.spares import excluded_chips
from planner.training.checks import certificate_violations, layout_violations
from planner.training.compose import (
    chunk_records,
    counts_of,
    degrees_record,
    idle_names,
    prediction_of,
    rank_chips,
    run_of_layout,
)
from planner.training.parts import MachinePart, machine_parts
from planner.training.reason import why
from planner.units import format_bytes
from planner.version import VERSION

__all__ = [
    "TrainQuestion",
    "evaluate_training",
    "plan_training",
    "price_training",
    "solve_training",
    "verify_training",
]


# Remedies only ask whether anything fits, on machines up to so many times larger.
LOOSE_GAP = 0.5
MOST_GROWTH = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class _Case:
    """A question with its files read: the model, the machine, and the parts that may train."""

    model: ModelSpec
    whole: Topology
    parts: tuple[MachinePart, ...]


def _check_numbers(question: TrainQuestion) -> None:
    checks = (
        ("--batch", question.global_batch, 1),
        ("--seq", question.seq_len, 1),
        ("--reserve", question.reserve, 0),
    )
    for option, value, least in checks:
        if value < least:
            raise SpecError(f"{option}: {value} is less than {least}")
    most = 1 << 40
    if question.global_batch * question.seq_len > most:
        raise SpecError(
            f"--batch x --seq: {question.global_batch * question.seq_len} tokens per step",
            "check the units: --seq 8k means 8192 tokens",
        )


def _sizing(spec: MachineSpec, count: int, given: Sizing) -> Sizing:
    match spec.scale_up.unit:
        case "node":
            return replace(given, nodes=count)
        case "rack":
            return replace(given, racks=count)
        case _:
            return replace(given, slices=count)


def _read(question: TrainQuestion, change: Change | None = None) -> tuple[TrainInputs, _Case]:
    _check_numbers(question)
    spec = sized(load_machine(question.machine), question.sizing)
    spec = spec if change is None else change(spec)
    model = load_model(question.model)
    if model.max_context is not None and question.seq_len > 16 * model.max_context:
        raise SpecError(
            f"--seq: {question.seq_len} is over 16 times the model's {model.max_context}",
            "check the unit: 8k means 8192 tokens",
        )
    price = question.price_usd_per_hour
    given = question.sizing
    inputs = TrainInputs(
        model=ModelInput(
            name=model.name,
            config=model_facts(question.model),
            weights=question.weights,
            activations=question.activations,
        ),
        machine=MachineInput(
            name=spec.name,
            facts=with_wounds(machine_facts(question.machine), spec),
            nodes=given.nodes,
            racks=given.racks,
            slices=given.slices,
            shape=given.shape,
        ),
        phase="train",
        global_batch=question.global_batch,
        seq_len=question.seq_len,
        objective=question.objective.value,
        overlap=tuple(sorted(item.value for item in question.overlap)),
        optimizer=question.optimizer.value,
        optimizer_state=question.optimizer_state.value,
        gradients=question.gradients.value,
        gap=question.gap,
        ideal=question.ideal,
        price_usd_per_hour=common_chip(spec).price_usd_per_hour if price is None else price,
        limits=question.limits.texts(),
        exclude=question.exclude,
        reserve=question.reserve,
    )
    return inputs, _case(inputs, model, spec)


def read_training(question: TrainQuestion) -> tuple[TrainInputs, _Case]:
    """Read the files of a question: what a layout carries, and what it is priced on."""
    return _read(question)


def training_case(layout: TrainLayout) -> tuple[_Case, MachinePart]:
    """What a layout was planned for, from the facts that it carries, and the part it runs on.

    Raises
    ------
    SpecError
        The machine has no such part.
    """
    case = _case_of_layout(layout)
    return case, _part_of(case, layout)


def _case(inputs: TrainInputs, model: ModelSpec, spec: MachineSpec) -> _Case:
    if inputs.ideal:
        spec = ideal(spec)
    given = inputs.model
    model = override_precision(model, _dtype(given.weights), _dtype(given.activations), None)
    whole = build_topology(spec)
    dtype = model.precision.activations
    try:
        matmul_rate(whole.chip, dtype, dtype)
    except ValueError:
        known = ", ".join(key for key, _ in whole.chip.peak_flop_per_s)
        raise SpecError(
            f"{whole.chip.name} does not multiply in {dtype.value}",
            f"choose --activations among its rates: {known}",
        ) from None
    out = excluded_chips(whole, inputs.exclude)
    return _Case(model=model, whole=whole, parts=machine_parts(whole, out, inputs.reserve))


def _dtype(name: str | None) -> DType | None:
    return None if name is None else dtype_of(name)


def _case_of_layout(layout: TrainLayout, changed: Changed = UNCHANGED) -> _Case:
    inputs = layout.inputs
    model = model_from_facts(inputs.model.config, inputs.model.name, "layout: inputs.model.config")
    return _case(inputs, changed.model(model), changed.machine(machine_of(inputs.machine)))


def _requests(
    question: TrainQuestion, inputs: TrainInputs, case: _Case
) -> tuple[TrainRequest, ...]:
    return tuple(
        replace(
            _request_of(inputs, case.model, part, question.limits),
            time_limit_s=question.time_limit_s,
        )
        for part in case.parts
    )


def requests_of_layout(layout: TrainLayout, limits: TrainLimits) -> tuple[TrainRequest, ...]:
    """The question that a layout file answers, with its limits read; that of its part first."""
    case = _case_of_layout(layout)
    own = _part_of(case, layout)
    parts = (own, *(part for part in case.parts if part is not own))
    return tuple(_request_of(layout.inputs, case.model, part, limits) for part in parts)


def _part_of(case: _Case, layout: TrainLayout) -> MachinePart:
    """The part of the machine that a layout runs on.

    Raises
    ------
    SpecError
        There is none with as many chips of each domain.
    """
    for part in case.parts:
        if part.domain_chips == layout.domain_chips:
            return part
    known = " or ".join(str(part.domain_chips) for part in case.parts)
    raise SpecError(
        f"the layout cannot be priced: domain_chips is {layout.domain_chips}, parts of this "
        f"machine have {known} chips of each {case.whole.spec.scale_up.unit}",
        "planner plan writes layouts that fit their machine",
    )


def _request_of(
    inputs: TrainInputs, model: ModelSpec, part: MachinePart, limits: TrainLimits
) -> TrainRequest:
    return TrainRequest(
        model=model,
        topology=part.topology,
        global_batch=inputs.global_batch,
        seq_len=inputs.seq_len,
        objective=Objective(inputs.objective),
        limits=limits,
        overlap=frozenset(Overlap(name) for name in inputs.overlap),
        optimizer=Optimizer(inputs.optimizer),
        optimizer_state=DType(inputs.optimizer_state),
        gradients=DType(inputs.gradients),
        price_usd_per_hour=inputs.price_usd_per_hour,
        gap=inputs.gap,
        rented_share=part.rented_chips / part.domain_chips,
    )


def plan_training(
    question: TrainQuestion, progress: Progress | None = None, *, interruptible: bool = False
) -> TrainLayout | Infeasible:
    """Find the best training layout for a question and prove how good it is.

    Raises
    ------
    SpecError, CatalogError
        The question or one of its files cannot be understood.
    ModelBugError
        The search and the validator disagree.
    """
    inputs, case = _read(question)
    requests = [replace(own, progress=progress) for own in _requests(question, inputs, case)]
    found = search_training(*requests, interruptible=interruptible)
    if isinstance(found, Infeasible):
        if found.resource != "memory":
            return found
        return structs.replace(found, remedies=tuple(_remedies(question)))
    return _layout(inputs, case, found)


def solve_training(
    question: TrainQuestion, change: Change | None = None
) -> TrainResult | Infeasible:
    """Answer a question as :func:`plan_training` does, on a machine changed after it was read.

    No layout is composed: no file describes such a machine.

    Raises
    ------
    SpecError, CatalogError
        The question or one of its files cannot be understood.
    """
    inputs, case = _read(question, change)
    return search_training(*_requests(question, inputs, case))


def _remedies(question: TrainQuestion) -> Iterator[str]:
    """Changes after which a layout fits, each one searched."""
    limits = question.limits
    changes: list[tuple[str, TrainQuestion]] = []
    if limits.recompute is not None:
        freed = replace(limits, recompute=None)
        changes.append(("--recompute full", replace(question, limits=freed)))
    if limits.zero is not None:
        freed = replace(limits, zero=None)
        changes.append(("--zero 3", replace(question, limits=freed)))
    if question.optimizer_state is DType.FP32:
        small = replace(question, optimizer_state=DType.BF16)
        changes.append(("--optimizer-state bf16", small))
    for text, changed in changes:
        if _fits(changed):
            yield text
    spec = sized(load_machine(question.machine), question.sizing)
    count = None if isinstance(spec.scale_up, GraphDomain) else _fewest_domains(question, spec)
    if count is not None:
        yield f"--{spec.scale_up.unit}s {count}"


def _fits(question: TrainQuestion) -> bool:
    """Whether a search finds a layout."""
    try:
        inputs, case = _read(question)
    except SpecError:
        return False
    requests = [replace(own, gap=LOOSE_GAP) for own in _requests(question, inputs, case)]
    return isinstance(search_training(*requests), TrainResult)


def _fewest_domains(question: TrainQuestion, spec: MachineSpec) -> int | None:
    """The smallest number of nodes, racks or slices that was found to do."""

    def fits(count: int) -> bool:
        return _fits(replace(question, sizing=_sizing(spec, count, question.sizing)))

    low, high = spec.num_domains, 2 * spec.num_domains
    while not fits(high):
        low, high = high, 2 * high
        if high > MOST_GROWTH * spec.num_domains:
            return None
    while high - low > max(1, high // 64):
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _layout(inputs: TrainInputs, case: _Case, found: TrainResult) -> TrainLayout:
    best, part = found.best, case.parts[found.place]
    layout = TrainLayout(
        schema_version=TRAIN_SCHEMA_VERSION,
        planner_version=VERSION,
        inputs=inputs,
        degrees=degrees_record(best.run),
        chunks=chunk_records(best.run, best.counts),
        rank_order=RANK_ORDER,
        domain_chips=part.domain_chips,
        chips=rank_chips(case.whole, part, best.run),
        idle_chips=idle_names(case.whole, part, best.run),
        prediction=prediction_of(case.model, part, inputs, (best.run, best.prediction)),
        certificate=found.certificate,
        runners_up=tuple(
            TrainRunnerUp(
                degrees=degrees_record(other.run),
                step_s=other.prediction.seconds,
                mfu=prediction_of(
                    case.model, case.parts[place], inputs, (other.run, other.prediction)
                ).mfu,
            )
            for place, other in found.runners_up
        ),
        why=why(case.model, found),
    )
    broken = layout_violations(layout, case.model, case.whole, part) + _memory_violations(layout)
    if broken:
        raise ModelBugError("the search returned an invalid layout: " + "; ".join(broken))
    return layout


def _memory_violations(layout: TrainLayout) -> list[str]:
    """``weights + gradients + states + activations + reserve <= usable HBM``."""
    memory = layout.prediction.memory
    if memory.used_bytes <= memory.capacity_bytes * (1 + 1e-9):
        return []
    return [
        f"the fullest chip needs {format_bytes(memory.used_bytes)}, "
        f"{format_bytes(memory.capacity_bytes)} are usable"
    ]


def evaluate_training(layout: TrainLayout) -> TrainLayout:
    """Price a layout file anew from its own decisions.

    Raises
    ------
    SpecError
        If the decisions contradict themselves and cannot be priced.
    """
    case = _case_of_layout(layout)
    part = _part_of(case, layout)
    broken = layout_violations(layout, case.model, case.whole, part)
    if broken:
        raise SpecError(
            "the layout cannot be priced: " + "; ".join(broken[:5]),
            "planner verify lists every violation",
        )
    fresh = _price(layout, case, part)
    if fresh == layout.prediction:
        return layout
    return structs.replace(layout, prediction=fresh, certificate=None, runners_up=(), why="")


def price_training(layout: TrainLayout, changed: Changed = UNCHANGED) -> TrainPrediction:
    """Price the decisions of a layout where machine or model are otherwise than it says.

    Whether the decisions still fit is not asked: see ``memory`` of the prediction.
    """
    case = _case_of_layout(layout, changed)
    return _price(layout, case, _part_of(case, layout))


def _price(layout: TrainLayout, case: _Case, part: MachinePart) -> TrainPrediction:
    run = run_of_layout(layout)
    priced = predict_training(case.model, part.topology, run, counts_of(layout))
    return prediction_of(case.model, part, layout.inputs, (run, priced))


def verify_training(layout: TrainLayout) -> tuple[str, ...]:
    """Everything that is wrong with a layout: decisions, limits, and stated predictions."""
    case = _case_of_layout(layout)
    try:
        part = _part_of(case, layout)
    except SpecError as error:
        return (error.message,)
    broken = layout_violations(layout, case.model, case.whole, part)
    if broken:
        return tuple(broken)
    fresh = evaluate_training(layout)
    found = differences(layout.prediction, fresh.prediction, "prediction")
    found += _memory_violations(fresh)
    found += certificate_violations(layout)
    return tuple(found)
