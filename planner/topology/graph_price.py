"""Collectives routed over the graph: the price of what closed forms do not know.

Every collective is a few rounds of traffic, pipelined one behind the other; it takes what
the link needs that is busiest with all of them.

    all_to_all, dispatch, combine   every chip sends V / N to every other
    all_gather, reduce_scatter      inside a domain: V / p to every chip of the piece; between
                                    domains: lane i of every domain exchanges its shard with
                                    lane i of the others, V / (M min p) each
    all_reduce                      both twice
    broadcast                       inside a domain a chain, V over each link of it; between
                                    domains every lane a chain of its own, V / min p;
                                    chains follow the numbers of the chips
    send_recv                       V from the first chip to the second

Within a domain of direct links (mesh, torus) chips forward, and an all_gather is packed into
trees: its time is the cut bound of :mod:`planner.topology.gather_bound`, which trees reach.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.domain.curves import Op
from planner.domain.hardware import NO_WOUNDS, MachineSpec
from planner.domain.scale_up import GraphDomain, MeshDomain, Torus
from planner.errors import DisconnectedError
from planner.topology.build import build_topology
from planner.topology.graph import Topology
from planner.topology.relays import with_relays
from planner.topology.routing import LinkLoads, ecmp_loads
from planner.topology.torus_routing import torus_loads
from planner.topology.torus_wounds import wounded_torus
from planner.topology.traffic import Exchange, Matrix, Traffic

Groups = Sequence[Sequence[int]]
# Chips from which the longest path of a group is looked for.
MAX_STARTS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The busiest link of a collective.

    ``s_per_byte`` is per byte of ``num_bytes`` at achieved bandwidth, ``link`` the class of
    the link, ``link_name`` its ends where one link can be named, ``hops`` the longest path.
    """

    s_per_byte: float
    link: str
    link_name: str = ""
    hops: int = 1


def derates(spec: MachineSpec, op: Op) -> tuple[float, float]:
    """Achieved fractions of an operation inside and outside of scale-up domains."""
    inside = spec.scale_up.curves.of(op).derate
    if spec.scale_out is not None:
        return inside, spec.scale_out.curves.of(op).derate
    if isinstance(spec.scale_up, GraphDomain):
        return inside, spec.scale_up.fabric_curves.of(op).derate
    return inside, 1.0


def _pieces(topology: Topology, group: Sequence[int]) -> list[list[int]]:
    """Chips of a group by domain."""
    found: dict[int, list[int]] = defaultdict(list)
    for chip in group:
        found[topology.domain_of(chip)].append(chip)
    return list(found.values())


def _exchange(groups: Groups, per_pair: float) -> Exchange:
    arrays = tuple(np.array(group, dtype=np.int64) for group in groups)
    return Exchange(groups=arrays, bytes_per_pair=per_pair)


def _by_size(groups: Groups, share: float) -> list[Traffic]:
    """Exchanges of ``share / n`` per pair among groups of ``n`` chips."""
    sizes: dict[int, list[Sequence[int]]] = defaultdict(list)
    for group in groups:
        if len(group) > 1:
            sizes[len(group)].append(group)
    return [_exchange(same, share / size) for size, same in sizes.items()]


def _sends(pairs: Sequence[tuple[int, int]]) -> Matrix:
    """One byte from the first to the second chip of every pair."""
    chips = sorted({chip for pair in pairs for chip in pair})
    at = {chip: row for row, chip in enumerate(chips)}
    num_bytes = np.zeros((len(chips), len(chips)))
    for a, b in pairs:
        num_bytes[at[a], at[b]] += 1.0
    return Matrix(chips=np.array(chips, dtype=np.int64), num_bytes=num_bytes)


def _lanes(topology: Topology, group: Sequence[int]) -> list[list[int]]:
    """Chips that hold the same shard in every domain of a group."""
    pieces = _pieces(topology, group)
    return [list(lane) for lane in zip(*pieces, strict=False)] if len(pieces) > 1 else []


def is_direct(topology: Topology) -> bool:
    """Whether chips of a domain are joined by links of their own, so that they forward."""
    scale_up = topology.spec.scale_up
    if isinstance(scale_up, GraphDomain):
        network = topology.network
        inside = network.ends[network.scale_up]
        return bool(len(inside)) and bool((inside < network.num_chips).all())
    return isinstance(scale_up, MeshDomain | Torus)


