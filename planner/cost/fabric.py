"""Prices of the mesh axes of a layout, read off the chips that it really uses.

Collectives run as the kernels of an engine run them:

- An engine of the first generation has those of the library, launched one by one.
- Later ones have a kernel of their own for an all-reduce: one kernel reads all peers.
- Where switches add up, an engine that registers its tensors with them needs no copies into
  and out of the library's buffers: ``STAGING`` times the bandwidth, and the latency of two
  barriers, each that of its own kernel (PyTorch symmetric memory, multimem; TokenWeave,
  figure 5: 16.5 us for 1 MiB and 28.4 us for 4 MiB on 8 H100, against 35.7 and 67.0 of the
  library). It is one more algorithm of the same operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.cost.block import LEAST_2D_CHIPS, inner_axis
from planner.cost.price import NO_LINK, FabricRates, LinkRate, merge_rates
from planner.cost.runs.inference_engine import Engine, planned_engine
from planner.domain.curves import Op
from planner.domain.degrees import Degrees
from planner.topology.collectives import collective_rates, concurrent_rate, send_recv_rate
from planner.topology.graph import Topology
from planner.topology.groups import GroupShape, group_shape
from planner.topology.kinds import distinct_groups, group_kinds, is_named_alike
from planner.topology.rate import Algorithm, CollectiveRate
from planner.topology.soundness import is_sound

STAGING = 1.24

AXIS_OPS: tuple[tuple[str, Op], ...] = (
    ("attn_tp", Op.ALL_REDUCE),
    ("attn_tp", Op.ALL_GATHER),
    ("cp", Op.ALL_GATHER),
    ("cp", Op.ALL_REDUCE),
    ("ep", Op.DISPATCH),
    ("ep", Op.COMBINE),
    ("expert_tp", Op.ALL_GATHER),
    ("expert_tp", Op.REDUCE_SCATTER),
)


# What layouts of a torus run besides: see :func:`planner.cost.block.tp_messages` and
# :func:`planner.cost.core.decode_core_price`.
TORUS_AXIS_OPS: tuple[tuple[str, Op], ...] = (
    ("attn_tp", Op.ALL_TO_ALL),
    ("attn_tp_inner", Op.ALL_GATHER),
    ("attn_tp_inner", Op.REDUCE_SCATTER),
    ("attn_tp_outer", Op.ALL_GATHER),
    ("attn_tp_outer", Op.REDUCE_SCATTER),
)


def axis_ops(topology: Topology) -> tuple[tuple[str, Op], ...]:
    """Collectives that layouts of a machine may run, by mesh axis."""
    return AXIS_OPS + TORUS_AXIS_OPS if topology.is_torus else AXIS_OPS


def axis_key(degrees: Degrees, axis: str) -> int:
    """What the groups of an axis depend on beside the cell: equal keys, equal groups."""
    match axis:
        case "ep":
            return -degrees.expert_tp
        case "expert_tp":
            return degrees.expert_tp
        case "cp":
            # No size of a group: these may cross domains where single degrees do not.
            return (1 << 40) + degrees.attn_tp * (1 << 20) + degrees.cp
        case _:
            return degrees.attn_tp


def axis_groups(cell: Sequence[int], degrees: Degrees, axis: str) -> list[tuple[int, ...]]:
    """The groups of chips that take part in one collective of ``axis`` within a stage.

    Ranks are numbered with ``attn_tp`` fastest, then ``cp`` and ``attn_dp``; those of experts
    with ``expert_tp`` fastest, then ``ep``. Expert groups that do not fill a stage repeat.
    """
    chips = tuple(cell)
    if axis in ("ep", "cp"):
        stride, size = (
            (degrees.expert_tp, degrees.ep) if axis == "ep" else (degrees.attn_tp, degrees.cp)
        )
        block = stride * size
        return [
            chips[start + offset : start + block : stride]
            for start in range(0, len(chips), block)
            for offset in range(stride)
        ]
    size = degrees.expert_tp if axis == "expert_tp" else degrees.attn_tp
    groups = [chips[start : start + size] for start in range(0, len(chips), size)]
    if axis not in ("attn_tp_inner", "attn_tp_outer"):
        return groups
    if degrees.attn_tp <= LEAST_2D_CHIPS:
        return [(chip,) for chip in chips[:1]]
    inner = int(inner_axis(float(degrees.attn_tp)))
    return [group[:inner] if axis == "attn_tp_inner" else group[::inner] for group in groups]


def library_gap_s(engine: Engine) -> float:
    """What an engine spends on launching a collective of the library."""
    return 0.0 if engine.own_collectives else engine.collective_gap_s


def engine_rate(engine: Engine, rates: Mapping[Algorithm, CollectiveRate]) -> LinkRate:
    """The algorithms that an engine has for one operation, in their fixed order, as one rate."""
    gap = library_gap_s(engine)
    own, *others = (
        LinkRate(latency_s=r.latency_s + gap, s_per_byte=r.s_per_byte, fill_s=r.fill_s, link=r.link)
        for name, r in sorted(rates.items(), key=lambda item: list(Algorithm).index(item[0]))
        if engine.own_collectives or name is not Algorithm.FUSED
    )
    fused, switch = rates.get(Algorithm.FUSED), rates.get(Algorithm.IN_NETWORK)
    if engine.registered_buffers and fused is not None and switch is not None:
        registered = LinkRate(
            latency_s=2 * fused.latency_s,
            s_per_byte=switch.s_per_byte / STAGING,
            fill_s=fused.fill_s,
            link=switch.link,
        )
        others.append(registered)
    return replace(own, others=tuple(others))


def _plain_rate(rate: CollectiveRate) -> LinkRate:
    return LinkRate(
        latency_s=rate.latency_s, s_per_byte=rate.s_per_byte, fill_s=rate.fill_s, link=rate.link
    )


def shape_rate(
    topology: Topology, op: Op, shape: GroupShape, engine: Engine | None = None
) -> LinkRate:
    """Price of one collective on a group shape, by the kernels of an engine.

    Parameters
    ----------
    engine : Engine, optional
        That of plans for the machine's chip when absent.
    """
    chosen = planned_engine(topology.chip) if engine is None else engine
    return engine_rate(chosen, collective_rates(topology, op, shape))


def axis_rate(
    topology: Topology,
    cells: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
    degrees: Degrees,
    collective: tuple[str, Op],
    engine: Engine | None = None,
) -> LinkRate:
    """Slowest price of a collective that all groups of an axis run at once.

    Parameters
    ----------
    cells : (sequence, sequence)
        The stages to price, and all stages of the machine that run the same collective. Closed
        forms assume that every chip takes part; where they do not hold, the graph carries
        everyone's traffic.
    engine : Engine, optional
        That of plans for the machine's chip when absent.
    """
    axis, op = collective
    every = [group for cell in cells[0] for group in axis_groups(cell, degrees, axis)]
    groups = [tuple(group) for group in distinct_groups(topology, every).tolist()]
    shapes = {group_shape(topology, group): group for group in groups}
    rates = []
    shared = any(shape.chips is not None and len(shape.pieces) > 1 for shape in shapes)
    if shared:
        busy = [group for cell in cells[1] for group in axis_groups(cell, degrees, axis)]
        if len(busy) > 1:
            worst = max(shapes, key=lambda shape: len(shape.pieces))
            rates.append(_plain_rate(concurrent_rate(topology, op, worst, busy)))
    rates += [shape_rate(topology, op, shape, engine) for shape in shapes]
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
    every = (cells, cells if machine_cells is None else machine_cells)
    return {
        (axis, op): axis_rate(topology, every, degrees, (axis, op))
        for axis, op in axis_ops(topology)
    }


def hop_rate(topology: Topology, cells: Sequence[Sequence[int]]) -> LinkRate:
    """Slowest hop from a rank of one stage to the same rank of the next, around the loop."""
    if len(cells) == 1:
        return NO_LINK
    every = [
        (a, b)
        for here, there in zip(cells, (*cells[1:], cells[0]), strict=True)
        for a, b in zip(here, there, strict=True)
    ]
    pairs = [(a, b) for a, b in distinct_groups(topology, every).tolist()]
    hurt = [pair for pair in pairs if not is_sound(topology, pair)]
    lost = {(topology.domain_of(a), topology.domain_of(b)): (a, b) for a, b in hurt}
    whole = [pair for pair in pairs if pair not in set(hurt)]
    rates = [send_recv_rate(topology, a, b) for a, b in (*whole, *lost.values())]
    if hurt:
        rates.append(concurrent_rate(topology, Op.SEND_RECV, group_shape(topology, hurt[0]), every))
    return merge_rates([_plain_rate(rate) for rate in rates], max)


def replica_rates(
    topology: Topology,
    cells: Sequence[Sequence[int]],
    degrees: Degrees,
    machine_cells: Sequence[Sequence[int]] | None = None,
) -> FabricRates:
    """Every price that one replica needs, hops included: see :func:`stage_rates`.

    Replicas that differ by the names of their chips alone are priced once.
    """
    (kind,) = group_kinds(topology, [[chip for cell in cells for chip in cell]])
    key = (replica_rates, kind, replace(degrees, replicas=1, microbatches=1, num_slots=0))
    found = topology.memo.get(key)
    if isinstance(found, dict):
        return found
    rates = stage_rates(topology, cells, degrees, machine_cells)
    rates["pp", Op.SEND_RECV] = hop_rate(topology, cells)
    if is_named_alike(kind):
        # Elsewhere the traffic of other replicas matters too.
        topology.memo[key] = rates
    return rates


class RunFabric(dict[tuple[str, Op], LinkRate]):
    """Prices of one mesh on the first chips of a machine, found when first asked for.

    Stages lie one after another on the chips in the machine's order.
    """

    def __init__(self, topology: Topology, degrees: Degrees, engine: Engine) -> None:
        super().__init__()
        self._topology = topology
        self._degrees = degrees
        self._engine = engine
        size = degrees.stage_chips
        self._cells = [range(s * size, (s + 1) * size) for s in range(degrees.pp)]

    def __missing__(self, key: tuple[str, Op]) -> LinkRate:
        if key[0] == "pp":
            rate = hop_rate(self._topology, self._cells)
        else:
            cells = (self._cells, self._cells)
            rate = axis_rate(self._topology, cells, self._degrees, key, self._engine)
        self[key] = rate
        return rate
