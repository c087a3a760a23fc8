"""The specification of a valid layout: one function per constraint, no solver.

Sets: layers ``l``, stages ``s``, replicas ``r``, chips ``c``, experts ``e``, groups ``g``,
microbatches ``m``, attention groups ``d``. Every function returns what is violated, in words;
an empty list means that the constraint holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from planner.cost.routing import moe_layer_indices, moe_shape
from planner.domain.assignment import Assignment
from planner.domain.cost import Prediction
from planner.domain.model import ModelSpec
from planner.units import format_bytes, format_seconds

# Layout files round-trip floats exactly; what is left is the order of additions.
RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the request fixed: step and batch, when given, the machine's chips, idle ones.

    Parameters
    ----------
    excluded : frozenset of int
        Chips that no rank may run on.
    reserve, reserve_per_domain : int
        Spares among the other chips, of the machine and of each of its domains (all chips of
        a domain that has no more).
    domains : tuple of tuple of int
        Chips of every scale-up domain, when spares are asked for.
    """

    num_chips: int
    step_limit_s: float | None
    batch: int | None
    excluded: frozenset[int] = frozenset()
    reserve: int = 0
    reserve_per_domain: int = 0
    domains: tuple[tuple[int, ...], ...] = ()


def degrees_agree(assignment: Assignment, model: ModelSpec) -> list[str]:
    """``attn_tp cp attn_dp = ep expert_tp`` with experts; degrees >= 1, ``draft`` >= 0."""
    d = assignment.degrees
    found = [
        f"degree {name} is {value}, must be at least 1"
        for name, value in (
            ("attn_tp", d.attn_tp),
            ("attn_dp", d.attn_dp),
            ("pp", d.pp),
            ("ep", d.ep),
            ("expert_tp", d.expert_tp),
            ("microbatches", d.microbatches),
            ("replicas", d.replicas),
            ("cp", d.cp),
        )
        if value < 1
    ]
    if d.draft < 0:
        found.append(f"draft is {d.draft}, must be at least 0")
    if moe_shape(model) is None:
        if (d.ep, d.expert_tp, d.attn_dp, d.num_slots) != (1, 1, 1, 0):
            found.append("a model without experts has ep, expert_tp, attn_dp 1 and no slots")
    elif d.ep * d.expert_tp != d.stage_chips:
        found.append(
            f"ep {d.ep} x expert_tp {d.expert_tp} is not attn_tp {d.attn_tp} x cp {d.cp} x "
            f"attn_dp {d.attn_dp}"
        )
    return found


def layers_are_covered(assignment: Assignment, model: ModelSpec) -> list[str]:
    """``0 < end_1 < ... < end_pp = num_layers``: every layer in exactly one stage."""
    ends = assignment.stage_ends
    found = []
    if len(ends) != assignment.degrees.pp:
        found.append(f"{len(ends)} stages listed, pp is {assignment.degrees.pp}")
    if any(end <= start for start, end in assignment.stage_ranges):
        found.append(f"stages must hold at least one layer each, in order: ends are {list(ends)}")
    if not ends or ends[-1] != len(model.layers):
        found.append(f"stages end at layer {ends[-1] if ends else 0} of {len(model.layers)}")
    return found


def chips_are_distinct(assignment: Assignment, limits: Limits) -> list[str]:
    """``cells[r][s]`` has ``stage_chips`` chips of the machine, no chip twice."""
    d = assignment.degrees
    found = []
    cells = assignment.cells
    if len(cells) != d.replicas or any(len(replica) != d.pp for replica in cells):
        found.append(f"chips are listed for other stages than pp {d.pp} x replicas {d.replicas}")
    used: Counter[int] = Counter()
    for r, replica in enumerate(cells):
        for s, cell in enumerate(replica):
            if len(cell) != d.stage_chips:
                found.append(f"replica {r} stage {s} has {len(cell)} chips, needs {d.stage_chips}")
            used.update(cell)
    found += [f"chip {chip} is used {count} times" for chip, count in used.items() if count > 1]
    outside = [chip for chip in used if not 0 <= chip < limits.num_chips]
    found += [f"chip {chip} is not on the machine" for chip in outside]
    return found


def _used_chips(assignment: Assignment) -> set[int]:
    return {chip for cells in assignment.cells for cell in cells for chip in cell}


def excluded_chips_are_idle(assignment: Assignment, limits: Limits) -> list[str]:
    """No chip of ``excluded`` in any cell."""
    used = sorted(_used_chips(assignment) & limits.excluded)
    return [f"chip {chip} is excluded but has a rank" for chip in used]


def spares_are_idle(assignment: Assignment, limits: Limits) -> list[str]:
    """Idle chips that are not excluded: ``>= reserve``, and in every domain its own share."""
    busy = _used_chips(assignment) | limits.excluded
    found = []
    idle = limits.num_chips - len(busy)
    if limits.reserve and idle < limits.reserve:
        found.append(f"{idle} chips are idle, {limits.reserve} are reserved")
    for index, domain in enumerate(limits.domains):
        open_chips = len(set(domain) - limits.excluded)
        free = len(set(domain) - busy)
        need = min(limits.reserve_per_domain, open_chips)
        if free < need:
            found.append(f"{free} chips of domain {index} are idle, {need} are reserved")
    return found


