"""Pools planned, priced anew and verified."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from msgspec import structs

from planner.compose import (
    batch_records,
    degrees_record,
    expert_records,
    rank_records,
    stage_records,
)
from planner.cost.served import price_pools
from planner.domain.assignment import Assignment
from planner.domain.cost import Prediction
from planner.domain.outcome import Infeasible
from planner.domain.serve import ServeQuestion
from planner.domain.serve_layout import (
    SERVE_SCHEMA_VERSION,
    PoolLayout,
    ServeInputs,
    ServeLayout,
)
from planner.errors import DisconnectedError, ModelBugError, SpecError
from planner.search.control import Progress
from planner.search.recheck_numbers import gap_violations
from planner.search.serve.reason import why
from planner.search.serve.search import ServeResult, search_pools
from planner.serve_api.case import (
    MOST_WORKER_CHIPS,
    PoolCase,
    case_of_layout,
    read_question,
    request_of,
)
from planner.serve_api.checks import all_problems, pools_of, structure_problems, used_chips
from planner.topology.graph import Topology
from planner.topology.spares import spare_chips
from planner.version import VERSION

# A remedy needs not be the best.
LOOSE_GAP = 0.05


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
    inputs, case = read_question(question)
    request = request_of(question, case)
    request = replace(request, decode=replace(request.decode, progress=progress))
    found = search_pools(request, interruptible=interruptible)
    if isinstance(found, Infeasible):
        if found.resource == "rate":
            return structs.replace(found, remedies=_slower(question) or found.remedies)
        if found.resource == "memory":
            more = tuple(_larger(question, case.serve.topology))
            return structs.replace(found, remedies=(*more, *found.remedies))
        return found
    return _layout(inputs, case, found)


def _slower(question: ServeQuestion) -> tuple[str, ...]:
    """The rate that a search of the same machine reaches."""
    free = replace(question, demand=replace(question.demand, rate_per_s=None), gap=LOOSE_GAP)
    found = plan_pools(free)
    if isinstance(found, Infeasible):
        return ()
    rate = found.prediction.requests_per_s
    digits = 2 - math.floor(math.log10(rate))
    return (f"--rate {math.floor(rate * 10.0**digits) / 10.0**digits:g}/s",)


def _larger(question: ServeQuestion, topology: Topology) -> Iterator[str]:
    """A small machine's multiple on which pools are found."""
    spec = topology.spec
    if spec.scale_out is None:
        return
    unit = spec.scale_up.unit
    for factor in range(2, MOST_WORKER_CHIPS // (spec.num_domains * spec.domain_chips) + 1):
        count = factor * spec.num_domains
        given = question.sizing
        sizing = replace(given, nodes=count) if unit == "node" else replace(given, racks=count)
        try:
            _, case = read_question(replace(question, sizing=sizing, gap=LOOSE_GAP))
        except SpecError:
            return
        request = request_of(replace(question, gap=LOOSE_GAP), case)
        if isinstance(search_pools(request), ServeResult):
            yield f"--{unit}s {count} instead of {spec.num_domains}"
            return


def _pool(topology: Topology, assignment: Assignment, prediction: Prediction) -> PoolLayout:
    return PoolLayout(
        degrees=degrees_record(assignment.degrees),
        stages=stage_records(assignment),
        ranks=rank_records(assignment, topology),
        experts=expert_records(assignment),
        batches=batch_records(assignment),
        prediction=prediction,
    )


def _layout(inputs: ServeInputs, case: PoolCase, found: ServeResult) -> ServeLayout:
    best, topology = found.best, case.serve.topology
    used = used_chips(best)
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
    broken = all_problems(layout, case)
    if broken:
        raise ModelBugError("the search returned an invalid layout: " + "; ".join(broken))
    return layout


def verify_pools(layout: ServeLayout) -> tuple[str, ...]:
    """Everything that is wrong with a layout: decisions, limits, and stated predictions."""
    case = case_of_layout(layout)
    try:
        found = all_problems(layout, case)
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
    case = case_of_layout(layout)
    topology = case.serve.topology
    pools = pools_of(layout, topology)
    broken = structure_problems(layout, case, pools)
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
