"""From a machine's facts to its :class:`Network`, healthy and in full size.

Decisions
---------
* Every builder adds whole arrays, one block per tier of links.
* A level of switches that spans more chips is a longer way (``hops``): neighbours talk
  through the innermost level that joins them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from planner.domain.hardware import Fabric, MachineSpec
from planner.domain.scale_up import GraphDomain, MeshDomain, SwitchDomain, Torus
from planner.topology.fabric_size import fabric_size, leaf_index
from planner.topology.network import (
    AXES,
    CHIP,
    CORE,
    FABRIC,
    KINDS,
    LEAF,
    LEAF_SPINE,
    NIC,
    NIC_NODE,
    NO_AXIS,
    SPINE,
    SPINE_CORE,
    SWITCH,
    TRUNK,
    Ints,
    Network,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """What the links of one block have in common; ``rate`` is that of all their cables."""

    rate: float
    tier: str
    cables: int = 1
    scale_up: bool = True
    axis: int = NO_AXIS
    hops: int = 1


@dataclass(slots=True)
class _Draft:
    """Blocks of nodes and links on their way to a network."""

    kinds: list[Ints] = field(default_factory=list)
    domains: list[Ints] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    links: list[tuple[Ints, Ints, _Kind]] = field(default_factory=list)
    count: int = 0

    def add_nodes(self, kind: int, domains: Ints, names: list[str]) -> Ints:
        """Add nodes of one kind; returns their indices."""
        first = self.count
        self.count += len(names)
        self.kinds.append(np.full(len(names), kind, dtype=np.int64))
        self.domains.append(np.asarray(domains, dtype=np.int64))
        self.names.append(names)
        return np.arange(first, self.count)

    def add_links(self, a: Ints, b: Ints, kind: _Kind) -> None:
        """Add links of one kind between ``a[i]`` and ``b[i]``."""
        self.links.append((a.ravel(), b.ravel(), kind))

    def network(self, num_chips: int) -> Network:
        """Join the blocks."""
        kinds = [kind for _, _, kind in self.links]
        sizes = [len(a) for a, _, _ in self.links]
        tiers = tuple(dict.fromkeys(kind.tier for kind in kinds))
        names = tuple(itertools.chain.from_iterable(self.names))
        ends = [np.stack((a, b), axis=1) for a, b, _ in self.links]

        def column(values: list[int]) -> Ints:
            return np.repeat(np.array(values, dtype=np.int64), sizes)

        return Network(
            num_chips=num_chips,
            kinds=np.concatenate(self.kinds),
            domains=np.concatenate(self.domains),
            ends=np.concatenate(ends) if ends else np.zeros((0, 2), dtype=np.int64),
            bytes_per_s=np.repeat(np.array([kind.rate for kind in kinds], dtype=float), sizes),
            cables=column([kind.cables for kind in kinds]),
            tiers=column([tiers.index(kind.tier) for kind in kinds]),
            scale_up=column([kind.scale_up for kind in kinds]).astype(np.bool_),
            axes=column([kind.axis for kind in kinds]),
            hops=column([kind.hops for kind in kinds]),
            tier_names=tiers,
            name_nodes=lambda: names,
        )


def domain_prefix(spec: MachineSpec) -> str:
    """Letter of a domain in names: ``n`` for nodes, ``r`` for racks, ``s`` for slices."""
    return spec.scale_up.unit[0]


def chip_places(spec: MachineSpec) -> list[str]:
    """Name of each position within one domain: ``t3/c2``, ``c7`` or ``x3y5``."""
    scale_up = spec.scale_up
    if isinstance(scale_up, GraphDomain):
        return [node.name for node in scale_up.nodes if node.kind == "chip"]
    if isinstance(scale_up, Torus):
        return [
            "".join(f"{letter}{at}" for letter, at in zip(AXES, place, strict=False))
            for place in torus_places(spec.shape)
        ]
    tray = scale_up.chips_per_tray
    if tray is None:
        return [f"c{position}" for position in range(scale_up.chips)]
    return [f"t{position // tray}/c{position % tray}" for position in range(scale_up.chips)]


def chip_names(spec: MachineSpec) -> list[str]:
    """Name of every chip of the whole machine; a single slice needs no prefix."""
    places = chip_places(spec)
    if isinstance(spec.scale_up, GraphDomain) or (
        isinstance(spec.scale_up, Torus) and spec.num_domains == 1
    ):
        return places
    prefix = domain_prefix(spec)
    return [f"{prefix}{domain}/{place}" for domain in range(spec.num_domains) for place in places]


def torus_places(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Coordinates of every chip of a slice; the first axis runs fastest."""
    reversed_axes = itertools.product(*(range(length) for length in reversed(shape)))
    return [place[::-1] for place in reversed_axes]


