"""Shortest paths and weighted multipath flows on a directed graph, many targets at once.

Decisions
---------
* One column per target: a round of the distance computation is one array operation over
  all arcs and targets. Nodes of few arcs are relaxed arc by arc (rows of equal degree lie
  together), nodes of many arcs with ``reduceat``: each is several times faster where it is
  used.
* Flows are poured over (arc, target) entries that lie on a shortest path, sorted by the
  distance of their tail: an entry is touched once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.topology.network import Bools, Floats, Ints

_NARROW_DEGREE = 24
_FEW_COLUMNS = 128
_ENTRIES = 1 << 22  # (arc, target) pairs of one batch: bounds the memory to about 300 MB


@dataclass(frozen=True, kw_only=True, eq=False)
class Digraph:
    """Directed arcs between states, sorted by tail.

    Parameters
    ----------
    num_states : int
        States are ``0 .. num_states - 1``.
    tail, head : array of int
        Shape ``[arcs]``.
    rate : array of float
        Shape ``[arcs]``: the weight of an arc where traffic splits.
    hops : array of int
        Shape ``[arcs]``: length, ``>= 1``.
    arc : array of int
        Shape ``[arcs]``: which arc of the network this is; several may be the same.
    """

    num_states: int
    tail: Ints
    head: Ints
    rate: Floats
    hops: Ints
    arc: Ints

    @property
    def num_arcs(self) -> int:
        """Arcs of the graph."""
        return len(self.tail)

    @cached_property
    def tails(self) -> Ints:
        """States that an arc leaves."""
        return np.flatnonzero(np.bincount(self.tail, minlength=self.num_states))

    @cached_property
    def firsts(self) -> Ints:
        """Position of the first arc of each of ``tails``."""
        return np.searchsorted(self.tail, self.tails)

    @cached_property
    def tail_index(self) -> Ints:
        """Index into ``tails`` of the tail of each arc."""
        place = np.zeros(self.num_states, dtype=np.int64)
        place[self.tails] = np.arange(len(self.tails))
        return place[self.tail]

    @cached_property
    def is_head(self) -> Bools:
        """States that an arc enters."""
        flags = np.zeros(self.num_states, dtype=np.bool_)
        flags[self.head] = True
        return flags

    def batches(self, num_targets: int) -> list[slice]:
        """Slices of targets of which each fits in memory."""
        size = max(1, _ENTRIES // max(1, self.num_arcs, self.num_states))
        return [slice(i, i + size) for i in range(0, num_targets, size)]


def make_digraph(
    num_states: int, tail: Ints, head: Ints, rate: Floats, hops: Ints, arc: Ints
) -> Digraph:
    """Sort arcs by tail."""
    order = np.argsort(tail * max(1, len(tail)) + np.arange(len(tail)))
    return Digraph(
        num_states=num_states,
        tail=tail[order],
        head=head[order],
        rate=rate[order],
        hops=hops[order],
        arc=arc[order],
    )


def add_up(cells: Ints, amounts: Floats, num_cells: int) -> Floats:
    """Sum of the amounts of each cell."""
    sums: Floats = np.bincount(cells, weights=amounts, minlength=num_cells)  # type: ignore[assignment]
    return sums


Relaxation = Callable[[NDArray[Any]], bool]


def _relaxation(graph: Digraph, chosen: Bools, lengths: NDArray[Any]) -> Relaxation:
    """One round over the arcs of some tails: lowers the distances, says whether any fell."""
    arcs = np.flatnonzero(chosen[graph.tail])
    if not len(arcs):
        return lambda _: False
    tails, firsts, counts = np.unique(graph.tail[arcs], return_index=True, return_counts=True)
    heads, costs = graph.head[arcs], lengths[arcs][:, None]
    if counts.max() > _NARROW_DEGREE:

        def wide(dist: NDArray[Any]) -> bool:
            seen = dist[heads]
            seen += costs
            return _lower(dist, tails, np.minimum.reduceat(seen, firsts, axis=0))

        return wide
    order = np.argsort(-counts, kind="stable")
    tails, firsts, counts = tails[order], firsts[order], counts[order]
    columns = []
    for j in range(int(counts[0])):
        rows = int(np.count_nonzero(counts > j))
        columns.append((rows, heads[firsts[:rows] + j], costs[firsts[:rows] + j]))

    def narrow(dist: NDArray[Any]) -> bool:
        best = dist[columns[0][1]]
        best += columns[0][2]
        for rows, head, cost in columns[1:]:
            seen = dist[head]
            seen += cost
            np.minimum(best[:rows], seen, out=best[:rows])
        return _lower(dist, tails, best)

    return narrow


def _lower(dist: NDArray[Any], tails: Ints, found: NDArray[Any]) -> bool:
    old = dist[tails]
    if not (found < old).any():
        return False
    dist[tails] = np.minimum(old, found)
    return True


def distances(graph: Digraph, targets: Ints, lengths: NDArray[Any]) -> NDArray[Any]:
    """Distance from every state to every target.

    Parameters
    ----------
    graph : Digraph
        The arcs.
    targets : array of int
        Shape ``[T]``.
    lengths : array
        Shape ``[arcs]``, ``>= 0``, integers or floats.

    Returns
    -------
    array
        Shape ``[states, T]``; unreachable is ``unreachable(array.dtype)`` or more.
    """
    dtype: np.dtype[Any] = np.dtype(np.float64)
    if np.issubdtype(lengths.dtype, np.integer):
        longest = int(lengths.max(initial=0)) * (graph.num_states + 1)
        dtype = np.dtype(np.int16 if longest < 2**14 else np.int32)
    inner = _relaxation(graph, graph.is_head, lengths.astype(dtype))
    outer = _relaxation(graph, ~graph.is_head, lengths.astype(dtype))
    out = np.full((graph.num_states, len(targets)), unreachable(dtype), dtype=dtype)
    for start in range(0, len(targets), _FEW_COLUMNS):
        some = targets[start : start + _FEW_COLUMNS]
        dist = np.full((graph.num_states, len(some)), unreachable(dtype), dtype=dtype)
        dist[some, np.arange(len(some))] = 0
        while inner(dist):
            pass
        outer(dist)
        out[:, start : start + _FEW_COLUMNS] = dist
    return out


def unreachable(dtype: np.dtype[Any]) -> Any:
    """The distance of a state from which no path leads to the target."""
    return dtype.type(np.inf) if dtype.kind == "f" else dtype.type(np.iinfo(dtype).max // 2)


def pour(graph: Digraph, dist: NDArray[Any], sent: Floats) -> Floats:
    """Route traffic along shortest paths.

    At every state the traffic towards a target splits over the arcs of shortest paths in
    proportion to their rates.

    Parameters
    ----------
    dist : array of int
        Shape ``[states, T]``, from ``distances`` with the hops of the graph.
    sent : array of float
        Shape ``[states, T]``: bytes that start at a state and end at a target; zero where
        the target cannot be reached. Overwritten.

    Returns
    -------
    array of float
        Shape ``[arcs]``: bytes over each arc, all targets together.
    """
    num_targets = dist.shape[1]
    at_tail = dist[graph.tail]
    on_path = dist[graph.head] + graph.hops.astype(dist.dtype)[:, None] == at_tail
    on_path &= at_tail < unreachable(dist.dtype)
    position, target = np.nonzero(on_path)
    level = at_tail[position, target]
    cell = graph.tail_index[position] * num_targets + target
    weight = graph.rate[position]
    weight /= add_up(cell, weight, len(graph.tails) * num_targets)[cell]
    order = np.argsort(level, kind="stable")[::-1]
    position, target = position[order], target[order]
    weight, level = weight[order], level[order]
    tail_cell = graph.tail[position] * num_targets + target
    head_cell = graph.head[position] * num_targets + target
    flow = sent.reshape(-1)
    bounds = np.flatnonzero(np.diff(level, prepend=-1, append=-1))
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        share = weight[first:last]
        share *= flow[tail_cell[first:last]]
        np.add.at(flow, head_cell[first:last], share)
    return add_up(position, weight, graph.num_arcs)
