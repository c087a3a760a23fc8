"""From a machine's facts to its topology."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from planner.domain.hardware import MachineSpec
from planner.domain.scale_up import GraphDomain
from planner.errors import SpecError
from planner.topology.builders import build_network, domain_prefix
from planner.topology.graph import Topology
from planner.topology.network import Bools, Floats, Network
from planner.topology.wounds import scale_up_components, wound


def build_topology(spec: MachineSpec, without: Collection[int] = ()) -> Topology:
    """Build the topology of a machine, its wounds taken into account.

    Parameters
    ----------
    spec : MachineSpec
        The machine in its final size.
    without : collection of int
        Chips to leave out (somebody else's) beyond those of ``spec.wounds``, as indices
        into the whole machine. The remaining chips are renumbered in order; a domain that
        loses all its chips disappears, one that falls apart becomes several.

    Raises
    ------
    SpecError
        A wound names something that does not exist, or leaves no chip.
    """
    missing = frozenset(without)
    if missing and not missing <= set(range(spec.num_chips)):
        raise SpecError(
            f"{spec.name} has chips 0 to {spec.num_chips - 1}, not all of {sorted(missing)}"
        )
    explicit = isinstance(spec.scale_up, GraphDomain)
    if not spec.wounds and not missing and not explicit:
        return _healthy(spec)
    network = build_network(spec)
    if missing:
        names = network.names
        gone = tuple(f"chip:{names[chip]}" for chip in sorted(missing))
        spec = replace(spec, wounds=replace(spec.wounds, without=spec.wounds.without + gone))
    if explicit:
        network = replace(network, domains=scale_up_components(network))
    left = wound(network, spec.wounds, domain_prefix(spec))
    return _from_network(spec, left.network, left.chips.tolist())


def _positions(spec: MachineSpec) -> list[tuple[int, int]]:
    size = spec.domain_chips
    return [(domain, position) for domain in range(spec.num_domains) for position in range(size)]


def _healthy(spec: MachineSpec) -> Topology:
    size = spec.domain_chips
    return Topology(
        spec=spec,
        places=tuple(_positions(spec)),
        domains=tuple(
            tuple(range(domain * size, (domain + 1) * size)) for domain in range(spec.num_domains)
        ),
    )


def _chip_rates(network: Network, links: Bools) -> Floats:
    """Bandwidth of every chip over the chosen links, shape ``[num_chips]``."""
    rates = np.zeros(network.num_nodes)
    for end in (0, 1):
        np.add.at(rates, network.ends[links, end], network.bytes_per_s[links])
    return rates[: network.num_chips].round()


def _from_network(spec: MachineSpec, network: Network, chips: list[int]) -> Topology:
    components = scale_up_components(network)
    network = replace(network, domains=components)
    owners = components[: network.num_chips]
    # Slow chips last: cells are filled in this order, and one that is not full spares them.
    members = np.lexsort(
        (-_chip_rates(network, ~network.scale_up), -_chip_rates(network, network.scale_up), owners)
    )
    cuts = np.flatnonzero(np.diff(owners[members])) + 1
    places = _positions(spec)
    return Topology(
        spec=spec,
        places=tuple(places[chip] for chip in chips),
        domains=tuple(tuple(part.tolist()) for part in np.split(members, cuts)),
        wounded=network,
    )