def build_network(spec: MachineSpec) -> Network:
    """Build every chip, switch, NIC and link of a healthy machine.

    Chips are numbered domain by domain, position by position.
    """
    if isinstance(spec.scale_up, GraphDomain):
        return _explicit(spec.scale_up)
    draft = _Draft()
    size = spec.domain_chips
    owner = np.repeat(np.arange(spec.num_domains), size)
    chips = draft.add_nodes(CHIP, owner, chip_names(spec)).reshape(spec.num_domains, size)
    if isinstance(spec.scale_up, Torus):
        _add_torus(draft, spec, spec.scale_up, chips)
    elif isinstance(spec.scale_up, MeshDomain):
        _add_mesh(draft, spec.scale_up, chips)
    else:
        _add_switches(draft, spec, spec.scale_up, chips)
    if spec.scale_out is not None and spec.scale_out.max_domains > 1:
        nics = _add_nics(draft, spec, spec.scale_out, chips)
        _add_leaves(draft, spec, spec.scale_out, nics)
    return draft.network(chips.size)


def _add_mesh(draft: _Draft, mesh: MeshDomain, chips: Ints) -> None:
    by_links: dict[int, list[tuple[int, int]]] = {}
    for a, b, links in mesh.pairs:
        by_links.setdefault(links, []).append((a, b))
    for links, pairs in by_links.items():
        ends = np.array(pairs)
        draft.add_links(
            chips[:, ends[:, 0]],
            chips[:, ends[:, 1]],
            _Kind(rate=links * mesh.link_bytes_per_s, tier=mesh.tier, cables=links),
        )


def _add_torus(draft: _Draft, spec: MachineSpec, torus: Torus, chips: Ints) -> None:
    # The first axis runs fastest: the last axis of the array.
    grid = chips.reshape(spec.num_domains, *reversed(spec.shape))
    for axis, (length, ring) in enumerate(zip(spec.shape, torus.wraps(spec.shape), strict=True)):
        if length == 1:
            continue
        along = grid.ndim - 1 - axis
        steps = length if ring else length - 1
        here = np.take(grid, range(steps), axis=along)
        there = np.take(grid, [(step + 1) % length for step in range(steps)], axis=along)
        rate = torus.link_bytes_per_s[axis]
        draft.add_links(here, there, _Kind(rate=rate, tier=torus.tier, axis=axis))


def _add_switches(draft: _Draft, spec: MachineSpec, domain: SwitchDomain, chips: Ints) -> None:
    prefix = domain_prefix(spec)
    count, size = chips.shape
    for rank, level in enumerate(domain.levels):
        runs = domain.parts if domain.parts > 1 else size // level.span
        span = size // runs
        label = "p{}/" if domain.parts > 1 else f"l{rank}g{{}}/" if len(domain.levels) > 1 else ""
        for switch, links in enumerate(level.links_per_switch):
            names = [
                f"{prefix}{at}/{label.format(run)}sw{switch}"
                for at in range(count)
                for run in range(runs)
            ]
            nodes = draft.add_nodes(SWITCH, np.repeat(np.arange(count), runs), names)
            rate = links * level.link_bytes_per_s
            kind = _Kind(rate=rate, tier=domain.tier, cables=links, hops=rank + 1)
            draft.add_links(chips, np.repeat(nodes, span), kind)
            twins = nodes.reshape(count, runs)
            trunk = _Kind(
                rate=domain.trunk_links * level.link_bytes_per_s,
                tier=TRUNK,
                cables=domain.trunk_links,
            )
            for a, b in itertools.combinations(range(domain.parts), 2):
                draft.add_links(twins[:, a], twins[:, b], trunk)


