"""Colour refinement: the coarsest equitable partition of a graph.

Two nodes share a class when no number of local observations (their own colour, the labels
of their links, the classes at the other ends, how many of each) tells them apart.

Decisions
---------
* Classes are 64-bit hashes that are summed over the links of a node, so that a round is a
  handful of array operations. Constants are fixed: results are reproducible. Two different
  neighbourhoods collide with a probability of about ``rounds * nodes**2 / 2**64``
  (1e-9 for 68,000 nodes), which is accepted.
* A hub is a node that only takes part in refinement: it tells its members apart from those
  of a hub with other members (a scale-up domain, a group that communicates). Hubs are
  arrays of labels instead of links, which costs a sum instead of a sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.topology.network import Floats, Ints

Hashes = NDArray[np.uint64]

_ODD_1 = np.uint64(0xBF58476D1CE4E5B9)
_ODD_2 = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)


def mix(values: Hashes) -> Hashes:
    """Scramble 64-bit values one to one (the finaliser of SplitMix64), as a new array."""
    out = values + _STEP
    out ^= out >> _S30
    out *= _ODD_1
    out ^= out >> _S27
    out *= _ODD_2
    out ^= out >> _S31
    return out


def hash_columns(*columns: NDArray[np.generic]) -> Hashes:
    """One hash for each row of columns of integers or floats."""
    out = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        if column.dtype == np.float64:
            floats: Floats = column.astype(np.float64)
            bits = floats.view(np.uint64)
        elif column.dtype == np.uint64:
            bits = column.astype(np.uint64)
        else:
            bits = column.astype(np.int64).view(np.uint64)
        out = mix(out * _STEP + bits)
    return out


def dense_labels(values: NDArray[np.generic]) -> tuple[Ints, int]:
    """Number distinct values ``0, 1, ...`` in increasing order; also how many there are."""
    kinds, labels = np.unique(values, return_inverse=True)
    return labels.astype(np.int64).reshape(-1), len(kinds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Adjacency:
    """Both directions of every link, sorted by tail.

    Parameters
    ----------
    starts : array of int
        Shape ``[nodes + 1]``: the arcs that leave node ``v`` are
        ``starts[v] : starts[v + 1]``.
    heads : array of int
        Shape ``[2 * links]``.
    arcs : array of int
        Shape ``[2 * links]``: twice the link, plus 1 where the arc runs from ``ends[:, 1]``
        to ``ends[:, 0]``.
    """

    starts: Ints
    heads: Ints
    arcs: Ints

    @property
    def links(self) -> Ints:
        """Link of each arc."""
        return self.arcs >> 1

    def arcs_of(self, nodes: Ints) -> tuple[Ints, Ints]:
        """Positions of the arcs that leave ``nodes``, and the index into ``nodes`` of each."""
        counts = self.starts[nodes + 1] - self.starts[nodes]
        owner = np.repeat(np.arange(len(nodes)), counts)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.starts[nodes][owner] + offset, owner


def adjacency(num_nodes: int, ends: Ints) -> Adjacency:
    """Index the links by node."""
    total = 2 * len(ends)
    # Distinct keys: sorting them is several times faster than a stable argsort.
    key = ends.reshape(-1) * total + np.arange(total)
    key.sort()
    arcs = key % total if total else key
    starts = np.zeros(num_nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(ends.reshape(-1), minlength=num_nodes), out=starts[1:])
    return Adjacency(starts=starts, heads=ends[:, ::-1].reshape(-1)[arcs], arcs=arcs)


def _sum_over(values: Hashes, firsts: Ints) -> Hashes:
    """Sums modulo 2**64 of consecutive runs."""
    sums: Hashes = np.add.reduceat(values, firsts) if len(firsts) else values[:0]
    return sums


def refine(
    graph: Adjacency,
    link_labels: Hashes,
    colours: NDArray[np.generic],
    hubs: Sequence[Ints] = (),
) -> tuple[Ints, int]:
    """Refine colours until they are equitable.

    Parameters
    ----------
    graph : Adjacency
        The links.
    link_labels : array of uint64
        Shape ``[links]``: everything in which links differ.
    colours : array of int
        Shape ``[nodes]``: the classes at the start.
    hubs : sequence of array of int
        Each of shape ``[nodes]``: the label of a node's hub, -1 for none.

    Returns
    -------
    (array of int, int)
        Class of each node, numbered ``0, 1, ...``, and the number of classes. The partition
        is at least as fine as ``colours``.
    """
    touched = np.flatnonzero(np.diff(graph.starts))
    firsts = graph.starts[touched]
    labels = mix(link_labels)[graph.links]
    orders: list[tuple[np.uint64, Ints, Ints, Ints]] = []
    for number, hub in enumerate(hubs, start=1):
        members = np.flatnonzero(hub >= 0)
        members = members[np.argsort(hub[members], kind="stable")]
        sorted_hub = hub[members]
        changes = np.flatnonzero(np.diff(sorted_hub, prepend=-1))
        owner = np.cumsum(np.diff(sorted_hub, prepend=-1) != 0) - 1
        orders.append((np.uint64(number), members, changes, owner))
    values = hash_columns(colours)
    classes = _count(values)
    while True:
        sums = np.zeros_like(values)
        if len(touched):
            seen = values[graph.heads]
            seen ^= labels
            sums[touched] = _sum_over(mix(seen), firsts)
        for salt, members, firsts_of_hub, owner in orders:
            if len(members):
                hub_hash = mix(_sum_over(mix(values[members] ^ salt), firsts_of_hub) + salt)
                sums[members] += hub_hash[owner]
        finer = mix(values * _ODD_2 + sums)
        count = _count(finer)
        # A stable partition keeps its number of classes, since every round only splits.
        if count == classes:
            return dense_labels(values)
        values, classes = finer, count


def _count(values: Hashes) -> int:
    """Distinct values."""
    ordered = np.sort(values)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + min(1, len(ordered))


def components(num_nodes: int, ends: Ints) -> Ints:
    """Smallest node of the connected component of each node."""
    label = np.arange(num_nodes)
    while True:
        a, b = label[ends[:, 0]], label[ends[:, 1]]
        apart = a != b
        if not apart.any():
            return label
        a, b = a[apart], b[apart]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while True:
            jumped = label[label]
            if (jumped == label).all():
                break
            label = jumped
