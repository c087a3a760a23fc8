"""What serving engines can be told, as rules over degrees.

Each rule looks at one kind of decision and returns None where the engine can express it;
otherwise what it cannot express, in words, and degrees that it can. Replacements use the same
chips wherever the numbers allow it. The engines' own checks are the sources:

- vLLM 0.33.0: ``config/parallel.py``, ``engine/arg_utils.py``;
- SGLang 0.5.23: ``srt/arg_groups/{parallel,moe,attention}_hook.py``;
- TensorRT-LLM 1.3: ``llmapi/llm_args.py``, ``mapping.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from planner.cost.routing import moe_shape
from planner.domain.degrees import Degrees, OverlapMode
from planner.domain.deployment import Engine
from planner.domain.model import GroupedQueryAttention, LatentAttention, LinearAttention, ModelSpec

NAMES = {Engine.VLLM: "vLLM", Engine.SGLANG: "SGLang", Engine.TRTLLM: "TensorRT-LLM"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleCase:
    """Who runs which model, and whether a draft model is at hand."""

    engine: Engine
    model: ModelSpec
    has_draft_model: bool = False

    @property
    def num_experts(self) -> int:
        """Routed experts of a layer; 0 for a dense model."""
        shape = moe_shape(self.model)
        return 0 if shape is None else shape[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """What an engine cannot express, and degrees that it can."""

    reason: str
    instead: tuple[Degrees, ...]


Rule = Callable[[RuleCase, Degrees], Misfit | None]


def with_split(case: RuleCase, degrees: Degrees, ep: int, slots: int | None = None) -> Degrees:
    """The same chips with another split of the experts, and slots that divide by it."""
    if not case.num_experts:
        return degrees
    wanted = degrees.num_slots if slots is None else slots
    if wanted % ep and not (case.engine is Engine.VLLM and wanted == case.num_experts):
        wanted = -(-wanted // ep) * ep
    return replace(degrees, ep=ep, expert_tp=degrees.stage_chips // ep, num_slots=wanted)


def _num_heads(model: ModelSpec) -> int:
    """Heads that tensor parallelism must divide: those of softmax attention."""
    heads = [
        layer.attention.num_heads
        for layer in model.layers
        if not isinstance(layer.attention, LinearAttention)
    ]
    return heads[0] if heads else 0


def heads_divide(case: RuleCase, degrees: Degrees) -> Misfit | None:
    """``num_heads % tp = 0``."""
    heads, tp = _num_heads(case.model), degrees.attn_tp * degrees.cp
    if not heads or heads % tp == 0:
        return None
    fitting = [t for t in range(1, degrees.attn_tp + 1) if heads % (t * degrees.cp) == 0]
    largest = fitting[-1] if fitting else 1
    found = []
    if degrees.attn_tp % largest == 0 and case.num_experts:
        moved = replace(
            degrees, attn_tp=largest, attn_dp=degrees.attn_dp * (degrees.attn_tp // largest)
        )
        found.append(moved)
    fewer = replace(degrees, attn_tp=largest, cp=degrees.cp if fitting else 1)
    if case.num_experts:
        fewer = with_split(case, fewer, _largest_divisor(fewer.stage_chips, degrees.ep))
    found.append(fewer)
    reason = f"{heads} attention heads do not divide by TP {tp}"
    return Misfit(reason=reason, instead=tuple(found))


def _largest_divisor(number: int, most: int) -> int:
    return max(d for d in range(1, min(number, most) + 1) if number % d == 0)


def _without_cp(case: RuleCase, degrees: Degrees) -> tuple[Degrees, ...]:
    wide = replace(degrees, attn_tp=degrees.attn_tp * degrees.cp, cp=1)
    if not case.num_experts:
        return (wide, replace(degrees, cp=1, replicas=degrees.replicas * degrees.cp))
    return (wide, replace(degrees, attn_dp=degrees.attn_dp * degrees.cp, cp=1))


def contexts_are_shared(case: RuleCase, degrees: Degrees) -> Misfit | None:
    """Decode context parallelism where the engine has it.

    vLLM: with grouped queries ``tp > kv_heads`` and ``dcp <= tp / kv_heads``; TensorRT-LLM:
    Helix, for latent attention, without attention DP.
    """
    if degrees.cp == 1:
        return None
    attention = case.model.layers[0].attention
    tp = degrees.attn_tp * degrees.cp
    reason = ""
    if case.engine is Engine.TRTLLM:
        if not isinstance(attention, LatentAttention):
            reason = "shares contexts (Helix) with latent attention only"
        elif degrees.attn_dp > 1:
            reason = "has no attention DP beside shared contexts (Helix)"
    elif isinstance(attention, GroupedQueryAttention):
        kv_heads = attention.num_kv_heads
        if tp <= kv_heads or degrees.cp > tp // kv_heads:
            reason = f"shares contexts over copies of KV heads only: DCP <= TP {tp} / {kv_heads}"
        elif (attention.num_heads // kv_heads) % degrees.cp:
            reason = f"needs query heads per KV head that divide by DCP {degrees.cp}"
    elif not isinstance(attention, LatentAttention):
        reason = "does not share the contexts of this attention"
    if not reason:
        return None
    return Misfit(
        reason=f"CP {degrees.cp}: {NAMES[case.engine]} {reason}",
        instead=_without_cp(case, degrees),
    )


def attention_is_split(case: RuleCase, degrees: Degrees) -> Misfit | None:
    """TensorRT-LLM: attention is split over all ranks of a stage, or over none."""
    if case.engine is not Engine.TRTLLM or 1 in (degrees.attn_tp, degrees.attn_dp):
        return None
    size = degrees.attn_tp * degrees.attn_dp
    return Misfit(
        reason=f"TP {degrees.attn_tp} inside attention DP {degrees.attn_dp}: attention DP of "
        "TensorRT-LLM has one rank per group",
        instead=(
            replace(degrees, attn_tp=1, attn_dp=size),
            replace(degrees, attn_tp=size, attn_dp=1),
        ),
    )


def experts_are_split(case: RuleCase, degrees: Degrees) -> Misfit | None:
    """vLLM: expert parallelism is a switch, over all ranks of a stage or over none."""
    if case.engine is not Engine.VLLM or not case.num_experts:
        return None
    size = degrees.stage_chips
    if degrees.ep == size or (degrees.ep == 1 and degrees.num_slots == case.num_experts):
        return None
    if degrees.ep == 1:
        reason = f"{degrees.num_slots} slots without expert parallelism"
    else:
        reason = f"EP {degrees.ep} x expert TP {degrees.expert_tp}: --enable-expert-parallel is "
        reason += f"EP {size} or EP 1"
    instead = [with_split(case, degrees, 1, case.num_experts)]
    if size <= degrees.num_slots:
        instead.insert(0, with_split(case, degrees, size))
    return Misfit(reason=reason, instead=tuple(instead))


def slots_are_equal(case: RuleCase, degrees: Degrees) -> Misfit | None:
    """``num_slots % ep = 0``; vLLM without redundant experts gives some ranks one more."""
    if not case.num_experts or degrees.num_slots % degrees.ep == 0:
        return None
    if case.engine is Engine.VLLM and degrees.num_slots == case.num_experts:
        return None
    up = -(-degrees.num_slots // degrees.ep) * degrees.ep
    counts = [up]
    if up - degrees.ep >= case.num_experts:
        counts.append(up - degrees.ep)
    elif case.engine is Engine.VLLM:
        counts.append(case.num_experts)
    return Misfit(
        reason=f"{degrees.num_slots} slots on {degrees.ep} expert ranks: equally many on each",
        instead=tuple(replace(degrees, num_slots=count) for count in counts),
    )


def overlap_is_offered(case: RuleCase, degrees: Degrees) -> Misfit | None:
    """Two-batch overlap of dispatch and combine; of tensor parallelism by no engine.

    vLLM ``--enable-dbo`` needs DP and EP, SGLang ``--enable-two-batch-overlap`` all-to-all, which
    is EP over all ranks. TensorRT-LLM has neither.
    """
    if degrees.overlap is OverlapMode.NONE:
        return None
    spread = degrees.ep == degrees.stage_chips > 1
    offers = spread and case.engine is not Engine.TRTLLM
    if case.engine is Engine.VLLM:
        offers = offers and degrees.attn_dp > 1
    if offers and degrees.overlap is OverlapMode.EP:
        return None
    instead = [replace(degrees, overlap=OverlapMode.NONE)]
    if offers and degrees.overlap.hides_ep:
        instead.insert(0, replace(degrees, overlap=OverlapMode.EP))
    return Misfit(
        reason=f"overlap {degrees.overlap.label} in decode: {NAMES[case.engine]} "
        + ("hides expert parallelism only" if offers else "hides nothing with these degrees"),
        instead=tuple(instead),
    )


def drafts_have_a_source(case: RuleCase, degrees: Degrees) -> Misfit | None:
    """Drafting takes layers of multi-token prediction, or a draft model that is named."""
    if not degrees.draft:
        return None
    if case.engine is Engine.SGLANG and degrees.pp > 1:
        reason = "SGLang drafts on one pipeline stage only"
    elif case.model.mtp_layers or case.has_draft_model:
        return None
    else:
        reason = f"{case.model.name} has no layers that draft; --draft-model names what does"
    return Misfit(
        reason=f"{degrees.draft} drafted tokens: {reason}", instead=(replace(degrees, draft=0),)
    )


def microbatches_follow_stages(case: RuleCase, degrees: Degrees) -> Misfit | None:
    """Engines keep as many microbatches in flight as there are stages."""
    if degrees.microbatches == degrees.pp:
        return None
    return Misfit(
        reason=f"{degrees.microbatches} microbatches with PP {degrees.pp}: "
        f"{NAMES[case.engine]} keeps one per stage in flight",
        instead=(replace(degrees, microbatches=degrees.pp),),
    )


RULES: tuple[Rule, ...] = (
    heads_divide,
    contexts_are_shared,
    attention_is_split,
    experts_are_split,
    slots_are_equal,
    overlap_is_offered,
    drafts_have_a_source,
    microbatches_follow_stages,
)


def misfits(case: RuleCase, degrees: Degrees) -> Iterator[Misfit]:
    """Everything that an engine cannot express."""
    for rule in RULES:
        found = rule(case, degrees)
        if found is not None:
            yield found


def expressible(case: RuleCase, degrees: Degrees) -> tuple[Degrees, ...]:
    """Degrees that the engine takes, nearest by as few replacements as possible.

    Returns
    -------
    tuple of Degrees
        ``degrees`` alone where nothing is to be replaced.
    """
    found: dict[Degrees, None] = {}
    seen, open_ones = {degrees}, [degrees]
    while open_ones:
        own = open_ones.pop(0)
        first = next(misfits(case, own), None)
        if first is None:
            found[own] = None
            continue
        for other in first.instead:
            if other not in seen:
                seen.add(other)
                open_ones.append(other)
    return tuple(found)
