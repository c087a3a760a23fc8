"""Prices of the mesh axes of a layout, read off the chips that it really uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from planner.cost.price import FabricRates, LinkRate
from planner.domain.degrees import Degrees
from planner.domain.hardware import Op
from planner.topology.collectives import collective_rate, send_recv_rate
from planner.topology.graph import Topology
from planner.topology.groups import GroupShape, group_shape

AXIS_OPS: tuple[tuple[str, Op], ...] = (
    ("attn_tp", Op.ALL_REDUCE),
    ("attn_tp", Op.ALL_GATHER),
    ("ep", Op.ALL_TO_ALL),
    ("expert_tp", Op.ALL_GATHER),
    ("expert_tp", Op.REDUCE_SCATTER),
)


def axis_groups(cell: Sequence[int], degrees: Degrees, axis: str) -> list[tuple[int, ...]]:
    """The groups of chips that take part in one collective of ``axis`` within a stage."""
    chips = tuple(cell)
    if axis == "ep":
        stride = degrees.expert_tp
        return [chips[offset::stride] for offset in range(stride)]
    size = degrees.attn_tp if axis == "attn_tp" else degrees.expert_tp
    return [chips[start : start + size] for start in range(0, len(chips), size)]


def _slowest(rates: Iterable[LinkRate]) -> LinkRate:
    """Largest latency and largest time per byte over ``rates``: no group is faster."""
    found = list(rates)
    slowest = max(found, key=lambda rate: float(rate.s_per_byte))
    return LinkRate(
        latency_s=max(float(rate.latency_s) for rate in found),
        s_per_byte=slowest.s_per_byte,
        link=slowest.link,
    )


def shape_rate(topology: Topology, op: Op, shape: GroupShape) -> LinkRate:
    """Price of one collective on a group shape."""
    rate = collective_rate(topology, op, shape)
    return LinkRate(latency_s=rate.latency_s, s_per_byte=rate.s_per_byte, link=rate.link)


def stage_rates(
    topology: Topology, cells: Sequence[Sequence[int]], degrees: Degrees
) -> dict[tuple[str, Op], LinkRate]:
    """Slowest price of every collective over the stages of one replica."""
    shapes = {
        axis: {
            group_shape(topology, group)
            for cell in cells
            for group in axis_groups(cell, degrees, axis)
        }
        for axis in ("attn_tp", "ep", "expert_tp")
    }
    return {
        (axis, op): _slowest(shape_rate(topology, op, shape) for shape in shapes[axis])
        for axis, op in AXIS_OPS
    }


def hop_rate(topology: Topology, cells: Sequence[Sequence[int]]) -> LinkRate:
    """Slowest hop from a rank of one stage to the same rank of the next, around the loop."""
    if len(cells) == 1:
        return LinkRate(latency_s=0.0, s_per_byte=0.0)
    pairs = {
        (topology.domain_of(a), topology.domain_of(b)): (a, b)
        for here, there in zip(cells, (*cells[1:], cells[0]), strict=True)
        for a, b in zip(here, there, strict=True)
    }
    rates = (send_recv_rate(topology, a, b) for a, b in pairs.values())
    return _slowest(
        LinkRate(latency_s=rate.latency_s, s_per_byte=rate.s_per_byte, link=rate.link)
        for rate in rates
    )


def replica_rates(
    topology: Topology, cells: Sequence[Sequence[int]], degrees: Degrees
) -> FabricRates:
    """Every price that one replica needs, hops included."""
    rates = stage_rates(topology, cells, degrees)
    rates["pp", Op.SEND_RECV] = hop_rate(topology, cells)
    return rates
