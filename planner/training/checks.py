"""The specification of a valid training layout: one function per constraint, no solver.

Sets: layers ``l``, chunks ``c``, pipeline ranks ``d``, ranks ``r``, chips. Every function returns
what is violated, in words; an empty list means that the constraint holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from planner.cost.runs.training_pipeline import chunks_of
from planner.cost.schedules.kinds import check_pipeline
from planner.domain.model import ModelSpec, MoeFfn
from planner.domain.run import ScheduleKind
from planner.domain.train_layout import RANK_ORDER, TrainDegrees, TrainLayout
from planner.errors import SpecError
from planner.topology.graph import Topology
from planner.training.compose import chunk_records, counts_of, run_of_layout


def degrees_are_positive(d: TrainDegrees) -> list[str]:
    """Every degree is at least 1, the ZeRO stage 0 to 3."""
    names = ("tp", "cp", "dp", "pp", "virtual_stages", "ep", "expert_tp", "microbatch")
    found = [
        f"degrees.{name} is {getattr(d, name)}, must be at least 1"
        for name in names
        if getattr(d, name) < 1
    ]
    if not 0 <= d.zero_stage <= 3:
        found.append(f"degrees.zero_stage is {d.zero_stage}, must be 0 to 3")
    return found


def batch_is_split(layout: TrainLayout) -> list[str]:
    """``microbatch x microbatches x dp = global_batch``."""
    d, batch = layout.degrees, layout.inputs.global_batch
    if d.microbatch * d.microbatches * d.dp == batch:
        return []
    return [
        f"microbatch {d.microbatch} x microbatches {d.microbatches} x dp {d.dp} is not the "
        f"batch of {batch}"
    ]


def experts_are_spread(layout: TrainLayout, model: ModelSpec) -> list[str]:
    """``ep expert_tp`` divides a stage, ``ep`` the experts, ``expert_tp`` their width."""
    d = layout.degrees
    experts = {layer.ffn for layer in model.layers if isinstance(layer.ffn, MoeFfn)}
    if not experts:
        return [] if d.ep == d.expert_tp == 1 else ["a model without experts has ep 1, expert_tp 1"]
    found = []
    if d.tp * d.cp * d.dp % (d.ep * d.expert_tp):
        found.append(f"ep {d.ep} x expert_tp {d.expert_tp} does not divide tp x cp x dp")
    for ffn in experts:
        if ffn.num_experts % d.ep:
            found.append(f"ep {d.ep} does not divide {ffn.num_experts} experts")
        if ffn.expert_width % d.expert_tp:
            found.append(f"expert_tp {d.expert_tp} does not divide experts {ffn.expert_width} wide")
    return found


def schedule_exists(layout: TrainLayout) -> list[str]:
    """The schedule can run this pipeline."""
    d = layout.degrees
    if (d.schedule is ScheduleKind.NONE) != (d.pp == 1):
        return [f"schedule {d.schedule.value} with pp {d.pp}"]
    if d.pp == 1:
        return []
    try:
        check_pipeline(d.schedule, d.pp, d.microbatches, d.virtual_stages)
    except SpecError as error:
        return [error.message]
    return []


def layers_are_covered(layout: TrainLayout, model: ModelSpec) -> list[str]:
    """Every layer in exactly one chunk, chunks in order on the ranks that the schedule says."""
    run = run_of_layout(layout)
    if len(layout.chunks) != chunks_of(run):
        return [f"{len(layout.chunks)} chunks listed, the pipeline has {chunks_of(run)}"]
    counts = counts_of(layout)
    if any(count < 0 for count in counts) or sum(counts) != len(model.layers):
        return [f"chunks hold {sum(counts)} layers of {len(model.layers)}"]
    if chunk_records(run, counts) != layout.chunks:
        return ["chunks do not follow one another, or lie on other ranks than the schedule says"]
    return []


def chips_are_distinct(layout: TrainLayout, topology: Topology) -> list[str]:
    """One chip of the machine for every rank, none twice, all others idle."""
    d = layout.degrees
    need = d.tp * d.cp * d.dp * d.pp
    found = []
    if layout.rank_order != RANK_ORDER:
        found.append(f"rank_order is {layout.rank_order}, must be {RANK_ORDER}")
    if len(layout.chips) != need:
        found.append(f"{len(layout.chips)} chips listed, the degrees use {need}")
    known = set(topology.chip_names)
    found += [f"there is no chip '{name}'" for name in layout.chips if name not in known]
    twice = [name for name, count in Counter(layout.chips).items() if count > 1]
    found += [f"chip {name} has more than one rank" for name in twice]
    used = set(layout.chips)
    idle = tuple(name for name in topology.chip_names if name not in used)
    if idle != layout.idle_chips:
        found.append("idle_chips does not list exactly the chips without a rank")
    return found


def tensor_groups_share_a_node(layout: TrainLayout, topology: Topology) -> list[str]:
    """Groups of ``tp`` consecutive ranks lie inside a domain, or on whole ones."""
    tp = layout.degrees.tp
    place = {name: chip for chip, name in enumerate(topology.chip_names)}
    largest = max(len(domain) for domain in topology.domains)
    most = max(1, -(-tp // largest))

    def domains(start: int) -> int:
        group = layout.chips[start : start + tp]
        return len({topology.domain_of(place[name]) for name in group})

    bad = [start for start in range(0, len(layout.chips), tp) if domains(start) > most]
    return [f"the tensor-parallel group of rank {start} is spread over nodes" for start in bad[:5]]


def layout_violations(layout: TrainLayout, model: ModelSpec, topology: Topology) -> list[str]:
    """Violations of everything that must hold before a layout can be priced."""
    found = degrees_are_positive(layout.degrees)
    if found:
        return found
    found = [*batch_is_split(layout), *experts_are_spread(layout, model), *schedule_exists(layout)]
    if not found:
        found += layers_are_covered(layout, model)
    found += chips_are_distinct(layout, topology)
    return found or tensor_groups_share_a_node(layout, topology)


def certificate_violations(layout: TrainLayout) -> list[str]:
    """``bound <= objective``, ``gap = (objective - bound) / objective``, counts add up."""
    return list(_certificate_violations(layout))


def _certificate_violations(layout: TrainLayout) -> Iterator[str]:
    proof = layout.certificate
    if proof is None:
        return
    gap = (proof.objective - proof.bound) / proof.objective
    if not 0 < proof.bound <= proof.objective or abs(gap - proof.gap) > 1e-9:
        yield (
            f"certificate: gap {proof.gap!r} does not follow from objective {proof.objective!r} "
            f"and bound {proof.bound!r}"
        )
    parts = proof.infeasible_memory + proof.infeasible_tpot + proof.pruned + proof.solved
    if parts != proof.enumerated:
        yield f"certificate: {parts} strategies are accounted for, {proof.enumerated} enumerated"
