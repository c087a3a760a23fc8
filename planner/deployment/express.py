"""The layout of an engine: a planned one as it is, or the nearest that the engine can express.

Whatever differs is said, and what it costs by the same model that priced the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from planner.api import case_of_layout, evaluate_layout
from planner.compose import assignment_of
from planner.cost.evaluate import evaluate
from planner.cost.routing import moe_layer_indices
from planner.deployment.assemble import (
    Case,
    Decisions,
    broken_limits,
    most_that_run,
)
from planner.deployment.maps import grouped, linear_slots, rebalanced_slots, rows_of, start_slots
from planner.deployment.ranks import (
    Instance,
    devices_of,
    engine_order,
    in_launch_order,
    instance_of,
)
from planner.deployment.rules import NAMES, RuleCase, expressible, misfits
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.degrees import Degrees
from planner.domain.deployment import Engine
from planner.domain.layout import Layout
from planner.domain.workload import Objective
from planner.errors import SpecError
from planner.units import format_percent, format_seconds

# Two sums of the same terms in another order.
_SAME_PRICE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Expressed:
    """A layout that an engine can be told.

    Parameters
    ----------
    layout : Layout
        The plan itself where nothing had to change.
    as_planned : bool
        Whether nothing had to change.
    notes : tuple of str
        What the engine cannot express, what is done instead and what it costs; and what is left
        to the engine.
    instances : tuple of Instance
        Where each copy of the engine runs.
    start_slots_hold : bool
        Whether the engine starts with the very placement of the layout.
    rebalances : bool
        Whether the placement is left to the engine's balancer.
    """

    engine: Engine
    planned: Layout
    layout: Layout
    as_planned: bool
    notes: tuple[str, ...]
    instances: tuple[Instance, ...]
    start_slots_hold: bool
    rebalances: bool


def cost_of(layout: Layout) -> float:
    """What the plan minimised; smaller is better."""
    found = layout.prediction
    match Objective(layout.inputs.objective):
        case Objective.LATENCY:
            return found.step_s
        case Objective.COST:
            return found.chips_rented / found.tokens_per_s
        case _:
            return 1.0 / found.tokens_per_s_per_chip


def _rank_chips(engine: Engine, layout: Layout, degrees: Degrees) -> list[list[str]]:
    """Chips in the engine's order of ranks, instance by instance, as the plan has them."""
    flat = [rank.chip for rank in layout.ranks]
    size = degrees.stage_chips * degrees.pp
    order = engine_order(engine, degrees)
    found = []
    for start in range(0, degrees.replicas * size, size):
        own = flat[start : start + size]
        found.append([own[stage * degrees.stage_chips + place] for stage, place in order])
    return found


def _sequences_of(layout: Layout) -> list[int]:
    """Sequences of every attention rank of every replica."""
    return [
        sum(microbatch[rank] for microbatch in split.sequences)
        for split in layout.batches
        for rank in range(layout.degrees.attn_dp)
    ]


def _wants_rebalancing(engine: Engine, case: Case, degrees: Degrees) -> bool:
    num_experts = case.loads.shape[1]
    if engine is not Engine.VLLM or degrees.ep == 1 or not degrees.num_slots:
        return False
    # vLLM moves experts only where every rank has equally many slots.
    even = degrees.num_slots % degrees.ep == 0
    return even and (degrees.num_slots > num_experts or not case.uniform)


def _slot_maps(
    engine: Engine, case: Case, planned: Assignment, degrees: Degrees
) -> tuple[SlotMap, ...]:
    """Expert copies of an engine with these degrees."""
    if not degrees.num_slots:
        return ()
    layers = moe_layer_indices(case.setting.model)
    num_experts = case.loads.shape[1]
    same = (degrees.ep, degrees.num_slots) == (planned.degrees.ep, planned.degrees.num_slots)
    equal = all(
        len(held) * degrees.ep == degrees.num_slots for m in planned.slot_maps for held in m.slots
    )
    if engine is not Engine.VLLM and same and equal:
        return planned.slot_maps
    if engine is Engine.VLLM and not _wants_rebalancing(engine, case, degrees):
        return grouped(layers, [linear_slots(num_experts, degrees.ep)] * len(layers))
    return grouped(layers, rebalanced_slots(case.loads, degrees.ep, degrees.num_slots))


