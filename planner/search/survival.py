"""What a layout must be to go on when some chips die: the specification, no solver.

Sets: units ``u`` of chips that die together, replicas ``r``, attention groups ``d``, MoE layers
``l``, experts ``e``, expert groups ``g``. After unit ``u`` has died

serves   replica ``r`` serves if an attention group of it has no chip in ``u`` (in any stage), and
         every expert of every layer has a copy on an expert group without a chip in ``u``
alive    for every ``u`` some replica serves
room     the sequences of all replicas find room in the attention groups that serve: the caches of
         ``ceil(batch / groups)`` sequences fit on every chip, beside what it holds and the
         buffers for the tokens that copies take over
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.cost.block import RoutedLoad
from planner.cost.evaluate import (
    Microbatch,
    ReplicaLoad,
    ReplicaTimes,
    on_machine,
    stage_memory,
)
from planner.cost.routing import FloatArray, moe_shape, routed_load
from planner.cost.step import Setting
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.model import ModelSpec
from planner.topology.failures import Units
from planner.topology.graph import Topology
from planner.units import format_bytes

_ROUNDING = 1e-9


def serving_groups(
    assignment: Assignment, model: ModelSpec, unit: frozenset[int]
) -> tuple[int, ...]:
    """Attention groups of every replica that go on without ``unit``, shape ``[replicas]``."""
    d = assignment.degrees
    found = []
    for stages in assignment.cells:
        groups = np.ones(d.attn_dp, dtype=np.bool_)
        ranks = []
        for cell in stages:
            gone = np.array([chip in unit for chip in cell])
            groups &= ~np.asarray(gone.reshape(d.attn_dp, -1).any(axis=1))
            ranks.append(~np.asarray(gone.reshape(d.ep, -1).any(axis=1)))
        alive = _experts_live(assignment, model, ranks)
        found.append(int(groups.sum()) if alive else 0)
    return tuple(found)


def _experts_live(
    assignment: Assignment, model: ModelSpec, ranks: Sequence[NDArray[np.bool_]]
) -> bool:
    """Whether every expert has a copy on a living group of its layer's stage."""
    shape = moe_shape(model)
    if shape is None or all(own.all() for own in ranks):
        return True
    stage_of = [s for s, (a, b) in enumerate(assignment.stage_ranges) for _ in range(a, b)]
    for slot_map in assignment.slot_maps:
        for stage in {stage_of[layer] for layer in slot_map.layers}:
            held = {e for g, own in enumerate(slot_map.slots) if ranks[stage][g] for e in own}
            if len(held) < shape[0]:
                return False
    return True


def survival_violations(
    assignment: Assignment, model: ModelSpec, units: Units, names: Sequence[str] = ()
) -> list[str]:
    """Units without which no replica serves, in words."""
    used = {chip for stages in assignment.cells for cell in stages for chip in cell}
    found = []
    for unit in units:
        if unit & used and not any(serving_groups(assignment, model, unit)):
            chips = ", ".join(names[c] if names else f"chip {c}" for c in sorted(unit)[:4])
            found.append(f"without {chips} no replica has an attention group and every expert")
    return found


def failure_violations(
    setting: Setting, topology: Topology, assignment: Assignment, loads: FloatArray, units: Units
) -> list[str]:
    """What goes wrong when a unit dies, in words; ``units`` may be none."""
    broken = survival_violations(assignment, setting.model, units, topology.chip_names)
    if broken or not units:
        return broken
    needed, capacity = memory_after(on_machine(setting, topology), assignment, loads, units)
    if needed <= capacity * (1 + _ROUNDING):
        return []
    return [
        f"after the worst failure a chip needs {format_bytes(needed)}, "
        f"{format_bytes(capacity)} are usable"
    ]


def memory_after(
    setting: Setting, assignment: Assignment, loads: FloatArray, units: Units
) -> tuple[float, float]:
    """Bytes on the fullest chip after the worst failure, and usable ones."""
    worst = 0.0
    used = {chip for stages in assignment.cells for cell in stages for chip in cell}
    seen = set()
    for unit in units:
        groups = serving_groups(assignment, setting.model, unit)
        key = (groups, _dead_ranks(assignment, unit))
        if not unit & used or not any(groups) or key in seen:
            continue
        seen.add(key)
        worst = max(worst, _memory_without(setting, assignment, loads, key))
    return worst, setting.chip.hbm_usable_bytes


def _dead_ranks(assignment: Assignment, unit: frozenset[int]) -> frozenset[int]:
    """Expert groups that lose a chip in some stage of some replica."""
    expert_tp = assignment.degrees.expert_tp
    return frozenset(
        index // expert_tp
        for stages in assignment.cells
        for cell in stages
        for index, chip in enumerate(cell)
        if chip in unit
    )


def _memory_without(
    setting: Setting,
    assignment: Assignment,
    loads: FloatArray,
    failure: tuple[tuple[int, ...], frozenset[int]],
) -> float:
    groups, dead = failure
    d = assignment.degrees
    cached = -(-assignment.batch // sum(groups))
    own = -(-cached // d.microbatches)
    microbatch = Microbatch(group=float(own), stage=float(own * max(groups)))
    # A replica that is whole beside one that fell out keeps its maps: with all its copies it is
    # no fuller than with some of them dead.
    maps = assignment.slot_maps
    if max(groups) < d.attn_dp:
        maps = tuple(_without(one, dead) for one in maps)
    left = replace(assignment, slot_maps=maps)

    def routing(tokens: float) -> dict[int, RoutedLoad]:
        return routed_load(maps, loads, setting.model, tokens)

    times = ReplicaTimes(
        layer_s=np.zeros(len(setting.model.layers)),
        embedding_s=0.0,
        head_s=0.0,
        draft_s=0.0,
        stage_s=(),
        hop_s=0.0,
        hops_s=0.0,
        pass_s=0.0,
        step_s=0.0,
        load=ReplicaLoad(microbatch=microbatch, routing=routing),
    )
    return stage_memory(setting, left, times, float(cached)).used_bytes


def _without(slot_map: SlotMap, dead: frozenset[int]) -> SlotMap:
    slots = tuple(() if g in dead else own for g, own in enumerate(slot_map.slots))
    return SlotMap(layers=slot_map.layers, slots=slots)
