"""Between a migration as indices and its record; chips of one layout in another's machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from planner.cost.holdings import GONE
from planner.cost.migration import STORAGE, Migration, Transition
from planner.cost.migration_time import MigrationTime, lost_tokens
from planner.domain.assignment import Assignment
from planner.domain.replan import CacheRecord, MigrationRecord, Move
from planner.topology.graph import Topology


def on_other_machine(assignment: Assignment, own: Topology, other: Topology) -> Assignment:
    """The same decisions, chips in the numbers of another machine; ``GONE`` where it has none."""
    number = {name: chip for chip, name in enumerate(other.chip_names)}
    return renumbered(assignment, [number.get(name, GONE) for name in own.chip_names])


def renumbered(assignment: Assignment, chips: Sequence[int]) -> Assignment:
    """The same decisions, chips in other numbers."""
    cells = tuple(
        tuple(tuple(chips[chip] for chip in cell) for cell in stages) for stages in assignment.cells
    )
    return replace(assignment, cells=cells)


def migration_record(step: Transition, found: Migration, time: MigrationTime) -> MigrationRecord:
    """What moves, by the names of chips."""
    names = step.topology.chip_names
    kinds: dict[str, float] = defaultdict(float)
    for (kind, _, _), size in found.flows.items():
        kinds[kind] += size
    caches = found.caches
    return MigrationRecord(
        moved_bytes=found.moved_bytes,
        by_kind=dict(sorted(kinds.items())),
        storage_bytes=found.storage_bytes,
        seconds=time.seconds,
        network_s=time.network_s,
        storage_s=time.storage_s,
        refill_s=time.refill_s,
        busiest_link=time.link_name,
        busiest_link_kind=time.link,
        link_bytes=dict(time.tiers),
        caches=CacheRecord(
            kept=caches.kept,
            moved=caches.moved,
            lost=caches.lost,
            unplaced=caches.unplaced,
            lost_bytes=caches.lost_bytes,
            lost_tokens=lost_tokens(step, caches),
        ),
        lost_experts=len(found.lost_copies),
        moves=tuple(
            Move(
                kind=kind,
                source="storage" if source == STORAGE else names[source],
                target=names[target],
                num_bytes=size,
            )
            for (kind, source, target), size in sorted(found.flows.items())
        ),
    )
