"""A prefill pass: the new tokens of every sequence through all layers.

Assumptions
-----------
- Causal attention is balanced over ranks of context parallelism (each holds an early and a
  late chunk of the sequence, arXiv 2411.01783).
- Keys and values travel around the ring of context parallelism while the core works on what
  has arrived; only what takes longer than the core is waited for.
- Only the last token of a sequence has logits.
- A batch fills the pipeline once: ``sum of stages + (m - 1) x slowest`` for ``m``
  microbatches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from planner.cost.attention import kv_bytes_per_sequence, kv_shard_ways
from planner.cost.runs.gemm import achieved_flop_per_s, achieved_hbm_bytes_per_s
from planner.cost.runs.inference_contexts import Contexts, context_bends
from planner.cost.runs.inference_links import RING_LAUNCHES
from planner.cost.runs.inference_pass import CoreWork, Pass, hop_seconds, stage_terms
from planner.cost.runs.inference_setting import Serving, Terms, merge_terms, scale_terms, sum_terms
from planner.cost.runs.record import RunTerm
from planner.cost.sequence_attention import SequenceCore, sequence_core
from planner.domain.cost import Bound
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.model import Attention, Layer

_CORE_RATE = "bf16"
_WIRE_BYTES = BYTES_PER_ELEMENT[DType.BF16]
NOTHING = Contexts(mean=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Sequences of one attention group: new tokens of each, and tokens already cached."""

    sequences: float
    new: float
    cached: Contexts = NOTHING


def head_share(num_heads: int, attn_tp: int) -> float:
    """Share of the heads on the busiest rank."""
    return math.ceil(num_heads / min(attn_tp, num_heads)) / num_heads


def expected_sequence_core(attention: Attention, new: float, cached: Contexts) -> SequenceCore:
    """Attention core of one sequence, in the mean over the cached tokens."""
    bends = context_bends(attention, new)
    core = sequence_core(attention, new, cached.mean)
    if not cached.spread or not bends:
        return core

    def mean(name: str) -> float:
        def cost(context: float) -> float:
            return float(getattr(sequence_core(attention, new, context), name))

        return cached.expected(cost, bends)

    return replace(
        core,
        flop=mean("flop"),
        moved_elements=mean("moved_elements"),
        replicated_flop=mean("replicated_flop"),
        expand_flop=mean("expand_flop"),
    )


def prefill_core(serving: Serving, layer: Layer, prompt: Prompt) -> CoreWork:
    """Attention core of one layer for all sequences of ``prompt``."""
    mesh, chip = serving.mesh, serving.chip
    core = expected_sequence_core(layer.attention, prompt.new, prompt.cached)
    share = head_share(core.num_heads, mesh.attn_tp)
    flop = ((core.flop - core.replicated_flop) * share + core.replicated_flop) / mesh.cp
    peak = dict(chip.peak_flop_per_s)[_CORE_RATE] * chip.efficiency.attention_forward
    compute = prompt.sequences * flop / peak
    if core.expand_flop:
        expand = prompt.sequences * core.expand_flop * share / mesh.cp
        compute += expand / achieved_flop_per_s(chip, _CORE_RATE)
    moved = prompt.sequences * core.moved_elements * share / mesh.cp * _WIRE_BYTES
    memory = moved / achieved_hbm_bytes_per_s(chip)
    busy = max(compute, memory)
    wait = 0.0
    if mesh.cp > 1:
        cached = prompt.sequences * prompt.cached.expected(
            lambda context: kv_bytes_per_sequence(
                layer.attention, prompt.new + context, serving.model.precision.kv
            ),
            context_bends(layer.attention, prompt.new),
        )
        cached *= head_share(kv_shard_ways(layer.attention), mesh.attn_tp)
        ring = serving.collective_seconds("cp", Op.ALL_GATHER, cached)
        wait = max(0.0, ring - busy * (mesh.cp - 1) / mesh.cp)
    return CoreWork(
        seconds=busy + chip.efficiency.kernel_s,
        bound=Bound.COMPUTE if compute >= memory else Bound.MEMORY,
        network_s=wait,
        num_kernels=mesh.cp * RING_LAUNCHES if mesh.cp > 1 else 1,
    )


def _stages(serving: Serving, own: Prompt) -> tuple[tuple[Terms, ...], float]:
    """Terms of each stage for one microbatch, and seconds of all hops between them."""
    rows = own.sequences * own.new / serving.mesh.cp

    def core_of(layer: Layer, fraction: float) -> CoreWork:
        return prefill_core(serving, layer, replace(own, sequences=own.sequences * fraction))

    work = Pass(rows=rows, head_rows=own.sequences, core_of=core_of, captured=False)
    stages = stage_terms(serving, work)
    hops = (len(stages) - 1) * hop_seconds(serving, rows) if len(stages) > 1 else 0.0
    return stages, hops


def prefill_idle(serving: Serving, prompt: Prompt, microbatches: int = 1) -> float:
    """Mean share of a prefill in which a stage has nothing to do; see :func:`prefill_terms`."""
    own = replace(prompt, sequences=prompt.sequences / microbatches)
    stages, hops = _stages(serving, own)
    stage_s = [sum_terms(stage) for stage in stages]
    total = sum(stage_s) + (microbatches - 1) * max(stage_s) + hops
    return 1.0 - microbatches * sum(stage_s) / len(stage_s) / total


def prefill_terms(serving: Serving, prompt: Prompt, microbatches: int = 1) -> Terms:
    """Time of a prefill of every sequence of the run.

    Parameters
    ----------
    prompt : Prompt
        All sequences of one attention group.
    microbatches : int
        Parts in which they pass through the pipeline.
    """
    stages, hops = _stages(serving, replace(prompt, sequences=prompt.sequences / microbatches))
    found = [term for stage in stages for term in stage]
    if len(stages) > 1:
        found.append(RunTerm(name="pipeline_hops", seconds=hops, bound=Bound.NETWORK))
    if microbatches > 1:
        slowest = max(stages, key=sum_terms)
        found += scale_terms(slowest, float(microbatches - 1))
    if serving.engine.step_s:
        host = microbatches * serving.engine.step_s
        found.append(RunTerm(name="host", seconds=host, bound=Bound.OVERHEAD))
    return merge_terms(found)
