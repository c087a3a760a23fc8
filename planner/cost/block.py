"""Work and messages of one layer under a split, on its busiest chip, per microbatch.

Assumptions
-----------
- Attention, dense FFNs and shared experts are split over ``attn_tp`` chips and replicated
  over ``attn_dp`` groups; routed experts are spread over ``ep`` groups of ``expert_tp``
  chips that together are the same chips (as in DeepSeek-V3, arXiv 2412.19437 section 3.4).
- Heads that do not divide leave the busiest chip with ``ceil(heads / attn_tp)`` of them.
- With ``attn_dp == 1`` every chip of the stage already holds every token, so experts need
  one all-reduce; otherwise tokens travel by all-to-all, dispatch and combine, one copy per
  distinct destination group: ``ep * (1 - (1 - 1/ep)^top_k)`` of them (theory: chapter 2).
- Activations travel in bf16, except dispatch, which travels in the activation format.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.cost.attention import decode_core, kv_bytes_read, kv_shard_ways
from planner.cost.weights import layer_weights, weight_bytes
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.hardware import RATE_KEYS, Chip
from planner.domain.model import (
    Layer,
    ModelSpec,
    MoeFfn,
    Shard,
    Weight,
    WeightRole,
)
from planner.domain.work import Message, OpWork, Real

WIRE_BYTES = BYTES_PER_ELEMENT[DType.BF16]

TERM_OF_ROLE = {
    WeightRole.ATTENTION: "attention_projections",
    WeightRole.NORM: "norms",
    WeightRole.DENSE_FFN: "dense_ffn",
    WeightRole.SHARED_EXPERT: "shared_experts",
    WeightRole.ROUTER: "router",
    WeightRole.ROUTED_EXPERT: "routed_experts",
    WeightRole.EMBEDDING: "embedding",
    WeightRole.HEAD: "head",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """How one stage is split: degrees as floats or arrays over strategies."""

    attn_tp: Real
    attn_dp: Real
    ep: Real
    expert_tp: Real


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Tokens of one microbatch: of the busiest attention group, and of the whole stage."""

    group: Real
    stage: Real


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutedLoad:
    """What routing puts on the busiest expert-parallel group of an MoE layer.

    ``hot_share`` is the largest share of the routed tokens that any group receives,
    ``touched_slots`` the largest expected number of its copies that receive any. The two
    maxima may belong to different groups: the slowest group takes
    ``max_g max(compute_g, memory_g) = max(max_g compute_g, max_g memory_g)``, so nothing is
    lost by keeping them apart.
    """

    hot_share: Real
    touched_slots: Real


def shard_share(weight: Weight, attn_tp: Real) -> Real:
    """Fraction of ``weight`` on the busiest chip of an ``attn_tp`` group."""
    if weight.shard is Shard.REPLICATED:
        return 1.0
    ways = float(weight.shard_ways)
    split = np.minimum(attn_tp, ways)
    return np.ceil(ways / split) / ways


def matmul_rate(chip: Chip, weights: DType, activations: DType) -> str:
    """Rate key of a matmul: that of the slower of its two operand formats on ``chip``.

    Raises
    ------
    ValueError
        If the chip lists no rate at all that either format can use.
    """
    peaks = dict(chip.peak_flop_per_s)
    chosen = []
    for dtype in (weights, activations):
        keys = [key for key in RATE_KEYS[dtype] if key in peaks]
        if not keys:
            raise ValueError(f"{chip.name} has no rate for {dtype}")
        chosen.append(max(keys, key=lambda key: peaks[key]))
    return min(chosen, key=lambda key: peaks[key])


