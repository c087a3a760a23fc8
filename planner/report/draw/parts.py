"""What a machine has, and what of it is left: the facts behind every shape.

The drawing shows the healthy machine with its losses marked, so this module compares the
network as built with the network as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from planner.domain.hardware import Chip, MachineSpec
from planner.domain.scale_up import GraphDomain, SwitchDomain
from planner.report.draw.style import CHIP_COLOURS, NODE_LOOKS, link_look
from planner.topology.builders import build_network
from planner.topology.graph import Topology
from planner.topology.mixed import domain_chip
from planner.topology.network import (
    CHIP,
    KINDS,
    LEAF,
    NIC_NODE,
    SPINE,
    SWITCH,
    Bools,
    Floats,
    Ints,
    Network,
)
from planner.units import format_bytes, format_bytes_per_s

OK, SLOW, CUT, GONE = range(4)
_FULL = 1 - 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """The healthy machine and the state of each of its nodes and links.

    Parameters
    ----------
    network : Network
        As it was built.
    dead : array of bool
        Shape ``[nodes]``.
    left : array of float
        Shape ``[links]``: fraction of the bandwidth that is left, 0 where the link is gone.
    """

    topology: Topology
    network: Network
    dead: Bools
    left: Floats

    @property
    def spec(self) -> MachineSpec:
        """The machine's facts."""
        return self.topology.spec

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each node."""
        return self.network.names

    @cached_property
    def _by_node(self) -> tuple[Ints, Ints]:
        """Where the links of each node start, and the links."""
        ends = self.network.ends.T.ravel()
        order = np.argsort(ends, kind="stable")
        starts = np.searchsorted(ends[order], np.arange(self.network.num_nodes + 1))
        return starts, order % max(1, self.network.num_links)

    def links_of(self, node: int) -> list[int]:
        """Links of a node as built, in the order of the network."""
        starts, links = self._by_node
        found: list[int] = links[starts[node] : starts[node + 1]].tolist()
        return found

    def across(self, link: int, node: int) -> int:
        """The other end of a link."""
        a, b = self.network.ends[link].tolist()
        return int(b if a == node else a)

    def links_to(self, node: int, kind: int) -> list[tuple[int, int]]:
        """Links of a node to nodes of one kind: ``(link, other node)``."""
        pairs = [(link, self.across(link, node)) for link in self.links_of(node)]
        return [(link, other) for link, other in pairs if self.network.kinds[other] == kind]

    def chips_at(self, nic: int) -> list[int]:
        """Chips that a NIC serves."""
        return [chip for _, chip in self.links_to(nic, CHIP)]

    @cached_property
    def slow(self) -> Floats:
        """Fraction of the bandwidth that is left on every link of a node; 1 for most nodes.

        A node is to blame where all of its links, two or more, are slow.
        """
        ends, left = self.network.ends, self.left
        best = np.zeros(self.network.num_nodes)
        for column in (0, 1):
            np.maximum.at(best, ends[:, column], left)
        count = np.bincount(ends[left > 0].ravel(), minlength=len(best))
        to_blame = (count > 1) & (best > 0) & (best < _FULL)
        return np.where(to_blame, best, 1.0)

    @cached_property
    def states(self) -> Ints:
        """State of each link: ``OK``, ``SLOW`` or ``CUT`` by itself, ``GONE`` with an end."""
        ends = self.network.ends
        blame = self.slow[ends].min(axis=1) < _FULL if len(ends) else np.zeros(0, dtype=np.bool_)
        states = np.where((self.left < _FULL) & ~blame, SLOW, OK)
        states[self.left == 0] = CUT
        states[self.dead[ends].any(axis=1)] = GONE
        return states

    @cached_property
    def nics(self) -> Ints:
        """NICs of each domain as it stands in the hall, shape ``[domains, NICs]``."""
        nics = np.flatnonzero(self.network.kinds == NIC_NODE)
        return nics.reshape(self.spec.num_domains, -1)

    @cached_property
    def fabric(self) -> dict[int, list[int]]:
        """Leaf, spine and core switches by kind."""
        kinds = self.network.kinds
        return {kind: np.flatnonzero(kinds == kind).tolist() for kind in range(LEAF, len(KINDS))}

    @property
    def has_fabric(self) -> bool:
        """Whether NICs lead to leaf switches."""
        return bool(self.fabric[LEAF] and self.fabric[SPINE] and self.spec.scale_out is not None)

    def chips(self, domain: int) -> range:
        """Chips of a domain as it stands in the hall, dead ones included."""
        size = self.spec.domain_chips
        return range(domain * size, (domain + 1) * size)

    def alive(self, domains: range) -> int:
        """Chips of a run of domains that are left."""
        if not domains:
            return 0
        first, last = self.chips(domains[0]).start, self.chips(domains[-1]).stop
        return int((~self.dead[first:last]).sum())

    @cached_property
    def switches(self) -> tuple[Ints, ...]:
        """Scale-up switches by level, each of shape ``[switches, domains, runs]``."""
        scale_up = self.spec.scale_up
        if not isinstance(scale_up, SwitchDomain):
            return ()
        rest = np.flatnonzero(self.network.kinds == SWITCH)
        levels = []
        for level in scale_up.levels:
            runs = scale_up.parts if scale_up.parts > 1 else scale_up.chips // level.span
            shape = (len(level.links_per_switch), self.spec.num_domains, runs)
            count = int(np.prod(shape))
            levels.append(rest[:count].reshape(shape))
            rest = rest[count:]
        return tuple(levels)

    @cached_property
    def owners(self) -> Ints:
        """Domain of each node, NICs with their chips; -1 in the fabric."""
        owners = self.network.domains.copy()
        if not isinstance(self.spec.scale_up, GraphDomain):
            owners[self.nics] = np.arange(self.spec.num_domains)[:, None]
        return owners

    @cached_property
    def wounded_domains(self) -> tuple[int, ...]:
        """Domains in which something is missing or slow."""
        hurt = self.owners[self.dead | (self.slow < _FULL)].tolist()
        links = np.isin(self.states, (SLOW, CUT))
        hurt += self.owners[self.network.ends[links]].ravel().tolist()
        return tuple(sorted({domain for domain in hurt if domain >= 0}))

    @cached_property
    def chip_kinds(self) -> tuple[Chip, ...]:
        """Kinds of chips in the order in which they appear."""
        kinds = [domain_chip(self.spec, domain) for domain in range(self.spec.num_domains)]
        return tuple(dict.fromkeys(kinds))

    def chip_of(self, node: int) -> Chip:
        """Kind of one chip of the healthy machine."""
        return domain_chip(self.spec, node // self.spec.domain_chips)

    def look(self, node: int) -> str:
        """Style class of a node that is alive."""
        kind = int(self.network.kinds[node])
        if kind != CHIP:
            return NODE_LOOKS[kind]
        return f"chip k{self.chip_kinds.index(self.chip_of(node)) % len(CHIP_COLOURS)}"

    def link_look(self, link: int) -> str:
        """Style class of a link that is whole."""
        tiers = self.network.tier_names
        axis = int(self.network.axes[link])
        return link_look(tiers[int(self.network.tiers[link])], axis, tiers)

    def tip(self, node: int) -> str:
        """Tooltip of a node: its name, then what it is."""
        kind = int(self.network.kinds[node])
        links = self.links_of(node)
        total = sum(float(self.network.bytes_per_s[link] * self.left[link]) for link in links)
        if self.dead[node]:
            fact = f"{KINDS[kind]}, lost"
        elif kind == CHIP:
            chip = self.chip_of(node)
            fact = f"{chip.name}, HBM {short(format_bytes(chip.hbm_bytes))}"
        else:
            fact = f"{KINDS[kind]}, {len(links)} links, {rate(total)}"
        if not self.dead[node] and self.slow[node] < _FULL:
            fact += f", {percent(float(self.slow[node]))} of its bandwidth left"
        return f"{self.names[node]}\n{fact}"

    def link_tip(self, link: int) -> str:
        """Tooltip of a link: both ends, tier and bandwidth."""
        network = self.network
        full = float(network.bytes_per_s[link])
        cables = int(network.cables[link])
        number = f"{cables} × {rate(full / cables)} = " if cables > 1 else ""
        fact = f"{network.tier_names[int(network.tiers[link])]}, {number}{rate(full)}"
        if self.states[link] == CUT:
            fact += ", cut"
        elif self.left[link] < _FULL:
            fact += f", {percent(float(self.left[link]))} left"
        return f"{network.link_name(link)}\n{fact} per direction"

    def rate_left(self, links: list[int]) -> tuple[float, float]:
        """Bandwidth of some links: what is left, and what was built."""
        built = self.network.bytes_per_s[links]
        return float((built * self.left[links]).sum()), float(built.sum())


def compare(topology: Topology) -> Parts:
    """Compare a machine as built with the machine as it is."""
    network = build_network(topology.spec)
    dead = np.zeros(network.num_nodes, dtype=np.bool_)
    left = np.ones(network.num_links)
    now = topology.wounded
    if now is not None:
        index = network.index
        nodes = np.array([index[name] for name in now.names], dtype=np.int64)
        dead[:] = True
        dead[nodes] = False
        keys = _keys(network.ends, network.num_nodes)
        order = np.argsort(keys)
        found = order[np.searchsorted(keys[order], _keys(nodes[now.ends], network.num_nodes))]
        left[:] = 0.0
        left[found] = now.bytes_per_s / network.bytes_per_s[found]
    return Parts(topology=topology, network=network, dead=dead, left=left)


def _keys(ends: Ints, num_nodes: int) -> Ints:
    pairs = ends.reshape(-1, 2)
    return np.asarray(pairs.min(axis=1) * num_nodes + pairs.max(axis=1))


def short(quantity: str) -> str:
    """``50.0 GB/s`` as ``50 GB/s``."""
    number, space, unit = quantity.partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{space}{unit}"


def rate(bytes_per_s: float) -> str:
    """A bandwidth, as short as it can be said."""
    return short(format_bytes_per_s(bytes_per_s))


def percent(fraction: float) -> str:
    """A fraction of a bandwidth: ``50 %``."""
    return f"{100 * fraction:.3g} %"
