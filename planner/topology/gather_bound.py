"""The bandwidth optimum of all-gather and reduce-scatter on the links of a group.

Every chip holds one of ``n`` equal shares and must receive all. For a set ``A`` of nodes
that holds some of the group's chips, but not all, the shares of ``A`` must leave it:

    seconds >= (chips of the group in A) * share / (rate of the arcs that leave A)

The largest of these cut bounds is reached: packed spanning trees, one set for each root,
carry the shares (Edmonds' branching theorem; ForestColl extends it to switches, which
forward but do not copy). Reduce-scatter runs the same trees backwards.

Decisions
---------
* The largest cut is found by Newton's method on the time: at a given time a maximum flow
  from all shares to a chip either reaches ``n`` shares, or its minimum cut says which time
  would be needed. Every step is the exact time of one cut, so that the value is a valid
  bound whenever the search ends; capacities are rounded to ``2**-40`` of a share, which
  leaves it at most ``links * 2**-40`` shares below the optimum.
* A chip that can receive everything is joined to the source from then on: cuts that keep
  it from the source are known to be wide enough.
* Chips are tried in the order of their receiving bandwidth, one of each class of colour
  refinement. ``optimal`` says whether all classes were tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.errors import DisconnectedError
from planner.topology.network import Bools, Floats, Ints, Network
from planner.topology.refine import adjacency, hash_columns, refine

_SHARE = 1 << 40
_TOLERANCE = 1e-9
_MAX_CLASSES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class GatherBound:
    """Least time of an all-gather, at nameplate.

    Parameters
    ----------
    seconds_per_byte : float
        Per byte of the gathered result.
    tiers : tuple of str
        Classes of the links of the narrowest cut.
    links : tuple of int
        Those links.
    optimal : bool
        Whether every class of chips was tried; otherwise the value is a lower bound.
    """

    seconds_per_byte: float
    tiers: tuple[str, ...]
    links: tuple[int, ...]
    optimal: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Links that the group may use; nodes are numbered, the group's chips first."""

    ends: Ints
    rates: Floats
    links: Ints
    num_nodes: int
    size: int


def _part(network: Network, chips: Ints, only_group: bool) -> _Part:
    domains = network.domains[chips]
    usable: Bools = np.ones(network.num_nodes, dtype=np.bool_)
    if only_group:
        usable[: network.num_chips] = False
        usable[chips] = True
    chosen = usable[network.ends].all(axis=1)
    if domains[0] >= 0 and (domains == domains[0]).all():
        chosen &= network.scale_up & (network.domains[network.ends[:, 0]] == domains[0])
    links = np.flatnonzero(chosen)
    used = np.zeros(network.num_nodes, dtype=np.bool_)
    used[network.ends[links].reshape(-1)] = True
    used[chips] = False
    number = len(chips) + np.cumsum(used) - 1
    number[chips] = np.arange(len(chips))
    return _Part(
        ends=number[network.ends[links]],
        rates=network.bytes_per_s[links],
        links=links,
        num_nodes=len(chips) + int(used.sum()),
        size=len(chips),
    )


def _classes(network: Network, part: _Part) -> Ints:
    """One chip of each class, in the order of increasing bandwidth."""
    labels = hash_columns(part.rates, network.tiers[part.links], network.axes[part.links])
    member = (np.arange(part.num_nodes) < part.size).astype(np.int64)
    classes, _ = refine(adjacency(part.num_nodes, part.ends), labels, member)
    rate = np.bincount(
        part.ends.reshape(-1), weights=np.repeat(part.rates, 2), minlength=part.num_nodes
    )
    _, first = np.unique(classes[: part.size], return_index=True)
    order: Ints = first[np.lexsort((first, rate[first]))]
    return order


class _Flows:
    """Maximum flows from all shares to one chip; times are for one byte per share."""

    def __init__(self, part: _Part) -> None:
        from ortools.graph.python import max_flow

        self.part = part
        self.source = part.num_nodes
        self.tails = np.concatenate((part.ends[:, 0], part.ends[:, 1]))
        self.heads = np.concatenate((part.ends[:, 1], part.ends[:, 0]))
        self.rates = np.concatenate((part.rates, part.rates))
        self.solver = max_flow.SimpleMaxFlow()
        self.shares = self.solver.add_arcs_with_capacity(
            np.full(part.size, self.source), np.arange(part.size), np.full(part.size, _SHARE)
        )
        self.arcs = self.solver.add_arcs_with_capacity(
            self.tails, self.heads, np.zeros(len(self.tails), dtype=np.int64)
        )

    def narrowest(self, chip: int, seconds: float) -> Bools | None:
        """The source's side of the cut that keeps a chip from receiving all in time, if any."""
        needed = self.part.size * _SHARE
        room = np.minimum(self.rates * seconds * _SHARE, needed).astype(np.int64)
        self.solver.set_arcs_capacity(self.arcs, room)
        self.solver.solve(self.source, chip)
        if self.solver.optimal_flow() >= needed - len(self.arcs):
            return None
        inside: Bools = np.zeros(self.part.num_nodes + 1, dtype=np.bool_)
        inside[self.solver.get_source_side_min_cut()] = True
        return inside

    def join(self, chip: int) -> None:
        """Treat a chip that can receive everything as part of the source."""
        self.solver.set_arc_capacity(int(self.shares[chip]), self.part.size * _SHARE)


def gather_seconds_per_byte(
    network: Network, chips: Ints, *, only_group: bool = True
) -> GatherBound:
    """Least seconds of an all-gather (or reduce-scatter) per byte of the whole result.

    Parameters
    ----------
    network : Network
        The links. A group inside one scale-up domain uses the links of that domain, any
        other group uses all links.
    chips : array of int
        The group, at least two chips; they hold equal shares.
    only_group : bool
        Whether only chips of the group forward (what communication libraries do), or all.

    Raises
    ------
    DisconnectedError
        Two chips of the group are not connected.
    """
    chips = np.unique(np.asarray(chips, dtype=np.int64))
    part = _part(network, chips, only_group)
    flows = _Flows(part)
    order = _classes(network, part)
    seconds, tight = 0.0, np.zeros(len(flows.arcs), dtype=np.bool_)
    for chip in order[:_MAX_CLASSES].tolist():
        alone: Bools = np.arange(part.num_nodes + 1) != chip
        inside: Bools | None = alone
        while inside is not None:
            cut = inside[flows.tails] & ~inside[flows.heads]
            held = np.flatnonzero(inside[: part.size])
            if not cut.any():
                raise _not_connected(network, chips[[held[0], chip]])
            needed = len(held) / float(flows.rates[cut].sum())
            if needed > seconds * (1 + _TOLERANCE):
                seconds, tight = needed, cut
            elif inside is not alone:
                break
            inside = flows.narrowest(chip, seconds)
        flows.join(chip)
    links = np.unique(np.concatenate((part.links, part.links))[tight])
    tiers = np.unique(network.tiers[links])
    return GatherBound(
        seconds_per_byte=seconds / part.size,
        tiers=tuple(network.tier_names[int(tier)] for tier in tiers),
        links=tuple(links.tolist()),
        optimal=len(order) <= _MAX_CLASSES,
    )


def _not_connected(network: Network, chips: Ints) -> DisconnectedError:
    a, b = (network.names[chip] for chip in chips)
    return DisconnectedError(
        f"chips {a} and {b} are not connected",
        "leave one of them out of the group, or mend the links between them",
    )
