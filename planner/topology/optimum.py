"""How fast a collective could be on the same links, however it were routed.

    all_to_all, dispatch, combine   maximum concurrent flow (:mod:`planner.topology.flow_bound`)
    all_gather, reduce_scatter      every chip lets in V (N - 1) / N over its links, every
                                    domain V (N - p) / N over those that leave it; within a
                                    domain of direct links the narrowest cut of all
    all_reduce                      twice, as long as chips do the sums; V out of every chip
                                    where switches do
    broadcast, send_recv            V out of the root and into every other chip

All at the achieved bandwidth of the operation, so that the ratio tells what routing loses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.domain.curves import Op
from planner.errors import DisconnectedError
from planner.topology.closed_forms import EXCHANGES
from planner.topology.collectives import CollectiveCost
from planner.topology.graph import Topology
from planner.topology.graph_price import derates, graph_load, is_direct
from planner.topology.network import Floats
from planner.topology.rate import Algorithm
from planner.topology.traffic import Exchange

Groups = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """Lower bound on the busiest link; ``method`` says how it was found."""

    s_per_byte: float
    method: str


def inbound_rates(topology: Topology, op: Op) -> tuple[Floats, Floats]:
    """Achieved bandwidth into every chip, inside and outside of its domain."""
    network = topology.network
    found = []
    for inside, derate in zip((True, False), derates(topology.spec, op), strict=True):
        links = network.scale_up == inside
        rates = np.zeros(network.num_nodes)
        for end in (0, 1):
            np.add.at(rates, network.ends[links, end], network.bytes_per_s[links] * derate)
        found.append(rates)
    return found[0], found[1]


def _cut(topology: Topology, op: Op, group: Sequence[int]) -> Optimum:
    """What must enter a chip, or a domain, of a gather."""
    inside, outside = inbound_rates(topology, op)
    chips, size = list(group), len(group)
    owners = [topology.domain_of(chip) for chip in chips]
    pieces = Counter(owners)
    crosses = len(pieces) > 1
    ways = inside[chips] + (outside[chips] if crosses else 0.0)
    slowest = float(((size - 1) / size / ways).max())
    if crosses:
        out: dict[int, float] = dict.fromkeys(pieces, 0.0)
        for owner, rate in zip(owners, outside[chips].tolist(), strict=True):
            out[owner] += rate
        slowest = max(
            slowest,
            *((size - piece) / size / out[domain] for domain, piece in pieces.items()),
        )
    if not crosses and is_direct(topology):
        # Loads OR-Tools.
        from planner.topology.gather_bound import gather_seconds_per_byte

        bound = gather_seconds_per_byte(
            topology.network, np.array(sorted(chips), dtype=np.int64), only_group=False
        )
        slowest = max(slowest, bound.seconds_per_byte / derates(topology.spec, op)[0])
    return Optimum(s_per_byte=slowest, method="cut")


def _ends(topology: Topology, op: Op, group: Sequence[int]) -> Optimum:
    inside, outside = inbound_rates(topology, op)
    chips = list(group)
    crosses = len({topology.domain_of(chip) for chip in chips}) > 1
    if op is Op.SEND_RECV and crosses:
        # A chip without a NIC uses those of its domain.
        ways = np.array(
            [
                outside[chip] or outside[list(topology.domains[topology.domain_of(chip)])].sum()
                for chip in chips
            ]
        )
    else:
        ways = inside[chips] + (outside[chips] if crosses else 0.0)
    return Optimum(s_per_byte=float((1 / ways).max()), method="cut")


def _flow(topology: Topology, op: Op, groups: Groups) -> Optimum:
    # Loads OR-Tools.
    from planner.topology.flow_bound import flow_bound

    exchange = Exchange(
        groups=tuple(np.array(group, dtype=np.int64) for group in groups),
        bytes_per_pair=1 / len(groups[0]),
    )
    inside, outside = derates(topology.spec, op)
    try:
        bound = flow_bound(topology.network, exchange, inside, outside)
    except DisconnectedError:
        # Some chips need the NICs of others, which the flow does not know of.
        return _domain_cut(topology, op, groups)
    return Optimum(s_per_byte=bound.seconds, method=bound.method)


def _domain_cut(topology: Topology, op: Op, groups: Groups) -> Optimum:
    """What must leave every domain in an exchange, through all of its NICs."""
    _, outside = inbound_rates(topology, op)
    leaving: dict[int, float] = {}
    for group in groups:
        pieces = Counter(topology.domain_of(chip) for chip in group)
        for domain, piece in pieces.items():
            sent = piece * (len(group) - piece) / len(group)
            leaving[domain] = leaving.get(domain, 0.0) + sent
    slowest = max(
        sent / float(outside[list(topology.domains[domain])].sum())
        for domain, sent in leaving.items()
        if sent
    )
    return Optimum(s_per_byte=slowest, method="cut")


def optimum(topology: Topology, op: Op, groups: Groups, algorithm: str) -> Optimum:
    """Least time of the busiest link, per byte of ``num_bytes``; remembered.

    Parameters
    ----------
    groups : sequence of sequence of int
        Groups that run the collective at the same time. Only exchanges are bounded
        together; for the others the first group counts, as if it were alone.
    algorithm : str
        ``in_network`` lets switches do the sums.

    Raises
    ------
    SpecError
        Chips of a group are not connected.
    """
    key = ("optimum", op, tuple(tuple(group) for group in groups), algorithm)
    found = topology.memo.get(key)
    if isinstance(found, Optimum):
        return found
    if op in EXCHANGES:
        result = _flow(topology, op, groups)
    elif op in (Op.BROADCAST, Op.SEND_RECV) or algorithm == Algorithm.IN_NETWORK:
        result = _ends(topology, op, groups[0])
    else:
        result = _cut(topology, op, groups[0])
        if op is Op.ALL_REDUCE:
            result = replace(result, s_per_byte=2 * result.s_per_byte)
    topology.memo[key] = result
    return result


def with_optimum(
    topology: Topology,
    cost: CollectiveCost,
    chips: Sequence[int],
    others: Groups = (),
) -> CollectiveCost:
    """The same cost with its busiest link named and set against the optimum.

    Parameters
    ----------
    cost : CollectiveCost
        Of ``chips``, with ``others`` at the same time.

    Raises
    ------
    SpecError
        Chips of a group are not connected.
    """
    if len(chips) < 2:
        return cost
    groups = (tuple(chips), *(tuple(other) for other in others))
    bound = optimum(topology, cost.op, groups, cost.algorithm)
    bound_s = cost.num_bytes * bound.s_per_byte
    if cost.algorithm in (Algorithm.IN_NETWORK, Algorithm.FUSED):
        # Other curves than the library's: compare at nameplate.
        bound_s *= _relative_derate(topology, cost)
    pattern = Op.ALL_TO_ALL if cost.algorithm == "flat" else cost.op
    busiest = graph_load(topology, pattern, groups)
    link = busiest.link_name if busiest.link == cost.link else ""
    return replace(
        cost,
        link_name=link,
        bound_s=bound_s,
        bound_method=bound.method,
        ratio=cost.wire_s / bound_s if bound_s else 1.0,
    )


def _relative_derate(topology: Topology, cost: CollectiveCost) -> float:
    """Achieved fraction of the library over that of another kernel."""
    curves = topology.spec.scale_up.curves
    kernel = curves.kernel(f"{cost.algorithm}_all_reduce")
    return 1.0 if kernel is None else curves.of(cost.op).derate / kernel.derate
