"""HBM bytes that one chip must hold during a decode step or a prefill pass.

Assumptions
-----------
- Weights and KV cache stay resident; activations live for one operation and are reused.
- Caches come in blocks: the last block of a sequence is half empty on average.
- Under context parallelism every rank holds its part of each cache of its group.
- A cache that tensor parallelism cannot split is copied; a torus splits it over sequences.
- ``reserve_fraction`` of the usable HBM belongs to the engine (runtime context, captured
  graphs, fragmentation).
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
from planner.cost.core import busiest_share, splits_cache
from planner.cost.step import LayerGroup, Setting, layer_groups
from planner.cost.weights import layer_weights, table_weights, weight_bytes
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.model import DenseFfn, MoeFfn, WeightRole
from planner.domain.work import Real


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerBytes:
    """Resident bytes of one layer on one chip.

    ``per_slot`` is one expert copy, ``kv_per_sequence`` one cached sequence of its attention
    group (see :func:`cache_bytes`).
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
    cached = sequence_bytes(setting, group, split)
    return LayerBytes(fixed=fixed, per_slot=per_slot, kv_per_sequence=cached)


def of_degree(degree: Real, value: Callable[[float], float]) -> Real:
    """``value`` of a whole degree, or of every entry of an array of them."""
    if np.ndim(degree) == 0:
        return value(float(degree))
    whole = np.asarray(degree, dtype=np.intp)
    counts = np.bincount(whole)
    table = np.zeros(len(counts))
    for found in np.flatnonzero(counts):
        table[found] = value(float(found))
    return np.asarray(table[whole])


def sequence_bytes(setting: Setting, group: LayerGroup, split: Split) -> Real:
    """Cached bytes of one sequence in one layer, on the busiest chip of its attention group."""
    attention = group.layer.attention
    spare = setting.engine.block_tokens / 2

    def cached(cp: float) -> float:
        tokens = math.floor(setting.held_tokens / cp + spare)
        return kv_bytes_per_sequence(attention, tokens, setting.model.precision.kv)

    return of_degree(split.cp, cached) * busiest_share(
        float(kv_shard_ways(attention)), split.attn_tp
    )


def cache_bytes(setting: Setting, group: LayerGroup, split: Split, sequences: Real) -> Real:
    """Cached bytes of one layer on its busiest chip, of ``sequences`` of its attention group.

    Never falls when ``sequences`` rise.
    """
    each = sequence_bytes(setting, group, split)
    attention = group.layer.attention
    splits = splits_cache(setting.core, attention, split.attn_tp)
    if not np.any(splits):
        return each * sequences
    ways = float(kv_shard_ways(attention))
    spread = np.maximum(1.0, sequences * ways / split.attn_tp)
    return each * np.where(np.greater(splits, 0), spread, sequences)


def draft_bytes(setting: Setting, split: Split, held: tuple[Real, Real]) -> tuple[Real, Real]:
    """Weights and cache of a drafting layer, which is like the last one of the model.

    Parameters
    ----------
    held : (float, float)
        Expert copies of the fullest group, and cached sequences of an attention group.
    """
    slots, sequences = held
    last = next(
        group
        for group in layer_groups(setting.model)
        if group.indices[-1] == len(setting.model.layers) - 1
    )
    own = layer_bytes(setting, last, split)
    weights = own.fixed + own.per_slot * (slots if last.is_moe else 0.0)
    return weights, cache_bytes(setting, last, split, sequences)


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
            buffers = np.maximum(buffers, np.where(split.token_ranks > 1, inside, 0.0))
    logits = tokens.group * model.vocab_size * 4.0 / split.attn_tp
    layer = tokens.group * (4.0 * hidden + 2.0 * widest) * WIRE_BYTES + buffers
    return np.maximum(layer, logits)


def budget_bytes(setting: Setting) -> float:
    """Usable HBM less the engine's reserve."""
    return setting.chip.hbm_usable_bytes * (1.0 - setting.reserve_fraction)
