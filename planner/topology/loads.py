"""Link loads of a collective, routed over the graph: the second opinion on its price.

Messages follow shortest paths; at every node the traffic splits over the next hops in
proportion to their bandwidth (equal-cost multipath). In a switch machine chips do not
forward; in a torus messages go one axis after the other, as its routers do.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.domain.hardware import Op
from planner.topology.graph import Topology
from planner.topology.network import AXES, ICI, NVLINK

if TYPE_CHECKING:
    import networkx as nx

Demands = Mapping[tuple[int, int], float]
Loads = dict[tuple[str, str], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class BusiestLink:
    """Seconds per byte of the busiest link, its class and its two ends."""

    s_per_byte: float
    link: str
    ends: tuple[str, str]


def _distances(graph: nx.Graph[str], target: str, axis: str) -> dict[str, int]:
    """Hops to ``target``; with an empty ``axis`` chips other than the ends are walls."""
    distance = {target: 0}
    queue = deque([target])
    while queue:
        node = queue.popleft()
        if not axis and node != target and graph.nodes[node]["kind"] == "chip":
            continue
        for neighbour, link in graph.adj[node].items():
            if link["axis"] == axis and neighbour not in distance:
                distance[neighbour] = distance[node] + 1
                queue.append(neighbour)
    return distance


def _pour(
    graph: nx.Graph[str], target: str, axis: str, sent: Mapping[str, float], loads: Loads
) -> None:
    """Route ``sent[source]`` bytes from every source to ``target`` and add them to ``loads``."""
    distance = _distances(graph, target, axis)
    flow: dict[str, float] = defaultdict(float)
    for source, num_bytes in sent.items():
        if source not in distance:
            raise ValueError(f"no path from {source} to {target}")
        flow[source] += num_bytes
    for node in sorted(distance, key=lambda name: -distance[name]):
        if node == target or not flow[node]:
            continue
        hops = {
            neighbour: link["bytes_per_s"]
            for neighbour, link in graph.adj[node].items()
            if link["axis"] == axis
            and distance.get(neighbour, len(distance)) == distance[node] - 1
            and (axis or neighbour == target or graph.nodes[neighbour]["kind"] != "chip")
        }
        total = sum(hops.values())
        for neighbour, bandwidth in hops.items():
            share = flow[node] * bandwidth / total
            flow[neighbour] += share
            loads[node, neighbour] = loads.get((node, neighbour), 0.0) + share


def _legs(topology: Topology, demands: Demands) -> dict[tuple[str, str], dict[str, float]]:
    """Demands by (target, axis): a torus message becomes one leg per axis."""
    names = topology.chip_names
    by_place = {place: names[chip] for chip, place in enumerate(topology.places)}
    legs: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (source, target), num_bytes in demands.items():
        if not topology.is_torus:
            legs[names[target], ""][names[source]] += num_bytes
            continue
        here = topology.places[source]
        for axis, coordinate in enumerate(topology.places[target]):
            there = (*here[:axis], coordinate, *here[axis + 1 :])
            if there != here:
                legs[by_place[there], AXES[axis]][by_place[here]] += num_bytes
            here = there
    return legs


def link_loads(topology: Topology, demands: Demands) -> Loads:
    """Bytes over every directed link.

    Parameters
    ----------
    demands : mapping
        Bytes from chip to chip; chips do not send to themselves.

    Raises
    ------
    ValueError
        Two chips are not connected.
    """
    loads: Loads = {}
    for (target, axis), sent in _legs(topology, demands).items():
        _pour(topology.graph, target, axis, sent, loads)
    return loads


def busiest_link(topology: Topology, loads: Loads) -> BusiestLink:
    """The link that needs the most time for its load at its achieved bandwidth."""
    efficiency = topology.chip.efficiency
    found = []
    for (a, b), num_bytes in loads.items():
        link = topology.graph.edges[a, b]
        inside = link["tier"] in (NVLINK, ICI)
        achieved = efficiency.scale_up if inside else efficiency.scale_out
        found.append((num_bytes / (link["bytes_per_s"] * achieved), link["tier"], (a, b)))
    seconds, tier, ends = max(found)
    return BusiestLink(s_per_byte=seconds, link=tier, ends=ends)


def _phases(topology: Topology, op: Op, chips: Sequence[int]) -> list[Demands]:
    """What each level of a collective sends, for one byte of ``num_bytes``."""
    pairs = [(a, b) for a in chips for b in chips if a != b]
    if op is Op.SEND_RECV:
        return [{(chips[0], chips[1]): 1.0}]
    if op is Op.ALL_TO_ALL:
        return [dict.fromkeys(pairs, 1 / len(chips))]
    if topology.is_torus:
        raise ValueError(f"{op} on a torus is pipelined along rings, not routed")
    rank: dict[int, int] = {}
    pieces: dict[int, int] = defaultdict(int)
    for chip in chips:
        rank[chip] = pieces[topology.domain_of(chip)]
        pieces[topology.domain_of(chip)] += 1
    if len(set(pieces.values())) != 1:
        raise ValueError("a hierarchical collective is routed for equal pieces only")
    piece = rank[chips[-1]] + 1
    times = 2.0 if op is Op.ALL_REDUCE else 1.0
    inside = [(a, b) for a, b in pairs if topology.domain_of(a) == topology.domain_of(b)]
    across = [
        (a, b)
        for a, b in pairs
        if rank[a] == rank[b] and topology.domain_of(a) != topology.domain_of(b)
    ]
    phases: list[Demands] = [
        dict.fromkeys(inside, times / piece),
        dict.fromkeys(across, times / len(chips)),
    ]
    return [phase for phase in phases if phase]


def graph_rate(topology: Topology, op: Op, chips: Sequence[int]) -> BusiestLink:
    """Seconds per byte of a collective from the loads of the graph's links.

    Parameters
    ----------
    chips : sequence of int
        The group, at least two chips; for ``SEND_RECV`` the sender and the receiver.

    Returns
    -------
    BusiestLink
        Of the slowest phase.

    Raises
    ------
    ValueError
        The operation is not routed chip to chip on this machine, or the pieces of a
        hierarchical collective differ.
    """
    phases = (link_loads(topology, demands) for demands in _phases(topology, op, chips))
    slowest = [busiest_link(topology, loads) for loads in phases]
    return max(slowest, key=lambda found: found.s_per_byte)
