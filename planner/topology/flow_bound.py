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
* Classes that are no orbits make the folded program too kind (its capacity rows average over
  links that differ): still a bound, but below the optimum. Where the classes show that they
  are no orbits, a small scope is solved unfolded, and a large one is not called optimal.
* Where the program would be too large, lengths are guessed: cuts, and the links that are
  busiest under shortest-path routing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from planner.topology.digraph import add_up
from planner.topology.lengths import (
    bound_of_all,
    bound_of_classes,
    cut_bound,
    egress_bound,
)
from planner.topology.network import Bools, Floats, Ints, Network
from planner.topology.quotient import Symmetry, View, find_symmetry
from planner.topology.routing import unit_loads
from planner.topology.scopes import Scope, exchange_scopes
from planner.topology.traffic import Exchange

Method = Literal["none", "flow-lp", "length-bound", "egress"]

_MAX_VARIABLES = 30_000  # about two seconds in GLOP
_MAX_UNFOLDED = 6_000  # about a tenth of a second
_AGREE = 1e-6  # relative difference of primal and dual that GLOP's tolerances explain
_ALL_PAIRS_WORK = 2_000_000  # chips x arcs up to which the distances of all pairs are cheap
_DIRECT_WORK = 30_000_000  # the same where chips forward, and symmetry is least certain
_LENGTH_WORK = 20_000_000  # beyond this, about two seconds, only cuts are tried


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowBound:
    """Seconds that an exchange takes at least.

    Parameters
    ----------
    seconds : float
        At the derates asked for.
    method : str
        ``flow-lp``: from the linear program. ``length-bound``, ``egress``: from guesses.
        ``none``: nothing is sent.
    tiers : tuple of str
        Classes of the links that limit it.
    links : tuple of int
        Those links.
    optimal : bool
        Whether some routing takes no longer: the program was solved, and nothing shows that
        its classes are no orbits. Otherwise the optimum may be above.
    all_pairs : bool
        Whether the bound was computed from all pairs of chips; otherwise from one chip of
        each class, and holds where classes are orbits.
    """

    seconds: float
    method: Method
    tiers: tuple[str, ...]
    links: tuple[int, ...]
    optimal: bool
    all_pairs: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class _ScopeBound:
    """Seconds at nameplate for one byte per pair, and the links of the scope that limit."""

    seconds: float
    method: Method
    links: Ints
    all_pairs: bool
    optimal: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class _Program:
    """A solved program: its objective, and the dual price of each class of arcs."""

    symmetry: Symmetry
    seconds: float
    prices: Floats
    orbits: bool


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


def _add_capacity(solver: Any, time: Any, classes: Ints, capacity: Floats) -> dict[int, Any]:
    """Sum over sources of flow[s, a] - T * rate[a] <= 0, without the flows as yet."""
    rows = {}
    for index in classes.tolist():
        rows[index] = solver.Constraint(-solver.infinity(), 0.0)
        rows[index].SetCoefficient(time, -float(capacity[index]))
    return rows


def _add_flows(solver: Any, rows: dict[int, Any], view: View, arcs: tuple[Ints, ...]) -> None:
    """What arrives minus what leaves is bytes[s, v], at every state but the source's.

    Flows are those of all sources of the class together, so that coefficients stay 1.
    """
    wanted = np.zeros(view.graph.num_states)
    wanted[view.takers] = view.partners * view.weight
    states = {
        state: solver.Constraint(float(wanted[state]), float(wanted[state]))
        for state in np.unique(np.concatenate(arcs[:2])).tolist()
        if state != view.own_sender
    }
    for tail, head, index in zip(*(column.tolist() for column in arcs), strict=True):
        flow = solver.NumVar(0.0, solver.infinity(), "")
        rows[index].SetCoefficient(flow, 1.0)
        if tail != head:
            states[head].SetCoefficient(flow, 1.0)
            if tail in states:
                states[tail].SetCoefficient(flow, -1.0)


def _solve(symmetry: Symmetry) -> _Program | None:
    """Solve the program of a scope; None where it is too large."""
    from ortools.linear_solver import pywraplp

    scope = symmetry.scope
    orbits = scope.num_groups == 1 or not bool(scope.direct.any())
    merged = []
    size = 0
    for view in symmetry.views():
        _ = view.hop_distances  # raises where chips are not connected
        orbits = orbits and not view.arcs_differ
        merged.append((view, _merge(view, symmetry)))
        size += len(merged[-1][1][0])
        if size > _MAX_VARIABLES:
            return None
    unit = float(scope.rates.max())
    num_classes = len(symmetry.class_size)
    capacity = add_up(symmetry.arc_class, np.repeat(scope.rates, 2) / unit, num_classes)
    used = np.unique(np.concatenate([arcs[2] for _, arcs in merged]))
    solver = pywraplp.Solver.CreateSolver("GLOP")
    time = solver.NumVar(0.0, solver.infinity(), "")
    solver.Minimize(time)
    rows = _add_capacity(solver, time, used, capacity)
    for view, arcs in merged:
        _add_flows(solver, rows, view, arcs)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        return None
    prices = np.zeros(num_classes)
    for index, row in rows.items():
        prices[index] = max(0.0, -row.dual_value())
    prices[prices < 1e-9 * prices.max()] = 0.0
    return _Program(
        symmetry=symmetry, seconds=time.solution_value() / unit, prices=prices, orbits=orbits
    )


def _solve_scope(scope: Scope) -> _Program | None:
    """Folded, or not where it is small and its classes are no orbits."""
    program = _solve(find_symmetry(scope))
    small = len(scope.talkers) * 2 * scope.num_links <= _MAX_UNFOLDED
    if program is None or program.orbits or not small:
        return program
    unfolded = _solve(find_symmetry(scope, folded=False))
    return None if unfolded is None else replace(unfolded, orbits=True)


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
    program = _solve_scope(scope)
    work = len(scope.talkers) * 2 * scope.num_links
    if program is None:
        seconds, links = cut_bound(scope)
        cut = _ScopeBound(seconds=seconds, method="length-bound", links=links, all_pairs=True)
        found = [egress, cut]
        if work <= _LENGTH_WORK:
            found += [_from_lengths(scope, some, "length-bound") for some in _guesses(scope)]
        return max(found, key=lambda bound: bound.seconds)
    lengths = program.prices[program.symmetry.arc_class]
    if work <= (_DIRECT_WORK if scope.direct.any() else _ALL_PAIRS_WORK):
        bound = _from_lengths(scope, lengths, "flow-lp")
    else:
        bound = _ScopeBound(
            seconds=bound_of_classes(program.symmetry, lengths),
            method="flow-lp",
            links=np.flatnonzero(lengths.reshape(-1, 2).any(axis=1)),
            all_pairs=False,
        )
    agree = abs(bound.seconds - program.seconds) <= _AGREE * program.seconds
    # The optimum is never below the egress bound: only rounding says so.
    return replace(
        bound,
        seconds=max(bound.seconds, egress.seconds),
        optimal=program.orbits and agree,
    )


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
    best = FlowBound(seconds=0.0, method="none", tiers=(), links=(), optimal=True, all_pairs=True)
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
                optimal=bound.optimal,
                all_pairs=bound.all_pairs,
            )
    return best
