"""Work and messages of one layer under a split, on its busiest chip, per microbatch.

Assumptions
-----------
- Attention, dense FFNs and shared experts are split over ``attn_tp`` chips and replicated
  over ``cp * attn_dp`` groups, which hold different tokens; routed experts are spread over
  ``ep`` groups of ``expert_tp`` chips that together are the same chips (as in DeepSeek-V3,
  arXiv 2412.19437 section 3.4).
- ``cp`` groups share the caches of their sequences: each reads its part of every context.
- Heads that do not divide leave the busiest chip with ``ceil(heads / attn_tp)`` of them.
- With one such group every chip of the stage already holds every token, so experts need
  one all-reduce; otherwise tokens travel by all-to-all, dispatch and combine, one copy per
  distinct destination group: ``ep * (1 - (1 - 1/ep)^top_k)`` of them (theory: chapter 2).
- Activations travel in bf16, except dispatch, which travels in the activation format.
- A parallel block (one norm per layer: attention and FFN read the same input) sums both
  outputs in one all-reduce.
- On a torus the weights of a tensor-parallel group lie on two axes once that moves less: more
  than ``(width / hidden)^2`` chips, and more than 16 (2D weight-stationary, Pope et al.,
  arXiv 2211.05102, section 3.2.2). Inputs are then gathered over the outer axis, inner
  activations scattered and gathered over the inner one, outputs scattered over the outer one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
LEAST_2D_CHIPS = 16
# A count that stands for none where a quotient needs one.
_NONE = 1e-300

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
    """How one stage is split: degrees as floats or arrays over strategies.

    ``hide_tp`` and ``hide_ep`` are 1 where the collectives of tensor parallelism, and of
    experts, run behind the computation of the other half of a microbatch; ``draft`` tokens
    are drafted for every sequence before a pass verifies them.
    """

    attn_tp: Real
    attn_dp: Real
    ep: Real
    expert_tp: Real
    cp: Real = 1.0
    hide_tp: Real = 0.0
    hide_ep: Real = 0.0
    draft: Real = 0.0

    @property
    def token_ranks(self) -> Real:
        """Groups of ``attn_tp`` chips of a stage that hold different tokens."""
        return self.attn_dp * self.cp


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Tokens of one pass of a microbatch.

    Parameters
    ----------
    group : float or array
        Of the busiest tensor-parallel group.
    stage : float or array
        Of all groups of a stage that share one set of experts.
    sequences : float or array, optional
        Sequences of the busiest attention group, whose caches its ``cp`` ranks share; one per
        token of these ranks when absent.
    queries : float or array
        Tokens of each sequence: one, and those that are drafted.
    """

    group: Real
    stage: Real
    sequences: Real | None = None
    queries: Real = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutedLoad:
    """What routing puts on the busiest expert-parallel group of an MoE layer.

    ``hot_share`` is the largest share of the routed tokens that any group receives,
    ``touched_slots`` the largest expected number of its copies that receive any. The two
    maxima may belong to different groups. Together they bound every group from above, and
    are exact where one group has both, as under even routing.
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
    """Matrix multiplies of non-expert ``weights`` for ``tokens`` tokens, one record per term.

    Queries, keys and values are one kernel in every engine.
    """
    grouped: dict[tuple[str, str], list[Weight]] = {}
    for weight in weights:
        if weight.role is not WeightRole.ROUTED_EXPERT:
            dtype = model.precision.of_role(weight.role.value)
            rate = matmul_rate(chip, dtype, model.precision.activations)
            grouped.setdefault((TERM_OF_ROLE[weight.role], rate), []).append(weight)
    ops = []
    for (term, rate), members in grouped.items():
        per_token: Real = 0.0
        num_bytes: Real = 0.0
        # Weights that split alike are added up before they are split: arrays are dear.
        alike: dict[tuple[Shard, int], list[Weight]] = {}
        for weight in members:
            ways = 1 if weight.shard is Shard.REPLICATED else weight.shard_ways
            alike.setdefault((weight.shard, ways), []).append(weight)
        for own in alike.values():
            share = shard_share(own[0], attn_tp)
            per_token = per_token + 2.0 * sum(weight.matmul_params for weight in own) * share
            held = sum(weight_bytes(weight, model.precision) for weight in own)
            num_bytes = num_bytes + held * share
        ops.append(
            OpWork(
                term=term,
                rate=rate,
                flop=per_token * tokens,
                hbm_bytes=num_bytes,
                num_kernels=_fused_kernels(term, members),
                rows=tokens,
            )
        )
    return ops


def _fused_kernels(term: str, weights: list[Weight]) -> int:
    multiplies = sum(weight.matmul_params > 0 for weight in weights)
    return max(1, multiplies - 1) if term == "attention_projections" else multiplies


def expert_bytes(model: ModelSpec, layer: Layer) -> float:
    """HBM bytes of one routed expert of ``layer``."""
    routed = (w for w in layer_weights(model, layer) if w.role is WeightRole.ROUTED_EXPERT)
    return float(sum(weight_bytes(weight, model.precision) for weight in routed))


def routed_op(
    model: ModelSpec, chip: Chip, layer: Layer, split: Split, load: tuple[Tokens, RoutedLoad]
) -> OpWork:
    """Routed experts: weights of the touched copies, FLOP of the tokens they receive.

    They are grouped multiplies, whose rows are the tokens of one touched copy.
    """
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
        rows=pairs / np.maximum(routed.touched_slots, _NONE),
    )


def distinct_groups(ep: Real, top_k: int) -> Real:
    """Expected number of distinct groups that one token's ``top_k`` experts lie in."""
    return ep * (1.0 - (1.0 - 1.0 / ep) ** top_k)


