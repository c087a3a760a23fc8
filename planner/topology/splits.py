"""Least cut of one scale-up domain into two halves of its chips.

The cut of a split is what must cross it: direct links between the halves, and for switches
the cheaper side to put each of them on, so that a switch whose chips are all on one side
costs nothing and a switch shared evenly costs what half of its chips can send. For a given
split that is the largest flow between the halves (max-flow = min-cut). The bisection is the
least cut over all splits into ``n // 2`` and the other chips. It is found by trying

1. every way to take chips from classes of alike ones (same links to the same switches),
   which covers all splits, where there are few classes;
2. every split of at most 16 chips;
3. otherwise halves of the list and halves that grow from one chip by always taking the
   most closely joined next one: the least of these is an upper bound.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from planner.topology.network import Bools, Floats, Ints, Network

MAX_COMBINATIONS = 60_000
MAX_BRUTE = 16
MAX_TRIED_SWITCHES = 10  # joined switches whose sides are tried one by one
MAX_ROTATIONS = 64
MAX_STARTS = 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """One scale-up domain, its chips numbered from 0.

    Parameters
    ----------
    chips : array of int
        Shape ``[n]``: chips of the machine.
    spokes : array of float
        Shape ``[n, switches]``: bytes/s between a chip and a switch.
    pairs, pair_rates : arrays
        Shapes ``[m, 2]`` and ``[m]``: links between two chips.
    trunks, trunk_rates : arrays
        Shapes ``[t, 2]`` and ``[t]``: links between two switches.
    """

    chips: Ints
    spokes: Floats
    pairs: Ints
    pair_rates: Floats
    trunks: Ints
    trunk_rates: Floats

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for domains that are wired alike."""
        arrays = (self.spokes, self.pairs, self.pair_rates, self.trunks, self.trunk_rates)
        return (self.spokes.shape, *(array.tobytes() for array in arrays))


@dataclass(frozen=True, kw_only=True, slots=True)
class Least:
    """Least cut found; ``tried`` splits, ``complete`` when no other split can be less."""

    bytes_per_s: float
    tried: int
    complete: bool


def domain_parts(network: Network, wanted: range) -> list[Part]:
    """The scale-up domains ``wanted`` of a network, each by itself."""
    nodes_of = _grouped(network.domains, wanted)
    links = np.flatnonzero(network.scale_up)
    links_of = _grouped(network.domains[network.ends[links, 0]], wanted)
    return [
        _part(network, nodes, links[own]) for nodes, own in zip(nodes_of, links_of, strict=True)
    ]


def _grouped(owners: Ints, wanted: range) -> list[Ints]:
    order = np.argsort(owners, kind="stable")
    bounds = np.searchsorted(owners[order], np.arange(wanted.start, wanted.stop + 1))
    return [order[low:high] for low, high in itertools.pairwise(bounds.tolist())]


def _part(network: Network, nodes: Ints, links: Ints) -> Part:
    # Nodes are in rising order, so chips come first.
    num_chips = int(np.searchsorted(nodes, network.num_chips))
    ends = np.searchsorted(nodes, network.ends[links])
    ends.sort(axis=1)
    rates = network.bytes_per_s[links]
    direct = ends[:, 1] < num_chips
    trunk = ends[:, 0] >= num_chips
    spoke = ~direct & ~trunk
    spokes = np.zeros((num_chips, len(nodes) - num_chips))
    np.add.at(spokes, (ends[spoke, 0], ends[spoke, 1] - num_chips), rates[spoke])
    return Part(
        chips=nodes[:num_chips],
        spokes=spokes,
        pairs=ends[direct],
        pair_rates=rates[direct],
        trunks=ends[trunk] - num_chips,
        trunk_rates=rates[trunk],
    )


def least_cut(part: Part) -> Least:
    """Least cut over the splits of a domain into two halves."""
    size = len(part.chips)
    if size < 2:
        return Least(bytes_per_s=0.0, tried=0, complete=True)
    groups = _switch_groups(part)
    if not len(part.pairs):
        classes = _class_splits(part.spokes)
        if classes is not None:
            kinds, taken = classes
            cuts = _switch_cuts(part, groups, taken @ kinds)
            return Least(bytes_per_s=float(cuts.min()), tried=len(taken), complete=True)
    complete = size <= MAX_BRUTE
    sides = _all_splits(size) if complete else _good_splits(part)
    cuts = _switch_cuts(part, groups, sides @ part.spokes)
    crossing = sides[:, part.pairs[:, 0]] != sides[:, part.pairs[:, 1]]
    cuts = cuts + crossing @ part.pair_rates
    return Least(bytes_per_s=float(cuts.min()), tried=len(sides), complete=complete)


def _class_splits(spokes: Floats) -> tuple[Floats, Ints] | None:
    """Kinds of chips, and every way to take half of the chips from them; None if too many."""
    kinds, counts = np.unique(spokes, axis=0, return_counts=True)
    # The last class takes the rest.
    if math.prod(int(count) + 1 for count in counts[:-1]) > MAX_COMBINATIONS:
        return None
    axes = [np.arange(count + 1) for count in counts[:-1]]
    grid = np.meshgrid(*axes, indexing="ij") if axes else []
    first = np.stack([axis.ravel() for axis in grid], axis=1) if grid else np.zeros((1, 0), int)
    rest = len(spokes) // 2 - first.sum(axis=1)
    taken = np.column_stack((first, rest))
    return kinds, taken[(rest >= 0) & (rest <= counts[-1])]


