"""Library of plans with separate prefill and decode pools: search, check, price anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

from msgspec import structs

from planner.api import case_of_inputs, differences, read_question
from planner.compose import (
    assignment_of,
    batch_records,
    degrees_record,
    expert_records,
    rank_records,
    stage_records,
)
from planner.cost.routing import FloatArray
from planner.cost.served import ServeCase, Served, price_pools
from planner.cost.step import Setting
from planner.domain.assignment import Assignment
from planner.domain.cost import Prediction
from planner.domain.layout import Inputs
from planner.domain.outcome import Infeasible
from planner.domain.question import DegreeLimits, Question
from planner.domain.scale_up import GraphDomain, MeshDomain, SwitchDomain
from planner.domain.serve import Demand, ServeQuestion, check_demand
from planner.domain.serve_layout import (
    SERVE_SCHEMA_VERSION,
    PoolLayout,
    ServeInputs,
    ServeLayout,
)
from planner.domain.workload import Objective, Phase
from planner.errors import DisconnectedError, ModelBugError, SpecError
from planner.search.control import Progress
from planner.search.recheck_numbers import gap_violations
from planner.search.request import PlanRequest
from planner.search.serve.reason import why
from planner.search.serve.search import ServeRequest, ServeResult, search_pools
from planner.search.validate import (
    Limits,
    limit_violations,
    spares_are_idle,
    spares_are_listed,
    structure_violations,
)
from planner.topology.build import build_topology
from planner.topology.graph import Spared, Topology
from planner.topology.spares import spare_chips, sparing
from planner.units import format_seconds
from planner.version import VERSION

__all__ = ["ServeQuestion", "evaluate_pools", "plan_pools", "verify_pools"]

# Most chips of one worker, in whole domains; at least two domains.
MOST_WORKER_CHIPS = 144
ONE = frozenset({1})
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class _Case:
    """A question with its files read."""

    serve: ServeCase
    uniform: bool


def _decode_question(question: ServeQuestion) -> Question:
    """The decode pool's part of a question: what reads its files, and checks its numbers."""
    given, demand = question.sizing, question.demand
    return Question(
        model=question.model,
        machine=question.machine,
        context_tokens=demand.context_tokens,
        nodes=given.nodes,
        racks=given.racks,
        slices=given.slices,
        shape=given.shape,
        wounds=given.wounds,
        weights=question.weights,
        activations=question.activations,
        kv=question.kv,
        tpot_s=demand.tpot_s,
        price_usd_per_hour=question.price_usd_per_hour,
        time_model=question.time_model,
        ideal=question.ideal,
        loads=question.loads,
        limits=question.limits,
        gap=question.gap,
        exclude=question.exclude,
        reserve=question.reserve,
        reserve_per_domain=question.reserve_per_domain,
        acceptance=question.acceptance,
    )


def _read(question: ServeQuestion) -> tuple[ServeInputs, _Case]:
    check_demand(question.demand)
    demand = question.demand
    own, case = read_question(_decode_question(question))
    inputs = ServeInputs(
        model=own.model,
        machine=own.machine,
        phase=Phase.SERVE.value,
        input_len=demand.input_len,
        output_len=demand.output_len,
        prefix_hit=demand.prefix_hit,
        ttft_s=demand.ttft_s,
        tpot_s=demand.tpot_s,
        rate_per_s=demand.rate_per_s,
        time_model=own.time_model,
        ideal=own.ideal,
        price_usd_per_hour=own.price_usd_per_hour,
        routing_loads=own.routing_loads,
        acceptance=own.acceptance,
        exclude=own.exclude,
        reserve=own.reserve,
        reserve_per_domain=own.reserve_per_domain,
        limits=question.limits.texts(),
        prefill_limits=question.prefill_limits.texts(),
        gap=question.gap,
    )
    return inputs, _case(inputs, case.setting, case.topology, (case.loads, case.uniform))


def _case(
    inputs: ServeInputs, decode: Setting, topology: Topology, loads: tuple[FloatArray, bool]
) -> _Case:
    if not isinstance(topology.spec.scale_up, SwitchDomain | MeshDomain):
        kind = "listed link by link" if isinstance(topology.spec.scale_up, GraphDomain) else "tori"
        raise SpecError(
            f"pools are planned on nodes and racks, not on machines that are {kind}",
            "plan --phase prefill and --phase decode",
        )
    demand = _demand(inputs)
    prefill = replace(
        decode,
        context_tokens=demand.cached_tokens,
        new_tokens=float(demand.new_tokens),
        acceptance=0.0,
    )
    serve = ServeCase(
        prefill=prefill,
        decode=decode,
        topology=topology,
        loads=loads[0],
        demand=demand,
        price_usd_per_hour=inputs.price_usd_per_hour,
    )
    return _Case(serve=serve, uniform=loads[1])


def _demand(inputs: ServeInputs) -> Demand:
    return Demand(
        input_len=inputs.input_len,
        output_len=inputs.output_len,
        prefix_hit=inputs.prefix_hit,
        ttft_s=inputs.ttft_s,
        tpot_s=inputs.tpot_s,
        rate_per_s=inputs.rate_per_s,
    )