def rounds(topology: Topology, op: Op, groups: Groups) -> list[list[Traffic]]:
    """Traffic of a pattern for one byte of ``num_bytes``, round by round.

    Patterns are ``ALL_TO_ALL``, ``ALL_GATHER``, ``BROADCAST`` and ``SEND_RECV``.

    Each round is a list of traffics that run together. Gathers within domains of direct
    links are left out: they are not routed.
    """
    if op is Op.SEND_RECV:
        return [[_sends([(group[0], group[1]) for group in groups])]]
    if op is Op.BROADCAST:
        return _broadcast_rounds(topology, groups)
    if op is Op.ALL_TO_ALL:
        return [_by_size(groups, 1.0)]
    inside = [piece for group in groups for piece in _pieces(topology, group)]
    found = [] if is_direct(topology) else [_by_size(inside, 1.0)]
    across: list[Traffic] = []
    for group in groups:
        lanes = _lanes(topology, group)
        if lanes:
            share = 1.0 / (len(lanes) * len(lanes[0]))
            across.append(_exchange(lanes, share))
    return [traffics for traffics in (*found, across) if traffics]


def _route(topology: Topology, traffic: Traffic) -> LinkLoads:
    """Loads of one traffic by the machine's own rules."""
    if topology.is_torus and topology.wounded is not None:
        return wounded_torus(topology).loads(with_relays(topology, traffic))
    if topology.is_torus:
        coordinates = np.array(topology.coordinates, dtype=np.int64)
        return torus_loads(
            topology.network, topology.spec.shape, topology.wraps, traffic, coordinates
        )
    return ecmp_loads(topology.network, with_relays(topology, traffic))


def _broadcast_rounds(topology: Topology, groups: Groups) -> list[list[Traffic]]:
    inside: list[Sequence[int]] = []
    chains: list[tuple[int, int]] = []
    across: list[Traffic] = []
    for group in map(sorted, groups):
        lanes = _lanes(topology, group)
        if not lanes:
            chains += itertools.pairwise(group)
            continue
        inside += _pieces(topology, group)
        hops = _sends([pair for lane in lanes for pair in itertools.pairwise(lane)])
        across.append(replace(hops, num_bytes=hops.num_bytes / len(lanes)))
    found = [_by_size(inside, 1.0), across]
    if chains:
        found.append([_sends(chains)])
    return [traffics for traffics in found if traffics]


