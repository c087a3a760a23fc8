"""What the halves of a machine can send each other: inside a domain, and between domains.

Inside a scale-up domain of ``n`` chips
    switches   least cut into ``n // 2`` and the other chips, a switch on the cheaper side.
               Of a healthy domain that is ``n // 2`` times the bandwidth of a chip; where
               levels of switches nest, the first half of the chips is the least one: each
               level of span ``m`` adds ``min(h mod m, m - h mod m)`` chips, ``h = n // 2``.
    mesh       least cut over all splits (up to 16 chips, beyond: an upper bound).
    torus      cheapest pair of planes across one axis (one plane where it does not close)
               that leaves halves as equal as planes can: of an axis of odd length one half
               is a plane larger.
    graph      as switches and mesh.

Between domains
    Largest flow through NICs, leaf, spine and core switches from half of the domains to the
    others, least over the halves tried: all of them up to 8 domains, otherwise the first
    half and the half with the least egress. In a healthy fabric the first half is the least
    one: it shares as few leaves and pods as possible with the other.

Nameplate bandwidth, one direction.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from planner.domain.scale_up import GraphDomain, SwitchDomain, Torus
from planner.topology.graph import Topology
from planner.topology.network import CHIP, CORE, LEAF, NIC_NODE, SPINE, Bools, Floats, Ints, Network
from planner.topology.splits import Part, domain_parts, least_cut, max_flow

MAX_DOMAINS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Bisection:
    """Bandwidth between two halves, one direction, and how it was found.

    ``is_bound`` says that another split may be cheaper: the true figure is at most this.
    """

    bytes_per_s: float
    method: str
    is_bound: bool = False


ONE_CHIP = Bisection(bytes_per_s=0.0, method="one chip")


def scale_up_bisections(topology: Topology) -> tuple[Bisection, ...]:
    """Bisection of every scale-up domain, in the order of ``topology.domains``.

    Of a healthy machine all domains are alike: one figure stands for all of them.
    """
    scale_up = topology.spec.scale_up
    healthy = topology.wounded is None
    if healthy and isinstance(scale_up, SwitchDomain) and scale_up.parts == 1:
        return (_nested_levels(scale_up),)
    wanted = range(1 if healthy else len(topology.domains))
    known: dict[object, Bisection] = {}
    found = []
    for part in domain_parts(topology.network, wanted):
        key = _key(topology, part)
        if key not in known:
            known[key] = _bisection(topology, part)
        found.append(known[key])
    return tuple(found)


def _key(topology: Topology, part: Part) -> object:
    if isinstance(topology.spec.scale_up, Torus):
        places = tuple(topology.places[chip][1] for chip in part.chips.tolist())
        return (places, part.key)
    return part.key


def _nested_levels(domain: SwitchDomain) -> Bisection:
    half = domain.chips // 2
    total = 0.0
    for level in domain.levels:
        beyond = half % level.span
        total += min(beyond, level.span - beyond) * level.bytes_per_s
    return Bisection(bytes_per_s=total, method="half of the chips through the switches")


def _bisection(topology: Topology, part: Part) -> Bisection:
    if len(part.chips) < 2:
        return ONE_CHIP
    if topology.is_torus:
        return _planes(topology, part)
    least = least_cut(part)
    method = "least of all halves" if least.complete else f"least of {least.tried} halves tried"
    return Bisection(bytes_per_s=least.bytes_per_s, method=method, is_bound=not least.complete)


def _planes(topology: Topology, part: Part) -> Bisection:
    """Cheapest cut of a slice by planes across one axis, its halves as equal as possible."""
    coordinates = np.array([topology.coordinates[chip] for chip in part.chips.tolist()])
    found = []
    for axis, ring in enumerate(topology.wraps):
        along = coordinates[:, axis]
        low, high = int(along.min()), int(along.max())
        if low == high:
            continue
        length = topology.spec.shape[axis]
        sizes = np.bincount(along, minlength=length)
        crossing = along[part.pairs[:, 0]], along[part.pairs[:, 1]]
        for start in range(length) if ring else (low,):
            for inside in _even_spans(sizes, start):
                cut = inside[crossing[0]] != inside[crossing[1]]
                uneven = abs(2 * int(sizes[inside].sum()) - len(along))
                found.append((float(part.pair_rates[cut].sum()), axis, uneven))
    # Of three planes two are a half; a sliver of a slice that has lost much is none.
    fair = max(min(uneven for *_, uneven in found), len(part.chips) / 3)
    bytes_per_s, axis = min(item[:2] for item in found if item[2] <= fair)
    planes = "planes" if topology.wraps[axis] else "plane"
    return Bisection(bytes_per_s=bytes_per_s, method=f"{planes} across axis {'xyz'[axis]}")


def _even_spans(sizes: Ints, start: int) -> list[Bools]:
    """Runs of planes from ``start`` on that hold nearly half of the chips, as masks."""
    length = len(sizes)
    order = (np.arange(length) + start) % length
    held = np.cumsum(sizes[order])
    uneven = np.abs(2 * held - held[-1])[:-1]
    masks = []
    for last in np.flatnonzero(uneven == uneven.min()):
        inside = np.zeros(length, dtype=np.bool_)
        inside[order[: last + 1]] = True
        masks.append(inside)
    return masks


def domain_egress(topology: Topology) -> Floats:
    """What each domain can send into the fabric, shape ``[domains]``, bytes/s.

    For every NIC the lesser of its links to chips and its links to switches; on an explicit
    graph the largest flow from the chips to the leaf switches and the other domains.
    """
    network = topology.network
    if isinstance(topology.spec.scale_up, GraphDomain):
        return _graph_egress(network, len(topology.domains))
    inward = np.zeros(network.num_nodes)
    outward = np.zeros(network.num_nodes)
    owner = np.full(network.num_nodes, -1, dtype=np.int64)
    links = np.flatnonzero(~network.scale_up)
    for near, far in ((0, 1), (1, 0)):
        nic, other = network.ends[links, near], network.ends[links, far]
        rates = network.bytes_per_s[links]
        to_chip = (network.kinds[nic] == NIC_NODE) & (network.kinds[other] == CHIP)
        to_leaf = (network.kinds[nic] == NIC_NODE) & ~to_chip
        np.add.at(inward, nic[to_chip], rates[to_chip])
        np.add.at(outward, nic[to_leaf], rates[to_leaf])
        owner[nic[to_chip]] = network.domains[other[to_chip]]
    nics = np.flatnonzero(owner >= 0)
    egress = np.zeros(len(topology.domains))
    np.add.at(egress, owner[nics], np.minimum(inward, outward)[nics])
    return egress


def _graph_egress(network: Network, num_domains: int) -> Floats:
    fabric = np.isin(network.kinds, (LEAF, SPINE, CORE))
    chip = network.kinds == CHIP
    egress = []
    for domain in range(num_domains):
        own = network.domains == domain
        egress.append(_flow(network, chip & own, (chip & ~own) | fabric))
    return np.array(egress)


def _flow(network: Network, source: Bools, sink: Bools) -> float:
    """Largest flow over the links of the fabric from some nodes to others."""
    merged = np.arange(network.num_nodes) + 2
    merged[source] = 0
    merged[sink] = 1
    outside = ~network.scale_up
    ends = merged[network.ends[outside]]
    rates = network.bytes_per_s[outside]
    useful = ends[:, 0] != ends[:, 1]
    if not useful.any():
        return 0.0
    return max_flow(ends[useful], rates[useful], 0, 1)


def scale_out_bisection(topology: Topology) -> Bisection | None:
    """Bandwidth between halves of the domains; None for a machine of one domain.

    The pieces of a domain that fell apart stay in one half, as they stand in one rack.
    """
    owners = _halls(topology)
    halls = np.unique(owners)
    if len(halls) < 2:
        return None
    network = topology.network
    halves = _hall_halves(topology, owners, halls)
    found = []
    for half in halves:
        first = np.zeros(network.num_nodes, dtype=np.bool_)
        second = np.zeros(network.num_nodes, dtype=np.bool_)
        first[: network.num_chips] = np.isin(owners, half)
        second[: network.num_chips] = ~first[: network.num_chips]
        found.append(_flow(network, first, second))
    units = f"{topology.spec.scale_up.unit}s"
    if topology.wounded is None:
        return Bisection(bytes_per_s=min(found), method=f"first half of the {units} to the others")
    complete = len(halls) <= MAX_DOMAINS
    tried = "all halves" if complete else f"{len(halves)} halves tried"
    return Bisection(
        bytes_per_s=min(found), method=f"least of {tried} of the {units}", is_bound=not complete
    )


def _halls(topology: Topology) -> Ints:
    """Domain of each chip as it stands in the hall; an explicit graph has found ones only."""
    if isinstance(topology.spec.scale_up, GraphDomain):
        return topology.network.domains[: topology.num_chips]
    return np.array([hall for hall, _ in topology.places], dtype=np.int64)


def _hall_halves(topology: Topology, owners: Ints, halls: Ints) -> list[Ints]:
    half = len(halls) // 2
    if topology.wounded is None:
        return [halls[:half]]
    if len(halls) <= MAX_DOMAINS:
        splits = itertools.combinations(range(len(halls)), half)
        return [halls[list(split)] for split in splits if len(halls) % 2 or split[0] == 0]
    egress = domain_egress(topology)
    first_chips = [domain[0] for domain in topology.domains]
    by_hall = np.bincount(owners[first_chips], weights=egress)[halls]
    return [halls[:half], halls[np.argsort(by_hall, kind="stable")[:half]]]
