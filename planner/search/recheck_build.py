"""Simple layouts, built without any search and priced in full.

cells       the first ones of the machine
stages      equally many layers each, longer ones first
experts     copies to the heaviest expert per copy, then dealt out by falling load to the
            group with the least load that has a free slot and no copy of it
sequences   equally many in every replica, dealt evenly; the largest number within the limits,
            by halving, or as many as fill groups or microbatches
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from planner.cost.evaluate import evaluate
from planner.cost.memory import budget_bytes
from planner.cost.routing import moe_layer_indices
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.cost import Prediction
from planner.domain.degrees import Degrees
from planner.domain.workload import Objective
from planner.errors import DisconnectedError
from planner.search.recheck_case import RecheckCase
from planner.search.recheck_compare import Sizes, largest
from planner.search.recheck_experts import even_slots
from planner.topology.groups import carve

Split = tuple[tuple[int, ...], ...]


def best_simple(case: RecheckCase, degrees: Degrees, most: int) -> float | None:
    """Objective of the simple layout of a strategy, None when it does not meet the limits.

    Parameters
    ----------
    most : int
        Sequences of a replica that are likely the most; 0 when unknown.
    """
    frame = _frame(case, degrees)
    if frame is None:
        return None

    def value(sequences: tuple[Split, ...]) -> float | None:
        assignment = Assignment(
            degrees=degrees,
            stage_ends=frame.stage_ends,
            cells=frame.cells,
            slot_maps=frame.slot_maps,
            sequences=sequences,
        )
        try:
            found = evaluate(
                case.setting, case.topology, assignment, case.loads, case.price_usd_per_hour
            )
        except DisconnectedError:
            return None
        if not _meets(case, found):
            return None
        return case.value(found.step_s, found.tokens_per_s, float(found.chips_rented))

    if case.batch is not None:
        return value(dealt_sequences(degrees, case.batch))
    least = degrees.microbatches

    def at(batch: int) -> float | None:
        return value(dealt_sequences(degrees, batch * degrees.replicas))

    first = at(least)
    if first is None or case.objective is Objective.LATENCY:
        return first
    if most < least or at(most) is None:
        most = largest(lambda tried: at(tried) is not None, least) or least
    sizes = Sizes(microbatches=degrees.microbatches, groups=degrees.attn_dp)
    found = (at(batch) for batch in sizes.best(most))
    return min(own for own in found if own is not None)


def _meets(case: RecheckCase, found: Prediction) -> bool:
    used = found.memory.used_bytes - found.memory.reserve_bytes
    late = case.step_limit_s is not None and found.step_s > case.step_limit_s
    return used <= budget_bytes(case.setting) and not late


def _frame(case: RecheckCase, degrees: Degrees) -> Assignment | None:
    """The assignment without sequences; None when cells or free slots are wanting."""
    unit = math.lcm(degrees.attn_tp, degrees.expert_tp)
    largest_domain = case.topology.largest_open
    if unit > largest_domain:
        unit = min(degrees.attn_tp, degrees.expert_tp)
        unit = unit if unit <= largest_domain else 1
    found = carve(case.topology, degrees.stage_chips, unit)
    if len(found) < degrees.pp * degrees.replicas:
        return None
    cells = tuple(
        tuple(found[replica * degrees.pp + stage].chips for stage in range(degrees.pp))
        for replica in range(degrees.replicas)
    )
    layers = even_slots(len(case.setting.model.layers), degrees.pp)
    ends = tuple(sum(layers[: stage + 1]) for stage in range(degrees.pp))
    maps: dict[Split, list[int]] = {}
    dealt: dict[tuple[float, ...], Split] = {}
    for row, layer in enumerate(moe_layer_indices(case.setting.model)):
        shares = tuple(float(share) for share in case.loads[row])
        if shares not in dealt:
            dealt[shares] = deal_experts(shares, degrees.ep, degrees.num_slots)
            if sum(map(len, dealt[shares])) != degrees.num_slots:
                return None
        maps.setdefault(dealt[shares], []).append(layer)
    return Assignment(
        degrees=degrees,
        stage_ends=ends,
        cells=cells,
        slot_maps=tuple(SlotMap(layers=tuple(own), slots=slots) for slots, own in maps.items()),
        sequences=(),
    )


def deal_experts(shares: Sequence[float], groups: int, num_slots: int) -> Split:
    """Experts of every group, no group with two copies of one.

    Slots stay empty where dealing runs into a corner.

    Parameters
    ----------
    shares : sequence of float
        Share of the routed tokens of each expert.
    """
    copies = [1] * len(shares)
    for _ in range(num_slots - len(shares)):
        free = [expert for expert in range(len(shares)) if copies[expert] < groups]
        heaviest = max(free, key=lambda expert: (shares[expert] / copies[expert], -expert))
        copies[heaviest] += 1
    slots = even_slots(num_slots, groups)
    held: list[list[int]] = [[] for _ in range(groups)]
    load = [0.0] * groups
    # Experts of many copies first: they need many groups with a free slot.
    order = sorted(range(len(shares)), key=lambda e: (-copies[e], -shares[e] / copies[e], e))
    if max(copies) < groups:
        order = sorted(range(len(shares)), key=lambda e: (-shares[e] / copies[e], e))
    for expert in order:
        free = [g for g in range(groups) if len(held[g]) < slots[g] and expert not in held[g]]
        chosen = sorted(free, key=lambda g: (load[g], g))[: copies[expert]]
        for group in chosen:
            held[group].append(expert)
            load[group] += shares[expert] / copies[expert]
    return tuple(tuple(sorted(group)) for group in held)


def dealt_sequences(degrees: Degrees, batch: int) -> tuple[Split, ...]:
    """Sequences of every replica, microbatch and group, as equal as whole numbers allow."""
    found = []
    for own in even_slots(batch, degrees.replicas):
        table = [[0] * degrees.attn_dp for _ in range(degrees.microbatches)]
        turn = 0
        for group, cached in enumerate(even_slots(own, degrees.attn_dp)):
            base, extra = divmod(cached, degrees.microbatches)
            for microbatch in range(degrees.microbatches):
                table[microbatch][group] = base
            for _ in range(extra):
                table[turn % degrees.microbatches][group] += 1
                turn += 1
        found.append(tuple(tuple(row) for row in table))
    return tuple(found)
