"""Cells that share domains: more of them than whole ones, on machines that are not regular.

:func:`planner.topology.groups.carve` never splits a cell that fits into a domain and never
lets two larger ones share a domain. Where racks have lost chips that leaves many idle: cells
of 72 chips on racks of 70 are then spread over two racks each, half of which stay empty.
Here cells may share domains, since every chip has a NIC of its own; the counting model of
:mod:`planner.search.mapping_model` keeps their pieces large.

Only on machines where nothing but chips is missing, with one level of switches or a full mesh
in a domain and a fabric without oversubscribed leaves: there the price of an exchange depends
on the smallest piece alone, and the bound is that no mapping of so many cells has a larger one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import replace

from planner.cost.price import LinkRate
from planner.domain.curves import Op
from planner.domain.degrees import Degrees
from planner.domain.scale_up import MeshDomain, SwitchDomain
from planner.search.batches import split_evenly
from planner.search.mapping_case import Mapping, MappingCase, piece_bound
from planner.topology.graph import Topology
from planner.topology.groups import Cell, cell_room, max_cells
from planner.topology.soundness import soundness

EXCHANGES = (Op.ALL_TO_ALL, Op.DISPATCH, Op.COMBINE)


def is_flat(topology: Topology) -> bool:
    """Whether one level of switches, or a full mesh, joins the chips of a domain."""
    scale_up = topology.spec.scale_up
    if isinstance(scale_up, SwitchDomain):
        return len(scale_up.levels) == 1
    return isinstance(scale_up, MeshDomain) and scale_up.is_full


def can_share(topology: Topology) -> bool:
    """Whether cells of a machine may share its domains: see the module."""
    if not is_flat(topology) or topology.spec.scale_out is None or topology.contention > 1:
        return False
    state = soundness(topology)
    return state.untouched or (state.fabric and all(state.domains) and all(state.nics))


def is_split_by_units(degrees: Degrees, unit: int) -> bool:
    """Whether only the expert-parallel groups of a stage may leave a domain."""
    within = unit % degrees.attn_tp == 0 and unit % degrees.expert_tp == 0
    return within and degrees.cp == 1 and degrees.stage_chips == degrees.ep * degrees.expert_tp


def mapping_case(topology: Topology, size: int, unit: int, need: int) -> MappingCase:
    """Capacities of the domains in units, units of a cell, number of cells."""
    capacities = tuple(len(domain) // unit for domain in cell_room(topology))
    return MappingCase(capacities=capacities, need=size // unit, num_cells=need)


def most_cells(topology: Topology, size: int, unit: int) -> int:
    """Cells of ``size`` chips that fit when they may share domains; at least ``max_cells``."""
    whole = max_cells(topology, size, unit)
    if not (1 <= unit <= size <= topology.max_used) or size % unit or not can_share(topology):
        return whole
    units = sum(len(domain) // unit for domain in cell_room(topology))
    return max(whole, min(units * unit, topology.max_used) // size)


def _solved(topology: Topology, size: int, unit: int, need: int) -> Mapping | None:
    if need < 1 or need > most_cells(topology, size, unit):
        return None
    # The solver takes longer to import than most plans take: only where cells are shared.
    from planner.search.mapping_model import solve_mapping

    return solve_mapping(mapping_case(topology, size, unit, need))


def map_cells(
    topology: Topology, size: int, unit: int, need: int
) -> tuple[tuple[int, ...], ...] | None:
    """Chips of ``need`` cells that may share domains, whole cells first.

    Returns
    -------
    tuple of tuple of int or None
        Chips of each cell in rank order, a piece after the other; None when they do not fit.
    """
    found = _solved(topology, size, unit, need)
    if found is None:
        return None
    room = cell_room(topology)
    taken = [0] * len(room)
    cells = []
    for pieces in sorted(found.cells, key=lambda pieces: (len(pieces) > 1, pieces)):
        chips: list[int] = []
        for domain, units in pieces:
            start = taken[domain]
            taken[domain] = start + units * unit
            chips += room[domain][start : taken[domain]]
        cells.append(tuple(chips))
    return tuple(cells)


def least_chips(topology: Topology, cells: Sequence[Sequence[int]]) -> int:
    """Chips of the smallest piece of all cells."""
    owner = topology.domain_of
    return min(min(Counter(map(owner, cell)).values()) for cell in cells)


def neighbours(topology: Topology, found: tuple[Cell, ...], degrees: Degrees) -> tuple[Cell, ...]:
    """Cells of replicas that stay within a domain each, if there are enough of them.

    The slowest boundary between stages sets the pace of all.
    """
    if any(len(cell.pieces) > 1 for cell in found):
        return found
    homes: dict[int, list[Cell]] = {}
    for cell in found:
        homes.setdefault(topology.domain_of(cell.chips[0]), []).append(cell)
    within = [
        own[start : start + degrees.pp]
        for own in homes.values()
        for start in range(0, len(own) - degrees.pp + 1, degrees.pp)
    ]
    if len(within) < degrees.replicas:
        return found
    return tuple(cell for stages in within[: degrees.replicas] for cell in stages)


def level_split(topology: Topology, size: int, unit: int) -> tuple[int, ...]:
    """Chips of the pieces of a cell over as few domains as any can have, as equal as possible.

    No cell of a mapping has fewer pieces, and none of as many has a larger smallest one.
    """
    need = size // unit
    widest = max(len(domain) // unit for domain in cell_room(topology))
    return tuple(unit * part for part in split_evenly(need, -(-need // widest)))


def split_load(topology: Topology, op: Op, size: int, piece: int) -> float:
    """Seconds per byte that a chip's NIC needs in a cell with a piece of so many chips.

    A chip of that piece sends ``1 - piece / size`` of its buffer to other domains.
    """
    fabric = topology.spec.scale_out
    if fabric is None or piece >= size:
        return 0.0
    return (1 - piece / size) / fabric.chip_bytes_per_s / fabric.curves.of(op).derate


def least_piece(topology: Topology, cell: tuple[int, int], need: int) -> int:
    """Closed form: among so many cells some has a piece of at most this many chips.

    ``cell`` is its chips and those of its units.
    """
    size, unit = cell
    return unit * piece_bound(mapping_case(topology, size, unit, need))


def slowest_rates(
    topology: Topology, degrees: Degrees, unit: int, rates: Table[tuple[str, Op], LinkRate]
) -> dict[tuple[str, Op], LinkRate]:
    """What the slowest of ``pp * replicas`` cells cannot beat, given optimistic ``rates``.

    Some cell has a piece of at most the proven bound of the mapping.
    """
    found = dict(rates)
    size = degrees.stage_chips
    mapped = _solved(topology, size, unit, degrees.pp * degrees.replicas)
    if mapped is None or not is_split_by_units(degrees, unit):
        return found
    for op in EXCHANGES:
        if ("ep", op) in found:
            own = found["ep", op]
            load = split_load(topology, op, size, unit * mapped.bound)
            found["ep", op] = replace(own, s_per_byte=max(float(own.s_per_byte), load))
    return found
