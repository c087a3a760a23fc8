"""Price of a collective on a group of chips of the machine's graph.

Healthy machines follow :mod:`planner.topology.closed_forms`; what is wounded, or listed link
by link, is routed on the graph (:mod:`planner.topology.graph_price`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.domain.curves import FUSED_ALL_REDUCE, IN_NETWORK_ALL_REDUCE, Op
from planner.domain.scale_up import MeshDomain, SwitchDomain, Torus
from planner.errors import SpecError
from planner.topology.closed_forms import (
    EXCHANGES,
    GATHERS,
    across_latency,
    across_rate,
    inside_rate,
    num_steps,
    outside_curve,
    torus_rate,
)
from planner.topology.graph import Topology
from planner.topology.graph_price import Load, graph_load
from planner.topology.groups import GroupShape, group_shape
from planner.topology.rate import FREE, Algorithm, CollectiveRate


def _kernel_rates(
    topology: Topology, op: Op, shape: GroupShape, own: CollectiveRate
) -> dict[Algorithm, CollectiveRate]:
    """Other kernels for an all_reduce within one domain of switches or direct links."""
    found: dict[Algorithm, CollectiveRate] = {}
    scale_up = topology.spec.scale_up
    if op is not Op.ALL_REDUCE or len(shape.pieces) > 1:
        return found
    derate = scale_up.curves.of(op).derate
    for name, algorithm in (
        (IN_NETWORK_ALL_REDUCE, Algorithm.IN_NETWORK),
        (FUSED_ALL_REDUCE, Algorithm.FUSED),
    ):
        curve = scale_up.curves.kernel(name)
        if curve is None:
            continue
        load = own.s_per_byte * derate
        if algorithm is Algorithm.IN_NETWORK:
            # One copy up, one sum down, where rings send 2 (n - 1) / n of the buffer.
            load *= shape.size / (2 * (shape.size - 1))
        found[algorithm] = CollectiveRate(
            latency_s=curve.base_s + curve.step_s,
            s_per_byte=load / curve.derate,
            fill_s=curve.fill_s,
            link=own.link,
        )
    return found


def collective_rate(topology: Topology, op: Op, shape: GroupShape) -> CollectiveRate:
    """Price of one collective of the library on a group of a given shape.

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
    SpecError
        Wounds have cut the group in two.
    """
    if shape.size == 1:
        return FREE
    key = (op, shape)
    found = topology.memo.get(key)
    if not isinstance(found, CollectiveRate):
        found = _library_rate(topology, op, shape)
        topology.memo[key] = found
    return found


def _library_rate(topology: Topology, op: Op, shape: GroupShape) -> CollectiveRate:
    scale_up = topology.spec.scale_up
    if shape.chips is not None:
        return graph_rate(topology, op, shape, (shape.chips,))
    if isinstance(scale_up, Torus):
        return torus_rate(scale_up, op, shape)
    assert isinstance(scale_up, SwitchDomain | MeshDomain)
    if len(shape.pieces) == 1:
        return inside_rate(scale_up, op, shape)
    return across_rate(topology, scale_up, op, shape)


def graph_rate(
    topology: Topology, op: Op, shape: GroupShape, groups: tuple[tuple[int, ...], ...]
) -> CollectiveRate:
    """Price of a collective that ``groups`` run at the same time, routed on the graph.

    Raises
    ------
    SpecError
        Chips of a group are not connected.
    """
    inside = topology.spec.scale_up.curves.of(op)
    load: Load = graph_load(topology, op, groups)
    if len(shape.pieces) > 1:
        curve = outside_curve(topology, op)
        latency = across_latency(topology, op, shape)
    else:
        curve = inside
        phases = 2 if op is Op.ALL_REDUCE else 1
        hops = phases * load.hops if topology.is_torus else num_steps(op, shape.size)
        latency = curve.base_s + hops * curve.step_s
    return CollectiveRate(
        latency_s=latency, s_per_byte=load.s_per_byte, fill_s=curve.fill_s, link=load.link
    )


def concurrent_rate(
    topology: Topology, op: Op, shape: GroupShape, groups: Sequence[tuple[int, ...]]
) -> CollectiveRate:
    """Price of a collective with the traffic of all ``groups``; remembered.

    Parameters
    ----------
    shape : GroupShape
        Of the widest group, which sets the number of steps.
    """
    key = ("concurrent", op, shape, frozenset(groups))
    found = topology.memo.get(key)
    if not isinstance(found, CollectiveRate):
        found = graph_rate(topology, op, shape, tuple(groups))
        topology.memo[key] = found
    return found


def collective_rates(
    topology: Topology, op: Op, shape: GroupShape
) -> dict[Algorithm, CollectiveRate]:
    """Price by every algorithm that the machine has for the operation.

    Raises
    ------
    SpecError
        Wounds have cut the group in two.
    """
    own = collective_rate(topology, op, shape)
    if shape.size == 1:
        return {Algorithm.LIBRARY: own}
    return {Algorithm.LIBRARY: own, **_kernel_rates(topology, op, shape, own)}


def send_recv_rate(topology: Topology, a: int, b: int) -> CollectiveRate:
    """Price of one message from chip ``a`` to chip ``b``; free when they are one."""
    if a == b:
        return FREE
    shape = group_shape(topology, (a, b))
    rate = collective_rate(topology, Op.SEND_RECV, shape)
    torus = topology.spec.scale_up
    if not isinstance(torus, Torus) or shape.box is None:
        return rate
    # The ring may be the shorter way round, which a bounding box does not know.
    curve = torus.curves.of(Op.SEND_RECV)
    hops = 0
    for axis, (length, ring) in enumerate(zip(topology.spec.shape, topology.wraps, strict=True)):
        straight = abs(topology.coordinates[a][axis] - topology.coordinates[b][axis])
        hops += min(straight, length - straight) if ring else straight
    return replace(rate, latency_s=curve.base_s + hops * curve.step_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectiveCost:
    """One call of a collective, part by part.

    Parameters
    ----------
    algorithm : str
        ``library``, ``hierarchical``, ``flat``, ``in_network`` or ``fused``.
    seconds : float
        ``latency_s + wire_s + fill_s``.
    wire_s : float
        Time of the busiest link at its achieved bandwidth.
    fill_s : float
        Filling and draining the pipeline of chunks.
    link : str
        Class of the busiest link.
    link_name : str
        Its ends; empty until :func:`planner.topology.optimum.with_optimum` is asked.
    bound_s, ratio : float, optional
        Least ``wire_s`` of any routing, and how many times that ``wire_s`` is.
    bound_method : str
        How the bound was found.
    """

    op: Op
    algorithm: str
    num_bytes: float
    num_chips: int
    seconds: float
    latency_s: float
    wire_s: float
    fill_s: float
    link: str
    link_name: str = ""
    bound_s: float | None = None
    bound_method: str = ""
    ratio: float | None = None


MAX_BYTES = 1e18
ALGORITHMS = ("auto", "library", "flat", "hierarchical", "in_network", "fused")


def _flat_rate(topology: Topology, op: Op, groups: tuple[tuple[int, ...], ...]) -> CollectiveRate:
    """Every chip talks to every other, domains ignored."""
    shape = group_shape(topology, groups[0])
    exchange = collective_rate(topology, Op.ALL_TO_ALL, shape)
    if len(groups) > 1:
        exchange = graph_rate(topology, Op.ALL_TO_ALL, shape, groups)
    if op in EXCHANGES:
        return exchange
    crosses = len(shape.pieces) > 1
    listed = outside_curve(topology, op) if crosses else topology.spec.scale_up.curves.of(op)
    sent = outside_curve(topology, Op.ALL_TO_ALL) if crosses else listed
    times = 2 if op is Op.ALL_REDUCE else 1
    return replace(
        exchange,
        latency_s=listed.base_s + times * listed.step_s,
        s_per_byte=times * exchange.s_per_byte * sent.derate / listed.derate,
        fill_s=listed.fill_s,
    )


def _rates_of(
    topology: Topology, op: Op, groups: tuple[tuple[int, ...], ...], algorithm: str
) -> dict[str, CollectiveRate]:
    """Candidates that an algorithm's name allows."""
    shape = group_shape(topology, groups[0])
    if shape.size == 1:
        return {Algorithm.LIBRARY.value: FREE}
    if algorithm == "flat":
        if op in (Op.SEND_RECV, Op.BROADCAST):
            raise SpecError(f"{op.value} has no flat form", "leave the algorithm out")
        return {"flat": _flat_rate(topology, op, groups)}
    own = collective_rate(topology, op, shape)
    # A group that does not fill its box of a torus is alone in it: nobody shares its links.
    alone = shape.box is not None and math.prod(shape.box) != shape.size
    # Closed forms of oversubscribed leaves take every NIC to be busy.
    if len(groups) > 1 or alone or shape.climb is not None:
        own = graph_rate(topology, op, shape, groups)
    rates = {Algorithm.LIBRARY: own, **_kernel_rates(topology, op, shape, own)}
    wanted = {
        "auto": (Algorithm.LIBRARY, Algorithm.IN_NETWORK),
        "library": (Algorithm.LIBRARY,),
        "hierarchical": (Algorithm.LIBRARY,),
        "in_network": (Algorithm.IN_NETWORK,),
        "fused": (Algorithm.FUSED,),
    }[algorithm]
    levels = len(shape.pieces) > 1 and op in (*GATHERS, Op.BROADCAST)
    names = {name: name.value for name in Algorithm}
    names[Algorithm.LIBRARY] = "hierarchical" if levels else "library"
    found = {names[name]: rates[name] for name in wanted if name in rates}
    if not found:
        raise SpecError(
            f"{topology.spec.name} has no {algorithm} form of {op.value} for this group",
            f"write --algorithm {' or '.join(name.value for name in rates)}",
        )
    return found


