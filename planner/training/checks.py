"""The specification of a valid training layout: one function per constraint, no solver.

Sets: layers ``l``, chunks ``c``, pipeline ranks ``d``, ranks ``r``, chips. Every function returns
what is violated, in words; an empty list means that the constraint holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from planner.cost.runs.mesh_links import MeshLinks
from planner.cost.runs.training_pipeline import chunks_of
from planner.cost.schedules.kinds import check_pipeline
from planner.domain.model import ModelSpec, MoeFfn
from planner.domain.run import ScheduleKind
from planner.domain.scale_up import SwitchDomain
from planner.domain.train_layout import RANK_ORDER, TrainDegrees, TrainLayout
from planner.errors import SpecError
from planner.topology.graph import Topology
from planner.training.compose import chunk_records, counts_of, run_of_layout
from planner.training.parts import MachinePart


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


def chips_may_train(layout: TrainLayout, topology: Topology, part: MachinePart) -> list[str]:
    """Ranks lie on chips of the part that trains: sound, not excluded, beyond the reserve."""
    names = topology.chip_names
    able = {names[chip] for chip in part.chips}
    bad = [name for name in layout.chips if name not in able]
    return [
        f"chip {name} may not train: it is excluded, a spare, or what joins it is not whole"
        for name in bad[:5]
    ]


def groups_lie_alike(layout: TrainLayout, topology: Topology, part: MachinePart) -> list[str]:
    """Every group of an axis is spread over the machine like the one that is priced.

    Compared are its chips by domain, by run of a switch level, by unit where uplinks are
    scarce, and on a torus the sides of its box.
    """
    mesh = run_of_layout(layout).mesh
    place = {name: chip for chip, name in enumerate(topology.chip_names)}
    chips = [place[name] for name in layout.chips]
    links = MeshLinks(topology=part.topology, mesh=mesh)
    found = []
    for axis in ("tp", "cp", "cp_dp", "expert_tp", "ep", "expert_dp"):
        priced = links.group(axis)
        if len(priced) == 1:
            continue
        own = _spread(part.topology, priced)
        stride = priced[1]
        span = stride * len(priced)
        bad = [
            start + offset
            for start in range(0, len(chips), span)
            for offset in range(stride)
            if _spread(topology, chips[start + offset : start + span : stride]) != own
        ]
        found += [
            f"the {axis} group of rank {rank} is not spread over the machine like the one that "
            "is priced"
            for rank in bad[:2]
        ]
    return found


def _spread(topology: Topology, chips: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """What collectives can feel of where chips are, of each kind of border."""
    if topology.is_torus:
        slices = tuple(sorted(Counter(topology.domain_of(chip) for chip in chips).values()))
        places = [topology.coordinates[chip] for chip in chips]
        box = tuple(max(axis) - min(axis) + 1 for axis in zip(*places, strict=True))
        return slices, box
    found = [list(Counter(topology.domain_of(chip) for chip in chips).values())]
    scale_up = topology.spec.scale_up
    if isinstance(scale_up, SwitchDomain) and len(scale_up.levels) > 1:
        places = [topology.places[chip] for chip in chips]
        found += [
            list(Counter((domain, position // level.span) for domain, position in places).values())
            for level in scale_up.levels[:-1]
        ]
    if topology.contention > 1:
        found.append(list(Counter(topology.unit_of(chip) for chip in chips).values()))
    return tuple(tuple(sorted(counts)) for counts in found)


def layout_violations(
    layout: TrainLayout, model: ModelSpec, topology: Topology, part: MachinePart
) -> list[str]:
    """Violations of everything that must hold before a layout can be priced.

    Parameters
    ----------
    topology : Topology
        The whole machine; ``part`` is what trains.
    """
    found = degrees_are_positive(layout.degrees)
    if found:
        return found
    found = [*batch_is_split(layout), *experts_are_spread(layout, model), *schedule_exists(layout)]
    if not found:
        found += layers_are_covered(layout, model)
    found += chips_are_distinct(layout, topology)
    found = found or chips_may_train(layout, topology, part)
    return found or groups_lie_alike(layout, topology, part)


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