def _all_splits(size: int) -> Bools:
    half = size // 2
    # With two equal halves chip 0 may stay in the first one.
    if size % 2 == 0:
        picks = [(0, *others) for others in itertools.combinations(range(1, size), half - 1)]
    else:
        picks = list(itertools.combinations(range(size), half))
    sides = np.zeros((len(picks), size), dtype=np.bool_)
    np.put_along_axis(sides, np.array(picks, dtype=np.int64), True, axis=1)
    return sides


def _good_splits(part: Part) -> Bools:
    size = len(part.chips)
    half = size // 2
    sides = []
    for start in np.unique(np.linspace(0, size, MAX_ROTATIONS, endpoint=False).astype(int)):
        side = np.zeros(size, dtype=np.bool_)
        side[(np.arange(half) + start) % size] = True
        sides.append(side)
    for start in np.unique(np.linspace(0, size, MAX_STARTS, endpoint=False).astype(int)):
        sides.append(_grown(part, int(start)))
    return np.unique(np.array(sides), axis=0)


def _grown(part: Part, start: int) -> Bools:
    """Half of the chips, grown from one by its widest links."""
    size = len(part.chips)
    side = np.zeros(size, dtype=np.bool_)
    side[start] = True
    for _ in range(size // 2 - 1):
        joined = np.minimum(part.spokes, side @ part.spokes).sum(axis=1)
        for near, far in ((0, 1), (1, 0)):
            inside = side[part.pairs[:, near]]
            np.add.at(joined, part.pairs[inside, far], part.pair_rates[inside])
        joined[side] = -1.0
        side[int(joined.argmax())] = True
    return side


def _switch_groups(part: Part) -> list[Ints]:
    """Switches joined by trunks, group by group; single ones are left out."""
    lowest = np.arange(part.spokes.shape[1])
    while len(part.trunks):
        before = lowest.copy()
        least = lowest[part.trunks].min(axis=1)
        np.minimum.at(lowest, part.trunks[:, 0], least)
        np.minimum.at(lowest, part.trunks[:, 1], least)
        if np.array_equal(before, lowest):
            break
    groups = [np.flatnonzero(lowest == root) for root in np.unique(lowest)]
    return [group for group in groups if len(group) > 1]


def _switch_cuts(part: Part, groups: list[Ints], here: Floats) -> Floats:
    """Least cut through the switches for each split.

    Parameters
    ----------
    here : array of float
        Shape ``[splits, switches]``: what the chips of the first half send to each switch.
    """
    there = part.spokes.sum(axis=0) - here
    least = np.minimum(here, there)
    alone = np.ones(least.shape[1], dtype=np.bool_)
    for group in groups:
        alone[group] = False
    cuts: Floats = least[:, alone].sum(axis=1)
    for group in groups:
        cuts = cuts + _group_cuts(part, group, here[:, group], there[:, group])
    return cuts


def _group_cuts(part: Part, group: Ints, here: Floats, there: Floats) -> Floats:
    """Least cut through switches that trunks join: each on either side, trunks cut too."""
    local = {switch: position for position, switch in enumerate(group.tolist())}
    own = [index for index, (a, _) in enumerate(part.trunks.tolist()) if a in local]
    ends = np.array([[local[end] for end in part.trunks[index].tolist()] for index in own])
    rates = part.trunk_rates[own]
    if len(group) > MAX_TRIED_SWITCHES:
        return np.array([_flow(ends, rates, *pair) for pair in zip(here, there, strict=True)])
    sides = np.array(list(itertools.product((False, True), repeat=len(group))))
    crossing = (sides[:, ends[:, 0]] != sides[:, ends[:, 1]]) @ rates
    # A switch on the first side cuts what it takes from the other half.
    costs = there @ sides.T + here @ ~sides.T + crossing
    least: Floats = costs.min(axis=1)
    return least


def _flow(ends: Ints, rates: Floats, here: Floats, there: Floats) -> float:
    """Largest flow from the chips of one half through joined switches to the other."""
    switches = np.arange(len(here))
    source, sink = np.full(len(here), len(here)), np.full(len(here), len(here) + 1)
    arcs = np.concatenate(
        (np.column_stack((source, switches)), np.column_stack((switches, sink)), ends)
    )
    return max_flow(arcs, np.concatenate((here, there, rates)), len(here), len(here) + 1)


def max_flow(ends: Ints, rates: Floats, source: int, sink: int) -> float:
    """Largest flow between two nodes over links that carry ``rates`` in each direction.

    Rates are rounded to whole bytes/s.
    """
    from ortools.graph.python import max_flow as solver

    flow = solver.SimpleMaxFlow()
    whole = np.rint(rates).astype(np.int64)
    flow.add_arcs_with_capacity(
        np.concatenate((ends[:, 0], ends[:, 1])),
        np.concatenate((ends[:, 1], ends[:, 0])),
        np.concatenate((whole, whole)),
    )
    if max(source, sink) >= flow.num_nodes():
        return 0.0
    status = flow.solve(source, sink)
    assert status == flow.OPTIMAL, status
    return float(flow.optimal_flow())
