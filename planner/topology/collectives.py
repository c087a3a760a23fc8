"""Seconds of a collective on a group of chips: ``latency_s + num_bytes * s_per_byte``.

With ``V = num_bytes`` in the convention of :class:`~planner.domain.hardware.Op`, ``N``
chips in ``M`` domains with pieces ``p_j``, ``W`` the scale-up bandwidth of a chip and
``w`` that of its NIC (one direction, nameplate x achieved fraction), the slowest of

    op                        inside a domain            between domains
    all_gather, reduce_scatter  V (p - 1) / (p W)        V (M - 1) / (M min_j p_j w)
    all_reduce                  twice                    twice
    all_to_all                  V (p - 1) / (N W)        V (1 - min_j p_j / N) / w
    send_recv                   V / W                    V / w

with ``p = max_j p_j``. These are the forms of the scaling book, chapter on GPUs: it writes
``V`` for the full array of an all-to-all, N times the send buffer of one chip. An
all-to-all sends every byte straight to its chip over the sender's NIC; the others are
hierarchical: reduce-scatter inside, across domains on the shards, gather inside. The
leaf switches' uplinks carry what the NICs carry at ``w`` over their contention; only the
hierarchical collectives of a group within one scalable unit stay below them, on their rail.

A torus follows :mod:`planner.topology.boxes`.

Assumptions
-----------
* Levels of a hierarchical collective overlap (chunks are pipelined): bandwidth terms take
  the slowest level, latencies add up.
* No in-network reduction: with it an all_reduce would take half as long at best.
* Every group of the machine runs the same collective at the same time.
* On a torus, latency (hops) and bandwidth terms add up, where the theory takes the larger
  one: at most twice, and exact at both ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.domain.hardware import Fabric, Op, SwitchDomain, Torus
from planner.topology.boxes import gather_load, worst_axis_load
from planner.topology.graph import Topology
from planner.topology.groups import GroupShape, group_shape
from planner.topology.network import ICI, LEAF_SPINE, NIC, NVLINK


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectiveRate:
    """Price of a collective; ``link`` is the class of its busiest link, empty for one chip."""

    latency_s: float
    s_per_byte: float
    link: str

    def seconds(self, num_bytes: float) -> float:
        """Time of one call."""
        return self.latency_s + num_bytes * self.s_per_byte


FREE = CollectiveRate(latency_s=0.0, s_per_byte=0.0, link="")


def _slowest(latency_s: float, levels: list[tuple[float, str]]) -> CollectiveRate:
    """Bandwidth of the slowest level; the first of equals is named."""
    s_per_byte, link = max(levels, key=lambda level: level[0])
    return CollectiveRate(latency_s=latency_s, s_per_byte=s_per_byte, link=link)


def _hops(box: tuple[int, ...], wrap: tuple[bool, ...]) -> int:
    """Hops to the farthest chip: half a ring, or a whole line, of every axis."""
    return sum(length // 2 if ring else length - 1 for length, ring in zip(box, wrap, strict=True))


def _torus_rate(topology: Topology, torus: Torus, op: Op, shape: GroupShape) -> CollectiveRate:
    box, wrap = shape.box, shape.wrap
    if box is None or wrap is None:
        raise ValueError("the shape of a group on a torus has a box")
    bandwidth = torus.link_bytes_per_s * topology.chip.efficiency.scale_up
    latency = torus.hop_s * _hops(box, wrap)
    if op is Op.SEND_RECV:
        return CollectiveRate(latency_s=latency, s_per_byte=1 / bandwidth, link=ICI)
    if op is Op.ALL_TO_ALL:
        load = worst_axis_load(box, wrap)
        return CollectiveRate(latency_s=latency, s_per_byte=load / bandwidth, link=ICI)
    # Groups that interleave in one box share its links: each gets its part of them.
    sharing = math.prod(box) / shape.size
    phases = 2 if op is Op.ALL_REDUCE else 1
    load = phases * sharing * gather_load(box, wrap)
    return CollectiveRate(latency_s=phases * latency, s_per_byte=load / bandwidth, link=ICI)


def _inside_rate(scale_up: SwitchDomain, bandwidth: float, op: Op, size: int) -> CollectiveRate:
    load = {
        Op.ALL_REDUCE: 2 * (size - 1) / size,
        Op.ALL_GATHER: (size - 1) / size,
        Op.REDUCE_SCATTER: (size - 1) / size,
        Op.ALL_TO_ALL: (size - 1) / size,
        Op.SEND_RECV: 1.0,
    }[op]
    return CollectiveRate(
        latency_s=scale_up.latency.of(op), s_per_byte=load / bandwidth, link=NVLINK
    )


def _across_latency(scale_up: SwitchDomain, fabric: Fabric, op: Op, piece: int) -> float:
    """Latencies of the levels of a hierarchical collective; direct ones have one level."""
    across = fabric.latency.of(op)
    if piece == 1 or op in (Op.ALL_TO_ALL, Op.SEND_RECV):
        return across
    inside = scale_up.latency
    return (
        across
        + {
            Op.ALL_REDUCE: inside.reduce_scatter_s + inside.all_gather_s,
            Op.ALL_GATHER: inside.all_gather_s,
            Op.REDUCE_SCATTER: inside.reduce_scatter_s,
        }[op]
    )


def _across_rate(
    topology: Topology, scale_up: SwitchDomain, op: Op, shape: GroupShape
) -> CollectiveRate:
    fabric = topology.spec.scale_out
    if fabric is None:
        raise ValueError("a group across domains needs a scale-out fabric")
    efficiency = topology.chip.efficiency
    up = scale_up.bytes_per_s * efficiency.scale_up
    out = fabric.nic_bytes_per_s * efficiency.scale_out
    most, least, num_domains = shape.pieces[0], shape.pieces[-1], len(shape.pieces)
    stays_on_leaf = False
    if op is Op.SEND_RECV:
        inside, across = 0.0, 1.0
    elif op is Op.ALL_TO_ALL:
        inside, across = (most - 1) / shape.size, 1 - least / shape.size
    else:
        phases = 2 if op is Op.ALL_REDUCE else 1
        inside = phases * (most - 1) / most
        across = phases * (num_domains - 1) / (num_domains * least)
        stays_on_leaf = shape.num_units == 1
    levels = [(inside / up, NVLINK), (across / out, NIC)]
    if not stays_on_leaf:
        levels.append((across * topology.contention / out, LEAF_SPINE))
    return _slowest(_across_latency(scale_up, fabric, op, most), levels)


def collective_rate(topology: Topology, op: Op, shape: GroupShape) -> CollectiveRate:
    """Price of one collective on a group of a given shape.

    Parameters
    ----------
    topology : Topology
        The machine: bandwidths, achieved fractions, latencies.
    op : Op
        The operation; it defines what ``num_bytes`` counts.
    shape : GroupShape
        From :func:`planner.topology.groups.group_shape`.

    Returns
    -------
    CollectiveRate
        Free for a group of one chip.

    Raises
    ------
    ValueError
        The shape belongs to another kind of machine.
    """
    if shape.size == 1:
        return FREE
    scale_up = topology.spec.scale_up
    if isinstance(scale_up, Torus):
        return _torus_rate(topology, scale_up, op, shape)
    if len(shape.pieces) == 1:
        bandwidth = scale_up.bytes_per_s * topology.chip.efficiency.scale_up
        return _inside_rate(scale_up, bandwidth, op, shape.size)
    return _across_rate(topology, scale_up, op, shape)


def send_recv_rate(topology: Topology, a: int, b: int) -> CollectiveRate:
    """Price of one message from chip ``a`` to chip ``b``; free when they are one."""
    if a == b:
        return FREE
    torus = topology.spec.scale_up
    if not isinstance(torus, Torus):
        return collective_rate(topology, Op.SEND_RECV, group_shape(topology, (a, b)))
    # The ring may be the shorter way round, which a bounding box does not know.
    bandwidth = torus.link_bytes_per_s * topology.chip.efficiency.scale_up
    hops = 0
    for axis, (length, ring) in enumerate(zip(topology.spec.shape, topology.wraps, strict=True)):
        straight = abs(topology.places[a][axis] - topology.places[b][axis])
        hops += min(straight, length - straight) if ring else straight
    return CollectiveRate(latency_s=torus.hop_s * hops, s_per_byte=1 / bandwidth, link=ICI)
