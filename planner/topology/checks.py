"""What looks wrong with a machine although its file can be read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from planner.domain.hardware import MachineSpec
from planner.topology.fabric_size import fabric_size
from planner.topology.graph import Topology
from planner.topology.mixed import domain_chip
from planner.topology.network import KINDS, LEAF, NIC_NODE, Ints, Network
from planner.topology.summary import TopologySummary
from planner.units import GB, GIB, format_bytes_per_s

MAX_NAMES = 5


def warnings(topology: Topology, summary: TopologySummary) -> tuple[str, ...]:
    """Everything suspicious about a machine, one sentence each.

    Parameters
    ----------
    summary : TopologySummary
        Of the same machine.
    """
    spec = topology.spec
    found = [*_connections(topology.network), *_leaves(spec, topology.network), *_chips(spec)]
    if summary.scale_ratio is not None and summary.scale_ratio < 1 < max(summary.domain_chips):
        found.append(
            f"a chip's scale-out bandwidth ({format_bytes_per_s(summary.scale_out_bytes_per_s)}) "
            f"exceeds its scale-up bandwidth ({format_bytes_per_s(summary.scale_up_bytes_per_s)})"
        )
    return tuple(found)


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _components(network: Network) -> Ints:
    """Lowest node that any links connect each node with, shape ``[nodes]``."""
    lowest = np.arange(network.num_nodes)
    while True:
        before = lowest.copy()
        least = lowest[network.ends].min(axis=1)
        np.minimum.at(lowest, network.ends[:, 0], least)
        np.minimum.at(lowest, network.ends[:, 1], least)
        lowest = lowest[lowest]
        if np.array_equal(before, lowest):
            return lowest


def _connections(network: Network) -> Iterator[str]:
    degrees = np.bincount(network.ends.ravel(), minlength=network.num_nodes)
    alone = np.flatnonzero(degrees == 0)
    if network.num_nodes > 1:
        for kind in np.unique(network.kinds[alone]).tolist():
            names = [network.names[node] for node in alone if network.kinds[node] == kind]
            yield f"{len(names)} of kind {KINDS[kind]} without any link: {listed(names)}"
    roots, sizes = np.unique(_components(network)[: network.num_chips], return_counts=True)
    joined = [network.names[root] for root, size in zip(roots, sizes, strict=True) if size > 1]
    if len(roots) > 1 and joined:
        yield (
            f"the chips fall into {len(roots)} parts that no link joins; "
            f"first chips: {listed([network.names[root] for root in roots])}"
        )


def _leaves(spec: MachineSpec, network: Network) -> Iterator[str]:
    fabric = spec.scale_out
    if fabric is None:
        return
    nics = fabric.domains_per_unit * spec.domain_chips // fabric.chips_per_nic
    down = math.ceil(nics / fabric.leaves_per_unit)
    up = math.ceil(down / fabric.oversubscription)
    units = math.ceil(spec.num_domains / fabric.domains_per_unit)
    if fabric_size(fabric, spec.domain_chips, units).leaves and down + up > fabric.leaf_ports:
        yield (
            f"a full scalable unit needs {down} ports down and {up} up on each leaf switch, "
            f"which has {fabric.leaf_ports}"
        )
    ends = network.ends[(network.kinds[network.ends] == NIC_NODE).any(axis=1)]
    served = np.unique(ends[network.kinds[ends] == LEAF])
    idle = np.setdiff1d(np.flatnonzero(network.kinds == LEAF), served)
    if len(idle):
        names = [network.names[leaf] for leaf in idle]
        yield f"{len(names)} leaf switches have no NIC: {listed(names)}"


def _chips(spec: MachineSpec) -> Iterator[str]:
    kinds = dict.fromkeys(domain_chip(spec, domain) for domain in range(spec.num_domains))
    for chip in kinds:
        if chip.hbm_usable_bytes / GIB > chip.hbm_bytes / GB:
            yield (
                f"{chip.name}: usable HBM ({chip.hbm_usable_bytes / GIB:g} GiB) exceeds the label "
                f"({chip.hbm_bytes / GB:g}) even when that is read in GiB"
            )
        if chip.price_usd_per_hour is None:
            yield f"{chip.name}: no price, so cost figures need --price"
    beyond = [str(domain) for domain, _ in spec.mix if domain >= spec.num_domains]
    if beyond:
        yield (
            f"mix names {spec.scale_up.unit} {listed(beyond)}, but the default size has only "
            f"0 to {spec.num_domains - 1}"
        )