def _add_nics(draft: _Draft, spec: MachineSpec, fabric: Fabric, chips: Ints) -> Ints:
    """NICs of every domain, shape ``[domains, NICs]``, each cabled to its chips."""
    count, size = chips.shape
    per_domain = size // fabric.chips_per_nic
    if fabric.chips_per_nic == 1:
        names = [f"{name}/nic" for name in draft.names[0]]
    else:
        prefix = domain_prefix(spec)
        names = [f"{prefix}{at}/nic{nic}" for at in range(count) for nic in range(per_domain)]
    nics = draft.add_nodes(NIC_NODE, np.full(count * per_domain, FABRIC), names)
    draft.add_links(
        chips,
        np.repeat(nics, fabric.chips_per_nic),
        _Kind(rate=fabric.nic_bytes_per_s, tier=NIC, scale_up=False),
    )
    return nics.reshape(count, per_domain)


def _add_leaves(draft: _Draft, spec: MachineSpec, fabric: Fabric, nics: Ints) -> None:
    count, per_domain = nics.shape
    units = -(-count // fabric.domains_per_unit)
    size = fabric_size(fabric, spec.domain_chips, units)
    per_unit = fabric.leaves_per_unit
    leaves = draft.add_nodes(
        LEAF,
        np.full(units * per_unit, FABRIC),
        [f"su{unit}/leaf{leaf}" for unit in range(units) for leaf in range(per_unit)],
    ).reshape(units, per_unit)
    unit_of = np.arange(count) // fabric.domains_per_unit
    leaf_of = leaf_index(
        fabric, spec.domain_chips, np.arange(count)[:, None], np.arange(per_domain)[None, :]
    )
    draft.add_links(
        nics,
        leaves[unit_of[:, None], leaf_of],
        _Kind(rate=fabric.nic_bytes_per_s, tier=NIC, scale_up=False),
    )
    spines = draft.add_nodes(
        SPINE, np.full(size.spines, FABRIC), [f"spine{spine}" for spine in range(size.spines)]
    ).reshape(-1, size.spines_per_pod)
    pod_of = np.repeat(np.arange(units) // size.units_per_pod, per_unit)
    draft.add_links(
        np.repeat(leaves, size.spines_per_pod),
        spines[pod_of],
        _Kind(rate=size.uplink_bytes_per_s / size.spines_per_pod, tier=LEAF_SPINE, scale_up=False),
    )
    if size.cores:
        cores = draft.add_nodes(
            CORE, np.full(size.cores, FABRIC), [f"core{core}" for core in range(size.cores)]
        ).reshape(size.spines_per_pod, size.cores_per_spine)
        draft.add_links(
            np.repeat(spines, size.cores_per_spine),
            np.broadcast_to(cores, (len(spines), *cores.shape)),
            _Kind(
                rate=size.spine_uplink_bytes_per_s / size.cores_per_spine,
                tier=SPINE_CORE,
                scale_up=False,
            ),
        )


def _explicit(domain: GraphDomain) -> Network:
    """Nodes and links as listed, chips first; domains are found by :mod:`wounds`."""
    order = sorted(range(len(domain.nodes)), key=lambda n: domain.nodes[n].kind != "chip")
    names = tuple(domain.nodes[position].name for position in order)
    index = {name: node for node, name in enumerate(names)}
    links = domain.links
    tiers = tuple(dict.fromkeys(link.tier for link in links))
    ends = np.array([(index[link.a], index[link.b]) for link in links], dtype=np.int64)
    return Network(
        num_chips=domain.chips,
        kinds=np.array([KINDS.index(domain.nodes[n].kind) for n in order], dtype=np.int64),
        domains=np.zeros(len(names), dtype=np.int64),
        ends=ends.reshape(-1, 2),
        bytes_per_s=np.array([link.bytes_per_s for link in links]),
        cables=np.array([link.links for link in links], dtype=np.int64),
        tiers=np.array([tiers.index(link.tier) for link in links], dtype=np.int64),
        scale_up=np.array([link.scale_up for link in links], dtype=np.bool_),
        axes=np.full(len(links), NO_AXIS, dtype=np.int64),
        hops=np.ones(len(links), dtype=np.int64),
        tier_names=tiers,
        name_nodes=lambda: names,
    )
