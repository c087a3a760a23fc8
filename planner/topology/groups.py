"""Groups of chips: cells to place stages on, and the shape that decides what they cost.

Decisions
---------
* A cell that fits into one domain is never split; one that does not takes the fewest
  domains that hold it, in pieces as equal as possible, and does not share them with
  another such cell. So on equal domains every cell has the same shape.
* On a torus all cells are boxes of one form in a grid; a box with a dead chip is left out.
* A group whose surroundings are wounded has no form: it is priced on the graph, chip by
  chip. Groups that the same wounds make alike are priced once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.domain.scale_up import GraphDomain, MeshDomain, SwitchDomain
from planner.topology.boxes import Box, box_wraps
from planner.topology.covers import (
    Rooms,
    choose_covers,
    count_covers,
    cover_domains,
    first_covers,
    level_pieces,
)
from planner.topology.fabric_size import leaf_index
from planner.topology.graph import Topology
from planner.topology.soundness import is_sound, reachable_domains
from planner.topology.torus_cells import count_boxes, torus_cells, unequal_rates


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
    axes : tuple of int, optional
        Which axis of the machine each of them is, where their links differ.
    peers : tuple of int
        With several levels of switches: most chips that one chip first meets at each level.
    climb : float, optional
        Where leaf switches are oversubscribed: share of the bytes of an exchange that climbs
        to the spines, on the leaf that sends most.
    unit_domains : int
        Where leaf switches are oversubscribed: fewest domains of the group in one unit.
    chips : tuple of int, optional
        The group itself, where closed forms do not hold.
    """

    pieces: tuple[int, ...]
    num_units: int = 1
    box: tuple[int, ...] | None = None
    wrap: tuple[bool, ...] | None = None
    axes: tuple[int, ...] | None = None
    peers: tuple[int, ...] = ()
    climb: float | None = None
    unit_domains: int = 0
    chips: tuple[int, ...] | None = None

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
    plain = _plain_shape(topology, chips)
    if plain.chips is not None or len(chips) == 1 or is_sound(topology, chips):
        return plain
    return replace(plain, box=None, wrap=None, axes=None, chips=_representative(topology, chips))


def healthy_shape(topology: Topology, chips: Sequence[int]) -> GroupShape:
    """Shape of a group as if nothing around it were wounded: no price on it is dearer.

    Machines without closed forms, and groups across slices of a torus, keep their chips.
    """
    scale_up = topology.spec.scale_up
    listed = isinstance(scale_up, GraphDomain)
    if listed or (isinstance(scale_up, MeshDomain) and not scale_up.is_full):
        return group_shape(topology, chips)
    return _plain_shape(topology, chips)


def _plain_shape(topology: Topology, chips: Sequence[int]) -> GroupShape:
    counts = Counter(topology.domain_of(chip) for chip in chips)
    units = {topology.unit_of(topology.domains[domain][0]) for domain in counts}
    pieces = tuple(sorted(counts.values(), reverse=True))
    if topology.is_torus:
        if len(counts) == 1:
            return _box_shape(topology, chips)
        return GroupShape(pieces=pieces, num_units=len(units), chips=tuple(sorted(chips)))
    shape = GroupShape(pieces=pieces, num_units=len(units), peers=_peers(topology, chips))
    if len(counts) == 1 or topology.contention <= 1:
        return shape
    per_unit = Counter(topology.unit_of(topology.domains[domain][0]) for domain in counts)
    return replace(shape, climb=_climb(topology, chips), unit_domains=min(per_unit.values()))


def _climb(topology: Topology, chips: Sequence[int]) -> float:
    """Share of an exchange that leaves the leaf, averaged over the chips of the worst leaf.

    A chip sends to every chip of another domain; what is bound for another NIC of its own
    leaf turns there.
    """
    fabric = topology.spec.scale_out
    assert fabric is not None
    on_leaf: dict[tuple[int, int], list[int]] = {}
    for chip in chips:
        domain, position = topology.places[chip]
        nic = position // fabric.chips_per_nic
        index = leaf_index(fabric, topology.spec.domain_chips, domain, nic)
        leaf = (topology.unit_of(chip), index)
        on_leaf.setdefault(leaf, []).append(topology.domain_of(chip))
    sizes = Counter(topology.domain_of(chip) for chip in chips)
    worst = 0.0
    for owners in on_leaf.values():
        here = Counter(owners)
        far = sum((len(chips) - sizes[owner]) - (len(owners) - here[owner]) for owner in owners)
        worst = max(worst, far / (len(owners) * len(chips)))
    return worst