def link_loads(topology: Topology, traffics: Sequence[Traffic]) -> LinkLoads:
    """Bytes over every link when several traffics run together.

    Raises
    ------
    SpecError
        Chips that talk are not connected.
    """
    loads = [_route(topology, traffic) for traffic in traffics]
    return LinkLoads(
        forward=np.sum([load.forward for load in loads], axis=0),
        backward=np.sum([load.backward for load in loads], axis=0),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Peak:
    """Busiest link of one round at nameplate bandwidth, on one side of the domains."""

    s_per_byte: float
    inside: bool
    link: str
    link_name: str = ""


def _gathers(topology: Topology, groups: Groups) -> list[_Peak]:
    """Gathers within the pieces of direct-link domains, for one byte of the result.

    A piece whose chips do not hang together exchanges its shards over the chips between.
    """
    # Loads OR-Tools, which healthy machines never need.
    from planner.topology.gather_bound import gather_seconds_per_byte

    found = []
    apart: list[Sequence[int]] = []
    for piece in (piece for group in groups for piece in _pieces(topology, group)):
        if len(piece) == 1:
            continue
        try:
            bound = gather_seconds_per_byte(
                topology.network, np.array(sorted(piece), dtype=np.int64)
            )
        except DisconnectedError:
            apart.append(piece)
            continue
        tier = bound.tiers[0] if bound.tiers else ""
        name = topology.network.link_name(bound.links[0]) if bound.links else ""
        found.append(
            _Peak(s_per_byte=bound.seconds_per_byte, inside=True, link=tier, link_name=name)
        )
    return found + (_round_peaks(topology, _by_size(apart, 1.0)) if apart else [])


def _one_path(topology: Topology, source: int, target: int) -> _Peak:
    """Narrowest link of the widest shortest path between two chips of direct links.

    Chips that forward do not split a message; without this a dead link would let it spread
    over many ways round.
    """
    network = topology.network
    if topology.domain_of(source) != topology.domain_of(target):
        return _Peak(s_per_byte=0.0, inside=False, link="")
    neighbours = _direct_neighbours(topology)
    widest = {source: (math.inf, -1)}
    while target not in widest:
        reached: dict[int, tuple[float, int]] = {}
        for node, (width, narrow) in widest.items():
            for other, link in neighbours[node]:
                if other in widest:
                    continue
                rate = float(network.bytes_per_s[link])
                best = (rate, link) if rate < width else (width, narrow)
                if best[0] > reached.get(other, (0.0, -1))[0]:
                    reached[other] = best
        widest |= reached
    rate, link = widest[target]
    tier = network.tier_names[network.tiers[link]]
    name = network.link_name(link)
    return _Peak(s_per_byte=1 / rate, inside=True, link=tier, link_name=name)


def _direct_neighbours(topology: Topology) -> dict[int, list[tuple[int, int]]]:
    """Chips joined to each chip by a link of their own, with that link; remembered."""
    found = topology.memo.get(_direct_neighbours)
    if isinstance(found, dict):
        return found
    result: dict[int, list[tuple[int, int]]] = defaultdict(list)
    network = topology.network
    for link in np.flatnonzero(network.scale_up).tolist():
        a, b = network.ends[link].tolist()
        result[a].append((b, link))
        result[b].append((a, link))
    topology.memo[_direct_neighbours] = result
    return result


def _round_peaks(topology: Topology, traffics: Sequence[Traffic]) -> list[_Peak]:
    """Busiest link of one round within and between domains."""
    network = topology.network
    loads = link_loads(topology, traffics)
    seconds = np.maximum(loads.forward, loads.backward) / network.bytes_per_s
    found = []
    for inside in (True, False):
        side = np.where(network.scale_up == inside, seconds, 0.0)
        link = int(side.argmax()) if len(side) else 0
        if len(side) and side[link] > 0:
            found.append(
                _Peak(
                    s_per_byte=float(side[link]),
                    inside=inside,
                    link=network.tier_names[network.tiers[link]],
                    link_name=network.link_name(link),
                )
            )
    return found


# Operations that send the same, up to a factor.
_PATTERN = {
    Op.DISPATCH: (Op.ALL_TO_ALL, 1.0),
    Op.COMBINE: (Op.ALL_TO_ALL, 1.0),
    Op.REDUCE_SCATTER: (Op.ALL_GATHER, 1.0),
    Op.ALL_REDUCE: (Op.ALL_GATHER, 2.0),
}


def _peaks(topology: Topology, op: Op, groups: Groups) -> list[_Peak]:
    """Busiest links of every round of an operation; remembered."""
    key = ("peaks", op, tuple(tuple(group) for group in groups))
    found = topology.memo.get(key)
    if isinstance(found, list):
        return found
    peaks: list[_Peak] = []
    if op is Op.ALL_GATHER and is_direct(topology):
        peaks += _gathers(topology, groups)
    if op is Op.SEND_RECV and is_direct(topology):
        peaks += [_one_path(topology, group[0], group[1]) for group in groups]
    # Rounds are pipelined: a link that serves several of them carries them all.
    traffics = [traffic for part in rounds(topology, op, groups) for traffic in part]
    if traffics:
        peaks += _round_peaks(topology, traffics)
    topology.memo[key] = peaks
    return peaks


def graph_load(topology: Topology, op: Op, groups: Groups) -> Load:
    """Busiest link of a collective that disjoint groups run at the same time.

    Parameters
    ----------
    groups : sequence of sequence of int
        Chips of each group, at least two; for ``SEND_RECV`` the sender and the receiver.

    Returns
    -------
    Load
        Of all rounds.

    Raises
    ------
    SpecError
        Chips of a group are not connected.
    """
    inside, outside = derates(topology.spec, op)
    pattern, times = _PATTERN.get(op, (op, 1.0))
    found = [
        Load(
            s_per_byte=times * peak.s_per_byte / (inside if peak.inside else outside),
            link=peak.link,
            link_name=peak.link_name,
        )
        for peak in _peaks(topology, pattern, groups)
    ]
    slowest = max(found, key=lambda load: load.s_per_byte)
    if topology.is_torus:
        slowest = replace(slowest, hops=longest_path(topology, groups[0]))
    if topology.wounded is None or isinstance(topology.spec.scale_up, GraphDomain):
        return slowest
    # Detours may find idle links, and relieve busy ones: a wound is still not a help.
    healthy = graph_load(healthy_twin(topology), op, _by_place(topology, groups))
    hops = max(slowest.hops, healthy.hops)
    return replace(max(slowest, healthy, key=lambda load: load.s_per_byte), hops=hops)


def healthy_twin(topology: Topology) -> Topology:
    """The same machine without its wounds; built once."""
    found = topology.memo.get(healthy_twin)
    if not isinstance(found, Topology):
        found = build_topology(replace(topology.spec, wounds=NO_WOUNDS))
        topology.memo[healthy_twin] = found
    return found


def _by_place(topology: Topology, groups: Groups) -> Groups:
    """The same chips in the numbers of the healthy machine."""
    size = topology.spec.domain_chips

    def number(chip: int) -> int:
        domain, position = topology.places[chip]
        return domain * size + position

    return [[number(chip) for chip in group] for group in groups]


def longest_path(topology: Topology, group: Sequence[int]) -> int:
    """Most hops over links between chips from one chip of a group to another.

    Seen from up to ``MAX_STARTS`` of its chips.
    """
    neighbours = _direct_neighbours(topology)
    longest = 1
    for start in sorted(group)[:MAX_STARTS]:
        distance = {start: 0}
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for other, _ in neighbours[node]:
                if other not in distance:
                    distance[other] = distance[node] + 1
                    queue.append(other)
        longest = max(longest, *(distance.get(chip, 0) for chip in group))
    return longest
