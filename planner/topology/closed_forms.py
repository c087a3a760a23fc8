"""Closed forms of the price of a collective on healthy machines.

With ``V = num_bytes`` in the convention of :class:`~planner.domain.curves.Op`, ``N``
chips in ``M`` domains with pieces ``p_j``, ``W`` the scale-up bandwidth of a chip and
``w`` that of its NIC (one direction, nameplate x achieved fraction of the operation), the
busiest link needs the larger of

    op                        inside a domain            between domains
    all_gather, reduce_scatter  V (p - 1) / (p W)        V (M - 1) / (M min_j p_j w)
    all_reduce                  twice                    twice
    all_to_all                  V (p - 1) / (N W)        V (1 - min_j p_j / N) / w
    send_recv                   V / W                    V / w
    broadcast                   V / W                    V / (min_j p_j w)

with ``p = max_j p_j``; dispatch and combine are all_to_alls. These are the forms of the
scaling book, chapter on GPUs: it writes ``V`` for the full array of an all-to-all, N times
the send buffer of one chip. An all-to-all sends every byte straight to its chip over the
sender's NIC; the others are hierarchical: reduce-scatter inside (a broadcast only splits),
across domains on the shards, gather inside. The uplinks of oversubscribed leaves carry, at
``w`` over their contention, what is bound for another leaf: nothing of a hierarchical
collective within one scalable unit, which stays on its rail. Switches that add up (NVLS,
SHARP) take ``V / W``. In a full mesh without switches a pair has one link of ``w``:
``V / (n w)``, all_reduce twice. A torus follows :mod:`planner.topology.boxes`. What is
wounded, or listed link by link, is routed on the graph: :mod:`planner.topology.graph_price`.

Assumptions
-----------
* Levels of a hierarchical collective overlap (chunks are pipelined): bandwidth terms take
  the slowest level, latencies add up.
* Every group of the machine runs the same collective at the same time.
* On a torus, latency (hops) and bandwidth terms add up, where the theory takes the larger
  one: at most twice, and exact at both ends.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.domain.curves import Curve, Op
from planner.domain.hardware import Fabric
from planner.domain.scale_up import MeshDomain, SwitchDomain, Torus
from planner.topology.boxes import gather_load, worst_axis_load
from planner.topology.graph import Topology
from planner.topology.groups import GroupShape
from planner.topology.network import LEAF_SPINE, NIC
from planner.topology.rate import ArrayRate, CollectiveRate

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
EXCHANGES = (Op.ALL_TO_ALL, Op.DISPATCH, Op.COMBINE)
GATHERS = (Op.ALL_GATHER, Op.REDUCE_SCATTER, Op.ALL_REDUCE)


def num_steps(op: Op, size: int) -> float:
    """Dependent messages of an operation among ``size`` chips or domains.

    Rings for all_gather and reduce_scatter, double binary trees up and down for all_reduce,
    a tree for broadcast; exchanges post all their messages at once.
    """
    if size == 1:
        return 0.0
    if op in (Op.ALL_GATHER, Op.REDUCE_SCATTER):
        return size - 1.0
    depth = math.ceil(math.log2(size))
    return {Op.ALL_REDUCE: 2.0 * depth, Op.BROADCAST: float(depth)}.get(op, 1.0)


def _phases(op: Op) -> int:
    return 2 if op is Op.ALL_REDUCE else 1


def _hops(box: tuple[int, ...], wrap: tuple[bool, ...]) -> int:
    """Hops to the farthest chip: half a ring, or a whole line, of every axis."""
    return sum(length // 2 if ring else length - 1 for length, ring in zip(box, wrap, strict=True))


def torus_rate(torus: Torus, op: Op, shape: GroupShape) -> CollectiveRate:
    """Price within the bounding box of a group on a torus; steps are hops."""
    box, wrap = shape.box, shape.wrap
    if box is None or wrap is None:
        raise ValueError("the shape of a group on a torus has a box")
    curve = torus.curves.of(op)
    axes = shape.axes or range(len(box))
    rates = [torus.link_bytes_per_s[axis] for axis in axes]
    hops = _hops(box, wrap)
    if op in EXCHANGES:
        load = worst_axis_load(box, wrap, rates)
    elif op is Op.SEND_RECV:
        load = 1 / min(rate for rate, length in zip(rates, box, strict=True) if length > 1)
    else:
        # Groups that interleave in one box share its links: each gets its part of them.
        sharing = math.prod(box) / shape.size
        hops *= _phases(op)
        load = _phases(op) * sharing * gather_load(box, wrap, rates)
    return CollectiveRate(
        latency_s=curve.base_s + hops * curve.step_s,
        s_per_byte=load / curve.derate,
        fill_s=curve.fill_s,
        link=torus.tier,
    )


def _inside_load(scale_up: SwitchDomain | MeshDomain, op: Op, shape: GroupShape) -> float:
    """Nameplate seconds per byte of the busiest link of a group within one domain."""
    size = shape.size
    if isinstance(scale_up, MeshDomain):
        pair = scale_up.pairs[0][2] * scale_up.link_bytes_per_s
        if op in (Op.SEND_RECV, Op.BROADCAST):
            return 1 / pair
        return _phases(op) / (size * pair)
    if op in (Op.SEND_RECV, Op.BROADCAST):
        met = shape.peers or (0,) * (len(scale_up.levels) - 1) + (1,)
        return max(1 / lv.bytes_per_s for lv, n in zip(scale_up.levels, met, strict=True) if n)
    return _phases(op) * _exchange_load(scale_up, shape, size)


def _exchange_load(scale_up: SwitchDomain, shape: GroupShape, parts: int) -> float:
    """Busiest link when every chip sends ``1 / parts`` to each peer of its domain."""
    peers = shape.peers or (shape.pieces[0] - 1,)
    levels = zip(scale_up.levels, peers, strict=True)
    return max(count / (parts * level.bytes_per_s) for level, count in levels)


def inside_rate(scale_up: SwitchDomain | MeshDomain, op: Op, shape: GroupShape) -> CollectiveRate:
    """Price within one domain of switches or of a full mesh."""
    curve = scale_up.curves.of(op)
    return CollectiveRate(
        latency_s=curve.base_s + num_steps(op, shape.size) * curve.step_s,
        s_per_byte=_inside_load(scale_up, op, shape) / curve.derate,
        fill_s=curve.fill_s,
        link=scale_up.tier,
    )


def across_latency(topology: Topology, op: Op, shape: GroupShape) -> float:
    """Latencies of the levels of a hierarchical collective; direct ones have one level."""
    curve = outside_curve(topology, op)
    across = curve.base_s + num_steps(op, len(shape.pieces)) * curve.step_s
    piece = shape.pieces[0]
    if piece == 1 or op not in GATHERS:
        return across
    inner = (Op.REDUCE_SCATTER, Op.ALL_GATHER) if op is Op.ALL_REDUCE else (op,)
    curves = [(part, topology.spec.scale_up.curves.of(part)) for part in inner]
    steps = _slice_hops(topology, piece)
    return across + sum(
        c.base_s + (num_steps(part, piece) if steps is None else steps) * c.step_s
        for part, c in curves
    )


def _slice_hops(topology: Topology, piece: int) -> float | None:
    """Hops of a level inside a torus slice; None where steps follow the operation."""
    if not topology.is_torus:
        return None
    return float(_hops(topology.spec.shape, topology.wraps)) if piece > 1 else 0.0


def outside_curve(topology: Topology, op: Op) -> Curve:
    """Curve of an operation between domains.

    Raises
    ------
    ValueError
        The machine has no fabric.
    """
    fabric = topology.spec.scale_out
    scale_up = topology.spec.scale_up
    if fabric is not None:
        return fabric.curves.of(op)
    curves = getattr(scale_up, "fabric_curves", None)
    if curves is None:
        raise ValueError("a group across domains needs a scale-out fabric")
    found: Curve = curves.of(op)
    return found


def _across_load(
    fabric: Fabric, op: Op, shape: GroupShape, contention: float
) -> list[tuple[float, str]]:
    """Nameplate seconds per byte of the NICs and of the uplinks of the leaves."""
    least, count = shape.pieces[-1], len(shape.pieces)
    if op is Op.SEND_RECV:
        load, climb = 1.0, 1.0 if shape.climb else 0.0
    elif op is Op.BROADCAST:
        load = climb = 1 / least
        climb = climb if shape.num_units > 1 else 0.0
    elif op in EXCHANGES:
        load, climb = 1 - least / shape.size, shape.climb or 0.0
    else:
        share = _phases(op) / (count * least)
        load, climb = share * (count - 1), share * (count - shape.unit_domains)
        climb = climb if shape.num_units > 1 else 0.0
    nic = fabric.chip_bytes_per_s
    levels = [(load / nic, NIC)]
    if shape.climb is not None:
        levels.append((climb * contention / nic, LEAF_SPINE))
    return levels


def across_rate(
    topology: Topology, scale_up: SwitchDomain | MeshDomain, op: Op, shape: GroupShape
) -> CollectiveRate:
    """Price of a group that spans several domains of switches or of full meshes."""
    fabric = topology.spec.scale_out
    if fabric is None:
        raise ValueError("a group across domains needs a scale-out fabric")
    outside = fabric.curves.of(op)
    inner = replace(shape, pieces=(shape.pieces[0],), num_units=1)
    if op is Op.SEND_RECV or shape.pieces[0] == 1:
        inside = 0.0
    elif op is Op.BROADCAST:
        # Shards arrive through all NICs and are gathered inside.
        inside = _inside_load(scale_up, Op.ALL_GATHER, inner) / scale_up.curves.of(op).derate
    else:
        inside = _inside_load(scale_up, op, inner) / scale_up.curves.of(op).derate
        if op in EXCHANGES:
            inside *= shape.pieces[0] / shape.size
    levels = [(inside, scale_up.tier)]
    for load, link in _across_load(fabric, op, shape, topology.contention):
        levels.append((load / outside.derate, link))
    s_per_byte, link = max(levels, key=lambda level: level[0])
    return CollectiveRate(
        latency_s=across_latency(topology, op, shape),
        s_per_byte=s_per_byte,
        fill_s=outside.fill_s,
        link=link,
    )


def inside_exchange(topology: Topology, op: Op, piece: int) -> float:
    """Seconds per byte of an exchange among ``piece`` chips of a flat domain; 0 for one chip."""
    scale_up = topology.spec.scale_up
    assert isinstance(scale_up, SwitchDomain | MeshDomain)
    if piece == 1:
        return 0.0
    load = _inside_load(scale_up, op, GroupShape(pieces=(piece,)))
    return load / scale_up.curves.of(op).derate


def exchange_between_domains(
    topology: Topology, op: Op, size: Ints, parts: tuple[Ints, Ints, Floats]
) -> ArrayRate:
    """:func:`across_rate` of many exchanges on flat domains without oversubscribed leaves.

    Parameters
    ----------
    size : array of int, shape ``[n]``
        Chips of each group, which spans several domains.
    parts : (array, array, array), shape ``[n]`` each
        Chips of its smallest and of its largest piece, and :func:`inside_exchange` of the latter.
    """
    least, most, inside = parts
    curve = outside_curve(topology, op)
    across = (1 - least / size) / _nic_bytes_per_s(topology) / curve.derate
    return _array_rate(curve, np.ones(len(size)), np.maximum(inside * (most / size), across))


def least_between_domains(topology: Topology, op: Op, size: Ints, widest: int) -> ArrayRate:
    """Price that no groups of ``size`` chips over several domains can beat, shape ``[n]``.

    They span ``M >= max(2, ceil(size / widest))`` domains, and their smallest piece has at
    most ``size / M`` chips; traffic and steps inside domains are left out. Every form of the
    table of this module grows with ``M``.
    """
    domains = np.maximum(2, -(-size // widest))
    curve = outside_curve(topology, op)
    load = (1 - 1 / domains) if op in EXCHANGES else _phases(op) * (domains - 1) / size
    steps = np.array([num_steps(op, count) for count in domains.tolist()], dtype=float)
    return _array_rate(curve, steps, load / _nic_bytes_per_s(topology) / curve.derate)


def _nic_bytes_per_s(topology: Topology) -> float:
    fabric = topology.spec.scale_out
    if fabric is None:
        raise ValueError("a group across domains needs a scale-out fabric")
    return fabric.chip_bytes_per_s


def _array_rate(curve: Curve, steps: Floats, s_per_byte: Floats) -> ArrayRate:
    return ArrayRate(
        latency_s=curve.base_s + steps * curve.step_s,
        s_per_byte=np.asarray(s_per_byte),
        fill_s=np.full(len(steps), curve.fill_s),
    )
