"""Attention cores of whole sequences: FLOP and bytes of a pass over many new tokens.

A pass appends ``new`` tokens to ``cached`` ones; token ``i`` of them sees ``cached + i``
tokens, or the last ``window`` of these. With ``v = sum_i visible_i`` a softmax core costs
``2 (d_qk + d_v) v`` FLOP per head (scores and weighted sum), which is the causal count: half
of the square for ``cached = 0``.

Assumptions
-----------
- MLA runs expanded: each head has its own keys and values of ``qk_nope + qk_rope`` and
  ``v_head_dim`` elements (DeepSeek-V2, arXiv 2405.04434, section 2.1); keys and values of
  cached tokens are expanded again by every pass.
- Sparse attention reads ``top_k_tokens`` per query once more are visible; its index scans
  all visible keys.
- Linear attention runs in chunks; its state update costs what a decode step costs per token.
- A fused kernel reads queries, keys and values once and writes its output.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.attention import decode_core, kv_elements_per_sequence
from planner.domain.model import (
    Attention,
    CompressedAttention,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceCore:
    """Attention core of one sequence in one layer, over all heads.

    Parameters
    ----------
    flop : float
        Forward floating-point operations, ``replicated_flop`` included.
    expand_flop : float
        Matrix multiplies that expand cached latents (MLA with a cached prefix).
    moved_elements : float
        Elements that a fused kernel reads and writes.
    num_heads : int
        Heads over which tensor parallelism may split the work.
    """

    flop: float
    moved_elements: float
    num_heads: int
    replicated_flop: float = 0.0
    expand_flop: float = 0.0


def visible_tokens(new: float, cached: float, window: float | None = None) -> float:
    """``sum_{i=1}^{new} min(cached + i, window)``.

    The first ``window - cached`` new tokens still see everything, the others a window.
    """
    if window is None or cached + new <= window:
        return new * cached + new * (new + 1) / 2
    growing = max(0.0, min(new, window - cached))
    return growing * cached + growing * (growing + 1) / 2 + (new - growing) * window


def sequence_core(attention: Attention, new: float, cached: float = 0.0) -> SequenceCore:
    """Count the core of one sequence whose last ``new`` tokens are computed.

    Parameters
    ----------
    attention : Attention
        The layer's attention.
    new, cached : float
        Tokens computed now, and tokens whose keys and values are cached.
    """
    match attention:
        case GroupedQueryAttention():
            return _grouped(attention, new, cached)
        case LatentAttention():
            return _latent(attention, new, cached)
        case CompressedAttention():
            return _compressed(attention, new, cached)
        case LinearAttention():
            step = decode_core(attention, 0.0)
            widths = 2 * attention.num_key_heads * attention.key_head_dim
            widths += 2 * attention.num_value_heads * attention.value_head_dim
            state = 2.0 * kv_elements_per_sequence(attention, 0.0)
            return SequenceCore(
                flop=step.flop * new,
                moved_elements=widths * new + state,
                num_heads=attention.num_value_heads,
            )


def _grouped(attention: GroupedQueryAttention, new: float, cached: float) -> SequenceCore:
    heads, dim = attention.num_heads, attention.head_dim
    seen = visible_tokens(new, cached, attention.window_tokens)
    scan = 0.0
    if attention.indexer is not None:
        scan = _scan(attention.indexer.num_heads, attention.indexer.head_dim, new, cached)
        seen = min(seen, visible_tokens(new, cached, attention.indexer.top_k_tokens))
    context = cached + new
    if attention.window_tokens is not None:
        context = min(context, attention.window_tokens + new)
    moved = 2.0 * heads * dim * new + 2.0 * attention.num_kv_heads * dim * context
    return SequenceCore(
        flop=4.0 * heads * dim * seen + scan,
        moved_elements=moved,
        num_heads=heads,
        replicated_flop=scan,
    )


def _latent(attention: LatentAttention, new: float, cached: float) -> SequenceCore:
    heads = attention.num_heads
    keys = attention.qk_nope_head_dim + attention.qk_rope_head_dim
    seen = visible_tokens(new, cached)
    scan = 0.0
    if attention.indexer is not None:
        scan = _scan(attention.indexer.num_heads, attention.indexer.head_dim, new, cached)
        seen = min(seen, visible_tokens(new, cached, attention.indexer.top_k_tokens))
    per_token = heads * (keys + attention.v_head_dim)
    up = attention.kv_lora_rank * heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    return SequenceCore(
        flop=2.0 * per_token * seen + scan,
        moved_elements=float(per_token * (new + cached + new)),
        num_heads=heads,
        replicated_flop=scan,
        expand_flop=2.0 * up * cached,
    )


def _compressed(attention: CompressedAttention, new: float, cached: float) -> SequenceCore:
    heads, dim = attention.num_heads, attention.head_dim
    seen = visible_tokens(new, cached, attention.window_tokens)
    entries = 0.0
    scan = 0.0
    if attention.ratio:
        entries = visible_tokens(new, cached) / attention.ratio
        if attention.indexer is not None:
            per_entry = 2.0 * attention.indexer.num_heads * attention.indexer.head_dim
            scan = per_entry * entries
            chosen = attention.indexer.top_k_tokens / attention.ratio * new
            entries = min(entries, chosen)
    return SequenceCore(
        flop=4.0 * heads * dim * (seen + entries) + scan,
        moved_elements=2.0 * heads * dim * new + dim * (cached + new),
        num_heads=heads,
        replicated_flop=scan,
    )


def _scan(num_heads: int, head_dim: int, new: float, cached: float) -> float:
    return 2.0 * num_heads * head_dim * visible_tokens(new, cached)