def weight_ops(
    model: ModelSpec, chip: Chip, weights: tuple[Weight, ...], attn_tp: Real, tokens: Real
) -> list[OpWork]:
    """Matrix multiplies of non-expert ``weights`` for ``tokens`` tokens, one record per term."""
    grouped: dict[tuple[str, str], list[Weight]] = {}
    for weight in weights:
        if weight.role is not WeightRole.ROUTED_EXPERT:
            dtype = model.precision.of_role(weight.role.value)
            rate = matmul_rate(chip, dtype, model.precision.activations)
            grouped.setdefault((TERM_OF_ROLE[weight.role], rate), []).append(weight)
    ops = []
    for (term, rate), members in grouped.items():
        flop: Real = 0.0
        num_bytes: Real = 0.0
        for weight in members:
            share = shard_share(weight, attn_tp)
            flop = flop + 2.0 * weight.matmul_params * share * tokens
            num_bytes = num_bytes + weight_bytes(weight, model.precision) * share
        ops.append(
            OpWork(
                term=term,
                rate=rate,
                flop=flop,
                hbm_bytes=num_bytes,
                num_kernels=sum(weight.matmul_params > 0 for weight in members),
            )
        )
    return ops


def core_op(model: ModelSpec, layer: Layer, split: Split, tokens: Real, context: int) -> OpWork:
    """Attention core of one decode step: one query token per sequence over its cache."""
    core = decode_core(layer.attention, context)
    ways = float(kv_shard_ways(layer.attention))
    cache_share = np.ceil(ways / np.minimum(split.attn_tp, ways)) / ways
    heads = float(core.num_heads)
    head_share = np.ceil(heads / np.minimum(split.attn_tp, heads)) / heads
    read = kv_bytes_read(layer.attention, context, model.precision.kv)
    flop = (core.flop - core.replicated_flop) * head_share + core.replicated_flop
    return OpWork(
        term="attention_core",
        rate="core",
        flop=flop * tokens,
        hbm_bytes=read * cache_share * tokens,
    )


def expert_bytes(model: ModelSpec, layer: Layer) -> float:
    """HBM bytes of one routed expert of ``layer``."""
    routed = (w for w in layer_weights(model, layer) if w.role is WeightRole.ROUTED_EXPERT)
    return float(sum(weight_bytes(weight, model.precision) for weight in routed))


def routed_op(
    model: ModelSpec, chip: Chip, layer: Layer, split: Split, load: tuple[Tokens, RoutedLoad]
) -> OpWork:
    """Routed experts: weights of the touched copies, FLOP of the tokens they receive."""
    assert isinstance(layer.ffn, MoeFfn)
    tokens, routed = load
    experts = [w for w in layer_weights(model, layer) if w.role is WeightRole.ROUTED_EXPERT]
    matmul_params = float(sum(weight.matmul_params for weight in experts))
    width = float(layer.ffn.expert_width)
    share = np.ceil(width / split.expert_tp) / width
    pairs = tokens.stage * layer.ffn.top_k * routed.hot_share
    num_matmuls = sum(weight.matmul_params > 0 for weight in experts)
    return OpWork(
        term="routed_experts",
        rate=matmul_rate(chip, model.precision.routed_expert, model.precision.activations),
        flop=2.0 * matmul_params * share * pairs,
        hbm_bytes=routed.touched_slots * expert_bytes(model, layer) * share,
        num_kernels=num_matmuls,
    )


def distinct_groups(ep: Real, top_k: int) -> Real:
    """Expected number of distinct groups that one token's ``top_k`` experts lie in."""
    return ep * (1.0 - (1.0 - 1.0 / ep) ** top_k)


