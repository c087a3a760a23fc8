"""Library of ``planner replan``: read the changes, search, check, write down what moves."""

from __future__ import annotations

from dataclasses import dataclass, replace

from msgspec import structs

from planner.api import case_of_layout, limits_of, request_of, verify
from planner.catalog.machines import machine_from_facts
from planner.catalog.model_config import model_from_facts
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
from planner.cost.routing import moe_layer_indices, moe_shape
from planner.domain.hardware import DEFAULT_SIZE, Sizing
from planner.domain.layout import Inputs, Layout, MachineInput
from planner.domain.model import ModelSpec
from planner.domain.outcome import Infeasible
from planner.domain.question import DegreeLimits, Question, check_context
from planner.domain.ranges import read_ranges
from planner.domain.replan import (
    LayoutFigures,
    ReplanRecord,
)
from planner.domain.workload import Objective, Phase
from planner.errors import ModelBugError, SpecError
from planner.moves import migration_record, on_other_machine
from planner.search.control import Progress
from planner.search.objective import UNITS
from planner.search.replan import ReplanResult, replan_layout
from planner.search.replan_request import Candidate, MoveLimits, ReplanRequest, transition
from planner.topology.graph import Topology
from planner.units import format_seconds
from planner.version import VERSION

__all__ = ["Changes", "Replan", "ReplanQuestion", "replan"]

