"""What is wrong with a layout of two pools: each alone, both together, limits and figures."""

from __future__ import annotations

from dataclasses import replace

from planner.api import differences
from planner.compose import (
    assignment_of,
    stage_records,
)
from planner.cost.served import Served, price_pools
from planner.domain.assignment import Assignment
from planner.domain.serve_layout import (
    ServeLayout,
)
from planner.errors import SpecError
from planner.search.validate import (
    Limits,
    limit_violations,
    spares_are_idle,
    spares_are_listed,
    structure_violations,
)
from planner.serve_api.case import PoolCase
from planner.topology.graph import Topology
from planner.units import format_seconds

_ROUNDING = 1e-9


def used_chips(served: Served) -> frozenset[int]:
    """Chips of both pools."""
    pools = (served.prefill, served.decode)
    return frozenset(chip for pool in pools for w in pool.cells for cell in w for chip in cell)


def pools_of(layout: ServeLayout, topology: Topology) -> tuple[Assignment, Assignment]:
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


def structure_problems(
    layout: ServeLayout, case: PoolCase, pools: tuple[Assignment, Assignment]
) -> list[str]:
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


def all_problems(layout: ServeLayout, case: PoolCase) -> list[str]:
    """Everything that is wrong with decisions, limits and stated predictions."""
    topology, demand = case.serve.topology, case.serve.demand
    pools = pools_of(layout, topology)
    broken = structure_problems(layout, case, pools)
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
    used = used_chips(fresh)
    names = topology.chip_names
    if layout.idle_chips != tuple(name for chip, name in enumerate(names) if chip not in used):
        found.append("idle_chips does not list exactly the chips without a rank")
    return found