def expert_messages(
    model: ModelSpec, layer: Layer, split: Split, tokens: Tokens, routed: RoutedLoad
) -> list[Message]:
    """Messages of a routed FFN: dispatch and combine, or one all-reduce when ``attn_dp`` is 1."""
    assert isinstance(layer.ffn, MoeFfn)
    hidden = float(layer.ffn.expert_hidden or model.hidden_size)
    dispatch_bytes = BYTES_PER_ELEMENT[model.precision.activations]
    travels = np.where((split.attn_dp > 1) & (split.ep > 1), 1.0, 0.0)
    # A token reaches each distinct group once; the busiest group receives its share of them.
    copies = distinct_groups(split.ep, layer.ffn.top_k)
    sent = tokens.group / split.attn_tp * copies
    received = tokens.stage * copies * routed.hot_share / split.expert_tp
    busiest = np.maximum(sent, received) * hidden
    inside = tokens.stage * copies * routed.hot_share * hidden
    gathers = np.where((split.attn_dp > 1) & (split.expert_tp > 1), 1.0, 0.0)
    regroups = np.where((split.attn_dp > 1) & (split.attn_tp > 1), 1.0, 0.0)
    return [
        _message("dispatch", Op.DISPATCH, "ep", busiest * dispatch_bytes, travels),
        _message("combine", Op.COMBINE, "ep", busiest * WIRE_BYTES, travels),
        _message("dispatch", Op.ALL_GATHER, "expert_tp", inside * dispatch_bytes, gathers),
        _message("combine", Op.REDUCE_SCATTER, "expert_tp", inside * WIRE_BYTES, gathers),
        _message("combine", Op.ALL_GATHER, "attn_tp", tokens.group * hidden * WIRE_BYTES, regroups),
    ]


def _message(term: str, op: Op, axis: str, num_bytes: Real, active: Real) -> Message:
    return Message(term=term, op=op, axis=axis, num_bytes=num_bytes, active=active)


def tp_messages(model: ModelSpec, layer: Layer, split: Split, tokens: Tokens) -> list[Message]:
    """All-reduces of tensor parallelism: after attention, and after an FFN split over it.

    A shared expert's partial sums ride on the all-reduce of the routed experts when
    ``attn_dp`` is 1, so an MoE layer then needs one all-reduce for its whole FFN.
    """
    hidden_bytes = tokens.group * model.hidden_size * WIRE_BYTES
    split_attention = np.where(split.attn_tp > 1, 1.0, 0.0)
    after = split_attention
    if isinstance(layer.ffn, MoeFfn) and not layer.ffn.shared_width:
        after = np.where((split.attn_tp > 1) & (split.attn_dp == 1), 1.0, 0.0)
    return [
        _message("all_reduce", Op.ALL_REDUCE, "attn_tp", hidden_bytes, split_attention),
        _message("all_reduce", Op.ALL_REDUCE, "attn_tp", hidden_bytes, after),
    ]


def layer_ops(
    model: ModelSpec, chip: Chip, layer: Layer, split: Split, load: tuple[Tokens, RoutedLoad | None]
) -> list[OpWork]:
    """All operations of one layer but its attention core (see :func:`core_op`)."""
    tokens, routed = load
    ops = weight_ops(model, chip, layer_weights(model, layer), split.attn_tp, tokens.group)
    if routed is not None:
        ops.append(routed_op(model, chip, layer, split, (tokens, routed)))
    return ops


def layer_messages(
    model: ModelSpec, layer: Layer, split: Split, tokens: Tokens, routed: RoutedLoad | None
) -> list[Message]:
    """All collectives of one layer."""
    messages = tp_messages(model, layer, split, tokens)
    if routed is not None:
        messages += expert_messages(model, layer, split, tokens, routed)
    return messages


def uniform_touched(num_experts: int, top_k: int, num_slots: Real, tokens: Real) -> Real:
    """Lower bound on the copies, over all groups, that uniform routing touches in a step.

    A copy of an expert with ``r`` copies is missed by all ``tokens`` with probability
    ``(1 - top_k / (num_experts r))^tokens``. The expected number of touched copies of one
    expert is concave and increasing in ``r``, so the chord from ``r = 1`` to the largest
    useful ``r`` bounds it from below for every way to spread the copies.
    """
    p = top_k / num_experts
    once = 1.0 - (1.0 - p) ** tokens
    most = np.maximum(num_slots - num_experts + 1.0, 1.0)
    all_copies = most * (1.0 - (1.0 - p / most) ** tokens)
    slope = np.where(most > 1, (all_copies - once) / np.maximum(most - 1.0, 1.0), 0.0)
    return num_experts * once + (num_slots - num_experts) * slope


def ceil_div(numerator: int, denominator: int) -> int:
    """Integer division rounded up."""
    return -(-numerator // denominator)