def _candidate(
    engine: Engine, case: Case, plan: tuple[Layout, Assignment], degrees: Degrees
) -> Layout | None:
    """The nearest layout with these degrees, or None where it does not fit."""
    layout, planned = plan
    if degrees.chips_used > len(layout.ranks):
        return None
    flat, size = [rank.chip for rank in layout.ranks], degrees.stage_chips * degrees.pp
    chips = tuple(
        in_launch_order(own, flat[index * size : (index + 1) * size])
        for index, own in enumerate(_rank_chips(engine, layout, degrees))
    )
    ranks = degrees.attn_dp * degrees.replicas
    wanted = _sequences_of(layout)
    # The plan's batch: what its busiest rank has where the ranks are the same.
    most = max(wanted) if len(wanted) == ranks else -(-planned.batch // ranks)
    ends = (0, *planned.stage_ends)
    decided = Decisions(
        engine=engine,
        degrees=degrees,
        chips=chips,
        stage_layers=tuple(b - a for a, b in pairwise(ends)),
        slot_maps=_slot_maps(engine, case, planned, degrees),
        sequences=max(most, 1),
    )

    found = most_that_run(decided, layout.inputs, case)
    return None if found is None else found[1]


def express(layout: Layout, engine: Engine, *, has_draft_model: bool = False) -> Expressed:
    """The layout that an engine can be told, and what is lost.

    Raises
    ------
    SpecError
        The layout cannot be priced, or nothing that the engine can express fits.
    """
    # An edited file is worth what its decisions are.
    layout = evaluate_layout(layout)
    case = case_of_layout(layout)
    planned = assignment_of(layout, case.topology)
    rules = RuleCase(engine=engine, model=case.setting.model, has_draft_model=has_draft_model)
    reasons = [found.reason for found in misfits(rules, planned.degrees)]
    found = [
        one
        for degrees in expressible(rules, planned.degrees)
        if (one := _candidate(engine, case, (layout, planned), degrees)) is not None
    ]
    if not found:
        raise SpecError(
            f"{NAMES[engine]} cannot express the layout ({'; '.join(reasons)}), and nothing near "
            "it fits",
            "plan with limits that the engine knows, for example --overlap none --cp 1",
        )
    best = min(found, key=cost_of)
    reasons += _differences(engine, layout, best)
    same = not reasons
    chosen = layout if same else best
    devices = devices_of(case.topology.chip_names)
    own = assignment_of(chosen, case.topology)
    rebalances = _wants_rebalancing(engine, case, own.degrees)
    holds = _starts_with(own.slot_maps, case, own.degrees)
    return Expressed(
        engine=engine,
        planned=layout,
        layout=chosen,
        as_planned=same,
        notes=(
            *(() if same else _explained(engine, (layout, best), reasons, case)),
            *_left_to_engine(engine, case, own, rebalances=rebalances),
        ),
        instances=tuple(
            instance_of(chips, devices) for chips in _rank_chips(engine, chosen, own.degrees)
        ),
        start_slots_hold=holds,
        rebalances=rebalances,
    )


def _differences(engine: Engine, planned: Layout, best: Layout) -> Iterator[str]:
    """Decisions beside the degrees that the engine takes from the plan in another form."""
    if planned.degrees == best.degrees:
        if [rank.chip for rank in planned.ranks] != [rank.chip for rank in best.ranks]:
            yield (
                f"the ranks of a stage on hosts of their own: {NAMES[engine]} numbers its ranks "
                "otherwise, and a host holds contiguous ranks"
            )
        if _slots(planned) != _slots(best):
            yield "the plan's placement of experts"
    counts = _sequences_of(planned)
    if len(set(counts)) > 1:
        yield (
            f"uneven batches: attention ranks decode {min(counts)} to {max(counts)} sequences, "
            "the engine has one limit for all"
        )
    elif planned.degrees == best.degrees and planned.batches != best.batches:
        yield (
            f"a batch of {planned.prediction.batch:,} split as planned over microbatches and "
            "ranks; the engine splits evenly"
        )


def _slots(layout: Layout) -> dict[int, tuple[tuple[int, ...], ...]]:
    return rows_of([SlotMap(layers=m.layers, slots=m.slots) for m in layout.experts])


def _starts_with(maps: Sequence[SlotMap], case: Case, degrees: Degrees) -> bool:
    """Whether slots hold what an engine starts with when it is told nothing."""
    if not maps:
        return True
    start = start_slots(case.loads.shape[1], degrees.ep, degrees.num_slots)
    return all(one.slots == start for one in maps)


def _explained(
    engine: Engine, pair: tuple[Layout, Layout], reasons: Sequence[str], case: Case
) -> Iterator[str]:
    planned, best = pair
    for reason in reasons:
        yield f"{NAMES[engine]} cannot express {reason}"
    old, new = planned.prediction, best.prediction
    change = cost_of(best) / cost_of(planned) - 1.0
    if abs(change) <= _SAME_PRICE:
        yield f"nearest: {describe(best)}, at the same price"
    else:
        word = "worse" if change > 0 else "better"
        yield (
            f"nearest: {describe(best)}: step {format_seconds(old.step_s)} -> "
            f"{format_seconds(new.step_s)}, tokens/s/chip {old.tokens_per_s_per_chip:,.0f} -> "
            f"{new.tokens_per_s_per_chip:,.0f}, {format_percent(abs(change))} {word}"
        )
    for broken in broken_limits(best, case):
        yield f"the nearest layout misses a limit of the plan: {broken}"
    if len(planned.ranks) != len(best.ranks):
        yield f"{len(best.ranks)} chips are used, the plan uses {len(planned.ranks)}"


def describe(layout: Layout) -> str:
    """Degrees of a layout in one line."""
    d = layout.degrees
    parts = [f"TP{d.attn_tp}", f"DP{d.attn_dp}"]
    if d.cp > 1:
        parts.append(f"CP{d.cp}")
    parts.append(f"PP{d.pp}")
    if d.num_slots:
        expert_tp = f" x expert TP{d.expert_tp}" if d.expert_tp > 1 else ""
        parts.append(f"EP{d.ep}{expert_tp} ({d.num_slots} slots)")
    if d.draft:
        parts.append(f"{d.draft} drafted")
    if d.overlap != "none":
        parts.append(f"overlap {d.overlap}")
    if d.replicas > 1:
        parts.append(f"{d.replicas} replicas")
    return ", ".join(parts) + f", batch {layout.prediction.batch:,}"


def _left_to_engine(
    engine: Engine, case: Case, own: Assignment, *, rebalances: bool
) -> Iterator[str]:
    degrees = own.degrees
    if rebalances:
        start = start_slots(case.loads.shape[1], degrees.ep, degrees.num_slots)
        layers = moe_layer_indices(case.setting.model)
        first = replace(own, slot_maps=grouped(layers, [start] * len(layers)))
        yield (
            "no released vLLM takes a fixed placement of experts: EPLB moves them; until its "
            f"first rearrangement a step takes {_step(case, first)} instead of {_step(case, own)}"
        )
    if degrees.cp > 1:
        yield (
            f"CP {degrees.cp} becomes decode context parallelism inside TP "
            f"{degrees.attn_tp * degrees.cp}: the engine splits the weights of attention over all "
            "of it, the price counts a copy per CP rank"
        )
    if engine is Engine.SGLANG and degrees.attn_dp > 1 and degrees.attn_tp > 1:
        yield (
            f"dense layers run over TP 1 or all {degrees.stage_chips} ranks under attention DP "
            f"(--moe-dense-tp-size), the plan splits them over {degrees.attn_tp}; not priced"
        )


def _step(case: Case, own: Assignment) -> str:
    return format_seconds(evaluate(case.setting, case.topology, own, case.loads, None).step_s)
