"""A machine as a graph in the two formats that other programs read.

Both hold what :func:`planner.topology.network.to_networkx` gives: node attributes ``kind``,
``domain`` and, of chips, ``index``; link attributes ``bytes_per_s`` (one direction, all
cables), ``links`` (cables), ``tier``, ``scale_up`` and ``axis``. Nodes and links come in the
order of the machine's network, so the same machine gives the same bytes.
"""

from __future__ import annotations

import io

from planner.topology.graph import Topology


def graphml(topology: Topology) -> bytes:
    """GraphML of the machine's graph, UTF-8."""
    import networkx

    # The writer based on lxml, which networkx prefers where it is installed, spaces
    # elements in its own way.
    buffer = io.BytesIO()
    networkx.write_graphml_xml(topology.graph, buffer)
    return buffer.getvalue() + b"\n"


def node_link(topology: Topology) -> dict[str, object]:
    """Node-link form of the machine's graph, as plain data; the list of links is ``links``."""
    import networkx

    data: dict[str, object] = networkx.node_link_data(topology.graph, edges="links")
    data["graph"] = {
        "name": topology.spec.name,
        "size": topology.spec.size_text,
        "chips": topology.num_chips,
    }
    return data
