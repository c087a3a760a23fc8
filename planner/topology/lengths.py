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

from planner.topology.digraph import distances
from planner.topology.network import Floats, Ints
from planner.topology.quotient import Symmetry
from planner.topology.routing import all_states, partners
from planner.topology.scopes import Scope


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
    _, group_of, group_sizes = np.unique(
        scope.groups[talkers], return_inverse=True, return_counts=True
    )
    piece = np.stack((group_of, scope.places[talkers]), axis=1)
    _, piece_of, piece_sizes = np.unique(piece, axis=0, return_inverse=True, return_counts=True)
    num_bytes = group_sizes[group_of] - piece_sizes[piece_of.reshape(-1)]
    rate = np.bincount(
        scope.ends.reshape(-1), weights=np.repeat(scope.rates, 2), minlength=scope.num_nodes
    )[talkers]
    if not rate.all():
        lonely = int(np.argmin(rate))
        partner = talkers[partners(scope)(talkers[[lonely]], talkers)[0] > 0][0]
        raise scope.unreachable(int(talkers[lonely]), int(partner))
    seconds = num_bytes / rate
    slowest = np.zeros(scope.num_nodes, dtype=np.bool_)
    slowest[talkers[seconds >= seconds.max() * (1 - 1e-12)]] = True
    return float(seconds.max()), np.flatnonzero(slowest[scope.ends].any(axis=1))
