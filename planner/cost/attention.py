"""Attention caches and cores of one layer: elements, bytes and FLOP as functions of context.

Assumptions
-----------
- A decode step has one query token per sequence and ``context_tokens`` cached tokens.
- Softmax, scaling and masking are not counted: under 2 % of the two products from a head
  size of 64 on.
- A window (or a chunk, of which the query sees between one token and all) is taken full.
- MLA decodes in absorbed form: each head scores and sums the cached latent itself
  (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).
- The index scan visits every cached index key (DeepSeek-V3.2 lightning indexer), or every
  compressed entry; it is replicated under tensor parallelism.
- A recurrent state is read and written once per step; the convolution's inputs are bf16.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.model import (
    Attention,
    CompressedAttention,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
    SparseIndexer,
)

_BF16 = BYTES_PER_ELEMENT[DType.BF16]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionCore:
    """Attention core of one query token in one layer, over all heads.

    Parameters
    ----------
    flop : float
        Floating-point operations, ``replicated_flop`` included.
    read_elements : float
        Cache elements that the step moves (recurrent states are read and written).
    num_heads : int
        Heads over which tensor parallelism may split the work.
    replicated_flop : float
        Part of ``flop`` (the index scan) that every rank repeats.
    """

    flop: float
    read_elements: float
    num_heads: int
    replicated_flop: float = 0.0


def kv_elements_per_sequence(attention: Attention, context_tokens: float) -> float:
    """Cached elements of one sequence in one layer.

    Parameters
    ----------
    attention : Attention
        The layer's attention.
    context_tokens : int or float
        Cached tokens.

    Returns
    -------
    float
        GQA: ``2 num_kv_heads head_dim min(context, window)``; MLA: ``(kv_lora_rank +
        qk_rope_head_dim) context`` (DeepSeek-V2, arXiv 2405.04434, table 1); both plus one
        index key per token. Compressed: a window of whole entries, one entry per
        ``ratio`` tokens, and the compressor's running sums. Linear: a constant state.
    """
    parts = _cached(attention, context_tokens)
    return parts.cache + parts.index_keys + parts.state + parts.small_state


def kv_bytes_per_sequence(attention: Attention, context_tokens: float, kv_dtype: DType) -> float:
    """Cached bytes of one sequence in one layer.

    Index keys and states keep their own formats; the rest is in ``kv_dtype``.
    """
    parts = _cached(attention, context_tokens)
    return (
        parts.cache * BYTES_PER_ELEMENT[kv_dtype]
        + parts.index_keys * BYTES_PER_ELEMENT[_key_dtype(attention, kv_dtype)]
        + parts.state * BYTES_PER_ELEMENT[_state_dtype(attention)]
        + parts.small_state * _BF16
    )


def kv_bytes_read(attention: Attention, context_tokens: float, kv_dtype: DType) -> float:
    """Cache bytes that one decode step of one sequence moves in one layer.

    Sparse attention reads the selected tokens and all index keys; a recurrent state is
    read and written.
    """
    parts = _read(attention, context_tokens)
    return (
        parts.cache * BYTES_PER_ELEMENT[kv_dtype]
        + parts.index_keys * BYTES_PER_ELEMENT[_key_dtype(attention, kv_dtype)]
        + parts.state * BYTES_PER_ELEMENT[_state_dtype(attention)]
        + parts.small_state * _BF16
    )


def kv_shard_ways(attention: Attention) -> int:
    """Largest tensor-parallel degree that splits the cache; beyond it, copies are kept.

    One for a latent shared by all heads. An index key is shared by all heads too, but is
    counted with the cache that it belongs to.
    """
    match attention:
        case GroupedQueryAttention():
            return attention.num_kv_heads
        case LinearAttention():
            return attention.num_value_heads
        case LatentAttention() | CompressedAttention():
            return 1


def decode_core(attention: Attention, context_tokens: float) -> AttentionCore:
    """Count the attention core of one decode step of one sequence in one layer.

    Returns
    -------
    AttentionCore
        Per cached token that is read, GQA costs ``4 num_heads head_dim`` FLOP (scores and
        weighted sum), absorbed MLA ``2 num_heads (kv_lora_rank + qk_rope_head_dim) +
        2 num_heads kv_lora_rank``, an index scan ``2 num_heads head_dim`` of the indexer.
        A linear state costs 7 FLOP per element under the delta rule (decay, prediction,
        correction, output: Gated DeltaNet, arXiv 2412.06464, equation 10), 5 without
        (Lightning Attention-2, arXiv 2401.04658), plus its convolution.
    """
    parts = _read(attention, context_tokens)
    scan = _scan_flop(attention, context_tokens)
    match attention:
        case GroupedQueryAttention():
            per_token = 4.0 * attention.num_heads * attention.head_dim
            core = per_token * _tokens_read(attention, context_tokens)
        case LatentAttention():
            latent = 2 * attention.kv_lora_rank + attention.qk_rope_head_dim
            core = 2.0 * attention.num_heads * latent * _tokens_read(attention, context_tokens)
        case CompressedAttention():
            core = 4.0 * attention.num_heads * parts.cache
        case LinearAttention():
            per_element = 7.0 if attention.delta_rule else 5.0
            core = per_element * _state_elements(attention)
            core += 2.0 * attention.conv_kernel * _conv_channels(attention)
    heads = (
        attention.num_value_heads if isinstance(attention, LinearAttention) else attention.num_heads
    )
    read = parts.cache + parts.index_keys + parts.state + parts.small_state
    return AttentionCore(
        flop=core + scan, read_elements=read, num_heads=heads, replicated_flop=scan
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """Elements by format: KV cache, index keys, states, bf16 convolution inputs."""

    cache: float = 0.0
    index_keys: float = 0.0
    state: float = 0.0
    small_state: float = 0.0


def _cached(attention: Attention, context: float) -> _Parts:
    match attention:
        case GroupedQueryAttention():
            tokens = _windowed(attention, context)
            entry = 2.0 * attention.num_kv_heads * attention.head_dim
            return _Parts(
                cache=entry * tokens, index_keys=_key_elements(attention.indexer, context)
            )
        case LatentAttention():
            entry = float(attention.kv_lora_rank + attention.qk_rope_head_dim)
            return _Parts(
                cache=entry * context, index_keys=_key_elements(attention.indexer, context)
            )
        case CompressedAttention():
            entries = min(context, attention.window_tokens) + _compressed_entries(
                attention, context
            )
            return _Parts(
                cache=float(attention.head_dim) * entries,
                index_keys=_key_elements(
                    attention.indexer, _compressed_entries(attention, context)
                ),
                state=_compressor_state(attention),
            )
        case LinearAttention():
            inputs = max(attention.conv_kernel - 1, 0) * _conv_channels(attention)
            return _Parts(state=_state_elements(attention), small_state=float(inputs))


def _read(attention: Attention, context: float) -> _Parts:
    match attention:
        case GroupedQueryAttention():
            entry = 2.0 * attention.num_kv_heads * attention.head_dim
            return _Parts(
                cache=entry * _tokens_read(attention, context),
                index_keys=_key_elements(attention.indexer, context),
            )
        case LatentAttention():
            entry = float(attention.kv_lora_rank + attention.qk_rope_head_dim)
            return _Parts(
                cache=entry * _tokens_read(attention, context),
                index_keys=_key_elements(attention.indexer, context),
            )
        case CompressedAttention():
            entries = _compressed_entries(attention, context)
            selected = entries
            if attention.indexer is not None:
                selected = min(entries, attention.indexer.top_k_tokens / attention.ratio)
            window = min(context, attention.window_tokens)
            return _Parts(
                cache=float(attention.head_dim) * (window + selected),
                index_keys=_key_elements(attention.indexer, entries),
            )
        case LinearAttention():
            held = _cached(attention, context)
            return _Parts(state=2.0 * held.state, small_state=2.0 * held.small_state)


def _windowed(attention: GroupedQueryAttention, context: float) -> float:
    window = attention.window_tokens
    return float(context if window is None else min(context, window))


def _tokens_read(attention: GroupedQueryAttention | LatentAttention, context: float) -> float:
    tokens = float(context)
    if isinstance(attention, GroupedQueryAttention):
        tokens = _windowed(attention, context)
    if attention.indexer is not None:
        tokens = min(tokens, attention.indexer.top_k_tokens)
    return float(tokens)


def _compressed_entries(attention: CompressedAttention, context: float) -> float:
    return context / attention.ratio if attention.ratio else 0.0


def _key_elements(indexer: SparseIndexer | None, entries: float) -> float:
    if indexer is None or not indexer.computes_index:
        return 0.0
    return float(indexer.head_dim) * entries


def _scan_flop(attention: Attention, context: float) -> float:
    if isinstance(attention, LinearAttention) or attention.indexer is None:
        return 0.0
    if isinstance(attention, CompressedAttention):
        context = _compressed_entries(attention, context)
    return 2.0 * attention.indexer.num_heads * _key_elements(attention.indexer, context)


def _compressor_state(attention: CompressedAttention) -> float:
    """Values and scores of the tokens that are not pooled yet (DeepSeek-V4 reference model).

    A buffer of ``blocks * ratio`` rows, ``blocks`` times the entry wide, twice; ``blocks``
    is 2 where neighbouring blocks overlap.
    """
    if not attention.ratio:
        return 0.0
    blocks = 2 if attention.overlap else 1
    width = attention.head_dim
    if attention.indexer is not None:
        width += attention.indexer.head_dim
    return 2.0 * blocks * attention.ratio * blocks * width


def _state_elements(attention: LinearAttention) -> float:
    return float(attention.num_value_heads * attention.key_head_dim * attention.value_head_dim)


def _conv_channels(attention: LinearAttention) -> int:
    if not attention.conv_kernel:
        return 0
    keys = attention.num_key_heads * attention.key_head_dim
    return 2 * keys + attention.num_value_heads * attention.value_head_dim


def _key_dtype(attention: Attention, kv_dtype: DType) -> DType:
    if isinstance(attention, LinearAttention) or attention.indexer is None:
        return kv_dtype
    return attention.indexer.key_dtype or kv_dtype


def _state_dtype(attention: Attention) -> DType:
    """States of compressors are fp32 (DeepSeek-V4 reference model)."""
    return attention.state_dtype if isinstance(attention, LinearAttention) else DType.FP32