def collective_cost(
    topology: Topology,
    op: Op,
    chips: Sequence[int],
    num_bytes: float,
    algorithm: str = "auto",
    others: Sequence[Sequence[int]] = (),
) -> CollectiveCost:
    """Time of one collective on named chips.

    Parameters
    ----------
    chips : sequence of int
        The group; for ``SEND_RECV`` the sender and the receiver.
    num_bytes : float
        In the convention of ``op``.
    algorithm : str
        ``auto`` (the fastest of the library's), ``hierarchical`` (the library's rings and
        trees), ``flat`` (every chip to every other, whatever lies between),
        ``in_network``, ``fused``.
    others : sequence of sequence of int
        Disjoint groups that run the same at the same time and share the links.

    Raises
    ------
    SpecError
        The machine has no such algorithm, or chips of the group are not connected.
    """
    if algorithm not in ALGORITHMS:
        raise SpecError(f"unknown algorithm '{algorithm}'", f"known: {', '.join(ALGORITHMS)}")
    groups = (tuple(chips), *(tuple(other) for other in others))
    for group in groups:
        if not group or not all(0 <= chip < topology.num_chips for chip in group):
            raise SpecError(
                f"a group has chips that {topology.spec.name} does not have",
                f"its chips are 0 to {topology.num_chips - 1}",
            )
    if not 0 <= num_bytes <= MAX_BYTES:
        raise SpecError(f"{num_bytes} is not a number of bytes", f"from 0 to {MAX_BYTES:g}")
    if op is Op.SEND_RECV and any(len(group) > 2 for group in groups):
        raise SpecError("send_recv takes a sender and a receiver", "name two chips")
    rates = _rates_of(topology, op, groups, algorithm)
    name, rate = min(rates.items(), key=lambda item: item[1].seconds(num_bytes))
    wire = num_bytes * rate.s_per_byte
    return CollectiveCost(
        op=op,
        algorithm=name,
        num_bytes=num_bytes,
        num_chips=len(chips),
        seconds=rate.seconds(num_bytes),
        latency_s=rate.latency_s,
        wire_s=wire,
        fill_s=2 * math.sqrt(rate.fill_s * wire),
        link=rate.link,
    )
