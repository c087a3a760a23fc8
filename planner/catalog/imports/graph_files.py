"""GraphML and node-link JSON: graphs whose nodes have kinds and whose edges have rates.

Both are read into the same two records. Nodes say ``kind`` (or ``type``) and may say
``index``, the order of chips; edges say ``bytes_per_s`` or ``GB_per_s`` for all their
parallel ``links`` together, one direction, and may say ``tier`` and ``scale_up``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from planner.catalog.imports.markup import Element
from planner.catalog.imports.source import MAX_ITEMS, SourceFile, printable
from planner.errors import CatalogError

_NODE_LINK = 'node-link JSON is {"nodes": [{"id": ...}], "links": [{"source": ..., "target": ...}]}'


class NodeFields(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes of a node that are read."""

    kind: str | None = None
    type: str | None = None
    index: float | None = None


class EdgeFields(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes of an edge that are read."""

    bytes_per_s: float | None = None
    GB_per_s: float | None = None
    links: float | None = None
    tier: str | None = None
    scale_up: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileNode:
    """A node as the file has it."""

    name: str
    fields: NodeFields
    line: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEdge:
    """An edge as the file has it; ``directed`` edges count one way only."""

    a: str
    b: str
    fields: EdgeFields
    directed: bool
    line: int | None


@dataclass(kw_only=True, slots=True)
class GraphFile:
    """A graph as a file has it; ``dropped`` counts attributes that are not read."""

    nodes: list[FileNode] = field(default_factory=list)
    edges: list[FileEdge] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


class _Collector:
    """Checks attributes and files the rest under ``dropped``."""

    def __init__(self, source: SourceFile, *, is_text: bool) -> None:
        self._source = source
        # GraphML has numbers as text.
        self._is_text = is_text
        self.found = GraphFile()

    def _fields(self, data: dict[str, Any], kind: Any, what: str, line: int | None) -> Any:
        known = kind.__struct_fields__
        self.found.dropped.update(printable(key) for key in data if key not in known)
        given = {key: value for key, value in data.items() if key in known}
        try:
            return msgspec.convert(given, kind, strict=not self._is_text)
        except msgspec.ValidationError as error:
            found = re.fullmatch(r"(.*?)(?: - at `\$\.?(.*)`)?", str(error), re.DOTALL)
            text, name = (found.group(1), found.group(2)) if found else (str(error), "")
            raise CatalogError(
                f"{what}: {text[:1].lower()}{text[1:]}",
                file=self._source.label,
                field=name or "",
                line=line,
            ) from None

    def node(self, name: str, data: dict[str, Any], line: int | None = None) -> None:
        fields = self._fields(data, NodeFields, f"node {printable(name)}", line)
        self.found.nodes.append(FileNode(name=name, fields=fields, line=line))

    def edge(
        self, ends: tuple[str, str], data: dict[str, Any], directed: bool, line: int | None = None
    ) -> None:
        what = f"edge {printable(ends[0])} -- {printable(ends[1])}"
        fields = self._fields(data, EdgeFields, what, line)
        self.found.edges.append(
            FileEdge(a=ends[0], b=ends[1], fields=fields, directed=directed, line=line)
        )


# --- GraphML ---------------------------------------------------------------------------


def _keys(source: SourceFile, root: Element) -> dict[str, tuple[str, str, str | None]]:
    """``(name, what it is for, default)`` of each declared attribute."""
    keys = {}
    for key in root.all("key"):
        identifier = key.get("id")
        if identifier is None:
            raise source.error("has a <key> without id", key.line)
        default = next((child.text.strip() for child in key.all("default")), None)
        name = key.get("attr.name") or identifier
        keys[identifier] = (name, key.get("for") or "all", default)
    return keys


class _GraphMl:
    def __init__(self, source: SourceFile, root: Element) -> None:
        self._source = source
        self._keys = _keys(source, root)
        self._collector = _Collector(source, is_text=True)

    def _data(self, element: Element) -> dict[str, str]:
        values = {
            name: default
            for name, what, default in self._keys.values()
            if default is not None and what in (element.tag, "all")
        }
        for data in element.all("data"):
            key = data.get("key")
            if key not in self._keys:
                raise self._source.error(f"has data of unknown key {key!r}", data.line)
            # Drawing programs put shapes there, which are elements, not text.
            if not data.children:
                values[self._keys[key][0]] = data.text.strip()
        return values

    def _attribute(self, element: Element, name: str) -> str:
        text = element.get(name)
        if text is None:
            raise self._source.error(f"has a <{element.tag}> without {name}", element.line)
        return text

    def read(self, graph: Element) -> GraphFile:
        default = graph.get("edgedefault") == "directed"
        for child in graph.children:
            if child.tag == "node":
                if any(child.all("graph")):
                    raise self._source.error("has a graph inside a node", child.line, "flatten it")
                self._collector.node(self._attribute(child, "id"), self._data(child), child.line)
            elif child.tag == "edge":
                ends = self._attribute(child, "source"), self._attribute(child, "target")
                own = child.get("directed")
                directed = default if own is None else own == "true"
                self._collector.edge(ends, self._data(child), directed, child.line)
            elif child.tag == "hyperedge":
                raise self._source.error(
                    "has a <hyperedge>", child.line, "model it as a node of kind switch"
                )
        return self._collector.found


def parse_graphml(source: SourceFile, root: Element) -> GraphFile:
    """Read GraphML.

    Raises
    ------
    CatalogError
        Not GraphML, several or nested graphs, undeclared attributes, values of the wrong
        type. Names the line.
    """
    if root.tag != "graphml":
        raise source.error(f"starts with <{root.tag[:40]}>, not with <graphml>", root.line)
    graphs = list(root.all("graph"))
    if len(graphs) != 1:
        raise source.error(f"has {len(graphs)} graphs", root.line, "leave one graph in the file")
    return _GraphMl(source, root).read(graphs[0])


# --- node-link JSON --------------------------------------------------------------------


class _NodeLink(msgspec.Struct, frozen=True):
    nodes: list[dict[str, Any]]
    links: list[dict[str, Any]] | None = None
    edges: list[dict[str, Any]] | None = None
    directed: bool = False
    multigraph: bool = False


def _decode(source: SourceFile) -> _NodeLink:
    if source.text.count("{") > MAX_ITEMS:
        raise source.error("has too many items", remedy="is it the right file?")
    try:
        return msgspec.json.decode(source.text.encode(), type=_NodeLink)
    except msgspec.ValidationError as error:
        raise source.error(f"is no node-link graph: {error}", remedy=_NODE_LINK) from None
    except msgspec.DecodeError as error:
        at = re.search(r"\(byte (\d+)\)", str(error))
        before = source.text.encode()[: int(at.group(1))] if at else source.text.encode()
        raise source.error(
            f"is not valid JSON: {re.sub(r' *[(]byte .*', '', str(error))}",
            before.count(b"\n") + 1,
            "copy the file again",
        ) from None
    except RecursionError:
        raise source.error("is nested too deeply", remedy=_NODE_LINK) from None


def _identifier(source: SourceFile, value: object, what: str) -> str:
    """Name of a node: a text, a whole number, or the coordinates of a grid."""
    parts = value if isinstance(value, list) and value else [value]
    if all(isinstance(part, str | int) and not isinstance(part, bool) for part in parts):
        return ",".join(str(part) for part in parts)
    raise source.error(f"{what} is {str(value)[:40]!r}, not a name", remedy=_NODE_LINK)


def parse_node_link(source: SourceFile) -> GraphFile:
    """Read node-link JSON, edges under ``links`` or ``edges``.

    Raises
    ------
    CatalogError
        Not JSON, not a node-link graph, or values of the wrong type.
    """
    data = _decode(source)
    if data.links is not None and data.edges is not None:
        raise source.error("has both 'links' and 'edges'", remedy="keep one of them")
    listed = data.links if data.links is not None else data.edges
    if listed is None:
        raise source.error("has neither 'links' nor 'edges'", remedy=_NODE_LINK)
    collector = _Collector(source, is_text=False)
    for index, node in enumerate(data.nodes):
        name = _identifier(source, node.pop("id", None), f"nodes[{index}].id")
        collector.node(name, node)
    for index, edge in enumerate(listed):
        ends = tuple(
            _identifier(source, edge.pop(end, None), f"edge {index}: {end}")
            for end in ("source", "target")
        )
        edge.pop("key", None)
        collector.edge((ends[0], ends[1]), edge, data.directed)
    return collector.found


def bad_rates(fields: EdgeFields) -> Iterator[str]:
    """What is wrong with the numbers of an edge."""
    for name in ("bytes_per_s", "GB_per_s"):
        value = getattr(fields, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            yield f"{name} = {value} is not a positive rate"
    if fields.links is not None and not (fields.links >= 1 and fields.links.is_integer()):
        yield f"links = {fields.links} is not a positive count"
