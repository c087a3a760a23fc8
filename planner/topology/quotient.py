"""A symmetric scope folded into classes, and seen from one chip of each class.

What is exact and why
---------------------
*Seen from one chip.* Split flow and shortest paths are local computations: what a node
does depends on its links and on what its neighbours did. An equitable partition in which
the chip is a class of its own therefore keeps them: all nodes of a class carry the same
flow, and a computation with one node of each class is exact, for every graph.

*All chips together.* The loads of all chips of a class are taken from one of them, and the
load of a class of links is spread evenly over its links. That is exact when the classes
are orbits of the symmetries of the scope. Colour refinement finds the orbits of trees and
of the networks that we build (levels of switches joined by full bipartite pieces, torus
axes with labels), wounded or not; what it cannot see, because it only compares
neighbourhoods, is given to it: how many partners a chip has within its domain and below
each level of switches, and which chips share a domain or a group. It does not find the
orbits of every graph (it takes two triangles for a hexagon). Small scopes are therefore not
folded, nor are those in which chips forward unless one group holds all chips; of every
class two more chips are asked for what they see; and a chip that can tell two of its own arcs
of one class apart (the short axis of an unlabelled torus from the long one) forbids folding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from planner.topology.digraph import Digraph, distances, make_digraph, unreachable
from planner.topology.network import CORE, HOST, LEAF, NIC_NODE, SPINE, Bools, Floats, Ints
from planner.topology.refine import (
    Hashes,
    components,
    dense_labels,
    hash_columns,
    refine,
)
from planner.topology.scopes import Scope, both, restrict

_TABLE = 1 << 22
_KEPT_VIEWS = 128  # routing and bound share them; many classes would fill the memory


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A scope as seen from one chip: states are classes.

    Parameters
    ----------
    scope : Scope
        For the names of an error.
    node : int
        The chip, a node of the scope.
    weight : int
        Chips that see the same.
    graph : Digraph
        Its ``arc`` counts arcs of the whole scope: twice the link, plus the direction.
    own_sender, own_taker : int
        States of the chip.
    senders, takers : array of int
        Shape ``[k]``: states of the classes of its partners.
    partners : array of float
        Shape ``[k]``: how many chips each class has.
    example : array of int
        Shape ``[k]``: one of them, a node of the scope.
    arcs_differ : bool
        Whether the chip sees two of its own arcs of one class lead to different classes: then
        the class is no orbit.
    """

    scope: Scope
    node: int
    weight: int
    graph: Digraph
    own_sender: int
    own_taker: int
    senders: Ints
    takers: Ints
    partners: Floats
    example: Ints
    arcs_differ: bool

    @cached_property
    def hop_distances(self) -> Ints:
        """Hops to the chip from each state, shape ``[states, 1]``.

        Raises
        ------
        SpecError
            A partner cannot reach the chip.
        """
        dist = distances(self.graph, np.array([self.own_taker]), self.graph.hops)
        lost = dist[self.senders, 0] >= unreachable(dist.dtype)
        if lost.any():
            raise self.scope.unreachable(int(self.example[lost][0]), self.node)
        return dist


