"""HBM bytes that one chip must hold during decode.

Assumptions
-----------
- Weights and KV cache stay resident; activations live for one operation and are reused.
- KV blocks are full: every sequence holds its mean context (paged caches waste < 4 %,
  arXiv 2309.06180).
- ``reserve_fraction`` of the usable HBM belongs to the engine (runtime context, captured
  graphs, fragmentation): 0.10 is the complement of vLLM's default
  ``gpu_memory_utilization`` = 0.90 (vLLM engine arguments, 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.cost.attention import kv_bytes_per_sequence, kv_shard_ways
from planner.cost.block import (
    WIRE_BYTES,
    Split,
    Tokens,
    distinct_groups,
    expert_bytes,
    shard_share,
)
from planner.cost.step import LayerGroup, Setting, layer_groups
from planner.cost.weights import layer_weights, table_weights, weight_bytes
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.model import DenseFfn, MoeFfn, WeightRole
from planner.domain.work import Real

RESERVE_FRACTION = 0.10


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerBytes:
    """Resident bytes of one layer on one chip.

    ``per_slot`` is one expert copy, ``kv_per_sequence`` one cached sequence.
    """

    fixed: Real
    per_slot: Real
    kv_per_sequence: Real


def layer_bytes(setting: Setting, group: LayerGroup, split: Split) -> LayerBytes:
    """Resident bytes of one layer of ``group`` on its busiest chip."""
    model = setting.model
    fixed: Real = 0.0
    for weight in layer_weights(model, group.layer):
        if weight.role is not WeightRole.ROUTED_EXPERT:
            share = shard_share(weight, split.attn_tp)
            fixed = fixed + weight_bytes(weight, model.precision) * share
    per_slot: Real = 0.0
    if isinstance(group.layer.ffn, MoeFfn):
        width = float(group.layer.ffn.expert_width)
        per_slot = expert_bytes(model, group.layer) * np.ceil(width / split.expert_tp) / width
    attention = group.layer.attention
    ways = float(kv_shard_ways(attention))
    cache_share = np.ceil(ways / np.minimum(split.attn_tp, ways)) / ways
    cached = kv_bytes_per_sequence(attention, setting.context_tokens, model.precision.kv)
    return LayerBytes(fixed=fixed, per_slot=per_slot, kv_per_sequence=cached * cache_share)


def table_bytes(setting: Setting, split: Split, pp: Real) -> tuple[Real, Real]:
    """Resident bytes of the embedding side (first stage) and the head side (last stage).

    A head tied to the embedding is stored again only where another stage holds it.
    """
    first: Real = 0.0
    last: Real = 0.0
    for weight in table_weights(setting.model):
        share = shard_share(weight, split.attn_tp)
        num_bytes = weight_bytes(weight, setting.model.precision) * share
        if weight.role is WeightRole.EMBEDDING:
            first = first + num_bytes
        else:
            last = last + num_bytes * (np.greater(pp, 1) * 1.0 if weight.tied else 1.0)
    return first, last


def activation_bytes(setting: Setting, split: Split, tokens: Tokens, hot_share: Real) -> Real:
    """Working buffers of one microbatch: the widest layer, the expert buffers, the logits.

    Assumptions: four hidden-wide tensors live at once (residual, input, attention output,
    FFN output), one FFN-wide intermediate, one dispatch and one combine buffer of what the
    busiest chip receives, fp32 logits.
    """
    model = setting.model
    hidden = float(model.hidden_size)
    widest: Real = 0.0
    buffers: Real = 0.0
    for group in layer_groups(model):
        ffn = group.layer.ffn
        width = ffn.width if isinstance(ffn, DenseFfn) else ffn.shared_width
        widest = np.maximum(widest, float(width) / split.attn_tp)
        if isinstance(ffn, MoeFfn):
            copies = distinct_groups(split.ep, ffn.top_k)
            received = tokens.stage * copies * hot_share / split.expert_tp
            wire = BYTES_PER_ELEMENT[model.precision.activations] + WIRE_BYTES
            inside = received * (hidden * wire + ffn.expert_width * WIRE_BYTES)
            buffers = np.maximum(buffers, np.where(split.attn_dp > 1, inside, 0.0))
    logits = tokens.group * model.vocab_size * 4.0 / split.attn_tp
    layer = tokens.group * (4.0 * hidden + 2.0 * widest) * WIRE_BYTES + buffers
    return np.maximum(layer, logits)


def budget_bytes(setting: Setting) -> float:
    """Usable HBM less the engine's reserve."""
    return setting.chip.hbm_usable_bytes * (1.0 - setting.reserve_fraction)
