"""The typed view of a machine that everything above works with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from planner.domain.hardware import Chip, MachineSpec
from planner.domain.scale_up import GraphDomain, Torus
from planner.topology.builders import build_network, chip_names, torus_places
from planner.topology.mixed import common_chip, domain_chip
from planner.topology.network import Network, to_networkx

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, kw_only=True, slots=True)
class Spared:
    """Healthy chips that no rank may run on; their links and switch ports carry traffic.

    Parameters
    ----------
    excluded : frozenset of int
        These chips.
    reserve : int
        So many of the others, whichever.
    reserve_per_domain : int
        So many of the others of every scale-up domain, or all where it has no more.
    """

    excluded: frozenset[int] = frozenset()
    reserve: int = 0
    reserve_per_domain: int = 0

    def __bool__(self) -> bool:
        return bool(self.excluded or self.reserve or self.reserve_per_domain)


NOTHING_SPARED = Spared()


@dataclass(frozen=True, kw_only=True, eq=False)
class Topology:
    """One machine, chip by chip.

    Parameters
    ----------
    spec : MachineSpec
        The facts it was built from.
    places : tuple of (int, int)
        Where each chip sits, shape ``[num_chips]``: domain as it stands in the hall, and
        position within it, so that a machine with chips left out keeps its cabling.
    domains : tuple of tuple of int
        Chips of each scale-up domain in canonical order. A domain that fell apart counts
        as several.
    wounded : Network, optional
        What is left of a wounded machine, or all of an explicit one; None for a healthy
        machine, whose network is built when it is needed.
    spared : Spared
        Chips that a layout leaves idle.
    """

    spec: MachineSpec
    places: tuple[tuple[int, int], ...]
    domains: tuple[tuple[int, ...], ...]
    wounded: Network | None = None
    spared: Spared = NOTHING_SPARED
    memo: dict[object, object] = field(default_factory=dict, repr=False)

    @cached_property
    def chip(self) -> Chip:
        """The kind of chip; where kinds are mixed, the least of every figure."""
        return common_chip(self.spec)

    def chip_at(self, chip: int) -> Chip:
        """Kind of one chip."""
        return domain_chip(self.spec, self.places[chip][0])

    @property
    def num_chips(self) -> int:
        """Chips of the machine that can be used."""
        return len(self.places)

    @cached_property
    def open_domains(self) -> tuple[tuple[int, ...], ...]:
        """Chips of each domain that a layout may fill, the last ones spared.

        Chips are in the order of ``domains``; a domain may be empty.
        """
        spared = self.spared
        if not spared:
            return self.domains
        domains = [
            tuple(chip for chip in domain if chip not in spared.excluded) for domain in self.domains
        ]
        return tuple(
            domain[: max(0, len(domain) - spared.reserve_per_domain)] for domain in domains
        )

    @property
    def largest_open(self) -> int:
        """Most chips of one domain that a layout may use."""
        return max(len(domain) for domain in self.open_domains)

    @cached_property
    def max_used(self) -> int:
        """Most chips that a layout may use."""
        usable = self.num_chips - len(self.spared.excluded)
        filled = sum(len(domain) for domain in self.open_domains)
        return max(0, min(filled, usable - self.spared.reserve))

    @property
    def is_torus(self) -> bool:
        """Whether chips are joined by neighbour links instead of switches."""
        return isinstance(self.spec.scale_up, Torus)

    @cached_property
    def network(self) -> Network:
        """Every chip, switch, NIC and link, as arrays; built on first use."""
        return build_network(self.spec) if self.wounded is None else self.wounded

    @cached_property
    def graph(self) -> nx.Graph[str]:
        """The same as a graph of named nodes: see :func:`planner.topology.network.to_networkx`."""
        return to_networkx(self.network)

    @cached_property
    def wraps(self) -> tuple[bool, ...]:
        """Which axes of a torus close into a ring; empty for other machines."""
        if isinstance(self.spec.scale_up, Torus):
            return self.spec.scale_up.wraps(self.spec.shape)
        return ()

    @cached_property
    def coordinates(self) -> tuple[tuple[int, ...], ...]:
        """Coordinates of every chip within its slice of a torus, shape ``[num_chips]``."""
        places = torus_places(self.spec.shape)
        return tuple(places[position] for _, position in self.places)

    @cached_property
    def chip_names(self) -> tuple[str, ...]:
        """Name of each chip: ``r0/t3/c2`` (rack, tray, chip), ``n4/c7`` or ``x3y5``."""
        if self.wounded is not None:
            return self.wounded.names[: self.num_chips]
        return tuple(chip_names(self.spec))

    @cached_property
    def _domain_of(self) -> tuple[int, ...]:
        owner = [0] * self.num_chips
        for index, domain in enumerate(self.domains):
            for chip in domain:
                owner[chip] = index
        return tuple(owner)

    def domain_of(self, chip: int) -> int:
        """Index into ``domains`` of the domain that holds ``chip``."""
        return self._domain_of[chip]

    def unit_of(self, chip: int) -> int:
        """Scalable unit (group of domains under the same leaf switches) of ``chip``."""
        fabric = self.spec.scale_out
        return 0 if fabric is None else self.places[chip][0] // fabric.domains_per_unit

    @cached_property
    def contention(self) -> float:
        """Downlink over uplink bandwidth that the leaf switches see with every NIC busy.

        A unit that is not full uses part of its downlinks but all of its uplinks.
        """
        fabric = self.spec.scale_out
        if fabric is None:
            return 1.0
        ports = Counter(self.unit_of(domain[0]) for domain in self.domains)
        fill = max(ports.values()) / fabric.domains_per_unit
        return max(1.0, fabric.oversubscription * fill)

    def rental_units(self, chips: Iterable[int]) -> tuple[int, ...]:
        """Chips of every node, rack or slice that holds one of ``chips``.

        Machines are rented in whole domains, as they stand in the hall; a graph as a whole.
        """
        if isinstance(self.spec.scale_up, GraphDomain):
            return (self.num_chips,)
        sizes = Counter(domain for domain, _ in self.places)
        return tuple(sizes[domain] for domain in sorted({self.places[chip][0] for chip in chips}))