@dataclass(frozen=True, kw_only=True, eq=False)
class Symmetry:
    """Classes of a scope.

    Parameters
    ----------
    node_class : array of int
        Shape ``[nodes]``.
    arc_class : array of int
        Shape ``[2 * links]``: class of the arc of a link from ``ends[:, 0]`` (even) and back.
    class_size : array of int
        Arcs of each class; numbers without an arc are possible.
    chips : array of int
        One chip of each class of chips that talk.
    weights : array of int
        How many chips each class has.
    """

    scope: Scope
    node_class: Ints
    arc_class: Ints
    class_size: Ints
    chips: Ints
    weights: Ints
    _parts: dict[int, Scope] = field(default_factory=dict)
    _views: dict[int, View] = field(default_factory=dict)

    def views(self) -> Iterator[View]:
        """What one chip of each class sees, one after the other."""
        for chip, weight in zip(self.chips.tolist(), self.weights.tolist(), strict=True):
            yield self.view(chip, weight)

    def witnesses(self, view: View) -> Iterator[View]:
        """What two more chips of a class see: the same, if classes are orbits."""
        talkers = self.scope.talkers
        same = talkers[self.node_class[talkers] == self.node_class[view.node]]
        for chip in np.unique(same[[len(same) // 2, -1]]).tolist():
            if chip != view.node:
                yield self.view(chip, view.weight)

    def view(self, chip: int, weight: int) -> View:
        """What one chip sees."""
        if chip in self._views:
            return self._views[chip]
        group = int(self.scope.groups[chip])
        if group not in self._parts:
            self._parts[group] = restrict(self.scope, group)
        view = _view(self, self._parts[group], chip, weight)
        if len(self._views) < _KEPT_VIEWS:
            self._views[chip] = view
        return view


def _levels(scope: Scope) -> list[Bools]:
    """Links below the leaves, below the spines, below the cores, where there are any."""
    kinds = scope.network.kinds[scope.nodes]
    level = np.where(kinds == HOST, NIC_NODE, kinds)
    out = []
    for top in (LEAF, SPINE, CORE):
        if (level >= top).any():
            out.append(both(level[scope.ends] < top))
    return out


def _colours(scope: Scope) -> Hashes:
    """What refinement is told of each node before it starts.

    For a chip: how many chips of its group are at its place, below the same switch of every
    level, and both.
    """
    kinds = scope.network.kinds[scope.nodes]
    columns = [kinds, scope.groups >= 0, _together(scope.groups, np.zeros_like(kinds))]
    columns.append(_together(scope.groups, scope.places))
    for below in _levels(scope):
        part = components(scope.num_nodes, scope.ends[below])
        columns.append(_together(scope.groups, part))
        columns.append(_together(scope.groups, part, scope.places))
    return hash_columns(*columns)


def _together(groups: Ints, *where: Ints) -> Ints:
    """Chips of the same group at the same place as each chip; 0 for other nodes."""
    chips = np.flatnonzero(groups >= 0)
    key = groups[chips]
    for column in where:
        _, spread = np.unique(column[chips], return_inverse=True)
        key = key * (int(spread.max(initial=0)) + 1) + spread
    _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    out = np.zeros(len(groups), dtype=np.int64)
    out[chips] = counts[inverse]
    return out


@lru_cache(maxsize=8)
def find_symmetry(scope: Scope, folded: bool = True) -> Symmetry:
    """Fold a scope into classes of nodes and of arcs; of one member each unless ``folded``."""
    many = scope.num_groups > 1
    labels = scope.labels
    if many and scope.direct.any():
        a, b = scope.groups[scope.ends].T
        labels = hash_columns(labels, (a == b) & (a >= 0))
    hubs = []
    if (scope.places[scope.talkers] != scope.talkers).any():
        hubs.append(np.where(scope.groups >= 0, scope.places - scope.places.min(), -1))
    if many:
        hubs.append(scope.groups)
    if folded:
        classes, num_classes = refine(scope.graph, labels, _colours(scope), hubs)
    else:
        classes, num_classes = np.arange(scope.num_nodes), scope.num_nodes
    kinds, num_kinds = dense_labels(labels)
    tails, heads = classes[scope.ends].reshape(-1), classes[scope.ends[:, ::-1]].reshape(-1)
    arc_class = (tails * num_classes + heads) * num_kinds + np.repeat(kinds, 2)
    if num_classes * num_classes * num_kinds > _TABLE:
        arc_class, _ = dense_labels(arc_class)
    _, first, counts = np.unique(classes[scope.talkers], return_index=True, return_counts=True)
    order = np.argsort(first)
    return Symmetry(
        scope=scope,
        node_class=classes,
        arc_class=arc_class,
        class_size=np.bincount(arc_class, minlength=1),
        chips=scope.talkers[first[order]],
        weights=counts[order],
    )


def _view(symmetry: Symmetry, part: Scope, chip: int, weight: int) -> View:
    whole = symmetry.scope
    in_whole = slice(None) if part is whole else np.searchsorted(whole.nodes, part.nodes)
    me = int(np.searchsorted(part.nodes, whole.nodes[chip]))
    partner = (part.groups == part.groups[me]) & (part.places != part.places[me])
    role = partner.astype(np.int64)
    role[me] = 2
    classes, num_classes = refine(part.graph, part.labels, symmetry.node_class[in_whole] * 3 + role)
    _, one, sizes = np.unique(classes, return_index=True, return_counts=True)
    positions, owner = part.graph.arcs_of(one)
    tails, heads = one[owner], part.graph.heads[positions]
    tail, head, index = part.states_of(tails, heads, part.graph.links[positions])
    n = part.num_nodes

    def fold(states: Ints) -> Ints:
        return (states // n) * num_classes + classes[states % n]

    arcs = part.graph.arcs[positions]
    if part is not whole:
        arcs = 2 * np.searchsorted(whole.links, part.links)[arcs >> 1] + (arcs & 1)
    links = part.graph.links[positions[index]]
    graph = make_digraph(
        3 * num_classes,
        fold(tail),
        fold(head),
        part.rates[links],
        part.hops[links],
        arcs[index],
    )
    some = one[partner[one]]
    own = np.array([me])
    mine = tails == me
    kinds = symmetry.arc_class[arcs[mine]]
    views_of_kinds = np.unique(np.stack((kinds, classes[heads[mine]])), axis=1)
    return View(
        scope=whole,
        node=chip,
        weight=weight,
        graph=graph,
        own_sender=int(fold(part.senders(own))[0]),
        own_taker=int(fold(part.takers(own))[0]),
        senders=fold(part.senders(some)),
        takers=fold(part.takers(some)),
        partners=sizes[classes[some]].astype(np.float64),
        example=np.searchsorted(whole.nodes, part.nodes[some]),
        arcs_differ=views_of_kinds.shape[1] > len(np.unique(kinds)),
    )
