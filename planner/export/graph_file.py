"""A machine's graph as a file: GraphML, or NetworkX node-link JSON."""

from __future__ import annotations

import msgspec

from planner.topology.graph import Topology

FORMATS = ("graphml", "json")


def graph_bytes(topology: Topology, file_format: str) -> bytes:
    """The content of a graph file, the same bytes for the same machine.

    Parameters
    ----------
    file_format : str
        One of ``FORMATS``; see :mod:`planner.topology.serialise`.

    Raises
    ------
    ValueError
        Another format.
    """
    from planner.topology.serialise import graphml, node_link

    if file_format == "graphml":
        return graphml(topology)
    if file_format != "json":
        raise ValueError(f"unknown format {file_format!r}")
    # One node or link a line: large machines stay comparable with diff.
    data = node_link(topology)
    blocks = []
    for key, value in data.items():
        name = msgspec.json.encode(key).decode()
        if isinstance(value, list):
            rows = ",\n    ".join(msgspec.json.encode(row).decode() for row in value)
            blocks.append(f"  {name}: [\n    {rows}\n  ]" if rows else f"  {name}: []")
        else:
            blocks.append(f"  {name}: {msgspec.json.encode(value).decode()}")
    return ("{\n" + ",\n".join(blocks) + "\n}\n").encode()
