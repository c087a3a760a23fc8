"""The machine's links as arrays: what the graph computations work on.

Decisions
---------
* Arrays first, ``networkx`` on request: 32,768 chips with their switches and NICs are built
  in a fraction of a second, and planning never needs the graph object.
* Nodes and links carry what their builder knows of them (kind, domain, tier, axis): colour
  refinement must not have to guess which axis of a torus a link belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import networkx as nx

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CHIP, SWITCH, NIC_NODE, LEAF, SPINE, CORE, HOST = range(7)
KINDS = ("chip", "switch", "nic", "leaf", "spine", "core", "host")

NIC = "nic"
LEAF_SPINE = "leaf-spine"
SPINE_CORE = "spine-core"
TRUNK = "trunk"
AXES = "xyz"
NO_AXIS = -1
FABRIC = -1  # domain of the nodes outside of every scale-up domain


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """Nodes and links of a machine; chips are nodes ``0 .. num_chips - 1``.

    Parameters
    ----------
    kinds : array of int
        Shape ``[nodes]``, index into ``KINDS``.
    domains : array of int
        Shape ``[nodes]``: scale-up domain of a node, ``FABRIC`` outside.
    ends : array of int
        Shape ``[links, 2]``.
    bytes_per_s : array of float
        Shape ``[links]``: nameplate, one direction, parallel cables added up.
    cables : array of int
        Shape ``[links]``.
    tiers : array of int
        Shape ``[links]``, index into ``tier_names``.
    scale_up : array of bool
        Shape ``[links]``: whether the link belongs to a scale-up domain.
    axes : array of int
        Shape ``[links]``: axis of a torus, else ``NO_AXIS``.
    hops : array of int
        Shape ``[links]``: length of the link for routing, ``>= 1``.
    tier_names : tuple of str
        Classes of links in reports.
    name_nodes : callable
        Returns the names of all nodes; called once, on demand.
    """

    num_chips: int
    kinds: Ints
    domains: Ints
    ends: Ints
    bytes_per_s: Floats
    cables: Ints
    tiers: Ints
    scale_up: Bools
    axes: Ints
    hops: Ints
    tier_names: tuple[str, ...]
    name_nodes: Callable[[], tuple[str, ...]]

    @property
    def num_nodes(self) -> int:
        """Chips, switches, NICs and hosts."""
        return len(self.kinds)

    @property
    def num_links(self) -> int:
        """Links; parallel cables between two nodes are one."""
        return len(self.ends)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each node."""
        return self.name_nodes()

    @cached_property
    def index(self) -> dict[str, int]:
        """Node of each name."""
        return {name: node for node, name in enumerate(self.names)}

    def link_name(self, link: int) -> str:
        """Both ends of a link: ``A--B``."""
        a, b = self.ends[link]
        return f"{self.names[a]}--{self.names[b]}"


def to_networkx(network: Network) -> nx.Graph[str]:
    """The network as a graph of named nodes.

    Node attributes: ``kind``, ``domain`` (-1 in the fabric) and for chips ``index``. Edge
    attributes: ``bytes_per_s`` (one direction), ``links`` (cables), ``tier``, ``scale_up``
    and ``axis`` (``x``, ``y``, ``z`` in a torus, else empty).
    """
    import networkx

    graph: nx.Graph[str] = networkx.Graph()
    names = network.names
    for node, (name, kind, domain) in enumerate(
        zip(names, network.kinds.tolist(), network.domains.tolist(), strict=True)
    ):
        if node < network.num_chips:
            graph.add_node(name, kind=KINDS[kind], domain=domain, index=node)
        else:
            graph.add_node(name, kind=KINDS[kind], domain=domain)
    columns = zip(
        network.ends.tolist(),
        network.bytes_per_s.tolist(),
        network.cables.tolist(),
        network.tiers.tolist(),
        network.scale_up.tolist(),
        network.axes.tolist(),
        strict=True,
    )
    graph.add_edges_from(
        (
            names[a],
            names[b],
            {
                "bytes_per_s": rate,
                "links": cables,
                "tier": network.tier_names[tier],
                "scale_up": inside,
                "axis": AXES[axis] if axis >= 0 else "",
            },
        )
        for (a, b), rate, cables, tier, inside, axis in columns
    )
    return graph