def _box_shape(topology: Topology, chips: Sequence[int]) -> GroupShape:
    places = [topology.coordinates[chip] for chip in chips]
    spans = tuple(max(axis) - min(axis) + 1 for axis in zip(*places, strict=True))
    rings = box_wraps(spans, topology.spec.shape, topology.wraps)
    rates = unequal_rates(topology)
    order = sorted(range(len(spans)), key=lambda axis: (-spans[axis], not rings[axis], axis))
    return GroupShape(
        pieces=(len(chips),),
        box=tuple(spans[axis] for axis in order),
        wrap=tuple(rings[axis] for axis in order),
        axes=None if rates is None else tuple(order),
    )


def _peers(topology: Topology, chips: Sequence[int]) -> tuple[int, ...]:
    """Most chips of the group that one chip first meets at each level of switches."""
    scale_up = topology.spec.scale_up
    if not isinstance(scale_up, SwitchDomain) or len(scale_up.levels) == 1:
        return ()
    places = [topology.places[chip] for chip in chips]
    met = []
    for level in scale_up.levels:
        runs = Counter((domain, position // level.span) for domain, position in places)
        met.append([runs[domain, position // level.span] for domain, position in places])
    inner = [[1] * len(chips), *met[:-1]]
    return tuple(
        max(here - below for here, below in zip(level, lower, strict=True))
        for level, lower in zip(met, inner, strict=True)
    )


def _representative(topology: Topology, chips: Sequence[int]) -> tuple[int, ...]:
    """The group itself, or one seen before that wounds make no different.

    Within one domain of switches chips are interchangeable when each of their links is as
    fast; what else happens on the machine does not concern them.
    """
    exact = tuple(sorted(chips))
    one_domain = len({topology.domain_of(chip) for chip in chips}) == 1
    if not one_domain or not isinstance(topology.spec.scale_up, SwitchDomain):
        return exact
    rates = _switch_rates(topology)
    key = ("group", tuple(sorted(rates[chip] for chip in chips)))
    found = topology.memo.setdefault(key, exact)
    return found if isinstance(found, tuple) else exact


def _switch_rates(topology: Topology) -> list[tuple[tuple[int, float], ...]]:
    """Of every chip: the switches that it reaches and how fast."""
    found = topology.memo.get(_switch_rates)
    if isinstance(found, list):
        return found
    network = topology.network
    rows: list[list[tuple[int, float]]] = [[] for _ in range(topology.num_chips)]
    inside = network.ends[network.scale_up].tolist()
    for (a, b), rate in zip(inside, network.bytes_per_s[network.scale_up].tolist(), strict=True):
        for chip, other in ((a, b), (b, a)):
            if chip < topology.num_chips:
                rows[chip].append((other, rate))
    result = [tuple(sorted(row)) for row in rows]
    topology.memo[_switch_rates] = result
    return result


def _capacities(domains: Sequence[Sequence[int]], unit: int) -> list[int]:
    return [len(domain) // unit for domain in domains]


def _is_possible(topology: Topology, size: int, unit: int) -> bool:
    return 1 <= unit <= size <= topology.max_used and size % unit == 0


def _joined_domains(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Chips of each domain that a layout may use beside those of other domains."""
    reachable = reachable_domains(topology)
    if not topology.spared:
        return reachable
    excluded = topology.spared.excluded
    return tuple(
        tuple(chip for chip in domain if chip not in excluded)[: len(usable)]
        for domain, usable in zip(reachable, topology.open_domains, strict=True)
    )


def _rooms(topology: Topology, unit: int, joined: bool) -> Rooms:
    """Domains by the units that they hold; only those that others can talk to if ``joined``."""
    key = (_rooms, unit, joined)
    found = topology.memo.get(key)
    if not isinstance(found, Rooms):
        domains = _joined_domains(topology) if joined else topology.open_domains
        found = Rooms.of(_capacities(domains, unit))
        topology.memo[key] = found
    return found


def max_cells(topology: Topology, size: int, unit: int) -> int:
    """Most cells that a layout may use at once: all that :func:`carve` would return.

    Where chips of the whole machine are reserved, as many of them as leave so many chips free.
    """
    if not _is_possible(topology, size, unit):
        return 0
    return min(_count_cells(topology, size, unit), topology.max_used // size)


def _count_cells(topology: Topology, size: int, unit: int) -> int:
    if topology.is_torus:
        return count_boxes(topology, size, unit)
    rooms = _rooms(topology, unit, joined=False)
    need = size // unit
    if rooms.sizes and need <= rooms.sizes[0]:
        pairs = zip(rooms.sizes, rooms.counts, strict=True)
        return sum(count * (capacity // need) for capacity, count in pairs)
    return count_covers(_rooms(topology, unit, joined=True), need)


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
        As many as possible under the rules of this module, in the machine's order, on chips
        that are not excluded; empty when none fits or ``unit`` does not divide ``size``.
    """
    if not _is_possible(topology, size, unit):
        return ()
    if topology.is_torus:
        return tuple(_boxed(found) for found in torus_cells(topology, size, unit))
    need = size // unit
    if _is_whole(topology, size, unit):
        return tuple(
            Cell(chips=domain[start : start + size], pieces=(size,))
            for domain in topology.open_domains
            for start in range(0, len(domain) - size + 1, size)
        )
    domains = _joined_domains(topology)
    covers = cover_domains(_capacities(domains, unit), need)
    return tuple(_cell_over(domains, cover, need, unit) for cover in covers)


def _boxed(found: tuple[tuple[int, ...], Box]) -> Cell:
    chips, box = found
    return Cell(chips=chips, pieces=(len(chips),), box=box)


def _is_whole(topology: Topology, size: int, unit: int) -> bool:
    """Whether a cell fits into one domain."""
    sizes = _rooms(topology, unit, joined=False).sizes
    return bool(sizes) and size // unit <= sizes[0]


def _cell_over(
    domains: Sequence[tuple[int, ...]], cover: Sequence[int], need: int, unit: int
) -> Cell:
    """A cell of ``need`` units in pieces as equal as its domains allow."""
    capacities = _capacities([domains[index] for index in cover], unit)
    pieces = tuple(unit * share for share in level_pieces(capacities, need))
    chips: list[int] = []
    for index, piece in zip(cover, pieces, strict=True):
        chips += domains[index][:piece]
    return Cell(chips=tuple(chips), pieces=pieces)


def sample_cells(topology: Topology, size: int, unit: int) -> tuple[Cell, ...]:
    """One cell for each way in which cells of :func:`carve` may lie in their domains.

    The work grows with the number of distinct domains, not with that of the cells.
    """
    if not _is_possible(topology, size, unit):
        return ()
    if topology.is_torus:
        first = itertools.islice(torus_cells(topology, size, unit), 1)
        return tuple(_boxed(found) for found in first)
    if _is_whole(topology, size, unit):
        domain = next(domain for domain in topology.open_domains if len(domain) >= size)
        return (Cell(chips=domain[:size], pieces=(size,)),)
    domains = _joined_domains(topology)
    covers = first_covers(_rooms(topology, unit, joined=True), size // unit)
    found = (_cell_over(domains, cover, size // unit, unit) for cover in covers)
    return tuple({tuple(sorted(cell.pieces)): cell for cell in found}.values())


def sample_pieces(topology: Topology, size: int, unit: int) -> tuple[tuple[int, ...], ...]:
    """Pieces of :func:`sample_cells`, largest first, of a machine that is no torus."""
    if not _is_possible(topology, size, unit):
        return ()
    if _is_whole(topology, size, unit):
        return ((size,),)
    rooms = _rooms(topology, unit, joined=True)
    need = size // unit
    found = set()
    for used, _ in choose_covers(rooms.sizes, rooms.counts, need):
        capacities = [s for s, count in zip(rooms.sizes, used, strict=True) for _ in range(count)]
        pieces = sorted(level_pieces(capacities, need), reverse=True)
        found.add(tuple(unit * share for share in pieces))
    return tuple(sorted(found, reverse=True))


def cell_room(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Chips of each domain that cells over several domains may use."""
    return _joined_domains(topology)
