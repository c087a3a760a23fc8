"""Groups of chips: cells to place stages on, and the shape that decides what they cost.

Decisions
---------
* A cell that fits into one domain is never split; one that does not takes the fewest
  domains that hold it, in pieces as equal as possible, and does not share them with
  another such cell. So on equal domains every cell has the same shape.
* On a torus all cells are boxes of one form in a grid.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from planner.topology.boxes import box_wraps, choose_boxes, snake, tile
from planner.topology.covers import cover_domains, level_pieces
from planner.topology.graph import Topology


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A place for one stage.

    Parameters
    ----------
    chips : tuple of int
        Chips in rank order.
    pieces : tuple of int
        Chips in each domain, in the order of ``chips``.
    box : tuple of int, optional
        Axis lengths on a torus.
    """

    chips: tuple[int, ...]
    pieces: tuple[int, ...]
    box: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupShape:
    """What a group of chips looks like to a collective; equal shapes cost the same.

    Parameters
    ----------
    pieces : tuple of int
        Chips in each domain, largest first.
    num_units : int
        Scalable units of the fabric that the group touches.
    box : tuple of int, optional
        On a torus, lengths of the bounding box over its axes, largest first.
    wrap : tuple of bool, optional
        Which of these axes are whole rings.
    """

    pieces: tuple[int, ...]
    num_units: int = 1
    box: tuple[int, ...] | None = None
    wrap: tuple[bool, ...] | None = None

    @property
    def size(self) -> int:
        """Chips of the group."""
        return sum(self.pieces)


def group_shape(topology: Topology, chips: Sequence[int]) -> GroupShape:
    """Canonical shape of a group of distinct chips.

    Raises
    ------
    ValueError
        The group is empty, or names a chip twice.
    """
    if not chips or len(set(chips)) != len(chips):
        raise ValueError("a group is a non-empty set of distinct chips")
    if topology.is_torus:
        places = [topology.places[chip] for chip in chips]
        spans = tuple(max(axis) - min(axis) + 1 for axis in zip(*places, strict=True))
        rings = box_wraps(spans, topology.spec.shape, topology.wraps)
        axes = sorted(zip(spans, rings, strict=True), reverse=True)
        return GroupShape(
            pieces=(len(chips),),
            box=tuple(length for length, _ in axes),
            wrap=tuple(ring for _, ring in axes),
        )
    counts = Counter(topology.domain_of(chip) for chip in chips)
    units = {topology.unit_of(topology.domains[domain][0]) for domain in counts}
    return GroupShape(pieces=tuple(sorted(counts.values(), reverse=True)), num_units=len(units))


def _capacities(topology: Topology, unit: int) -> list[int]:
    return [len(domain) // unit for domain in topology.domains]


def _is_possible(topology: Topology, size: int, unit: int) -> bool:
    return 1 <= unit <= size <= topology.num_chips and size % unit == 0


def max_cells(topology: Topology, size: int, unit: int) -> int:
    """Number of cells that :func:`carve` would return, without building them."""
    if not _is_possible(topology, size, unit):
        return 0
    if topology.is_torus:
        chosen = choose_boxes(topology.spec.shape, topology.wraps, size, unit)
        return 0 if chosen is None else chosen[0]
    capacities = _capacities(topology, unit)
    need = size // unit
    if need <= max(capacities):
        return sum(capacity // need for capacity in capacities)
    if len(set(capacities)) == 1:
        return len(capacities) // math.ceil(need / capacities[0]) if capacities[0] else 0
    return len(cover_domains(capacities, need))


def carve(topology: Topology, size: int, unit: int) -> tuple[Cell, ...]:
    """Cut a machine into disjoint cells.

    Parameters
    ----------
    topology : Topology
        The machine.
    size : int
        Chips of one cell.
    unit : int
        Every aligned run of so many ranks stays within one scale-up domain; on a torus
        it is a contiguous box.

    Returns
    -------
    tuple of Cell
        As many as possible under the rules of this module, in the machine's order; empty
        when none fits or ``unit`` does not divide ``size``.
    """
    if not _is_possible(topology, size, unit):
        return ()
    if topology.is_torus:
        return _carve_torus(topology, size, unit)
    capacities = _capacities(topology, unit)
    need = size // unit
    if need <= max(capacities):
        return tuple(
            Cell(chips=domain[start : start + size], pieces=(size,))
            for domain in topology.domains
            for start in range(0, len(domain) - size + 1, size)
        )
    cells = []
    for cover in cover_domains(capacities, need):
        pieces = [unit * share for share in level_pieces([capacities[d] for d in cover], need)]
        chips: list[int] = []
        for domain, piece in zip(cover, pieces, strict=True):
            chips += topology.domains[domain][:piece]
        cells.append(Cell(chips=tuple(chips), pieces=tuple(pieces)))
    return tuple(cells)


def _carve_torus(topology: Topology, size: int, unit: int) -> tuple[Cell, ...]:
    shape = topology.spec.shape
    chosen = choose_boxes(shape, topology.wraps, size, unit)
    if chosen is None:
        return ()
    _, box, inner = chosen
    index = {place: chip for chip, place in enumerate(topology.places)}
    grid = [full // length for full, length in zip(shape, box, strict=True)]
    return tuple(
        Cell(
            chips=tuple(
                index[place]
                for place in tile(
                    [at * length for at, length in zip(corner, box, strict=True)], box, inner
                )
            ),
            pieces=(size,),
            box=box,
        )
        for corner in snake(grid)
    )