def expert_messages(
    model: ModelSpec, layer: Layer, split: Split, tokens: Tokens, routed: RoutedLoad
) -> list[Message]:
    """Messages of a routed FFN: dispatch and combine; nothing where all chips hold all tokens."""
    assert isinstance(layer.ffn, MoeFfn)
    hidden = float(layer.ffn.expert_hidden or model.hidden_size)
    dispatch_bytes = BYTES_PER_ELEMENT[model.precision.activations]
    apart = np.greater(split.token_ranks, 1)
    travels = np.where(apart & (split.ep > 1), 1.0, 0.0)
    # A token reaches each distinct group once; the busiest group receives its share of them.
    copies = distinct_groups(split.ep, layer.ffn.top_k)
    sent = tokens.group / split.attn_tp * copies
    received = tokens.stage * copies * routed.hot_share / split.expert_tp
    busiest = np.maximum(sent, received) * hidden
    inside = tokens.stage * copies * routed.hot_share * hidden
    gathers = np.where(apart & (split.expert_tp > 1), 1.0, 0.0)
    regroups = np.where(apart & (split.attn_tp > 1), 1.0, 0.0)
    return [
        _message("dispatch", Op.DISPATCH, "ep", busiest * dispatch_bytes, travels),
        _message("combine", Op.COMBINE, "ep", busiest * WIRE_BYTES, travels),
        _message("dispatch", Op.ALL_GATHER, "expert_tp", inside * dispatch_bytes, gathers),
        _message("combine", Op.REDUCE_SCATTER, "expert_tp", inside * WIRE_BYTES, gathers),
        _message("combine", Op.ALL_GATHER, "attn_tp", tokens.group * hidden * WIRE_BYTES, regroups),
    ]


def _message(term: str, op: Op, axis: str, num_bytes: Real, active: Real) -> Message:
    return Message(term=term, op=op, axis=axis, num_bytes=num_bytes, active=active)


def is_parallel_block(layer: Layer) -> bool:
    """Whether attention and FFN read the same input, under one norm."""
    return layer.num_norms == 1


def tp_messages(
    model: ModelSpec, layer: Layer, split: Split, tokens: Tokens, torus: bool = False
) -> list[Message]:
    """Sums of tensor parallelism: after attention, and after an FFN split over it.

    A shared expert's partial sums ride on the all-reduce of the routed experts when all chips
    hold all tokens, so an MoE layer then needs one all-reduce for its whole FFN.
    """
    hidden_bytes = tokens.group * model.hidden_size * WIRE_BYTES
    split_attention = np.where(np.greater(split.attn_tp, 1), 1.0, 0.0)
    after = split_attention
    if isinstance(layer.ffn, MoeFfn) and not layer.ffn.shared_width:
        after = np.where((split.attn_tp > 1) & np.equal(split.token_ranks, 1), 1.0, 0.0)
    times = split_attention if is_parallel_block(layer) else split_attention + after
    if not torus:
        return [_message("all_reduce", Op.ALL_REDUCE, "attn_tp", hidden_bytes, times)]
    both = two_axes(model, layer, split.attn_tp)
    once = _message("all_reduce", Op.ALL_REDUCE, "attn_tp", hidden_bytes, times * (1.0 - both))
    return [once, *_two_axis_messages(model, layer, split, tokens, times * both)]


def _ffn_width(layer: Layer) -> float:
    ffn = layer.ffn
    return float(ffn.shared_width if isinstance(ffn, MoeFfn) else ffn.width)


def two_axes(model: ModelSpec, layer: Layer, attn_tp: Real) -> Real:
    """1 where the weights of a tensor-parallel group of a torus lie on two axes, else 0."""
    least = max(LEAST_2D_CHIPS, (_ffn_width(layer) / model.hidden_size) ** 2)
    return np.where(np.greater(attn_tp, least), 1.0, 0.0)


def inner_axis(attn_tp: Real) -> Real:
    """Chips of the inner of the two axes: about ``attn_tp^(2/3)``, a power of two."""
    return np.exp2(np.ceil(np.log2(attn_tp) * 2 / 3))


def _two_axis_messages(
    model: ModelSpec, layer: Layer, split: Split, tokens: Tokens, times: Real
) -> list[Message]:
    inner = inner_axis(split.attn_tp)
    outer = np.ceil(split.attn_tp / inner)
    row_bytes = tokens.group * WIRE_BYTES
    moved = (
        ("attn_tp_inner", row_bytes * float(model.hidden_size) / outer),
        ("attn_tp_outer", row_bytes * _ffn_width(layer) / inner),
    )
    return [
        _message("all_reduce", op, axis, num_bytes, times)
        for axis, num_bytes in moved
        for op in (Op.ALL_GATHER, Op.REDUCE_SCATTER)
    ]


def layer_ops(
    model: ModelSpec, chip: Chip, layer: Layer, split: Split, load: tuple[Tokens, RoutedLoad | None]
) -> list[OpWork]:
    """All matrix multiplies of one layer."""
    tokens, routed = load
    ops = weight_ops(model, chip, layer_weights(model, layer), split.attn_tp, tokens.group)
    if routed is not None:
        ops.append(routed_op(model, chip, layer, split, (tokens, routed)))
    return ops


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
