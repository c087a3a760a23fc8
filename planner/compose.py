"""Between decisions as indices (search, cost) and the complete record that is written down."""

from __future__ import annotations

from planner.domain.assignment import Assignment, SlotMap
from planner.domain.degrees import OVERLAP_LABELS, Degrees
from planner.domain.layout import (
    BatchSplit,
    DegreesRecord,
    ExpertMap,
    Layout,
    Rank,
    Stage,
)
from planner.domain.serve_layout import PoolLayout
from planner.errors import SpecError
from planner.topology.graph import Topology
from planner.topology.spares import spare_chips

DEGREE_NAMES = (
    "attn_tp",
    "attn_dp",
    "pp",
    "ep",
    "expert_tp",
    "num_slots",
    "microbatches",
    "replicas",
    "cp",
    "draft",
)


def degrees_record(degrees: Degrees) -> DegreesRecord:
    """Degrees as the layout file spells them."""
    numbers = {name: getattr(degrees, name) for name in DEGREE_NAMES}
    return DegreesRecord(**numbers, overlap=degrees.overlap.label)


def degrees_of(record: DegreesRecord) -> Degrees:
    """Degrees of a layout file."""
    numbers = {name: getattr(record, name) for name in DEGREE_NAMES}
    return Degrees(**numbers, overlap=OVERLAP_LABELS[record.overlap])


def stage_records(assignment: Assignment) -> tuple[Stage, ...]:
    """Layers of every stage."""
    ranges = assignment.stage_ranges
    return tuple(
        Stage(
            first_layer=first,
            end_layer=end,
            has_embedding=index == 0,
            has_head=index == len(ranges) - 1,
        )
        for index, (first, end) in enumerate(ranges)
    )


def rank_records(assignment: Assignment, topology: Topology) -> tuple[Rank, ...]:
    """Every rank with its chip, replica-major, then stage, then rank inside the stage."""
    d = assignment.degrees
    found: list[Rank] = []
    for replica, cells in enumerate(assignment.cells):
        for stage, cell in enumerate(cells):
            for index, chip in enumerate(cell):
                found.append(
                    Rank(
                        rank=len(found),
                        chip=topology.chip_names[chip],
                        replica=replica,
                        stage=stage,
                        attn_dp_rank=index // (d.attn_tp * d.cp),
                        cp_rank=index // d.attn_tp % d.cp,
                        attn_tp_rank=index % d.attn_tp,
                        ep_rank=index // d.expert_tp,
                        expert_tp_rank=index % d.expert_tp,
                    )
                )
    return tuple(found)


def idle_chips(assignment: Assignment, topology: Topology) -> tuple[str, ...]:
    """Chips of the machine that no rank uses."""
    used = used_chips(assignment)
    return tuple(name for chip, name in enumerate(topology.chip_names) if chip not in used)


def used_chips(assignment: Assignment) -> frozenset[int]:
    """Chips that have a rank."""
    return frozenset(chip for cells in assignment.cells for cell in cells for chip in cell)


def reserved_chips(assignment: Assignment, topology: Topology) -> tuple[str, ...]:
    """Idle chips that are kept as spares."""
    if not topology.spared:
        return ()
    spares = spare_chips(topology, used_chips(assignment))
    return tuple(topology.chip_names[chip] for chip in spares)


def expert_records(assignment: Assignment) -> tuple[ExpertMap, ...]:
    """Expert copies, one record per distinct map."""
    return tuple(ExpertMap(layers=m.layers, slots=m.slots) for m in assignment.slot_maps)


def batch_records(assignment: Assignment) -> tuple[BatchSplit, ...]:
    """Sequences of every replica, microbatch and attention group."""
    return tuple(
        BatchSplit(replica=replica, sequences=sequences)
        for replica, sequences in enumerate(assignment.sequences)
    )


def assignment_of(layout: Layout | PoolLayout, topology: Topology) -> Assignment:
    """Decisions of a layout file, or of one pool of it.

    Raises
    ------
    SpecError
        If the file contradicts itself so badly that its decisions cannot be read: an
        unknown chip, a rank listed out of order or missing, replicas out of order.
    """
    degrees = degrees_of(layout.degrees)
    chips = {name: index for index, name in enumerate(topology.chip_names)}
    cells: dict[tuple[int, int], list[int]] = {}
    for position, rank in enumerate(layout.ranks):
        where = f"ranks[{position}]"
        if rank.chip not in chips:
            raise SpecError(f"{where}.chip: there is no chip '{rank.chip}' on this machine")
        cell = cells.setdefault((rank.replica, rank.stage), [])
        attn_tp, cp = max(degrees.attn_tp, 1), max(degrees.cp, 1)
        expected = (
            position,
            len(cell) // (attn_tp * cp),
            len(cell) // attn_tp % cp,
            len(cell) % attn_tp,
            len(cell) // max(degrees.expert_tp, 1),
            len(cell) % max(degrees.expert_tp, 1),
        )
        actual = (
            rank.rank,
            rank.attn_dp_rank,
            rank.cp_rank,
            rank.attn_tp_rank,
            rank.ep_rank,
            rank.expert_tp_rank,
        )
        if actual != expected:
            raise SpecError(
                f"{where}: (rank, attn_dp_rank, cp_rank, attn_tp_rank, ep_rank, "
                "expert_tp_rank) is "
                f"{actual}, its place in the list says {expected}"
            )
        cell.append(chips[rank.chip])
    replicas = sorted({replica for replica, _ in cells})
    stages = {replica: sorted(s for r, s in cells if r == replica) for replica in replicas}
    if [split.replica for split in layout.batches] != list(range(len(layout.batches))):
        raise SpecError("batches: replicas must be listed in order from 0")
    return Assignment(
        degrees=degrees,
        stage_ends=tuple(stage.end_layer for stage in layout.stages),
        cells=tuple(
            tuple(tuple(cells[replica, stage]) for stage in stages[replica]) for replica in replicas
        ),
        slot_maps=tuple(SlotMap(layers=m.layers, slots=m.slots) for m in layout.experts),
        sequences=tuple(split.sequences for split in layout.batches),
    )