def _case_of_layout(layout: ServeLayout) -> _Case:
    inputs = layout.inputs
    check_demand(_demand(inputs))
    case = case_of_inputs(
        Inputs(
            model=inputs.model,
            machine=inputs.machine,
            phase=Phase.DECODE.value,
            context_tokens=_demand(inputs).context_tokens,
            objective=Objective.THROUGHPUT.value,
            time_model=inputs.time_model,
            ideal=inputs.ideal,
            routing_loads=inputs.routing_loads,
            acceptance=inputs.acceptance,
            exclude=inputs.exclude,
            reserve=inputs.reserve,
            reserve_per_domain=inputs.reserve_per_domain,
        )
    )
    return _case(inputs, case.setting, case.topology, (case.loads, case.uniform))


def worker_block(topology: Topology) -> Topology:
    """Sound domains for one worker, each with as many chips as the largest may use.

    Workers take at most ``MOST_WORKER_CHIPS`` chips, or two domains where these are larger.
    """
    spec, largest = topology.spec, topology.largest_open
    size = spec.domain_chips
    count = min(len(topology.domains), spec.num_domains, max(2, MOST_WORKER_CHIPS // largest))
    sound = build_topology(replace(spec, num_domains=count, wounds=type(spec.wounds)()))
    return sparing(sound, Spared(reserve_per_domain=size - largest))


def _request(question: ServeQuestion, case: _Case) -> ServeRequest:
    serve = case.serve
    block = worker_block(serve.topology)

    def of_pool(setting: Setting, limits: DegreeLimits, most_s: float | None) -> PlanRequest:
        return PlanRequest(
            setting=setting,
            topology=block,
            loads=serve.loads,
            uniform=case.uniform,
            objective=Objective.THROUGHPUT,
            limits=replace(limits, replicas=ONE),
            step_limit_s=most_s,
            gap=question.gap,
            time_limit_s=question.time_limit_s,
            counts_used=True,
        )

    demand = serve.demand
    return ServeRequest(
        prefill=of_pool(serve.prefill, question.prefill_limits, demand.ttft_s),
        decode=of_pool(serve.decode, question.limits, demand.tpot_s),
        case=serve,
        workers=(
            _pinned(question.prefill_limits, "--prefill-workers"),
            _pinned(question.limits, "--workers"),
        ),
    )


def _pinned(limits: DegreeLimits, option: str) -> int | None:
    given = limits.replicas
    if given is None:
        return None
    if len(given) > 1:
        raise SpecError(f"{option}: more than one number", "write one, or leave it free")
    return next(iter(given))


def plan_pools(
    question: ServeQuestion, progress: Progress | None = None, *, interruptible: bool = False
) -> ServeLayout | Infeasible:
    """Find the best prefill and decode pools for a question and prove how good they are.

    Raises
    ------
    SpecError, CatalogError
        The question or one of its files cannot be understood.
    ModelBugError
        The search and the validator disagree.
    """
    inputs, case = _read(question)
    request = _request(question, case)
    request = replace(request, decode=replace(request.decode, progress=progress))
    found = search_pools(request, interruptible=interruptible)
    if isinstance(found, Infeasible):
        return found
    return _layout(inputs, case, found)


def _pool(topology: Topology, assignment: Assignment, prediction: Prediction) -> PoolLayout:
    return PoolLayout(
        degrees=degrees_record(assignment.degrees),
        stages=stage_records(assignment),
        ranks=rank_records(assignment, topology),
        experts=expert_records(assignment),
        batches=batch_records(assignment),
        prediction=prediction,
    )


def _used(served: Served) -> frozenset[int]:
    pools = (served.prefill, served.decode)
    return frozenset(chip for pool in pools for w in pool.cells for cell in w for chip in cell)


def _layout(inputs: ServeInputs, case: _Case, found: ServeResult) -> ServeLayout:
    best, topology = found.best, case.serve.topology
    used = _used(best)
    names = topology.chip_names
    spares = spare_chips(topology, used) if topology.spared else ()
    layout = ServeLayout(
        schema_version=SERVE_SCHEMA_VERSION,
        planner_version=VERSION,
        inputs=inputs,
        prefill=_pool(topology, best.prefill, best.prefill_pass),
        decode=_pool(topology, best.decode, best.decode_step),
        idle_chips=tuple(name for chip, name in enumerate(names) if chip not in used),
        reserved_chips=tuple(names[chip] for chip in spares),
        prediction=best.together,
        certificate=found.certificate,
        why=why(best, case.serve),
    )
    broken = _violations(layout, case)
    if broken:
        raise ModelBugError("the search returned an invalid layout: " + "; ".join(broken))
    return layout


def _pools(layout: ServeLayout, topology: Topology) -> tuple[Assignment, Assignment]:
    """Decisions of both pools.

    Raises
    ------
    SpecError
        They contradict themselves.
    """
    found = []
    for name, pool in (("prefill", layout.prefill), ("decode", layout.decode)):
        try:
            found.append(assignment_of(pool, topology))
        except SpecError as error:
            raise SpecError(f"{name}: {error.message}") from None
    return found[0], found[1]


def _structure(layout: ServeLayout, case: _Case, pools: tuple[Assignment, Assignment]) -> list[str]:
    """What must hold before two pools can be priced: each alone, and no chip in both."""
    topology, spared = case.serve.topology, case.serve.topology.spared
    alone = Limits(
        num_chips=topology.num_chips,
        step_limit_s=None,
        batch=None,
        excluded=spared.excluded,
    )
    found = []
    for name, pool in zip(("prefill", "decode"), pools, strict=True):
        own = structure_violations(pool, case.serve.decode.model, alone)
        found += [f"{name}: {problem}" for problem in own]
    first, second = (
        {chip for worker in pool.cells for cell in worker for chip in cell} for pool in pools
    )
    both = sorted(first & second)
    found += [f"chip {topology.chip_names[chip]} is in both pools" for chip in both[:5]]
    if pools[0].degrees.draft:
        found.append("prefill: drafts belong to decode")
    joined = replace(pools[0], cells=pools[0].cells + pools[1].cells)
    limits = replace(
        alone,
        reserve=spared.reserve,
        reserve_per_domain=spared.reserve_per_domain,
        domains=topology.domains if spared.reserve_per_domain else (),
    )
    found += spares_are_idle(joined, limits)
    chips = {name: chip for chip, name in enumerate(topology.chip_names)}
    unknown = [name for name in layout.reserved_chips if name not in chips]
    if unknown:
        return [*found, f"reserved_chips: there is no chip '{unknown[0]}' on this machine"]
    spares = tuple(chips[name] for name in layout.reserved_chips)
    return found + spares_are_listed(spares, joined, limits)


def _violations(layout: ServeLayout, case: _Case) -> list[str]:
    """Everything that is wrong with decisions, limits and stated predictions."""
    topology, demand = case.serve.topology, case.serve.demand
    pools = _pools(layout, topology)
    broken = _structure(layout, case, pools)
    if broken:
        return broken
    fresh = price_pools(case.serve, *pools)
    found = []
    free = Limits(num_chips=topology.num_chips, step_limit_s=None, batch=None)
    parts = (
        ("prefill", layout.prefill, fresh.prefill_pass),
        ("decode", layout.decode, fresh.decode_step),
    )
    for (name, stated, own), pool in zip(parts, pools, strict=True):
        found += [f"{name}: {problem}" for problem in limit_violations(own, free)]
        found += differences(stated.prediction, own, f"{name}.prediction")
        if stage_records(pool) != stated.stages:
            found.append(f"{name}.stages: layers, embedding or head do not follow from the ends")
    together = fresh.together
    for name, value, most in (
        ("time to the first token", together.ttft_s, demand.ttft_s),
        ("step", together.tpot_s, demand.tpot_s),
    ):
        if most is not None and value > most * (1 + _ROUNDING):
            limit, took = format_seconds(most), format_seconds(value)
            found.append(f"the {name} takes {took}, the limit is {limit}")
    rate = demand.rate_per_s
    if rate is not None and together.requests_per_s < rate * (1 - _ROUNDING):
        found.append(f"{together.requests_per_s:g} requests/s are served, {rate:g} are asked for")
    found += differences(layout.prediction, together, "prediction")
    used = _used(fresh)
    names = topology.chip_names
    if layout.idle_chips != tuple(name for chip, name in enumerate(names) if chip not in used):
        found.append("idle_chips does not list exactly the chips without a rank")
    return found


def verify_pools(layout: ServeLayout) -> tuple[str, ...]:
    """Everything that is wrong with a layout: decisions, limits, and stated predictions."""
    case = _case_of_layout(layout)
    try:
        found = _violations(layout, case)
    except SpecError as error:
        return (error.message,)
    except DisconnectedError as error:
        return (str(error),)
    return (*found, *gap_violations(layout.certificate))


def evaluate_pools(layout: ServeLayout) -> ServeLayout:
    """Price a layout file anew from its own decisions.

    Raises
    ------
    SpecError
        If the decisions contradict themselves and cannot be priced.
    """
    case = _case_of_layout(layout)
    topology = case.serve.topology
    pools = _pools(layout, topology)
    broken = _structure(layout, case, pools)
    if broken:
        raise SpecError(
            "the layout cannot be priced: " + "; ".join(broken[:5]),
            "planner verify lists every violation",
        )
    fresh = price_pools(case.serve, *pools)
    prefill = structs.replace(layout.prefill, prediction=fresh.prefill_pass)
    decode = structs.replace(layout.decode, prediction=fresh.decode_step)
    priced = structs.replace(layout, prefill=prefill, decode=decode, prediction=fresh.together)
    if priced == layout:
        return layout
    return structs.replace(priced, certificate=None, why="")
