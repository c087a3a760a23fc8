"""The typed view of a machine that everything above works with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from planner.domain.hardware import Chip, MachineSpec, Torus
from planner.topology.network import AXES, build_graph

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, kw_only=True, eq=False)
class Topology:
    """One machine, chip by chip.

    Parameters
    ----------
    spec : MachineSpec
        The facts it was built from.
    places : tuple
        Where each chip sits, shape ``[num_chips]``: ``(domain, position)`` in a switch
        machine, coordinates in a torus. Domains are numbered as they stand in the hall,
        so that a machine with chips left out keeps its cabling.
    domains : tuple of tuple of int
        Chips of each scale-up domain in canonical order; a torus is one domain.
    """

    spec: MachineSpec
    places: tuple[tuple[int, ...], ...]
    domains: tuple[tuple[int, ...], ...]

    @property
    def chip(self) -> Chip:
        """The kind of chip, the same everywhere."""
        return self.spec.chip

    @property
    def num_chips(self) -> int:
        """Chips of the machine."""
        return len(self.places)

    @property
    def is_torus(self) -> bool:
        """Whether chips are joined by neighbour links instead of switches."""
        return isinstance(self.spec.scale_up, Torus)

    @cached_property
    def wraps(self) -> tuple[bool, ...]:
        """Which axes of a torus close into a ring; empty for switch machines."""
        if isinstance(self.spec.scale_up, Torus):
            return self.spec.scale_up.wraps(self.spec.shape)
        return ()

    @cached_property
    def chip_names(self) -> tuple[str, ...]:
        """Name of each chip: ``r0/t3/c2`` (rack, tray, chip), ``n4/c7`` or ``x3y5``."""
        scale_up = self.spec.scale_up
        if isinstance(scale_up, Torus):
            return tuple(
                "".join(f"{letter}{at}" for letter, at in zip(AXES, place, strict=False))
                for place in self.places
            )
        tray = scale_up.chips_per_tray
        prefix = scale_up.unit[0]
        return tuple(
            f"{prefix}{domain}/c{position}"
            if tray is None
            else f"{prefix}{domain}/t{position // tray}/c{position % tray}"
            for domain, position in self.places
        )

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

        Machines are rented in whole domains; a torus slice is one.
        """
        used = sorted({self.domain_of(chip) for chip in chips})
        return tuple(len(self.domains[index]) for index in used)

    @cached_property
    def graph(self) -> nx.Graph[str]:
        """Chips, switches and NICs as nodes, links as edges; built on first use.

        Node attributes: ``kind`` (``chip``, ``nvswitch``, ``nic``, ``leaf``, ``spine``) and
        for chips ``index``. Edge attributes: ``bytes_per_s`` (one direction, nameplate,
        parallel links added up), ``links``, ``latency_s``, ``tier`` (``nvlink``, ``nic``,
        ``leaf-spine``, ``ici``) and ``axis`` (``x``, ``y``, ... in a torus, else empty).
        """
        return build_graph(self.spec, self.places, self.chip_names)
