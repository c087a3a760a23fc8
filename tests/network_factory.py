"""Small networks, link by link."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import numpy as np

from planner.topology.network import (
    CHIP,
    CORE,
    FABRIC,
    LEAF,
    NIC_NODE,
    NO_AXIS,
    SPINE,
    SWITCH,
    Network,
)

TIERS = ("nvlink", "ici", "nic", "leaf-spine", "spine-core")
NVLINK, ICI, NIC, LEAF_SPINE, SPINE_CORE = range(5)


@dataclass
class Wiring:
    """Collects nodes and links; chips must be added first."""

    kinds: list = field(default_factory=list)
    domains: list = field(default_factory=list)
    links: list = field(default_factory=list)

    def node(self, kind, domain=FABRIC):
        self.kinds.append(kind)
        self.domains.append(domain)
        return len(self.kinds) - 1

    def chips(self, count, domain):
        return [self.node(CHIP, domain) for _ in range(count)]

    def link(self, a, b, rate, tier, *, axis=NO_AXIS, hops=1):
        self.links.append((a, b, rate, tier, axis, hops))

    def network(self):
        a, b, rates, tiers, axes, hops = (list(x) for x in zip(*self.links, strict=True))
        kinds = np.array(self.kinds)
        return Network(
            num_chips=int((kinds == CHIP).sum()),
            kinds=kinds,
            domains=np.array(self.domains),
            ends=np.array([a, b]).T.copy(),
            bytes_per_s=np.array(rates, dtype=float),
            cables=np.ones(len(a), dtype=np.int64),
            tiers=np.array(tiers),
            scale_up=np.array(tiers) <= ICI,
            axes=np.array(axes),
            hops=np.array(hops),
            tier_names=TIERS,
            name_nodes=lambda: tuple(f"n{node}" for node in range(len(kinds))),
        )


def switch_domains(num_domains, chips, switches, *, rate=50.0, wiring=None):
    """Chips of every domain on ``switches`` switches; chips are all nodes in front."""
    wiring = wiring or Wiring()
    members = [wiring.chips(chips, domain) for domain in range(num_domains)]
    for domain in range(num_domains):
        for _ in range(switches):
            switch = wiring.node(SWITCH, domain)
            for chip in members[domain]:
                wiring.link(chip, switch, rate, NVLINK)
    return wiring, members


def nvl72():
    """72 chips, 18 switches, 50 a link: 900 a chip."""
    return switch_domains(1, 72, 18)[0].network()


def leaf_spine(num_domains, chips, switches, *, leaves=2, spines=2, nic=50.0, up=None, rate=50.0):
    """Domains whose chips have a NIC each; NIC ``i`` on leaf ``i % leaves``, one unit."""
    wiring, members = switch_domains(num_domains, chips, switches, rate=rate)
    leaf_nodes = [wiring.node(LEAF) for _ in range(leaves)]
    spine_nodes = [wiring.node(SPINE) for _ in range(spines)]
    for domain in members:
        for place, chip in enumerate(domain):
            port = wiring.node(NIC_NODE)
            wiring.link(chip, port, nic, NIC)
            wiring.link(port, leaf_nodes[place % leaves], nic, NIC)
    if up is None:
        up = nic * num_domains * chips / leaves / spines
    for leaf, spine in itertools.product(leaf_nodes, spine_nodes):
        wiring.link(leaf, spine, up, LEAF_SPINE)
    return wiring.network()


def pods(num_pods, domains, chips, *, leaves=2, spines=2, cores=2, nic=50.0):
    """Units of leaves and spines under cores; spine ``i`` of a pod on core group ``i``."""
    wiring, members = switch_domains(num_pods * domains, chips, 2, rate=100.0)
    core_nodes = [[wiring.node(CORE) for _ in range(cores)] for _ in range(spines)]
    for pod in range(num_pods):
        leaf_nodes = [wiring.node(LEAF) for _ in range(leaves)]
        spine_nodes = [wiring.node(SPINE) for _ in range(spines)]
        for domain in members[pod * domains : (pod + 1) * domains]:
            for place, chip in enumerate(domain):
                port = wiring.node(NIC_NODE)
                wiring.link(chip, port, nic, NIC)
                wiring.link(port, leaf_nodes[place % leaves], nic, NIC)
        for leaf, spine in itertools.product(leaf_nodes, spine_nodes):
            wiring.link(leaf, spine, nic * domains * chips / leaves / spines, LEAF_SPINE)
        for spine, group in zip(spine_nodes, core_nodes, strict=True):
            for core in group:
                wiring.link(spine, core, 0.4 * nic, SPINE_CORE)
    return wiring.network()


def torus(shape, *, wraps=None, rates=None):
    """Chips in coordinate order, the first axis fastest, and their coordinates."""
    wraps = wraps or tuple(length > 2 for length in shape)
    rates = rates or (1.0,) * len(shape)
    places = [place[::-1] for place in itertools.product(*map(range, reversed(shape)))]
    number = {place: chip for chip, place in enumerate(places)}
    wiring = Wiring()
    wiring.chips(len(places), 0)
    for place in places:
        for axis, length in enumerate(shape):
            if length == 1 or (place[axis] == length - 1 and not wraps[axis]):
                continue
            there = (*place[:axis], (place[axis] + 1) % length, *place[axis + 1 :])
            wiring.link(number[place], number[there], rates[axis], ICI, axis=axis)
    return wiring.network(), np.array(places)


def mesh(chips, pairs, *, rate=1.0):
    """Direct links ``(a, b, cables)`` between the chips of one domain."""
    wiring = Wiring()
    wiring.chips(chips, 0)
    for a, b, cables in pairs:
        wiring.link(a, b, rate * cables, ICI)
    return wiring.network()


def full_mesh(chips, *, rate=1.0):
    return mesh(chips, [(a, b, 1) for a, b in itertools.combinations(range(chips), 2)], rate=rate)


# Cables of the hybrid cube mesh of eight V100 chips, six per chip.
CUBE_MESH = (
    (0, 1, 1), (0, 2, 1), (0, 3, 2), (0, 4, 2), (1, 2, 2), (1, 3, 1), (1, 5, 2), (2, 3, 2),
    (2, 6, 1), (3, 7, 1), (4, 5, 1), (4, 6, 1), (4, 7, 2), (5, 6, 2), (5, 7, 1), (6, 7, 2),
)  # fmt: skip


def with_rates(network, factors):
    """Links slowed down or sped up: ``{link: factor}``."""
    rates = network.bytes_per_s.copy()
    for link, factor in factors.items():
        rates[link] *= factor
    return replace(network, bytes_per_s=rates)


def without_links(network, links):
    """The network without some links."""
    kept = np.setdiff1d(np.arange(network.num_links), list(links))
    return replace(
        network,
        ends=network.ends[kept],
        bytes_per_s=network.bytes_per_s[kept],
        cables=network.cables[kept],
        tiers=network.tiers[kept],
        scale_up=network.scale_up[kept],
        axes=network.axes[kept],
        hops=network.hops[kept],
    )


def without_chip(network, chip):
    """The network in which nothing is joined to one chip."""
    return without_links(network, np.flatnonzero((network.ends == chip).any(axis=1)))


def relabelled(network, seed):
    """The same network with chips and other nodes renumbered, and the new number of each."""
    rng = np.random.default_rng(seed)
    chips, others = network.num_chips, network.num_nodes - network.num_chips
    number = np.concatenate((rng.permutation(chips), chips + rng.permutation(others)))
    order = rng.permutation(network.num_links)
    flip = rng.random(network.num_links) < 0.5
    ends = number[network.ends]
    ends[flip] = ends[flip, ::-1]
    old = np.argsort(number)
    return replace(
        network,
        kinds=network.kinds[old],
        domains=network.domains[old],
        ends=ends[order],
        bytes_per_s=network.bytes_per_s[order],
        cables=network.cables[order],
        tiers=network.tiers[order],
        scale_up=network.scale_up[order],
        axes=network.axes[order],
        hops=network.hops[order],
    ), number


def random_network(seed):
    """One to three domains of switched or directly linked chips, NICs, leaves and spines."""
    rng = np.random.default_rng(seed)
    wiring = Wiring()
    sizes = rng.integers(1, 5, rng.integers(1, 4))
    members = [wiring.chips(size, domain) for domain, size in enumerate(sizes)]

    def rate():
        return float(rng.choice([1.0, 2.0, 3.0]))

    for domain, chips in enumerate(members):
        switches = int(rng.integers(0, 3)) if len(chips) > 1 else 0
        for _ in range(switches):
            switch = wiring.node(SWITCH, domain)
            for chip in chips:
                wiring.link(chip, switch, rate(), NVLINK, hops=int(rng.integers(1, 3)))
        joined = set()
        if not switches or rng.random() < 0.3:
            for here, there in itertools.pairwise(chips):
                joined.add((here, there))
            for pair in itertools.combinations(chips, 2):
                if rng.random() < 0.3:
                    joined.add(pair)
        for here, there in sorted(joined):
            wiring.link(here, there, rate(), ICI)
    leaves = [wiring.node(LEAF) for _ in range(rng.integers(1, 4))]
    spines = [wiring.node(SPINE) for _ in range(rng.integers(1, 3))]
    for chip in itertools.chain(*members):
        port = wiring.node(NIC_NODE)
        wiring.link(chip, port, rate(), NIC)
        wiring.link(port, leaves[rng.integers(len(leaves))], rate(), NIC)
    for leaf, spine in itertools.product(leaves, spines):
        wiring.link(leaf, spine, rate(), LEAF_SPINE)
    return wiring.network()


def random_groups(network, seed):
    """One or two disjoint groups of chips."""
    rng = np.random.default_rng(seed + 1)
    chips = rng.permutation(network.num_chips)
    cut = int(rng.integers(0, len(chips) + 1))
    return tuple(np.sort(part) for part in (chips[:cut], chips[cut:]) if len(part) > 1)