def spares_are_listed(spares: tuple[int, ...], assignment: Assignment, limits: Limits) -> list[str]:
    """``spares`` are distinct idle chips that are not excluded, as many as are reserved."""
    busy = _used_chips(assignment) | limits.excluded
    found = [
        f"chip {chip} is listed as a spare twice" for chip, n in Counter(spares).items() if n > 1
    ]
    found += [f"chip {chip} is listed as a spare but not free" for chip in spares if chip in busy]
    if limits.reserve and len(spares) != limits.reserve:
        found.append(f"{len(spares)} spares are listed, {limits.reserve} are reserved")
    for index, domain in enumerate(limits.domains):
        open_chips = len(set(domain) - limits.excluded)
        need = min(limits.reserve_per_domain, open_chips)
        listed = len(set(domain) & set(spares))
        if limits.reserve_per_domain and listed != need:
            found.append(f"{listed} spares of domain {index} are listed, {need} are reserved")
    if spares and not (limits.reserve or limits.reserve_per_domain):
        found.append(f"{len(spares)} spares are listed, none are reserved")
    return found


def experts_are_placed(assignment: Assignment, model: ModelSpec) -> list[str]:
    """Per MoE layer: every expert at least once, never twice in a group, ``num_slots`` in all."""
    shape = moe_shape(model)
    moe_layers = moe_layer_indices(model)
    listed = Counter(layer for m in assignment.slot_maps for layer in m.layers)
    found = [f"layer {layer} has no expert map" for layer in moe_layers if not listed[layer]]
    found += [f"layer {layer} has {n} expert maps" for layer, n in listed.items() if n > 1]
    extra = sorted(set(listed) - set(moe_layers))
    found += [f"layer {layer} has an expert map but no experts" for layer in extra]
    if shape is None:
        return found
    for slot_map in assignment.slot_maps:
        where = f"layers {slot_map.layers[0]}..{slot_map.layers[-1]}" if slot_map.layers else "map"
        found += _map_violations(slot_map.slots, shape[0], assignment, where)
    return found


def _map_violations(
    slots: Sequence[Sequence[int]], num_experts: int, assignment: Assignment, where: str
) -> list[str]:
    d = assignment.degrees
    found = []
    if len(slots) != d.ep:
        found.append(f"{where}: {len(slots)} expert groups listed, ep is {d.ep}")
    copies: Counter[int] = Counter()
    for rank, group in enumerate(slots):
        twice = [expert for expert, count in Counter(group).items() if count > 1]
        found += [f"{where}: expert {expert} twice on EP rank {rank}" for expert in twice]
        copies.update(group)
    missing = [expert for expert in range(num_experts) if not copies[expert]]
    if missing:
        found.append(f"{where}: experts {missing[:8]} have no copy")
    strange = sorted(expert for expert in copies if not 0 <= expert < num_experts)
    found += [f"{where}: there is no expert {expert}" for expert in strange]
    if sum(copies.values()) != d.num_slots:
        found.append(f"{where}: {sum(copies.values())} slots filled, num_slots is {d.num_slots}")
    return found


def sequences_are_split(assignment: Assignment, limits: Limits) -> list[str]:
    """``sum sequences = batch``; no negative count; every replica decodes something."""
    d = assignment.degrees
    found = []
    if len(assignment.sequences) != d.replicas:
        found.append(f"batches of {len(assignment.sequences)} replicas, there are {d.replicas}")
    for r, replica in enumerate(assignment.sequences):
        if len(replica) != d.microbatches or any(len(mb) != d.attn_dp for mb in replica):
            found.append(f"replica {r}: batch is not microbatches x attn_dp")
        if any(count < 0 for mb in replica for count in mb):
            found.append(f"replica {r}: negative number of sequences")
        if sum(sum(mb) for mb in replica) < 1:
            found.append(f"replica {r}: decodes no sequence")
    if limits.batch is not None and assignment.batch != limits.batch:
        found.append(f"batch is {assignment.batch}, the request says {limits.batch}")
    return found


def memory_fits(prediction: Prediction) -> list[str]:
    """``weights + kv + activations + reserve <= usable HBM`` on the fullest chip."""
    memory = prediction.memory
    if memory.used_bytes <= memory.capacity_bytes * (1 + RELATIVE_TOLERANCE):
        return []
    return [
        f"stage {memory.stage} needs {format_bytes(memory.used_bytes)} per chip, "
        f"{format_bytes(memory.capacity_bytes)} are usable"
    ]


def step_meets_limit(prediction: Prediction, limits: Limits) -> list[str]:
    """``step_s <= step_limit_s``: TPOT of a decode step, TTFT of a prefill."""
    most = limits.step_limit_s
    if most is None or prediction.step_s <= most * (1 + RELATIVE_TOLERANCE):
        return []
    return [
        f"a step takes {format_seconds(prediction.step_s)}, the limit is {format_seconds(most)}"
    ]


def structure_violations(
    assignment: Assignment, model: ModelSpec, limits: Limits
) -> tuple[str, ...]:
    """Violations of everything that must hold before a layout can be priced."""
    return tuple(
        degrees_agree(assignment, model)
        + layers_are_covered(assignment, model)
        + chips_are_distinct(assignment, limits)
        + excluded_chips_are_idle(assignment, limits)
        + spares_are_idle(assignment, limits)
        + experts_are_placed(assignment, model)
        + sequences_are_split(assignment, limits)
    )


def limit_violations(prediction: Prediction, limits: Limits) -> tuple[str, ...]:
    """Violations of memory and of the limit on the step, from a fresh prediction."""
    return tuple(memory_fits(prediction) + step_meets_limit(prediction, limits))
