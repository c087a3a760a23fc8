"""Prices of the mesh axes of a layout, read off the chips that it really uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.cost.price import NO_LINK, FabricRates, LinkRate, merge_rates
from planner.domain.curves import Op
from planner.domain.degrees import Degrees
from planner.topology.collectives import collective_rates, concurrent_rate, send_recv_rate
from planner.topology.graph import Topology
from planner.topology.groups import GroupShape, group_shape
from planner.topology.rate import Algorithm, CollectiveRate
from planner.topology.soundness import is_sound

Groups = Sequence[tuple[int, ...]]

AXIS_OPS: tuple[tuple[str, Op], ...] = (
    ("attn_tp", Op.ALL_REDUCE),
    ("attn_tp", Op.ALL_GATHER),
    ("ep", Op.DISPATCH),
    ("ep", Op.COMBINE),
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


def _link_rate(rates: Mapping[Algorithm, CollectiveRate]) -> LinkRate:
    """The algorithms of one operation, in their fixed order, as one rate."""
    own, *others = (
        LinkRate(latency_s=r.latency_s, s_per_byte=r.s_per_byte, fill_s=r.fill_s, link=r.link)
        for _, r in sorted(rates.items(), key=lambda item: list(Algorithm).index(item[0]))
    )
    return replace(own, others=tuple(others))


def shape_rate(topology: Topology, op: Op, shape: GroupShape) -> LinkRate:
    """Price of one collective on a group shape."""
    return _link_rate(collective_rates(topology, op, shape))


def _axis_rate(
    topology: Topology, op: Op, groups: Sequence[tuple[int, ...]], busy: Groups
) -> LinkRate:
    """Price of a collective that all groups of an axis run at once.

    Parameters
    ----------
    groups : sequence of tuple of int
        The groups to price.
    busy : sequence of tuple of int
        All groups of the machine that run the same collective. Closed forms assume that
        every chip takes part; where they do not hold, the graph carries everyone's traffic.
    """
    shapes = {group_shape(topology, group): group for group in groups}
    rates = []
    shared = any(shape.chips is not None and len(shape.pieces) > 1 for shape in shapes)
    if shared and len(busy) > 1:
        worst = max(shapes, key=lambda shape: len(shape.pieces))
        rates.append(_link_rate({Algorithm.LIBRARY: concurrent_rate(topology, op, worst, busy)}))
    rates += [shape_rate(topology, op, shape) for shape in shapes]
    return merge_rates(rates, max)


def stage_rates(
    topology: Topology,
    cells: Sequence[Sequence[int]],
    degrees: Degrees,
    machine_cells: Sequence[Sequence[int]] | None = None,
) -> dict[tuple[str, Op], LinkRate]:
    """Slowest price of every collective over the stages of one replica.

    Parameters
    ----------
    machine_cells : sequence, optional
        Cells of all replicas, which run at the same time; those of this one when absent.
    """
    found = {}
    for axis, op in AXIS_OPS:
        groups = [group for cell in cells for group in axis_groups(cell, degrees, axis)]
        busy = [
            group
            for cell in (cells if machine_cells is None else machine_cells)
            for group in axis_groups(cell, degrees, axis)
        ]
        found[axis, op] = _axis_rate(topology, op, groups, busy)
    return found


def hop_rate(topology: Topology, cells: Sequence[Sequence[int]]) -> LinkRate:
    """Slowest hop from a rank of one stage to the same rank of the next, around the loop."""
    if len(cells) == 1:
        return NO_LINK
    every = [
        (a, b)
        for here, there in zip(cells, (*cells[1:], cells[0]), strict=True)
        for a, b in zip(here, there, strict=True)
    ]
    pairs = {(topology.domain_of(a), topology.domain_of(b)): (a, b) for a, b in every}
    rates = [send_recv_rate(topology, a, b) for a, b in pairs.values()]
    hurt = [pair for pair in every if not is_sound(topology, pair)]
    if hurt:
        rates.append(concurrent_rate(topology, Op.SEND_RECV, group_shape(topology, hurt[0]), every))
    return merge_rates([_link_rate({Algorithm.LIBRARY: rate}) for rate in rates], max)


def replica_rates(
    topology: Topology,
    cells: Sequence[Sequence[int]],
    degrees: Degrees,
    machine_cells: Sequence[Sequence[int]] | None = None,
) -> FabricRates:
    """Every price that one replica needs, hops included: see :func:`stage_rates`."""
    rates = stage_rates(topology, cells, degrees, machine_cells)
    rates["pp", Op.SEND_RECV] = hop_rate(topology, cells)
    return rates
