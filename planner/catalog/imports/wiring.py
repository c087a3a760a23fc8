"""Nodes and links as they are collected, and how NICs attach to chips."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.catalog.imports.reference import NIC, PCIE
from planner.catalog.imports.source import SourceFile
from planner.catalog.machine_build import FABRIC_TIERS, NODE_KINDS
from planner.catalog.machine_tables import LinkTable, NodeTable

NVLINK = "nvlink"
FABRIC = "fabric"

# How far a NIC is from a chip, near to far, and up to where they share a PCIe bridge.
DISTANCES = ("PIX", "PXB", "PHB", "NODE", "SYS")
SHARED_BRIDGE = DISTANCES.index("PXB")

Distance = tuple[int, int]
_SHOWN = 8
_MAX_NAME = 200
_DIGITS = re.compile(r"(\d+)")


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key in which ``gpu10`` follows ``gpu9``."""
    parts = (part for part in _DIGITS.split(name) if part)
    # Longer numbers are larger: no conversion, which fails for thousands of digits.
    keys = (
        (0, len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (1, 0, part)
        for part in parts
    )
    # Only equal names have equal keys: "c1" and "c01" are two.
    return (*keys, (2, 0, name))


def listing(names: Iterable[str]) -> str:
    """A few names in natural order, and how many more there are."""
    ordered = sorted(names, key=natural)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def groups(members: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Connected components, members and components in the given order."""
    parent = {name: name for name in members}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for a, b in pairs:
        parent[find(b)] = find(a)
    found: dict[str, list[str]] = {}
    for name in members:
        found.setdefault(find(name), []).append(name)
    return list(found.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class NicSite:
    """A NIC, its rate in one direction, and how far each chip of its host is from it."""

    name: str
    GB_per_s: float
    near: tuple[tuple[str, Distance], ...]


def note_missing(links: dict[str, int], per_chip: int) -> list[str]:
    """Notes about chips that have fewer NVLinks than ``per_chip``."""
    found: dict[int, list[str]] = {}
    for name, count in links.items():
        if count < per_chip:
            found.setdefault(count, []).append(name)
    return [
        f"{count} of {per_chip} NVLinks: {listing(names)}"
        for count, names in sorted(found.items(), reverse=True)
    ]


class Wiring:
    """A machine under construction: nodes, links, notes, and what was borrowed."""

    def __init__(self, source: SourceFile) -> None:
        """Start with nothing; ``source`` is named in complaints."""
        self.source = source
        self.notes: list[str] = []
        self.borrowed: list[str] = []
        self._kinds: dict[str, str] = {}
        self._links: dict[tuple[str, str], LinkTable] = {}

    def add(self, name: str, kind: str, line: int | None = None) -> str:
        """Add a node and return its name.

        Raises
        ------
        CatalogError
            The name is taken, empty, overlong, or not printable.
        """
        if not name.strip() or not name.isprintable() or len(name) > _MAX_NAME:
            raise self.source.error(
                f"has an unusable name {name[:40]!r}", line, "names are printable and short"
            )
        if name in self._kinds:
            raise self.source.error(f"'{name}' appears twice", line, "give each its own name")
        self._kinds[name] = kind
        return name

    def kind_of(self, name: str) -> str | None:
        """Kind of a node; None where there is none of this name."""
        return self._kinds.get(name)

    def join(self, a: str, b: str, GB_per_s: float, tier: str, links: int = 1) -> None:
        """Join two nodes by ``links`` cables of ``GB_per_s`` together, each direction."""
        self.put(LinkTable(ends=(a, b), GB_per_s=GB_per_s, tier=tier, links=links))

    def put(self, link: LinkTable) -> None:
        """Add a link; a pair of nodes has at most one."""
        a, b = sorted(link.ends, key=natural)
        assert (a, b) not in self._links, f"{a} and {b} are joined twice"
        self._links[a, b] = link

    def borrow(self, what: str) -> None:
        """Remember a rate that the named machine lent."""
        if what not in self.borrowed:
            self.borrowed.append(what)

    def note_curves(self, label: str) -> None:
        """Note that PCIe is priced with curves that were measured on other links."""
        self.notes.append(
            f"achieved curves of {label} are those of its own scale-up links, not of PCIe: "
            "measure and edit [scale_up.achieved]"
        )

    @property
    def chips(self) -> list[str]:
        """Names of the chips in the order in which they were added."""
        return [name for name, kind in self._kinds.items() if kind == "chip"]

    @property
    def has_switch(self) -> bool:
        """Whether some scale-up link other than PCIe ends at a switch."""
        return any(
            "switch" in (self._kinds[a], self._kinds[b])
            for (a, b), link in self._links.items()
            if link.tier not in (*FABRIC_TIERS, PCIE)
        )

    def scale_up_groups(self) -> list[list[str]]:
        """Chips that scale-up links connect."""
        pairs = [
            ends
            for ends, link in self._links.items()
            if (link.tier not in FABRIC_TIERS if link.scale_up is None else link.scale_up)
        ]
        found = groups([*self.chips, *self._kinds], pairs)
        chips = ([name for name in group if self._kinds[name] == "chip"] for group in found)
        return [list(dict.fromkeys(group)) for group in chips if group]

    def note_parts(self) -> None:
        """Note the scale-up domains, NICs that join some, and what nothing connects."""
        domains = self.scale_up_groups()
        sizes = Counter(len(group) for group in domains)
        text = ", ".join(f"{count} of {size}" for size, count in sorted(sizes.items()))
        self.notes.append(f"scale-up domains by number of chips: {text}")
        domain_of = {name: index for index, group in enumerate(domains) for name in group}
        served: dict[str, set[int]] = {}
        for a, b in self._links:
            for nic, chip in ((a, b), (b, a)):
                if self._kinds[nic] == "nic" and chip in domain_of:
                    served.setdefault(nic, set()).add(domain_of[chip])
        shared = [nic for nic, found in served.items() if len(found) > 1]
        if shared:
            self.notes.append(
                f"shared by chips of several scale-up domains: {listing(shared)}; what these "
                "send each other through it is limited by its links to them, not by its port"
            )
        parts = groups(list(self._kinds), self._links)
        if len(parts) > 1:
            text = "; ".join(listing(part) for part in parts[:_SHOWN])
            more = f"; and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
            self.notes.append(f"no link connects these parts: {text}{more}")

    def nodes(self) -> list[NodeTable]:
        """Chips as they were added, then each other kind in natural order."""
        order = {kind: index for index, kind in enumerate(NODE_KINDS)}
        others = sorted(
            (name for name, kind in self._kinds.items() if kind != "chip"),
            key=lambda name: (order[self._kinds[name]], natural(name)),
        )
        return [NodeTable(name=name, kind=self._kinds[name]) for name in (*self.chips, *others)]

    def links(self) -> list[LinkTable]:
        """Links in the order of their nodes, the earlier node first."""
        place = {node.name: index for index, node in enumerate(self.nodes())}

        def position(link: LinkTable) -> tuple[int, int]:
            a, b = sorted(place[end] for end in link.ends)
            return a, b

        ordered = sorted(self._links.values(), key=position)
        return [
            LinkTable(
                ends=(min(link.ends, key=place.__getitem__), max(link.ends, key=place.__getitem__)),
                GB_per_s=link.GB_per_s,
                tier=link.tier,
                links=link.links,
                scale_up=link.scale_up,
            )
            for link in ordered
        ]


def attach_nics(wiring: Wiring, chips: Sequence[str], nics: Sequence[NicSite]) -> list[str]:
    """Join NICs to the nearest chips of their hosts, and to the fabric.

    A NIC belongs to the nearest chips with which it shares a PCIe bridge. A chip that
    shares a bridge with no NIC uses the nearest ones; a NIC that nobody uses then is left
    out.

    Returns
    -------
    list of str
        Notes about what was assumed or left out.
    """
    pairs: set[tuple[str, str]] = set()
    seen: dict[str, list[tuple[Distance, str]]] = {}
    for nic in nics:
        best = min((distance for _, distance in nic.near), default=(len(DISTANCES), 0))
        if best[0] <= SHARED_BRIDGE:
            pairs |= {(chip, nic.name) for chip, distance in nic.near if distance == best}
        for chip, distance in nic.near:
            seen.setdefault(chip, []).append((distance, nic.name))
    far: dict[str, list[str]] = {}
    served = {chip for chip, _ in pairs}
    for chip in chips:
        if chip in served or chip not in seen:
            continue
        best = min(seen[chip])[0]
        pairs |= {(chip, name) for distance, name in seen[chip] if distance == best}
        if best[0] > SHARED_BRIDGE:
            far.setdefault(DISTANCES[best[0]], []).append(chip)
    rates = {nic.name: nic.GB_per_s for nic in nics}
    used = {name for _, name in pairs}
    if used:
        wiring.add(FABRIC, "leaf")
        wiring.notes.append(f"NICs meet at one node '{FABRIC}' that is taken not to block")
    for nic in nics:
        if nic.name in used:
            wiring.add(nic.name, "nic")
            wiring.join(nic.name, FABRIC, nic.GB_per_s, NIC)
    for chip, name in sorted(pairs):
        wiring.join(chip, name, rates[name], NIC)
    notes = [
        f"{listing(names)}: the nearest NICs are {name}; the way to them is taken to be as "
        "fast as the NIC, and every NIC at that distance to carry this traffic"
        for name, names in far.items()
    ]
    left = [nic.name for nic in nics if nic.name not in used]
    if left:
        notes.append(f"left out {listing(left)}: nearest to no chip, as storage NICs are")
    return notes
