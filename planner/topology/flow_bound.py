"""The bandwidth optimum of an exchange: no routing can be faster.

Model
-----
Sets: chips ``s`` that send, arcs ``a``, nodes ``v``.
Data: ``rate[a]``, ``bytes[s, v]`` that chip ``s`` sends to chip ``v``.
Variables: ``flow[s, a] >= 0``, seconds ``T``.
Minimise ``T`` such that
    what arrives of ``s`` minus what leaves is ``bytes[s, v]``    for all s, v != s
    sum over s of flow[s, a] <= T * rate[a]                        for all a

It is solved on the folded scope: one source of each class, one variable for each class of
arcs that it sees, one capacity row for each class of arcs of all chips. Averaging a
solution over the symmetries of the network gives one that is equal within classes, so that
folding loses nothing where classes are orbits.

Decisions
---------
* The linear program only proposes lengths (its dual prices). The value reported is the
  bound of those lengths (:mod:`planner.topology.lengths`), which holds for any lengths: a
  solver's tolerance cannot turn the bound into a wrong one. On scopes of moderate size
  the bound takes the distances of all pairs, so that it does not lean on symmetry either.
* Where the program would be too large, lengths are guessed from the links that are busiest
  under shortest-path routing; the bound then may be below the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from planner.topology.lengths import bound_of_all, bound_of_classes, egress_bound
from planner.topology.network import Bools, Floats, Ints, Network
from planner.topology.quotient import Symmetry, View, find_symmetry
from planner.topology.routing import unit_loads
from planner.topology.scopes import Scope, exchange_scopes
from planner.topology.traffic import Exchange

Method = Literal["none", "flow-lp", "length-bound", "egress"]

_MAX_VARIABLES = 30_000  # about two seconds in GLOP
_ALL_PAIRS_WORK = 2_000_000  # chips x arcs up to which the distances of all pairs are cheap
_DIRECT_WORK = 30_000_000  # the same where chips forward, and symmetry is least certain
_LENGTH_WORK = 500_000_000  # beyond this no distances are computed at all


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowBound:
    """Seconds that an exchange takes at least.

    Parameters
    ----------
    seconds : float
        At the derates asked for.
    method : str
        ``flow-lp``: the bandwidth optimum. ``length-bound``, ``egress``: a bound that may
        be below it. ``none``: nothing is sent.
    tiers : tuple of str
        Classes of the links that limit it.
    links : tuple of int
        Those links.
    all_pairs : bool
        Whether the bound was computed from all pairs of chips; otherwise from one chip of
        each class, and holds where classes are orbits.
    """

    seconds: float
    method: Method
    tiers: tuple[str, ...]
    links: tuple[int, ...]
    all_pairs: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class _ScopeBound:
    """Seconds at nameplate for one byte per pair, and the links of the scope that limit."""

    seconds: float
    method: Method
    links: Ints
    all_pairs: bool


def _merge(view: View, symmetry: Symmetry) -> tuple[Ints, Ints, Ints]:
    """Tail, head and class of the arcs of a view that can carry flow, equal ones once."""
    graph, n = view.graph, view.graph.num_states
    useful = np.zeros(n, dtype=np.bool_)
    useful[graph.head] = True
    useful[view.own_sender] = True
    wanted = np.zeros(n, dtype=np.bool_)
    wanted[graph.tail] = True
    wanted[view.takers] = True
    some: Bools = useful[graph.tail] & wanted[graph.head] & (graph.head != view.own_sender)
    rows = np.stack((graph.tail, graph.head, symmetry.arc_class[graph.arc]), axis=1)[some]
    tail, head, arc_class = np.unique(rows, axis=0).T
    return tail, head, arc_class


def _prices(symmetry: Symmetry) -> Floats | None:
    """Dual price of each class of arcs; None where the program is too large."""
    from ortools.linear_solver import pywraplp

    merged = []
    size = 0
    for view in symmetry.views():
        _ = view.hop_distances  # raises where chips are not connected
        merged.append(_merge(view, symmetry))
        size += len(merged[-1][0])
        if size > _MAX_VARIABLES:
            return None
    scope = symmetry.scope
    unit = float(scope.rates.max())
    capacity = np.bincount(
        symmetry.arc_class,
        weights=np.repeat(scope.rates, 2) / unit,
        minlength=len(symmetry.class_size),
    )
    solver = pywraplp.Solver.CreateSolver("GLOP")
    infinity = solver.infinity()
    time = solver.NumVar(0.0, infinity, "")
    solver.Minimize(time)
    rows = {}
    for index in np.unique(np.concatenate([arcs for _, _, arcs in merged])).tolist():
        rows[index] = solver.Constraint(-infinity, 0.0)
        rows[index].SetCoefficient(time, -float(capacity[index]))
    for view, (tails, heads, arcs) in zip(symmetry.views(), merged, strict=True):
        # Bytes of all sources of the class, so that coefficients stay 1.
        wanted = np.zeros(view.graph.num_states)
        wanted[view.takers] = view.partners * view.weight
        nodes = {
            state: solver.Constraint(float(wanted[state]), float(wanted[state]))
            for state in np.unique(np.concatenate((tails, heads))).tolist()
            if state != view.own_sender
        }
        for tail, head, arc in zip(tails.tolist(), heads.tolist(), arcs.tolist(), strict=True):
            flow = solver.NumVar(0.0, infinity, "")
            rows[arc].SetCoefficient(flow, 1.0)
            if tail != head:
                nodes[head].SetCoefficient(flow, 1.0)
                if tail in nodes:
                    nodes[tail].SetCoefficient(flow, -1.0)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        return None
    prices = np.zeros(len(capacity))
    for index, row in rows.items():
        prices[index] = max(0.0, -row.dual_value())
    return prices


def _guesses(scope: Scope) -> list[Floats]:
    """Lengths 1 on the busiest links, on all links like the busiest one, on all links."""
    seconds = (unit_loads(scope) / scope.rates[:, None]).reshape(-1)
    busiest = int(np.argmax(seconds))
    alike = np.repeat(scope.labels == scope.labels[busiest // 2], 2)
    return [
        np.where(seconds >= 0.999 * seconds[busiest], 1.0, 0.0),
        np.where(alike, 1.0, 0.0),
        np.ones_like(seconds),
    ]


def _from_lengths(scope: Scope, lengths: Floats, method: Method) -> _ScopeBound:
    return _ScopeBound(
        seconds=bound_of_all(scope, lengths),
        method=method,
        links=np.flatnonzero(lengths.reshape(-1, 2).any(axis=1)),
        all_pairs=True,
    )


@lru_cache(maxsize=64)
def _scope_bound(scope: Scope) -> _ScopeBound:
    seconds, links = egress_bound(scope)
    egress = _ScopeBound(seconds=seconds, method="egress", links=links, all_pairs=True)
    symmetry = find_symmetry(scope)
    prices = _prices(symmetry)
    work = len(scope.talkers) * 2 * scope.num_links
    if prices is None:
        if work > _LENGTH_WORK:
            return egress
        found = [_from_lengths(scope, some, "length-bound") for some in _guesses(scope)]
        return max([egress, *found], key=lambda bound: bound.seconds)
    prices[prices < 1e-9 * prices.max()] = 0.0
    lengths = prices[symmetry.arc_class]
    if work <= (_DIRECT_WORK if scope.direct.any() else _ALL_PAIRS_WORK):
        bound = _from_lengths(scope, lengths, "flow-lp")
    else:
        bound = _ScopeBound(
            seconds=bound_of_classes(symmetry, lengths),
            method="flow-lp",
            links=np.flatnonzero(lengths.reshape(-1, 2).any(axis=1)),
            all_pairs=False,
        )
    # The optimum is never below the egress bound: only rounding says so.
    return replace(bound, seconds=max(bound.seconds, egress.seconds))


def flow_bound(
    network: Network,
    exchange: Exchange,
    inside_derate: float = 1.0,
    outside_derate: float = 1.0,
) -> FlowBound:
    """Seconds that an exchange takes at least, however it is routed.

    Traffic may take any paths, split at will, over the links that
    :mod:`planner.topology.scopes` allows.

    Parameters
    ----------
    network : Network
        The links.
    exchange : Exchange
        What is sent.
    inside_derate, outside_derate : float
        Achieved fraction of nameplate of scale-up links and of all others, in (0, 1].

    Raises
    ------
    SpecError
        Two chips that talk are not connected.
    """
    scopes = exchange_scopes(network, exchange)
    bounds = [(part.scope, inside_derate) for part in scopes.inside]
    if scopes.outside is not None:
        bounds.append((scopes.outside, outside_derate))
    best = FlowBound(seconds=0.0, method="none", tiers=(), links=(), all_pairs=True)
    for scope, derate in bounds:
        bound = _scope_bound(scope)
        seconds = exchange.bytes_per_pair * bound.seconds / derate
        if seconds > best.seconds:
            links = scope.links[bound.links]
            tiers = np.unique(network.tiers[links])
            best = FlowBound(
                seconds=seconds,
                method=bound.method,
                tiers=tuple(network.tier_names[int(tier)] for tier in tiers),
                links=tuple(links.tolist()),
                all_pairs=bound.all_pairs,
            )
    return best
