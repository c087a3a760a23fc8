"""Between a layout of two pools and what engines are told about each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs

from planner.api import case_of_inputs
from planner.deployment.assemble import Case
from planner.deployment.express import describe
from planner.deployment.serving import Deployment, chips_on, degrees_of_told, deploy
from planner.domain.deployment import PoolRole, ServingDeployment
from planner.domain.layout import SCHEMA_VERSION, Inputs, Layout
from planner.domain.serve_layout import (
    SERVE_SCHEMA_VERSION,
    PoolLayout,
    ServeInputs,
    ServeLayout,
    ServePrediction,
)
from planner.domain.workload import Objective, Phase
from planner.errors import SpecError
from planner.serve_api import evaluate_pools
from planner.serve_api.case import demand_of
from planner.version import VERSION


def pool_inputs(inputs: ServeInputs, role: PoolRole) -> Inputs:
    """What one pool depends on, as if it was planned alone."""
    demand = demand_of(inputs)
    prefill = role is PoolRole.PREFILL
    return Inputs(
        model=inputs.model,
        machine=inputs.machine,
        phase=Phase.PREFILL.value if prefill else Phase.DECODE.value,
        context_tokens=demand.cached_tokens if prefill else demand.context_tokens,
        seq_len=demand.new_tokens if prefill else None,
        objective=Objective.THROUGHPUT.value,
        time_model=inputs.time_model,
        ideal=inputs.ideal,
        price_usd_per_hour=inputs.price_usd_per_hour,
        routing_loads=inputs.routing_loads,
        acceptance=None if prefill else inputs.acceptance,
        exclude=inputs.exclude,
    )


def pool_layout(layout: ServeLayout, role: PoolRole) -> Layout:
    """One pool as a layout of its own; the chips of the other one are idle in it."""
    pool = layout.prefill if role is PoolRole.PREFILL else layout.decode
    other = layout.decode if role is PoolRole.PREFILL else layout.prefill
    used = {rank.chip for rank in pool.ranks}
    idle = [rank.chip for rank in other.ranks if rank.chip not in used]
    return Layout(
        schema_version=SCHEMA_VERSION,
        planner_version=VERSION,
        inputs=pool_inputs(layout.inputs, role),
        degrees=pool.degrees,
        stages=pool.stages,
        ranks=pool.ranks,
        idle_chips=(*layout.idle_chips, *idle),
        experts=pool.experts,
        batches=pool.batches,
        prediction=pool.prediction,
    )


def _pool_of(layout: Layout) -> PoolLayout:
    return PoolLayout(
        degrees=layout.degrees,
        stages=layout.stages,
        ranks=layout.ranks,
        experts=layout.experts,
        batches=layout.batches,
        prediction=layout.prediction,
    )


def joined(
    layout: ServeLayout, prefill: Layout, decode: Layout, names: Sequence[str]
) -> ServeLayout:
    """The same question with other pools, priced anew.

    Parameters
    ----------
    names : sequence of str
        Chips of the machine in its order.

    Raises
    ------
    SpecError
        The pools contradict each other.
    """
    used = {rank.chip for pool in (prefill, decode) for rank in pool.ranks}
    free = structs.replace(
        layout.inputs, limits={}, prefill_limits={}, gap=None, reserve=0, reserve_per_domain=0
    )
    return evaluate_pools(
        structs.replace(
            layout,
            inputs=free,
            prefill=_pool_of(prefill),
            decode=_pool_of(decode),
            idle_chips=tuple(name for name in names if name not in used),
            reserved_chips=(),
            certificate=None,
            why="",
        )
    )


def describe_pools(layout: ServeLayout) -> str:
    """Both pools in one line."""
    parts = [
        f"{role.value} {describe(pool_layout(layout, role))}"
        for role in (PoolRole.PREFILL, PoolRole.DECODE)
    ]
    return "; ".join(parts)


def layout_of_pools(inputs: ServeInputs, pools: tuple[Layout, Layout], case: Case) -> ServeLayout:
    """Both pools as one layout, priced.

    Raises
    ------
    SpecError
        They contradict each other.
    """
    prefill, decode = pools
    empty = ServePrediction(
        requests_per_s=0.0,
        limited_by="",
        prefill_requests_per_s=0.0,
        decode_requests_per_s=0.0,
        link_requests_per_s=None,
        ttft_s=0.0,
        prefill_s=0.0,
        transfer_s=0.0,
        tpot_s=0.0,
        kv_bytes=0.0,
        kv_bytes_per_chip=0.0,
        tokens_per_s=0.0,
        tokens_per_s_per_chip=0.0,
        chips_used=0,
        chips_rented=0,
        usd_per_million_tokens=None,
    )
    unpriced = ServeLayout(
        schema_version=SERVE_SCHEMA_VERSION,
        planner_version=VERSION,
        inputs=inputs,
        prefill=_pool_of(prefill),
        decode=_pool_of(decode),
        idle_chips=(),
        prediction=empty,
    )
    return joined(unpriced, prefill, decode, case.topology.chip_names)


def _sequences_of_passes(told: ServingDeployment, new_tokens: int) -> ServingDeployment:
    """A prefill worker runs as many prompts in a pass as its tokens hold."""
    if told.token_budget is None:
        return replace(told, max_sequences=told.max_sequences or 1)
    most = max(1, told.token_budget // new_tokens)
    return replace(told, max_sequences=min(most, told.max_sequences or most))


def deploy_pools(
    pools: tuple[ServingDeployment, ServingDeployment],
    inputs: ServeInputs,
    ranks: Sequence[tuple[str, int]] | None = None,
) -> tuple[tuple[Deployment, Deployment], Case]:
    """Price both pools of a deployment, prefill first.

    Parameters
    ----------
    ranks : sequence of (str, int), optional
        Host and device of every rank, prefill workers first; the machine's order when absent.

    Raises
    ------
    SpecError
        The flags contradict the model or the machine, or not one sequence fits.
    """
    demand = demand_of(inputs)
    prefill = _sequences_of_passes(pools[0], demand.new_tokens)
    found: list[Deployment] = []
    start = 0
    for told, role in ((prefill, PoolRole.PREFILL), (pools[1], PoolRole.DECODE)):
        own = pool_inputs(inputs, role)
        case = case_of_inputs(own)
        degrees = degrees_of_told(told, case)
        size = degrees.stage_chips * degrees.pp
        count = size * degrees.replicas
        if ranks is not None:
            chips = chips_on(ranks[start : start + count], case, degrees.replicas)
        else:
            names = case.topology.chip_names
            if start + count > len(names):
                raise SpecError(
                    f"both pools take more than the {len(names)} chips of the machine",
                    "size the machine up, for example --nodes 4",
                )
            chips = [tuple(names[at : at + size]) for at in range(start, start + count, size)]
        found.append(deploy(told, own, case, chips))
        start += count
    return (found[0], found[1]), case
