"""From the graph of a file to nodes and links: kinds, rates, parallel and one-way edges."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from planner.catalog.imports.graph_files import FileEdge, FileNode, GraphFile, bad_rates
from planner.catalog.imports.reference import NIC, PCIE
from planner.catalog.imports.source import printable
from planner.catalog.imports.wiring import Wiring, listing, natural
from planner.catalog.machine_build import NODE_KINDS
from planner.catalog.machine_tables import LinkTable
from planner.units import GB

# Other words for the kinds of a machine file.
_KINDS = {
    **{kind: kind for kind in NODE_KINDS},
    "gpu": "chip",
    "accelerator": "chip",
    "nvswitch": "switch",
    "hca": "nic",
    "core": "spine",
    "cpu": "host",
}
_FABRIC_SWITCHES = {"leaf", "spine"}
_SAME = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class _Edge:
    """A checked edge."""

    GB_per_s: float
    links: int
    tier: str
    scale_up: bool | None


def _kind(wiring: Wiring, node: FileNode) -> str:
    said = node.fields.kind or node.fields.type
    kind = _KINDS.get(said.strip().lower()) if said is not None else None
    if kind is None:
        what = "has no kind" if said is None else f"is of unknown kind '{printable(said)[:40]}'"
        raise wiring.source.error(
            f"node {printable(node.name)} {what}",
            node.line,
            f"give it the attribute kind: {', '.join(NODE_KINDS)}",
        )
    return kind


def _add_nodes(wiring: Wiring, found: GraphFile) -> None:
    """Chips by index where all have one, else by name; the rest by name."""
    kinds = [(node, _kind(wiring, node)) for node in found.nodes]
    chips = [node for node, kind in kinds if kind == "chip"]
    if not chips:
        raise wiring.source.error(
            "has no chip", remedy='give chips the attribute kind with the value "chip"'
        )
    indices = [node.fields.index for node in chips]
    by_index = None not in indices and len(set(indices)) == len(chips)
    if not by_index:
        wiring.notes.append("chips are ordered by name: not each has an index of its own")
    for node in sorted(
        chips, key=lambda n: (n.fields.index or 0 if by_index else 0, natural(n.name))
    ):
        wiring.add(node.name, "chip", node.line)
    for node, kind in kinds:
        if kind != "chip":
            wiring.add(node.name, kind, node.line)


def _tier(kinds: set[str | None]) -> str:
    """Tier of an edge that does not say it, from the kinds at its ends."""
    if NIC in kinds or ("chip" in kinds and kinds & _FABRIC_SWITCHES):
        return NIC
    if kinds <= _FABRIC_SWITCHES:
        return "leaf-spine"
    return PCIE if "host" in kinds else "link"


class _Edges:
    """Edges by ordered pair of nodes."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._edges: dict[tuple[str, str], _Edge] = {}
        self._parallel: set[tuple[str, str]] = set()
        self._untiered: Counter[str] = Counter()

    def _checked(self, edge: FileEdge) -> _Edge:
        error, what = self._wiring.source.error, self._name((edge.a, edge.b))
        for end in (edge.a, edge.b):
            if self._wiring.kind_of(end) is None:
                raise error(f"{what}: there is no node {printable(end)}", edge.line)
        if edge.a == edge.b:
            raise error(f"{what} joins a node to itself", edge.line, "delete it")
        fields = edge.fields
        for problem in bad_rates(fields):
            raise error(f"{what}: {problem}", edge.line)
        exact = None if fields.bytes_per_s is None else fields.bytes_per_s / GB
        rate = exact if fields.GB_per_s is None else fields.GB_per_s
        if rate is None:
            raise error(
                f"{what} has no rate", edge.line, "give it bytes_per_s or GB_per_s, one direction"
            )
        if exact is not None and not math.isclose(rate, exact, rel_tol=_SAME):
            raise error(f"{what}: bytes_per_s and GB_per_s differ", edge.line, "keep one")
        tier = (fields.tier or "").strip()
        if not tier.isprintable():
            raise error(f"{what} has an unusable tier", edge.line)
        if not tier:
            tier = _tier({self._wiring.kind_of(edge.a), self._wiring.kind_of(edge.b)})
            self._untiered[tier] += 1
        return _Edge(
            GB_per_s=rate, links=int(fields.links or 1), tier=tier, scale_up=fields.scale_up
        )

    @staticmethod
    def _name(ends: tuple[str, str]) -> str:
        return f"edge {printable(ends[0])} -- {printable(ends[1])}"

    def add(self, edge: FileEdge) -> None:
        """Check an edge and add it to those of its pair, both ways unless directed."""
        new = self._checked(edge)
        ways = [(edge.a, edge.b)] if edge.directed else [(edge.a, edge.b), (edge.b, edge.a)]
        for way in ways:
            old = self._edges.get(way)
            if old is None:
                self._edges[way] = new
                continue
            if (old.tier, old.scale_up) != (new.tier, new.scale_up):
                raise self._wiring.source.error(
                    f"{self._name(way)} is there twice, as {old.tier} and as {new.tier}",
                    edge.line,
                    "keep one",
                )
            a, b = sorted(way, key=natural)
            self._parallel.add((a, b))
            self._edges[way] = _Edge(
                GB_per_s=old.GB_per_s + new.GB_per_s,
                links=old.links + new.links,
                tier=old.tier,
                scale_up=old.scale_up,
            )

    def wire(self) -> None:
        """Add a link for each pair of nodes."""
        notes = self._wiring.notes
        one_way = []
        for (a, b), edge in self._edges.items():
            back = self._edges.get((b, a))
            if back is None:
                one_way.append(f"{printable(a)} -> {printable(b)}")
            elif not self._is_mirror(edge, back):
                raise self._wiring.source.error(
                    f"{self._name((a, b))} differs in its two directions",
                    remedy="links have one rate for both",
                )
            if back is None or natural(a) < natural(b):
                self._wiring.put(
                    LinkTable(
                        ends=(a, b),
                        GB_per_s=edge.GB_per_s,
                        tier=edge.tier,
                        links=edge.links,
                        scale_up=edge.scale_up,
                    )
                )
        if one_way:
            notes.append(f"taken to carry as much the other way: {listing(one_way)}")
        if self._parallel:
            pairs = [f"{a} -- {b}" for a, b in self._parallel]
            notes.append(f"parallel edges are added up: {listing(pairs)}")
        for tier, count in sorted(self._untiered.items()):
            notes.append(f"{count} edges without tier are taken as '{tier}' by their ends")

    @staticmethod
    def _is_mirror(a: _Edge, b: _Edge) -> bool:
        return math.isclose(a.GB_per_s, b.GB_per_s, rel_tol=_SAME) and (
            (a.links, a.tier, a.scale_up) == (b.links, b.tier, b.scale_up)
        )


def wire_graph(wiring: Wiring, found: GraphFile) -> None:
    """Add the nodes and links of a graph.

    Raises
    ------
    CatalogError
        A node without a kind, no chip, a name twice, an edge without a rate or between
        nodes that are not there, or edges that contradict each other.
    """
    _add_nodes(wiring, found)
    edges = _Edges(wiring)
    for edge in found.edges:
        edges.add(edge)
    edges.wire()
    if found.dropped:
        wiring.notes.append(f"left out attributes {listing(found.dropped)}")
