"""Which parts of a wounded machine still look as built, so that closed forms hold there.

A domain that only lost chips is sound: what is left is connected as before. One that lost a
switch, or whose links are slow, is not: its collectives are computed on the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.domain.hardware import NO_WOUNDS
from planner.domain.scale_up import GraphDomain, MeshDomain, SwitchDomain, Torus
from planner.topology.boxes import box_wraps
from planner.topology.builders import build_network
from planner.topology.graph import Topology
from planner.topology.network import LEAF, NIC_NODE, Bools, Floats, Ints, Network
from planner.topology.wounds import components


@dataclass(frozen=True, kw_only=True, slots=True)
class Soundness:
    """Sound parts of a machine.

    Parameters
    ----------
    domains : tuple of bool
        Scale-up domains whose links are all there, shape ``[domains]``.
    nics : tuple of bool
        Domains whose chips all reach their leaf at full speed.
    fabric : bool
        Whether leaf, spine and core switches are as built.
    untouched : bool
        Whether closed forms hold everywhere.
    """

    domains: tuple[bool, ...]
    nics: tuple[bool, ...]
    fabric: bool
    untouched: bool = False


def _per_chip(network: Network, links: Bools) -> tuple[Ints, Floats]:
    """Number and total bandwidth of the chosen links of every chip."""
    count = np.zeros(network.num_nodes, dtype=np.int64)
    rate = np.zeros(network.num_nodes)
    for end in (0, 1):
        np.add.at(count, network.ends[links, end], 1)
        np.add.at(rate, network.ends[links, end], network.bytes_per_s[links])
    return count[: network.num_chips], rate[: network.num_chips]


def _sound_domains(topology: Topology, healthy: Network) -> tuple[bool, ...]:
    network, scale_up = topology.network, topology.spec.scale_up
    count, rate = _per_chip(network, network.scale_up)
    if isinstance(scale_up, SwitchDomain):
        chips, total = scale_up.chips, scale_up.bytes_per_s
        links = sum(len(level.links_per_switch) for level in scale_up.levels)
        whole = (count == links) & np.isclose(rate, total)
        # Trunks are looked at for the whole machine: they are few and rarely wounded.
        trunks = network.scale_up & (network.ends.min(axis=1) >= network.num_chips)
        full = healthy.scale_up & (healthy.ends.min(axis=1) >= chips * topology.spec.num_domains)
        joined = np.isclose(network.bytes_per_s[trunks].sum(), healthy.bytes_per_s[full].sum())
        return tuple(bool(joined and whole[list(domain)].all()) for domain in topology.domains)
    assert isinstance(scale_up, MeshDomain)
    if not scale_up.is_full:
        return (False,) * len(topology.domains)
    pair = scale_up.pairs[0][2] * scale_up.link_bytes_per_s
    return tuple(
        bool(
            (count[list(domain)] == len(domain) - 1).all()
            and np.allclose(rate[list(domain)], (len(domain) - 1) * pair)
        )
        for domain in topology.domains
    )


def _sound_nics(topology: Topology) -> tuple[bool, ...]:
    network, fabric = topology.network, topology.spec.scale_out
    if fabric is None:
        return (False,) * len(topology.domains)
    kinds = network.kinds[network.ends]
    outward = (kinds == NIC_NODE).any(axis=1) & ~network.scale_up
    to_leaf = outward & (kinds == LEAF).any(axis=1)
    to_chip = outward & ~to_leaf & (network.ends.min(axis=1) < network.num_chips)
    full = np.isclose(network.bytes_per_s, fabric.nic_bytes_per_s)
    cabled = np.zeros(network.num_nodes, dtype=np.bool_)
    cabled[network.ends[to_leaf & full].max(axis=1)] = True
    cabled[network.ends[to_leaf & full].min(axis=1)] = True
    reached = np.zeros(network.num_chips, dtype=np.bool_)
    ends = network.ends[to_chip & full]
    good = cabled[ends.max(axis=1)]
    reached[ends.min(axis=1)[good]] = True
    return tuple(bool(reached[list(domain)].all()) for domain in topology.domains)


def _sound_fabric(network: Network, healthy: Network) -> bool:
    def switches(net: Network) -> tuple[int, float]:
        inner = ~net.scale_up & (net.kinds[net.ends] >= LEAF).all(axis=1)
        return int(inner.sum()), float(net.bytes_per_s[inner].sum())

    (count, rate), (links, total) = switches(network), switches(healthy)
    return count == links and bool(np.isclose(rate, total))


def soundness(topology: Topology) -> Soundness:
    """Compare a machine with how it was built; computed once."""
    found = topology.memo.get(soundness)
    if isinstance(found, Soundness):
        return found
    count = len(topology.domains)
    scale_up = topology.spec.scale_up
    result = Soundness(domains=(True,) * count, nics=(True,) * count, fabric=True, untouched=True)
    if isinstance(scale_up, GraphDomain):
        result = Soundness(domains=(False,) * count, nics=(False,) * count, fabric=False)
    elif topology.wounded is not None:
        healthy = build_network(replace(topology.spec, wounds=NO_WOUNDS))
        torus = isinstance(scale_up, Torus)
        result = Soundness(
            # A torus is judged box by box.
            domains=(False,) * count if torus else _sound_domains(topology, healthy),
            nics=_sound_nics(topology),
            fabric=_sound_fabric(topology.network, healthy),
        )
    elif isinstance(scale_up, MeshDomain) and not scale_up.is_full:
        result = replace(result, domains=(False,) * count, untouched=False)
    topology.memo[soundness] = result
    return result


def _sound_box(topology: Topology, chips: Sequence[int]) -> bool:
    """Whether the bounding box of a group on a torus is complete, links and all."""
    torus = topology.spec.scale_up
    assert isinstance(torus, Torus)
    hall = topology.places[chips[0]][0]
    coordinates = np.array([topology.coordinates[chip] for chip in chips])
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    every = np.array(topology.coordinates)
    owners = np.array([domain for domain, _ in topology.places])
    inside = (owners == hall) & ((every >= low) & (every <= high)).all(axis=1)
    box = tuple(int(length) for length in high - low + 1)
    if int(inside.sum()) != int(np.prod(box)):
        return False
    wraps = box_wraps(box, topology.spec.shape, topology.wraps)
    network = topology.network
    held = np.zeros(network.num_nodes, dtype=np.bool_)
    held[np.flatnonzero(inside)] = True
    links = network.scale_up & held[network.ends].all(axis=1)
    for axis, (length, ring) in enumerate(zip(box, wraps, strict=True)):
        along = links & (network.axes == axis)
        lines = int(np.prod(box)) // length
        expected = lines * (length if ring else length - 1)
        # A box that is not the whole ring does not use the links that close it.
        if int(along.sum()) < expected or not np.allclose(
            network.bytes_per_s[along], torus.link_bytes_per_s[axis]
        ):
            return False
    return True


def is_sound(topology: Topology, chips: Sequence[int]) -> bool:
    """Whether closed forms hold for a group: everything between its chips is as built."""
    state = soundness(topology)
    if state.untouched:
        return True
    owners = {topology.domain_of(chip) for chip in chips}
    if len(owners) > 1 and not (state.fabric and all(state.nics[owner] for owner in owners)):
        return False
    if topology.is_torus:
        parts = [[c for c in chips if topology.domain_of(c) == owner] for owner in owners]
        return all(_sound_box(topology, part) for part in parts)
    return all(state.domains[owner] for owner in owners)


def reachable_domains(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Chips of each domain that other domains can talk to, if need be by a detour.

    One chip with a way out serves its whole domain; a domain without any is left alone.
    """
    return tuple(
        domain if way else ()
        for domain, way in zip(topology.domains, leaving_chips(topology), strict=True)
    )


def leaving_chips(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Chips of each domain that can talk to other domains: those that the fabric joins.

    Where the fabric has fallen apart, those of its largest part.
    """
    if topology.wounded is None:
        return topology.domains
    found = topology.memo.get(leaving_chips)
    if isinstance(found, tuple):
        return found
    network = topology.network
    parts = components(network.num_nodes, network.ends[~network.scale_up])[: network.num_chips]
    roots, sizes = np.unique(parts, return_counts=True)
    largest = roots[sizes.argmax()] if sizes.max() > 1 else -1
    result = tuple(
        tuple(chip for chip in domain if parts[chip] == largest) for domain in topology.domains
    )
    topology.memo[leaving_chips] = result
    return result
