"""The machine as a NetworkX graph: every chip, switch, NIC and link."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.domain.hardware import Fabric, MachineSpec, SwitchDomain, Torus

if TYPE_CHECKING:
    import networkx as nx

NVLINK = "nvlink"
NIC = "nic"
LEAF_SPINE = "leaf-spine"
ICI = "ici"
AXES = "xyz"

Places = Sequence[tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class FabricSize:
    """Switches of a leaf-spine fabric.

    ``uplink_bytes_per_s`` is the bandwidth from one leaf to all spines, one direction.
    """

    leaves: int
    spines: int
    uplink_bytes_per_s: float


def fabric_size(fabric: Fabric, domain_chips: int, num_units: int) -> FabricSize:
    """Fewest spines whose ports take every uplink of ``num_units`` scalable units.

    A leaf has one downlink per NIC of a full unit, spread evenly over its leaves, and
    uplinks for ``1 / oversubscription`` of their bandwidth: 32 down and 32 up for 32 nodes
    on 8 leaves, hence 4 spines of 64 ports for one unit, 8 for two, 16 for four (the
    DGX SuperPOD reference architecture's own counts).
    """
    down = math.ceil(fabric.domains_per_unit * domain_chips / fabric.leaves_per_unit)
    up = math.ceil(down / fabric.oversubscription)
    leaves = num_units * fabric.leaves_per_unit
    return FabricSize(
        leaves=leaves,
        spines=math.ceil(leaves * up / fabric.leaf_ports),
        uplink_bytes_per_s=down * fabric.nic_bytes_per_s / fabric.oversubscription,
    )


def build_graph(spec: MachineSpec, places: Places, names: Sequence[str]) -> nx.Graph[str]:
    """Build the graph described at :attr:`planner.topology.graph.Topology.graph`.

    Parameters
    ----------
    places, names : sequence
        Place and name of each chip, in the order of the topology.
    """
    import networkx

    graph: nx.Graph[str] = networkx.Graph()
    for chip, name in enumerate(names):
        graph.add_node(name, kind="chip", index=chip)
    if isinstance(spec.scale_up, Torus):
        _add_ici(graph, spec, spec.scale_up, dict(zip(places, names, strict=True)))
        return graph
    for place, name in zip(places, names, strict=True):
        _add_nvlink(graph, spec.scale_up, place[0], name)
    if spec.scale_out is not None:
        _add_leaves(graph, spec.scale_up, spec.scale_out, places)
        for place, name in zip(places, names, strict=True):
            _add_nic(graph, spec.scale_out, place, name)
    return graph


def _add_ici(
    graph: nx.Graph[str], spec: MachineSpec, torus: Torus, names: dict[tuple[int, ...], str]
) -> None:
    axes = list(enumerate(zip(spec.shape, torus.wraps(spec.shape), strict=True)))
    for place, name in names.items():
        for axis, (length, ring) in axes:
            step = place[axis] + 1
            if step == length and not ring:
                continue
            graph.add_edge(
                name,
                names[(*place[:axis], step % length, *place[axis + 1 :])],
                bytes_per_s=torus.link_bytes_per_s,
                links=1,
                latency_s=torus.hop_s,
                tier=ICI,
                axis=AXES[axis],
            )


def _add_nvlink(graph: nx.Graph[str], scale_up: SwitchDomain, domain: int, name: str) -> None:
    for switch, links in enumerate(scale_up.links_per_switch):
        node = f"{scale_up.unit[0]}{domain}/sw{switch}"
        graph.add_node(node, kind="nvswitch")
        graph.add_edge(
            name,
            node,
            bytes_per_s=links * scale_up.link_bytes_per_s,
            links=links,
            # A message crosses two such edges.
            latency_s=scale_up.latency.send_recv_s / 2,
            tier=NVLINK,
            axis="",
        )


def _add_leaves(
    graph: nx.Graph[str], scale_up: SwitchDomain, fabric: Fabric, places: Places
) -> None:
    units = sorted({place[0] // fabric.domains_per_unit for place in places})
    size = fabric_size(fabric, scale_up.chips, len(units))
    for unit in units:
        for leaf in range(fabric.leaves_per_unit):
            node = f"su{unit}/leaf{leaf}"
            graph.add_node(node, kind="leaf")
            for spine in range(size.spines):
                graph.add_node(f"spine{spine}", kind="spine")
                graph.add_edge(
                    node,
                    f"spine{spine}",
                    bytes_per_s=size.uplink_bytes_per_s / size.spines,
                    links=1,
                    latency_s=0.0,
                    tier=LEAF_SPINE,
                    axis="",
                )


def _add_nic(graph: nx.Graph[str], fabric: Fabric, place: tuple[int, ...], name: str) -> None:
    unit, leaf = place[0] // fabric.domains_per_unit, place[1] % fabric.leaves_per_unit
    nic = f"{name}/nic"
    graph.add_node(nic, kind="nic")
    # A message crosses two NICs: half of the fabric's latency at each.
    for end, latency in ((name, 0.0), (f"su{unit}/leaf{leaf}", fabric.latency.send_recv_s / 2)):
        graph.add_edge(
            nic,
            end,
            bytes_per_s=fabric.nic_bytes_per_s,
            links=1,
            latency_s=latency,
            tier=NIC,
            axis="",
        )
