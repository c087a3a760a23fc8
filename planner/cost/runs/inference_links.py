"""Collectives as the kernels of an engine run them.

- An engine of the first generation has those of the library, launched one by one.
- Later ones have a kernel of their own for an all-reduce: one kernel reads all peers.
- Where switches add up, an engine that registers its tensors with them needs no copies into
  and out of the library's buffers: ``STAGING`` times the bandwidth, and the latency of two
  barriers, each that of its own kernel (PyTorch symmetric memory, multimem; TokenWeave,
  figure 5: 16.5 us for 1 MiB and 28.4 us for 4 MiB on 8 H100, against 35.7 and 67.0 of the
  library).
- On a torus the weights of a tensor-parallel group lie on two axes once that moves less:
  more than ``(width / hidden)^2`` chips, and more than 16 (2D weight-stationary, Pope et al.,
  arXiv 2211.05102, section 3.2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from planner.cost.runs.inference_engine import Engine
from planner.cost.runs.mesh_links import MeshLinks
from planner.domain.curves import Op
from planner.topology.collectives import collective_rates
from planner.topology.graph import Topology
from planner.topology.groups import group_shape
from planner.topology.rate import Algorithm

STAGING = 1.24
# Eager operations of one round of a ring of context parallelism: send, receive, core, merge.
RING_LAUNCHES = 4
LEAST_2D_CHIPS = 16


def engine_collective_seconds(
    engine: Engine, topology: Topology, chips: Sequence[int], op: Op, num_bytes: float
) -> float:
    """Time of one collective of ``num_bytes`` (see :class:`Op`); 0 in a group of one."""
    if len(chips) == 1 or num_bytes <= 0:
        return 0.0
    rates = collective_rates(topology, op, group_shape(topology, chips))
    if not engine.own_collectives:
        library = (rate for name, rate in rates.items() if name is not Algorithm.FUSED)
        return min(rate.seconds(num_bytes) for rate in library) + engine.collective_gap_s
    best = min(rate.seconds(num_bytes) for rate in rates.values())
    fused, switch = rates.get(Algorithm.FUSED), rates.get(Algorithm.IN_NETWORK)
    if engine.registered_buffers and fused is not None and switch is not None:
        wire = num_bytes * switch.s_per_byte / STAGING
        best = min(best, 2 * fused.latency_s + wire + 2 * math.sqrt(fused.fill_s * wire))
    return best


def splits_sequences(topology: Topology, attn_tp: int, kv_ways: int) -> bool:
    """Whether a cache that tensor parallelism cannot split is split over the sequences.

    Compilers of a torus shard any axis (Pope et al., arXiv 2211.05102, section 3.3).
    """
    return topology.is_torus and attn_tp > max(LEAST_2D_CHIPS, kv_ways)


def weight_stationary_seconds(
    links: MeshLinks, row_bytes: float, widths: tuple[float, float]
) -> float | None:
    """Collectives around one block whose weights lie on two axes of a torus.

    Inputs are gathered over the outer axes, inner activations scattered and gathered over the
    first, outputs scattered over the outer ones.

    Parameters
    ----------
    row_bytes : float
        Bytes of one element of every row.
    widths : (float, float)
        Hidden size and inner width of the block.

    Returns
    -------
    float or None
        None where the machine is no torus, or one axis is better.
    """
    topology, num_chips = links.topology, links.mesh.attn_tp
    hidden, width = widths
    if not topology.is_torus or num_chips <= max(LEAST_2D_CHIPS, (width / hidden) ** 2):
        return None
    inner = 2 ** math.ceil(math.log2(num_chips) * 2 / 3)
    first = tuple(range(0, num_chips, inner))
    second = tuple(range(inner))
    outer_bytes = row_bytes * hidden / len(first)
    inner_bytes = row_bytes * width / inner
    seconds = 0.0
    for chips, num_bytes in ((second, outer_bytes), (first, inner_bytes)):
        for op in (Op.ALL_GATHER, Op.REDUCE_SCATTER):
            rates = collective_rates(topology, op, group_shape(topology, chips))
            seconds += min(rate.seconds(num_bytes) for rate in rates.values())
    return seconds
