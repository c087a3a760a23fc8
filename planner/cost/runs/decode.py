"""A decode step: one token of every sequence over its cache.

Assumptions
-----------
- Costs of the core are linear in the context but for the bends of windows and selections of
  tokens; where contexts differ, their expectation counts
  (:mod:`planner.cost.runs.inference_contexts`).
- A cache that tensor parallelism cannot split (fewer KV heads than ranks) is copied; on a
  torus, whose compilers shard any axis, it is split over the sequences instead where that
  is faster (arXiv 2211.05102, section 3.3): queries and outputs then travel by all-to-all.
- Under context parallelism each rank reads its part of every cache; queries are gathered and
  partial outputs summed.
- Microbatches circulate through the pipeline, see :mod:`planner.cost.pipeline`.
"""

from __future__ import annotations

from dataclasses import replace

from planner.cost.attention import AttentionCore, decode_core, kv_bytes_read, kv_shard_ways
from planner.cost.pipeline import decode_idle_fraction, decode_step_s
from planner.cost.price import chip_flop_per_s
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s
from planner.cost.runs.inference_contexts import Contexts, context_bends
from planner.cost.runs.inference_links import RING_LAUNCHES, splits_sequences
from planner.cost.runs.inference_pass import CoreWork, Pass, hop_seconds, stage_terms
from planner.cost.runs.inference_setting import Serving, Terms, merge_terms, sum_terms
from planner.cost.runs.prefill import head_share
from planner.cost.runs.record import RunTerm
from planner.domain.cost import Bound
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.model import Attention, GroupedQueryAttention, Layer

_WIRE_BYTES = BYTES_PER_ELEMENT[DType.BF16]


def expected_core(attention: Attention, contexts: Contexts) -> AttentionCore:
    """Attention core of one query, in the mean over the sequences."""
    bends = context_bends(attention)

    def mean(name: str) -> float:
        def cost(context: float) -> float:
            return float(getattr(decode_core(attention, context), name))

        return contexts.expected(cost, bends)

    core = decode_core(attention, contexts.mean)
    if not contexts.spread or not bends:
        return core
    return replace(
        core,
        flop=mean("flop"),
        read_elements=mean("read_elements"),
        replicated_flop=mean("replicated_flop"),
    )


def decode_core_work(
    serving: Serving, layer: Layer, sequences: float, contexts: Contexts
) -> CoreWork:
    """Attention core of one layer for ``sequences`` sequences of one attention group."""
    mesh, chip = serving.mesh, serving.chip
    core = expected_core(layer.attention, contexts)
    read = contexts.expected(
        lambda context: kv_bytes_read(layer.attention, context, serving.model.precision.kv),
        context_bends(layer.attention),
    )
    if not serving.engine.groups_queries and isinstance(layer.attention, GroupedQueryAttention):
        read *= core.num_heads / layer.attention.num_kv_heads
    share = head_share(core.num_heads, mesh.attn_tp)
    cache_share = head_share(kv_shard_ways(layer.attention), mesh.attn_tp)
    flop = (core.flop - core.replicated_flop) * share + core.replicated_flop
    compute = sequences * flop / mesh.cp / chip_flop_per_s(chip, "core")
    hbm = achieved_hbm_bytes_per_s(chip)
    memory = sequences * read * cache_share / mesh.cp / hbm
    network = 0.0
    own = max(compute, memory)
    ways = kv_shard_ways(layer.attention)
    if splits_sequences(serving.links.topology, mesh.attn_tp, ways):
        spread, travel = _over_sequences(serving, layer, sequences, read / hbm)
        if spread + travel < own:
            own, network = spread, travel
    if mesh.cp > 1:
        partial = sequences * _core_width(layer) * share * _WIRE_BYTES
        network += serving.collective_seconds("cp", Op.ALL_GATHER, partial)
        network += serving.collective_seconds("cp", Op.ALL_REDUCE, partial)
    return CoreWork(
        seconds=own + chip.efficiency.kernel_s,
        bound=Bound.COMPUTE if compute > memory else Bound.MEMORY,
        network_s=network,
        num_kernels=mesh.cp * RING_LAUNCHES if mesh.cp > 1 else 1,
    )


def _core_width(layer: Layer) -> float:
    """Elements of the core's output of one token."""
    attention = layer.attention
    if isinstance(attention, GroupedQueryAttention):
        return float(attention.num_heads * attention.head_dim)
    core = decode_core(attention, 0.0)
    return float(core.num_heads * getattr(attention, "v_head_dim", 128))


def _over_sequences(
    serving: Serving, layer: Layer, sequences: float, read_s: float
) -> tuple[float, float]:
    """Seconds of the core, and of its exchanges, with the cache split over sequences."""
    ranks = serving.mesh.attn_tp
    busiest = max(1.0, sequences / ranks)
    moved = sequences * _core_width(layer) / ranks * _WIRE_BYTES
    travel = 2.0 * serving.collective_seconds("tp", Op.ALL_TO_ALL, moved)
    return busiest * read_s, travel


def _stages(
    serving: Serving, rows: float, contexts: Contexts
) -> tuple[tuple[Terms, ...], list[float], float]:
    """Terms and seconds of each stage for a microbatch of ``rows`` sequences, and of a hop."""

    def core_of(layer: Layer, fraction: float) -> CoreWork:
        return decode_core_work(serving, layer, rows * fraction, contexts)

    captured = serving.engine.captures
    work = Pass(rows=rows, head_rows=rows, core_of=core_of, captured=captured)
    stages = stage_terms(serving, work)
    return stages, [sum_terms(stage) for stage in stages], hop_seconds(serving, rows)


def decode_idle(
    serving: Serving, sequences: float, contexts: Contexts, microbatches: int = 1
) -> float:
    """Mean share of a step in which a stage has nothing to do; see :func:`decode_terms`."""
    _, stage_s, hop = _stages(serving, sequences / microbatches, contexts)
    return decode_idle_fraction(stage_s, microbatches, hop)


def decode_terms(
    serving: Serving, sequences: float, contexts: Contexts, microbatches: int = 1
) -> Terms:
    """Time of one decode step of the run.

    Parameters
    ----------
    sequences : float
        All sequences of one attention group.
    contexts : Contexts
        Their cached tokens.
    microbatches : int
        Parts that circulate through the pipeline.
    """
    stages, stage_s, hop = _stages(serving, sequences / microbatches, contexts)
    found = [term for stage in stages for term in stage]
    step = decode_step_s(stage_s, microbatches, hop)
    hops = len(stages) * hop if len(stages) > 1 else 0.0
    if hops:
        found.append(RunTerm(name="pipeline_hops", seconds=hops, bound=Bound.NETWORK))
    wait = step - sum(stage_s) - hops
    if wait > 0:
        found.append(RunTerm(name="pipeline_wait", seconds=wait, bound=Bound.IDLE))
    if serving.engine.step_s:
        found.append(RunTerm(name="host", seconds=serving.engine.step_s, bound=Bound.OVERHEAD))
    return merge_terms(found)
