"""An all-to-all in which not every chip sends as much: hot experts, uneven batches.

The busiest link is that of the matrix routed over the graph; the optimum is bounded by what
every chip must send and receive and by what must leave and enter every domain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from planner.domain.curves import Op
from planner.errors import SpecError
from planner.topology.closed_forms import EXCHANGES
from planner.topology.collectives import CollectiveCost, collective_rate
from planner.topology.graph import Topology
from planner.topology.graph_price import derates, link_loads
from planner.topology.groups import group_shape
from planner.topology.network import Floats
from planner.topology.optimum import inbound_rates
from planner.topology.routing import busiest_link
from planner.topology.traffic import Matrix


def _check(op: Op, chips: Sequence[int], num_bytes: Floats) -> None:
    if op not in EXCHANGES:
        known = ", ".join(exchange.value for exchange in EXCHANGES)
        raise SpecError(f"a matrix of traffic does not go with {op.value}", f"it does with {known}")
    size = len(chips)
    if num_bytes.shape != (size, size):
        shape = " x ".join(map(str, num_bytes.shape))
        raise SpecError(
            f"the traffic matrix is {shape}, the group has {size} chips",
            "give one row per sender and one column per receiver",
        )
    if not np.isfinite(num_bytes).all() or (num_bytes < 0).any():
        raise SpecError("the traffic matrix has numbers that are not bytes", "give numbers >= 0")


def _bound_s(topology: Topology, op: Op, chips: Sequence[int], num_bytes: Floats) -> float:
    """What no routing can avoid, seconds at achieved bandwidth."""
    inside, outside = inbound_rates(topology, op)
    owners = np.array([topology.domain_of(chip) for chip in chips])
    same = owners[:, None] == owners[None, :]
    slowest = 0.0
    for mask, rates in ((same, inside), (~same, outside)):
        moved = np.where(mask, num_bytes, 0.0)
        for total in (moved.sum(axis=1), moved.sum(axis=0)):
            busy = total > 0
            slowest = max([slowest, *(total[busy] / rates[np.array(chips)[busy]]).tolist()])
    return float(slowest)


def matrix_cost(
    topology: Topology, chips: Sequence[int], num_bytes: Floats, op: Op = Op.ALL_TO_ALL
) -> CollectiveCost:
    """Time of an exchange with given traffic.

    Parameters
    ----------
    chips : sequence of int
        The group, shape ``[n]``.
    num_bytes : array
        Shape ``[n, n]``: from row to column; what a chip keeps, the diagonal, is free.
    op : Op
        ``ALL_TO_ALL``, ``DISPATCH`` or ``COMBINE``: whose curve to take.

    Returns
    -------
    CollectiveCost
        ``num_bytes`` is the largest send buffer of a chip, its own share included.

    Raises
    ------
    SpecError
        The matrix does not fit the group, or chips that talk are not connected.
    """
    _check(op, chips, num_bytes)
    sent = np.where(np.eye(len(chips), dtype=np.bool_), 0.0, num_bytes)
    rate = collective_rate(topology, op, group_shape(topology, chips))
    buffer = float(num_bytes.sum(axis=1).max(initial=0.0))
    cost = CollectiveCost(
        op=op,
        algorithm="library",
        num_bytes=buffer,
        num_chips=len(chips),
        seconds=rate.latency_s,
        latency_s=rate.latency_s,
        wire_s=0.0,
        fill_s=0.0,
        link="",
    )
    if not sent.any():
        return cost
    traffic = Matrix(chips=np.array(chips, dtype=np.int64), num_bytes=sent)
    inside, outside = derates(topology.spec, op)
    busiest = busiest_link(topology.network, link_loads(topology, [traffic]), inside, outside)
    fill = 2 * math.sqrt(rate.fill_s * busiest.seconds)
    bound = _bound_s(topology, op, chips, sent)
    return replace(
        cost,
        seconds=rate.latency_s + busiest.seconds + fill,
        wire_s=busiest.seconds,
        fill_s=fill,
        link=busiest.tier,
        link_name=topology.network.link_name(busiest.link),
        bound_s=bound,
        bound_method="cut",
        ratio=busiest.seconds / bound,
    )
