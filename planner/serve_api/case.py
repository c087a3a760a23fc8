"""A question about two pools with its files read, and what the search wants to know."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.api import case_of_inputs
from planner.api import read_question as read_decode_question
from planner.cost.routing import FloatArray
from planner.cost.served import ServeCase
from planner.cost.step import Setting
from planner.domain.hardware import NO_WOUNDS
from planner.domain.layout import Inputs
from planner.domain.question import DegreeLimits, Question
from planner.domain.scale_up import GraphDomain, MeshDomain, SwitchDomain
from planner.domain.serve import Demand, ServeQuestion, check_demand
from planner.domain.serve_layout import (
    ServeInputs,
    ServeLayout,
)
from planner.domain.workload import Objective, Phase
from planner.errors import SpecError
from planner.search.request import PlanRequest
from planner.search.serve.search import ServeRequest
from planner.topology.build import build_topology
from planner.topology.graph import Spared, Topology
from planner.topology.spares import sparing

# Most chips of one worker, in whole domains; at least two domains.
MOST_WORKER_CHIPS = 144
ONE = frozenset({1})


@dataclass(frozen=True, kw_only=True, eq=False)
class PoolCase:
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


def read_question(question: ServeQuestion) -> tuple[ServeInputs, PoolCase]:
    """Read the files of a question.

    Raises
    ------
    SpecError, CatalogError
        The question or one of its files cannot be understood.
    """
    check_demand(question.demand)
    demand = question.demand
    own, case = read_decode_question(_decode_question(question))
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
) -> PoolCase:
    if not isinstance(topology.spec.scale_up, SwitchDomain | MeshDomain):
        kind = "listed link by link" if isinstance(topology.spec.scale_up, GraphDomain) else "tori"
        raise SpecError(
            f"pools are planned on nodes and racks, not on machines that are {kind}",
            "plan --phase prefill and --phase decode",
        )
    demand = demand_of(inputs)
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
    return PoolCase(serve=serve, uniform=loads[1])


def demand_of(inputs: ServeInputs) -> Demand:
    """The requests that a layout was planned for."""
    return Demand(
        input_len=inputs.input_len,
        output_len=inputs.output_len,
        prefix_hit=inputs.prefix_hit,
        ttft_s=inputs.ttft_s,
        tpot_s=inputs.tpot_s,
        rate_per_s=inputs.rate_per_s,
    )


def case_of_layout(layout: ServeLayout) -> PoolCase:
    """Rebuild what a layout was planned for from the facts that it carries."""
    inputs = layout.inputs
    check_demand(demand_of(inputs))
    case = case_of_inputs(
        Inputs(
            model=inputs.model,
            machine=inputs.machine,
            phase=Phase.DECODE.value,
            context_tokens=demand_of(inputs).context_tokens,
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
    mix = tuple((domain, chip) for domain, chip in spec.mix if domain < count)
    sound = build_topology(replace(spec, num_domains=count, wounds=NO_WOUNDS, mix=mix))
    return sparing(sound, Spared(reserve_per_domain=size - largest))


def request_of(question: ServeQuestion, case: PoolCase) -> ServeRequest:
    """What the search wants to know.

    Raises
    ------
    SpecError
        A number of workers is pinned to more than one value.
    """
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
