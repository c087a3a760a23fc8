"""Lower bounds on the time of an exchange from lengths of links.

Give every arc ``a`` a length ``l[a] >= 0``. A byte from ``s`` to ``t`` uses up at least
``dist_l(s, t)`` of the total ``sum(rate * l)`` that all arcs offer in a second, whatever
way it is routed, so

    seconds >= sum over pairs of bytes * dist_l(s, t) / sum over arcs of rate[a] * l[a]

for any lengths (the dual of the concurrent flow problem). The best lengths make it equal to
the bandwidth optimum; any others are still a bound.
"""

from __future__ import annotations

import numpy as np

from planner.errors import SpecError
from planner.topology.digraph import distances, make_digraph
from planner.topology.network import Bools, Floats, Ints
from planner.topology.quotient import Symmetry
from planner.topology.routing import all_states, partners
from planner.topology.scopes import Scope

_CENTRES = 8


def bound_of_all(scope: Scope, lengths: Floats) -> float:
    """Seconds for one byte per pair, from the distances of all pairs.

    Parameters
    ----------
    lengths : array of float
        Shape ``[2 * links]``: twice the link, plus the direction.
    """
    graph, senders, takers = all_states(scope)
    demand = partners(scope)
    total = 0.0
    for some in graph.batches(len(takers)):
        num_bytes = demand(scope.talkers, scope.talkers[some])
        dist = distances(graph, takers[some], lengths[graph.arc])[senders]
        total += float(np.vdot(num_bytes, np.where(num_bytes > 0, dist, 0.0)))
    return total / float(lengths @ np.repeat(scope.rates, 2))


def bound_of_classes(symmetry: Symmetry, lengths: Floats) -> float:
    """The same from one chip of each class, where lengths are equal within classes.

    More chips of each class are asked as well; should they differ, the smallest counts.
    """
    total = 0.0
    for view in symmetry.views():
        sums = []
        for one in (view, *symmetry.witnesses(view)):
            dist = distances(one.graph, np.array([one.own_taker]), lengths[one.graph.arc])
            sums.append(float(one.partners @ dist[one.senders, 0]))
        total += view.weight * min(sums)
    return total / float(lengths @ np.repeat(symmetry.scope.rates, 2))


def _pieces(scope: Scope) -> tuple[Ints, Ints]:
    """Group, and piece of a group at one place, of each chip that talks, numbered from 0."""
    _, group = np.unique(scope.groups[scope.talkers], return_inverse=True)
    _, place = np.unique(scope.places[scope.talkers], return_inverse=True)
    _, piece = np.unique(group * (int(place.max()) + 1) + place, return_inverse=True)
    return group, piece


def cut_bound(scope: Scope) -> tuple[float, Ints]:
    """Seconds from cuts: what must cross over what the links of the cut carry.

    A cut is lengths 1 on its links without the work of finding distances. The cuts tried
    are balls around a few chips, counting only links of one kind as long: in a torus, slabs
    of every thickness across every axis.

    Returns
    -------
    (float, array of int)
        The largest bound, and the links of that cut, in the scope.

    Raises
    ------
    SpecError
        No link crosses a cut that some traffic has to cross.
    """
    tails, heads = scope.ends.reshape(-1), scope.ends[:, ::-1].reshape(-1)
    rates, hops = np.repeat(scope.rates, 2), np.repeat(scope.hops, 2)
    graph = make_digraph(scope.num_nodes, tails, heads, rates, hops, np.arange(len(tails)))
    centres = scope.talkers[:: max(1, len(scope.talkers) // _CENTRES)]
    kinds, counts = np.unique(scope.labels, return_counts=True)
    group, piece = _pieces(scope)
    best, tight = 0.0, np.zeros(0, dtype=np.int64)
    for kind in kinds[np.argsort(-counts, kind="stable")][:_CENTRES].tolist():
        long = np.repeat(scope.labels == kind, 2)[graph.arc].astype(np.int64)
        dist = distances(graph, centres, long)
        for column in dist.T:
            for radius in np.unique(column[scope.talkers])[:-1].tolist():
                inside = column <= radius
                crossing = inside[scope.ends[:, 0]] != inside[scope.ends[:, 1]]
                rate = float(scope.rates[crossing].sum())
                within = inside[scope.talkers]
                pairs = _split_pairs(group, within) - _split_pairs(piece, within)
                if pairs and not rate:
                    raise _no_path(scope, within)
                if pairs and pairs / rate > best:
                    best, tight = pairs / rate, np.flatnonzero(crossing)
    return best, tight


def _split_pairs(labels: Ints, within: Bools) -> float:
    """Ordered pairs of equal labels, the first of them within, the second not."""
    sizes = np.bincount(labels)
    held = np.bincount(labels[within], minlength=len(sizes))
    return float(held @ (sizes - held))


def _no_path(scope: Scope, within: Bools) -> SpecError:
    """The error of two partners of which one is within and the other is not, or neither."""
    talkers = scope.talkers
    here, there = talkers[within], talkers[~within]
    if not len(there):
        there = here
    wanted = partners(scope)
    for chip in here.tolist():
        found = there[wanted(np.array([chip]), there)[0] > 0]
        if len(found):
            return scope.unreachable(chip, int(found[0]))
    return scope.unreachable(int(here[0]), int(there[-1]))


def egress_bound(scope: Scope) -> tuple[float, Ints]:
    """Seconds that a chip needs to send one byte to each partner, over all its links.

    Returns
    -------
    (float, array of int)
        The slowest chip's seconds, and the links of the slowest chips, in the scope.

    Raises
    ------
    SpecError
        A chip has no link.
    """
    talkers = scope.talkers
    group, piece = _pieces(scope)
    num_bytes = np.bincount(group)[group] - np.bincount(piece)[piece]
    rate = np.bincount(
        scope.ends.reshape(-1), weights=np.repeat(scope.rates, 2), minlength=scope.num_nodes
    )[talkers]
    if not rate.all():
        raise _no_path(scope, rate == 0)
    seconds = num_bytes / rate
    slowest = np.zeros(scope.num_nodes, dtype=np.bool_)
    slowest[talkers[seconds >= seconds.max() * (1 - 1e-12)]] = True
    return float(seconds.max()), np.flatnonzero(slowest[scope.ends].any(axis=1))