AMORTISE_S = 600.0
DEGREE_LIMITS = tuple(DegreeLimits.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What is different now; None leaves it as the layout's file has it.

    Parameters
    ----------
    sizing : Sizing
        Another number of nodes, racks or slices, another shape; further wounds.
    repaired : tuple of str
        Names of dead or slow parts that are well again.
    loads : str, optional
        File of new routing loads.
    batch : int, optional
        0 frees the batch.
    reserve : (int, int), optional
        Spares of the whole machine, and of every domain.
    survive : str, optional
        Part of which any one may die; ``none`` for a layout that need not survive any more.
    """

    sizing: Sizing = DEFAULT_SIZE
    repaired: tuple[str, ...] = ()
    loads: str | None = None
    context_tokens: int | None = None
    tpot_s: float | None = None
    batch: int | None = None
    reserve: tuple[int, int] | None = None
    survive: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplanQuestion:
    """A layout that runs, what has changed, and what a migration may cost.

    Without ``max_move_bytes`` and ``amortise_s`` migrations are amortised over ten minutes.
    """

    layout: Layout
    changes: Changes
    max_move_bytes: float | None = None
    amortise_s: float | None = None
    drop_caches: bool = False
    time_limit_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Replan:
    """The next layout, and how to get there."""

    layout: Layout
    record: ReplanRecord


def replan(question: ReplanQuestion, progress: Progress | None = None) -> Replan | Infeasible:
    """Find the next layout for what has changed.

    Raises
    ------
    SpecError, CatalogError
        The layout contradicts itself, or a change cannot be read or does not apply.
    ModelBugError
        The search and the validator disagree.
    """
    layout, changes = question.layout, question.changes
    if layout.inputs.phase != Phase.DECODE.value:
        raise SpecError(
            f"replan takes layouts of decode, this one is of {layout.inputs.phase}",
            "plan it anew: planner plan",
        )
    if layout.inputs.objective not in tuple(Objective):
        known = ", ".join(Objective)
        raise SpecError(f"inputs.objective: '{layout.inputs.objective}' is not one of {known}")
    inputs = _changed(layout.inputs, changes)
    before = case_of_layout(layout)
    running = assignment_of(layout, before.topology)
    _check_runs(layout)
    draft = structs.replace(layout, inputs=inputs)
    after = case_of_layout(draft)
    old = on_other_machine(running, before.topology, after.topology)
    asked = question.max_move_bytes is not None or question.amortise_s is not None
    amortise_s = question.amortise_s if asked else AMORTISE_S
    plan_question = Question(
        model=inputs.model.name,
        machine=inputs.machine.name,
        context_tokens=inputs.context_tokens,
        limits=_limits(inputs),
        gap=0.005 if inputs.gap is None else inputs.gap,
        time_limit_s=question.time_limit_s,
    )
    request = ReplanRequest(
        plan=replace(request_of(plan_question, inputs, after), progress=progress),
        limits=limits_of(draft, after),
        before=before.setting,
        old=old,
        moves=MoveLimits(
            most_bytes=question.max_move_bytes,
            amortise_s=amortise_s,
            drop_caches=question.drop_caches,
            stays=inputs == layout.inputs and not asked,
        ),
    )
    found = replan_layout(request)
    if isinstance(found, Infeasible):
        return _without_survival(request, found)
    nothing = inputs == layout.inputs and found.chosen.solved.assignment == old
    chosen = layout if nothing else _composed(draft, found, after.topology)
    record = _record(request, found, describe(layout.inputs, inputs))
    return Replan(layout=chosen, record=record)


def _without_survival(request: ReplanRequest, found: Infeasible) -> Infeasible:
    """Say where a layout that need not survive would do."""
    if not request.plan.units:
        return found
    free = replace(request, plan=replace(request.plan, units=(), progress=None))
    if isinstance(replan_layout(free), Infeasible):
        return found
    return structs.replace(found, remedies=(*found.remedies, "--survive none"))


def _check_runs(layout: Layout) -> None:
    broken = verify(layout)
    if broken:
        raise SpecError(
            "the layout is not valid as it is: " + "; ".join(broken[:3]),
            "planner verify lists every violation; planner evaluate -o prices an edited file anew",
        )


def _limits(inputs: Inputs) -> DegreeLimits:
    unknown = set(inputs.limits) - set(DEGREE_LIMITS)
    try:
        values = {name: read_ranges(text) for name, text in inputs.limits.items()}
    except ValueError as error:
        raise SpecError(f"inputs.limits: {error}", "write for example 1..4,8") from None
    if unknown:
        raise SpecError(f"inputs.limits: there is no degree '{sorted(unknown)[0]}'")
    return DegreeLimits(**values)


def _changed(inputs: Inputs, changes: Changes) -> Inputs:
    """The question of a layout with the changes made."""
    for option, value, least in (
        ("--context", changes.context_tokens, 1),
        ("--batch", changes.batch, 0),
    ):
        if value is not None and value < least:
            raise SpecError(f"{option}: {value} is less than {least}")
    made = structs.replace(inputs, machine=_machine(inputs.machine, changes))
    if changes.context_tokens is not None:
        check_context(_model(inputs).max_context, changes.context_tokens, "--context")
        made = structs.replace(made, context_tokens=changes.context_tokens)
    if changes.tpot_s is not None:
        made = structs.replace(made, tpot_s=changes.tpot_s)
    if changes.batch is not None:
        made = structs.replace(made, batch=changes.batch or None)
    if changes.survive is not None:
        survive = None if changes.survive == "none" else changes.survive
        made = structs.replace(made, survive=survive)
    if changes.reserve is not None:
        whole, each = changes.reserve
        made = structs.replace(made, reserve=whole, reserve_per_domain=each)
    if changes.loads is not None:
        made = structs.replace(made, routing_loads=_loads(inputs, changes.loads))
    return made


def _model(inputs: Inputs) -> ModelSpec:
    given = inputs.model
    return model_from_facts(given.config, given.name, "layout: inputs.model.config")


def _loads(inputs: Inputs, path: str) -> tuple[tuple[float, ...], ...] | None:
    model = _model(inputs)
    return load_routing(path, moe_shape(model), len(moe_layer_indices(model)))


def _machine(given: MachineInput, changes: Changes) -> MachineInput:
    """The machine in its new size and state."""
    sizing = changes.sizing
    sizes = {
        name: value
        for name in ("nodes", "racks", "slices", "shape")
        if (value := getattr(sizing, name)) is not None
    }
    spec = machine_from_facts(given.facts, "layout: inputs.machine.facts")
    wounds = spec.wounds
    for name in changes.repaired:
        known = (*wounds.without, *dict(wounds.degrade), *dict(wounds.usable))
        if name not in known:
            listed = ", ".join(known[:5]) or "nothing"
            raise SpecError(
                f"--repaired: '{name}' is not wounded in the layout's file",
                f"wounded there: {listed}",
            )
        wounds = replace(
            wounds,
            without=tuple(own for own in wounds.without if own != name),
            degrade=tuple(own for own in wounds.degrade if own[0] != name),
            usable=tuple(own for own in wounds.usable if own[0] != name),
        )
    wounds = wounds.joined(sizing.wounds)
    facts = dict(given.facts)
    if wounds != spec.wounds:
        facts.pop("wounds", None)
        facts = with_wounds(facts, replace(spec, wounds=wounds))
    return structs.replace(given, facts=facts, **sizes)


def _composed(draft: Layout, found: ReplanResult, topology: Topology) -> Layout:
    """The layout's record, after the validator's and the cost model's second opinion."""
    chosen = found.chosen.solved
    assignment = chosen.assignment
    layout = structs.replace(
        draft,
        planner_version=VERSION,
        degrees=degrees_record(assignment.degrees),
        stages=stage_records(assignment),
        ranks=rank_records(assignment, topology),
        idle_chips=idle_chips(assignment, topology),
        reserved_chips=reserved_chips(assignment, topology),
        experts=expert_records(assignment),
        batches=batch_records(assignment),
        prediction=chosen.prediction,
        certificate=found.certificate,
        runners_up=(),
        why="the layout of a replan: it leaves in place what does not pay to move",
    )
    broken = verify(layout)
    if broken:
        raise ModelBugError("the replan returned an invalid layout: " + "; ".join(broken))
    return layout


def describe(old: Inputs, new: Inputs) -> tuple[str, ...]:
    """What two questions differ in, in words."""
    found = []
    before = machine_from_facts(old.machine.facts).wounds
    after = machine_from_facts(new.machine.facts).wounds
    for name in ("nodes", "racks", "slices", "shape"):
        a, b = getattr(old.machine, name), getattr(new.machine, name)
        if a != b:
            found.append(f"{name} {_text(a, 'the default')} -> {_text(b, 'the default')}")
    gone = [name for name in after.without if name not in before.without]
    found += [f"without {name}" for name in gone]
    found += [f"{name} is back" for name in before.without if name not in after.without]
    slow = dict(before.degrade)
    for name, left in after.degrade:
        if slow.get(name) != left:
            found.append(f"{name} at {left:g} of its bandwidth")
    found += [f"{name} at full bandwidth" for name in slow if name not in dict(after.degrade)]
    usable = dict(before.usable)
    for name, count in after.usable:
        if usable.get(name) != count:
            found.append(f"{count} chips of {name} usable")
    found += [f"all chips of {name} usable" for name in usable if name not in dict(after.usable)]
    if old.context_tokens != new.context_tokens:
        found.append(f"context {old.context_tokens:,} -> {new.context_tokens:,} tokens")
    if old.tpot_s != new.tpot_s:
        limits = ["none" if s is None else format_seconds(s) for s in (old.tpot_s, new.tpot_s)]
        found.append(f"TPOT limit {limits[0]} -> {limits[1]}")
    if old.batch != new.batch:
        found.append(f"batch {_text(old.batch, 'free')} -> {_text(new.batch, 'free')}")
    if old.survive != new.survive:
        parts = [_text(old.survive, "nothing"), _text(new.survive, "nothing")]
        found.append(f"survives the loss of {parts[0]} -> {parts[1]}")
    if (old.reserve, old.reserve_per_domain) != (new.reserve, new.reserve_per_domain):
        spares = [
            f"{one.reserve_per_domain}/domain" if one.reserve_per_domain else str(one.reserve)
            for one in (old, new)
        ]
        found.append(f"reserve {spares[0]} -> {spares[1]}")
    if old.routing_loads != new.routing_loads:
        found.append("routing loads")
    return tuple(found)


def _text(value: object, absent: str) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return absent if value is None else str(value)


def _figures(one: Candidate) -> LayoutFigures:
    prediction = one.solved.prediction
    return LayoutFigures(
        degrees=degrees_record(one.solved.assignment.degrees),
        chips=one.solved.assignment.degrees.chips_used,
        batch=prediction.batch,
        step_s=prediction.step_s,
        tokens_per_s=prediction.tokens_per_s,
        objective=one.value,
        moved_bytes=one.moved_bytes,
        migration_s=one.time.seconds,
    )


def _break_even_s(chosen: Candidate, least: Candidate) -> float | None:
    """``T`` with ``(T - m) / f = (T - m0) / f0``: as much done in all as with the fewest moves."""
    if chosen.value >= least.value:
        return None
    rate, other = 1 / chosen.value, 1 / least.value
    both = chosen.time.seconds * rate - least.time.seconds * other
    return max(chosen.time.seconds, both / (rate - other))


def _record(request: ReplanRequest, found: ReplanResult, changes: tuple[str, ...]) -> ReplanRecord:
    chosen, least = found.chosen, found.least
    moves = request.moves
    return ReplanRecord(
        planner_version=VERSION,
        changes=changes,
        old_is_valid=found.old_is_valid,
        chosen=_figures(chosen),
        least=_figures(least),
        scratch=_figures(found.scratch),
        gain=least.value / chosen.value - 1,
        break_even_s=_break_even_s(chosen, least),
        max_move_bytes=moves.most_bytes,
        amortise_s=moves.amortise_s,
        unit=UNITS[Objective(request.plan.objective)],
        bound=found.bound,
        gap=None if found.certificate is None else found.certificate.gap,
        candidates=found.candidates,
        migration=migration_record(
            transition(request, chosen.solved.assignment), chosen.migration, chosen.time
        ),
    )
