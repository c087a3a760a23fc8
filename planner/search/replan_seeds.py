"""Strategies that a replan tries: the old one, the best, the best that splits layers alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.cost.routing import moe_shape
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.degrees import Degrees
from planner.domain.outcome import Infeasible
from planner.domain.question import DegreeLimits
from planner.search.mesh import Cells, MeshMapper
from planner.search.plan import SearchResult, search_layout
from planner.search.replan_cells import substituted
from planner.search.replan_request import ReplanRequest, transition
from planner.search.request import PlanRequest
from planner.search.strategies import slot_counts

Maps = tuple[SlotMap, ...]


def seeds(request: ReplanRequest, found: SearchResult) -> Iterator[tuple[Degrees, Cells, Maps]]:
    """Strategies to try: the old one, the best, the best that splits layers as the old does."""
    old, best = request.old.degrees, found.best.assignment
    mapper = MeshMapper.of(request.plan.topology)
    seen = set()
    if _permits(request.plan.limits, old):
        step = transition(request, request.old)
        cells = substituted(step, request.old)
        for own in (cells, mapper.assign(old)):
            if own is not None:
                seen.add(old)
                yield old, own, request.old.slot_maps
    ranked = [best, *(other.assignment for other in found.runners_up)]
    kin = [one for one in ranked if _split(one.degrees) == _split(old)]
    if not kin:
        kin = _kin(request.plan, old)
    for one in (best, *kin[:1]):
        for degrees in _with_slots(request, one.degrees):
            if degrees not in seen:
                seen.add(degrees)
                yield degrees, one.cells, one.slot_maps


def _with_slots(request: ReplanRequest, degrees: Degrees) -> Iterator[Degrees]:
    """As it is, and with slots that need no copies that are not there: the old number, or none."""
    yield degrees
    shape = moe_shape(request.plan.setting.model)
    if shape is None:
        return
    counts = slot_counts(shape[0], degrees.ep)
    if request.plan.units:
        counts = sorted({*counts, *slot_counts(shape[0], degrees.ep, 2)})
    allowed = request.plan.limits.slots
    counts = [n for n in counts if n >= degrees.ep and (allowed is None or n in allowed)]
    few = [n for n in counts if n <= request.old.degrees.num_slots]
    for count in dict.fromkeys((*few[-1:], *counts[:1])):
        yield replace(degrees, num_slots=count)


def _permits(limits: DegreeLimits, degrees: Degrees) -> bool:
    pairs = (
        (limits.tp, degrees.attn_tp),
        (limits.pp, degrees.pp),
        (limits.ep, degrees.ep),
        (limits.dp, degrees.attn_dp * degrees.replicas),
        (limits.expert_tp, degrees.expert_tp),
        (limits.slots, degrees.num_slots),
        (limits.microbatches, degrees.microbatches),
        (limits.replicas, degrees.replicas),
        (limits.cp, degrees.cp),
        (limits.overlap, int(degrees.overlap)),
        (limits.draft, degrees.draft),
    )
    return all(allowed is None or value in allowed for allowed, value in pairs)


def _split(degrees: Degrees) -> tuple[int, ...]:
    return (degrees.attn_tp, degrees.cp, degrees.pp, degrees.expert_tp)


def _kin(plan: PlanRequest, old: Degrees) -> list[Assignment]:
    """The best layout that splits layers and tensors as the old one, or nothing."""
    limits = plan.limits
    own = {"tp": old.attn_tp, "cp": old.cp, "pp": old.pp, "expert_tp": old.expert_tp}
    if any(not (getattr(limits, k) is None or v in getattr(limits, k)) for k, v in own.items()):
        return []
    narrow = replace(limits, **{name: frozenset({value}) for name, value in own.items()})
    found = search_layout(replace(plan, limits=narrow, progress=None))
    return [] if isinstance(found, Infeasible) else [found.best.assignment]
