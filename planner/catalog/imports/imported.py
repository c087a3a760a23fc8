"""From a file of some format and a named machine to the text of a machine file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from planner.catalog.imports.graph_files import GraphFile, parse_graphml, parse_node_link
from planner.catalog.imports.graph_wiring import wire_graph
from planner.catalog.imports.markup import parse_xml
from planner.catalog.imports.nccl_wiring import wire_nccl
from planner.catalog.imports.nccl_xml import parse_nccl
from planner.catalog.imports.reference import Reference, load_reference
from planner.catalog.imports.source import SourceFile, detect, printable, read_source
from planner.catalog.imports.topo_matrix import parse_matrix
from planner.catalog.imports.topo_wiring import wire_matrix
from planner.catalog.imports.wiring import Wiring
from planner.catalog.imports.write_toml import to_toml
from planner.catalog.machine_tables import LinkTable
from planner.catalog.machines import machine_from_facts
from planner.domain.curves import IN_NETWORK_ALL_REDUCE
from planner.errors import SpecError

# What `kind` may be, and what the format is called in sources.
FORMATS = {
    "topo": "nvidia-smi topo -m",
    "nccl-xml": "NCCL topology XML",
    "graphml": "GraphML",
    "json": "node-link JSON",
}
_DIGITS = 12

_Wire = Callable[[Wiring, Reference], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedMachine:
    """A machine file that was built from another format.

    Parameters
    ----------
    text : str
        The TOML file, complete with sources.
    notes : tuple of str
        What was taken from where, assumed, or left out; also comments of ``text``.
    num_chips : int
        Chips of the machine.
    format : str
        ``topo``, ``nccl-xml``, ``graphml`` or ``json``.
    """

    text: str
    notes: tuple[str, ...]
    num_chips: int
    format: str


def _parse(source: SourceFile, kind: str | None) -> tuple[str, _Wire, int]:
    """The format, a function that adds what the file says, and the number of its hosts."""
    content = {"nccl-xml": "xml", "graphml": "xml"}.get(kind or "", kind) or detect(source)
    if content == "topo":
        matrix = parse_matrix(source)
        return "topo", lambda wiring, reference: wire_matrix(wiring, matrix, reference), 1
    graph: GraphFile
    if content == "json":
        graph = parse_node_link(source)
        return "json", lambda wiring, _: wire_graph(wiring, graph), 0
    root = parse_xml(source)
    if kind == "graphml" or (kind is None and root.tag == "graphml"):
        graph = parse_graphml(source, root)
        return "graphml", lambda wiring, _: wire_graph(wiring, graph), 0
    found = parse_nccl(source, root)
    return "nccl-xml", lambda wiring, reference: wire_nccl(wiring, found, reference), found.hosts


def _tidy(value: float) -> float | int:
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _link(link: LinkTable) -> dict[str, Any]:
    table = {"ends": list(link.ends), "GB_per_s": _tidy(link.GB_per_s), "tier": link.tier}
    if link.links != 1:
        table["links"] = link.links
    if link.scale_up is not None:
        table["scale_up"] = link.scale_up
    return table


def _scale_up(wiring: Wiring, reference: Reference, source_text: str, unit: str) -> dict[str, Any]:
    achieved, fabric = reference.curve_tables()
    if not wiring.has_switch and IN_NETWORK_ALL_REDUCE in achieved:
        achieved = {key: table for key, table in achieved.items() if key != IN_NETWORK_ALL_REDUCE}
        wiring.notes.append(f"left out {IN_NETWORK_ALL_REDUCE}: there is no switch to add up in")
    table: dict[str, Any] = {
        "kind": "graph",
        "unit": unit,
        "nodes": [msgspec.to_builtins(node) for node in wiring.nodes()],
        "links": [_link(link) for link in wiring.links()],
        "source": {"links": source_text},
        "achieved": achieved,
    }
    return table if fabric is None else {**table, "fabric_achieved": fabric}


def _check(document: dict[str, Any], file: str) -> None:
    """Refuse what the reader of machine files would refuse."""
    facts = {key: value for key, value in _without_sources(document).items() if key != "as_of"}
    machine_from_facts({"name": "imported", **facts, "sources": {}}, file)


def _without_sources(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_sources(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if key != "source"
    }


def import_machine(
    path: str, chip: str | None, kind: str | None = None, name: str | None = None
) -> ImportedMachine:
    """Build a machine file from what operators have.

    Parameters
    ----------
    path : str
        Output of ``nvidia-smi topo -m``, an NCCL topology XML, GraphML or node-link JSON.
    chip : str, optional
        Machine of the catalogue, or the path of a machine file, whose chip, achieved
        curves, and rates of NVLinks and NICs are used where the format has none.
    kind : str, optional
        A key of ``FORMATS``; by default the content tells.
    name : str, optional
        Name of the machine; by default it is called as the file that it is written to.

    Raises
    ------
    SpecError
        No or an unknown ``chip``, an unknown ``kind``, or a chip that lacks a needed rate.
    CatalogError
        The file is unreadable, malformed, contradicts itself or the chip, or lacks what
        no named machine can lend.
    """
    if kind is not None and kind not in FORMATS:
        raise SpecError(f"unknown format '{printable(kind)}'", f"write {', '.join(FORMATS)}")
    if name is not None and (not name.strip() or not name.isprintable()):
        raise SpecError(f"unusable name {name!r}", "write for example mynode")
    source = read_source(path)
    form, wire, hosts = _parse(source, kind)
    if chip is None:
        raise SpecError(
            f"{path} does not say what its chips are, nor what they achieve",
            "--chip h100-hgx names the machine whose chip and link rates to use",
        )
    reference = load_reference(chip)
    wiring = Wiring(source)
    wire(wiring, reference)
    wiring.note_parts()
    count, chip_name = len(wiring.chips), reference.spec.chip.name
    origin = f"{FORMATS[form]} of {source.name}"
    lent = f"; {', '.join(wiring.borrowed)} from {reference.label}" if wiring.borrowed else ""
    unit = "node" if hosts == 1 else reference.spec.scale_up.unit
    scale_up = _scale_up(wiring, reference, origin + lent, unit)
    notes = (f"chip and achieved curves: {reference.label}", *wiring.notes)
    document: dict[str, Any] = {
        **({} if name is None else {"name": name}),
        "summary": f"{count} x {chip_name}, {origin}",
        "as_of": reference.as_of(),
        "chip": reference.chip_tables(),
        "scale_up": scale_up,
    }
    _check(document, path)
    head = [f"Imported from {origin}.", "", *notes]
    comments = "".join(f"# {printable(line)}".rstrip() + "\n" for line in head)
    return ImportedMachine(
        text=f"{comments}\n{to_toml(document)}",
        notes=notes,
        num_chips=count,
        format=form,
    )
