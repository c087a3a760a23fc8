"""Bytes over every link when messages follow shortest paths.

At every node the traffic towards a chip splits over the next hops of shortest paths in
proportion to their bandwidth (equal-cost multipath, ECMP). Which links a message may use is
said in :mod:`planner.topology.scopes`. The torus that routes one axis after the other is in
:mod:`planner.topology.torus_routing`.

Two engines compute the same thing. ``dense`` follows every chip's traffic: exact for any
network and any traffic. ``folded`` follows one chip of each class: exact where classes are
orbits of the network's symmetries, see :mod:`planner.topology.quotient`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from planner.topology.digraph import Digraph, add_up, distances, make_digraph, pour, unreachable
from planner.topology.network import Bools, Floats, Ints, Network
from planner.topology.quotient import Symmetry, View, find_symmetry
from planner.topology.scopes import (
    Scope,
    exchange_scopes,
    inside_scopes,
    outside_scope,
    restrict,
)
from planner.topology.traffic import Matrix, Traffic

Engine = Literal["auto", "dense", "folded"]
# Bytes from nodes (rows) to nodes (columns) of a scope.
Demand = Callable[[Ints, Ints], Floats]

# Chips x arcs up to which every chip is followed: about 5 ms; about 1 s where links join nodes
# of one kind, and colour refinement is least certain to find the orbits.
_DENSE_WORK = 150_000
_UNLEVELLED_WORK = 30_000_000
_CLASSES_PER_GROUP = 4  # with more, groups have little in common: each is folded by itself
_FOLD_WORK = 15  # folding one class costs about as much as following this many chips


@dataclass(frozen=True, kw_only=True, eq=False)
class LinkLoads:
    """Bytes over each link, both of shape ``[links]``.

    ``forward`` runs from ``ends[:, 0]`` to ``ends[:, 1]``, ``backward`` the other way.
    """

    forward: Floats
    backward: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Busiest:
    """The link that takes longest; link -1 and an empty tier where nothing is sent."""

    seconds: float
    link: int
    tier: str


def all_states(scope: Scope) -> tuple[Digraph, Ints, Ints]:
    """The scope as a graph of states, and the states in which each chip sends and receives.

    The two arrays have the shape of ``scope.talkers``.
    """
    arcs = scope.graph.arcs
    tails = scope.ends.reshape(-1)[arcs]
    tail, head, index = scope.states_of(tails, scope.graph.heads, arcs >> 1)
    senders, takers = scope.senders(scope.talkers), scope.takers(scope.talkers)
    used = np.zeros(3 * scope.num_nodes, dtype=np.bool_)
    for states in (tail, head, senders, takers):
        used[states] = True
    number = np.cumsum(used) - 1
    links = arcs[index] >> 1
    graph = make_digraph(
        int(number[-1]) + 1,
        number[tail],
        number[head],
        scope.rates[links],
        scope.hops[links],
        arcs[index],
    )
    return graph, number[senders], number[takers]


def partners(scope: Scope) -> Demand:
    """One byte between chips of one group that are at different places."""

    def demand(sources: Ints, targets: Ints) -> Floats:
        pairs: Bools = scope.groups[sources][:, None] == scope.groups[targets]
        pairs &= scope.places[sources][:, None] != scope.places[targets]
        return pairs.astype(np.float64)

    return demand


def _entries(network: Network, scope: Scope, traffic: Matrix) -> Demand:
    """Bytes of a matrix between chips that are at different places."""
    row = np.zeros(network.num_chips, dtype=np.int64)
    row[traffic.chips] = np.arange(len(traffic.chips))

    def demand(sources: Ints, targets: Ints) -> Floats:
        rows, columns = row[scope.nodes[sources]], row[scope.nodes[targets]]
        apart = scope.places[sources][:, None] != scope.places[targets]
        num_bytes: Floats = traffic.num_bytes[np.ix_(rows, columns)] * apart
        return num_bytes

    return demand


def _dense(scope: Scope, demand: Demand) -> Floats:
    """Bytes over each arc of a scope, shape ``[links, 2]``."""
    graph, senders, takers = all_states(scope)
    loads = np.zeros(graph.num_arcs)
    for some in graph.batches(len(takers)):
        num_bytes = demand(scope.talkers, scope.talkers[some])
        dist = distances(graph, takers[some], graph.hops)
        lost = (dist[senders] >= unreachable(dist.dtype)) & (num_bytes > 0)
        if lost.any():
            source, target = np.argwhere(lost)[0]
            raise scope.unreachable(int(scope.talkers[source]), int(scope.talkers[some][target]))
        sent = np.zeros(dist.shape)
        sent[senders] = num_bytes
        loads += pour(graph, dist, sent)
    return add_up(graph.arc, loads, 2 * scope.num_links).reshape(-1, 2)


def _loads_of_classes(symmetry: Symmetry, view: View) -> Floats:
    """Bytes over each class of arcs towards one chip, from all its partners."""
    sent = np.zeros(view.hop_distances.shape)
    sent[view.senders, 0] = view.partners
    loads = pour(view.graph, view.hop_distances, sent)
    classes = symmetry.arc_class[view.graph.arc]
    return add_up(classes, loads, len(symmetry.class_size))


def _folded(scope: Scope) -> Floats | None:
    """Bytes over each arc for one byte from every chip to each of its partners.

    None where classes turn out not to be orbits.
    """
    symmetry = find_symmetry(scope)
    total = np.zeros(len(symmetry.class_size))
    for view in symmetry.views():
        if view.arcs_differ:
            return None
        loads = _loads_of_classes(symmetry, view)
        for witness in symmetry.witnesses(view):
            again = _loads_of_classes(symmetry, witness)
            if not np.allclose(loads, again, rtol=1e-9, atol=0.0):
                return None
        total += view.weight * loads
    each = total / np.maximum(symmetry.class_size, 1)
    return each[symmetry.arc_class].reshape(-1, 2)


def _by_group(scope: Scope, engine: Engine) -> Floats:
    """Loads of each group by itself, added up: each uses a small part of the scope."""
    loads = np.zeros((scope.num_links, 2))
    for group in np.unique(scope.groups[scope.talkers]).tolist():
        part = restrict(scope, group)
        loads[np.searchsorted(scope.links, part.links)] += unit_loads(part, engine)
    return loads


def _is_dense(scope: Scope) -> bool:
    """Whether to follow every chip: cheap enough, or folding could be wrong unnoticed."""
    talkers = scope.talkers
    work = len(talkers) * 2 * scope.num_links
    kinds = scope.network.kinds[scope.nodes][scope.ends]
    unlevelled = bool((kinds[:, 0] == kinds[:, 1]).any())
    if work <= (_UNLEVELLED_WORK if unlevelled else _DENSE_WORK):
        return True
    everyone = len(talkers) == int(scope.is_chip.sum())
    return bool(scope.direct.any()) and not (everyone and scope.num_groups == 1)


def unit_loads(scope: Scope, engine: Engine = "auto") -> Floats:
    """Bytes over each arc, shape ``[links, 2]``, for one byte to each partner."""
    if engine == "dense" or (engine == "auto" and _is_dense(scope)):
        return _dense(scope, partners(scope))
    num_classes = len(find_symmetry(scope).chips)
    if scope.num_groups > 1 and num_classes > _CLASSES_PER_GROUP * scope.num_groups:
        return _by_group(scope, engine)
    folded = None
    if engine == "folded" or num_classes * _FOLD_WORK < len(scope.talkers):
        folded = _folded(scope)
    return _dense(scope, partners(scope)) if folded is None else folded


def outside_loads(network: Network, traffic: Traffic, engine: Engine = "auto") -> Floats:
    """Bytes of the traffic between domains over each link, shape ``[links, 2]``.

    Raises
    ------
    SpecError
        Two chips that talk are not connected.
    """
    loads = np.zeros((network.num_links, 2))
    if isinstance(traffic, Matrix):
        scope = outside_scope(network, (traffic.chips,))
        if scope is not None:
            loads[scope.links] = _dense(scope, _entries(network, scope, traffic))
        return loads
    scope = exchange_scopes(network, traffic).outside
    if scope is not None:
        loads[scope.links] = traffic.bytes_per_pair * unit_loads(scope, engine)
    return loads


def inside_loads(network: Network, traffic: Traffic, engine: Engine = "auto") -> Floats:
    """Bytes of the traffic inside domains over each link, shape ``[links, 2]``.

    Raises
    ------
    SpecError
        Two chips that talk are not connected.
    """
    loads = np.zeros((network.num_links, 2))
    if isinstance(traffic, Matrix):
        for part in inside_scopes(network, (traffic.chips,), merge=False):
            scope = part.scope
            loads[scope.links] = _dense(scope, _entries(network, scope, traffic))
        return loads
    for part in exchange_scopes(network, traffic).inside:
        loads[part.links] = traffic.bytes_per_pair * unit_loads(part.scope, engine)
    return loads


def ecmp_loads(network: Network, traffic: Traffic, *, engine: Engine = "auto") -> LinkLoads:
    """Bytes over every link, both ways.

    Parameters
    ----------
    network : Network
        The links.
    traffic : Exchange or Matrix
        What is sent.
    engine : {"auto", "dense", "folded"}
        How an exchange is computed; a matrix is always ``dense``, and so is what turns out
        not to be symmetric.

    Raises
    ------
    SpecError
        Two chips that talk are not connected.
    """
    loads = outside_loads(network, traffic, engine) + inside_loads(network, traffic, engine)
    return LinkLoads(forward=loads[:, 0], backward=loads[:, 1])


def busiest_link(
    network: Network, loads: LinkLoads, inside_derate: float = 1.0, outside_derate: float = 1.0
) -> Busiest:
    """The link and direction that take longest for their bytes.

    Parameters
    ----------
    inside_derate, outside_derate : float
        Achieved fraction of nameplate of scale-up links and of all others, in (0, 1].
    """
    derate = np.where(network.scale_up, inside_derate, outside_derate)
    bytes_over = np.maximum(loads.forward, loads.backward)
    seconds = bytes_over / (network.bytes_per_s * derate)
    longest = float(seconds.max(initial=0.0))
    if longest == 0.0:
        return Busiest(seconds=0.0, link=-1, tier="")
    # Equal loads differ in the last digits by the order of their sums.
    link = int(np.argmax(seconds >= longest * (1 - 1e-12)))
    return Busiest(seconds=longest, link=link, tier=network.tier_names[int(network.tiers[link])])
