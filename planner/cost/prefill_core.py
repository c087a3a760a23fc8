"""The attention core of a prefill pass: new tokens of each sequence over what is cached.

Assumptions
-----------
- Causal attention is balanced over ranks of context parallelism (each holds an early and a
  late chunk of the sequence, arXiv 2411.01783).
- Keys and values travel around the ring of context parallelism while the core works on what
  has arrived; only what takes longer than the core is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from planner.cost.attention import kv_bytes_per_sequence, kv_shard_ways
from planner.cost.block import WIRE_BYTES, Split
from planner.cost.core import RING_LAUNCHES, CorePrice, CoreSetting, busiest_share
from planner.cost.price import FabricRates, PricedTerm, price_message
from planner.cost.runs.gemm import achieved_flop_per_s, achieved_hbm_bytes_per_s
from planner.cost.runs.inference_contexts import Contexts, context_bends
from planner.cost.sequence_attention import SequenceCore, sequence_core
from planner.domain.curves import Op
from planner.domain.dtypes import DType
from planner.domain.model import Attention
from planner.domain.work import Message, Real

_CORE_RATE = "bf16"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Sequences of one attention group, and new tokens of each."""

    sequences: Real
    new: float


@lru_cache(maxsize=4096)
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


@lru_cache(maxsize=4096)
def expected_cache(attention: Attention, new: float, cached: Contexts, kv: DType) -> float:
    """Bytes of the whole cache of one sequence after the pass, in the mean."""
    return cached.expected(
        lambda context: kv_bytes_per_sequence(attention, new + context, kv),
        context_bends(attention, new),
    )


def prefill_core_price(
    setting: CoreSetting, attention: Attention, split: Split, prompts: Prompts, fabric: FabricRates
) -> CorePrice:
    """Price the core of one layer for all prompts, with what it waits for."""
    chip = setting.chip
    core = expected_sequence_core(attention, prompts.new, setting.contexts)
    share = busiest_share(float(core.num_heads), split.attn_tp)
    flop = ((core.flop - core.replicated_flop) * share + core.replicated_flop) / split.cp
    peak = dict(chip.peak_flop_per_s)[_CORE_RATE] * chip.efficiency.attention_forward
    compute = prompts.sequences * flop / peak
    if core.expand_flop:
        expand = prompts.sequences * core.expand_flop * share / split.cp
        compute = compute + expand / achieved_flop_per_s(chip, _CORE_RATE)
    moved = prompts.sequences * core.moved_elements * share / split.cp * WIRE_BYTES
    memory = moved / achieved_hbm_bytes_per_s(chip)
    busy = np.maximum(compute, memory)
    term = PricedTerm(
        name="attention_core",
        compute_s=compute,
        memory_s=memory,
        busy_s=busy,
        overhead_s=chip.efficiency.kernel_s,
    )
    if not np.any(np.greater(split.cp, 1)):
        return CorePrice(term=term)
    whole = expected_cache(attention, prompts.new, setting.contexts, setting.kv)
    cache_share = busiest_share(float(kv_shard_ways(attention)), split.attn_tp)
    shared = np.where(np.greater(split.cp, 1), 1.0, 0.0)
    message = Message(
        term="context_parallel",
        op=Op.ALL_GATHER,
        axis="cp",
        num_bytes=prompts.sequences * whole * cache_share,
        active=shared,
    )
    ring = price_message(message, fabric).network_s
    wait = np.maximum(0.0, ring - busy * (split.cp - 1.0) / split.cp)
    launches = np.where(np.greater(split.cp, 1), split.cp * RING_LAUNCHES, 1.0)
    if not np.any(np.greater(wait, 0)):
        return CorePrice(term=term, num_kernels=launches)
    # What waits is launched once more, here and there alike.
    return CorePrice(
        term=term,
        network=PricedTerm(name="context_parallel", network_s=wait),
        num_kernels=launches - np.where(np.greater(wait, 0), 0.0, 1.0),
    )
