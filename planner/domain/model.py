"""A language model as typed records, layer by layer, since layers differ.

Widths are elements, counts are ``num_*``; nothing here has a unit of time or bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from planner.domain.dtypes import DType, Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseIndexer:
    """Index that picks which cached tokens attention reads.

    Parameters
    ----------
    top_k_tokens : int
        Cached tokens that the attention core reads per query.
    num_heads, head_dim : int
        Shape of the index queries; the index key is ``head_dim`` wide and cached.
    computes_index : bool
        False where the layer reuses the index of an earlier layer.
    query_rank : int
        Width of the input of the index query projection.
    block_tokens : int
        Granularity of the selection; 1 selects single tokens.
    """

    top_k_tokens: int
    num_heads: int
    head_dim: int
    query_rank: int
    computes_index: bool = True
    block_tokens: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedQueryAttention:
    """Softmax attention with ``num_kv_heads`` key/value heads (MHA, GQA and MQA)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window_tokens: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm_params: int = 0
    sinks: bool = False
    output_gate: bool = False
    indexer: SparseIndexer | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 section 2.1).

    The cache holds ``kv_lora_rank + qk_rope_head_dim`` elements per token and layer,
    shared by all heads.
    """

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    output_gate: bool = False
    indexer: SparseIndexer | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressedAttention:
    """Multi-query attention over one latent, its cache compressed by ``ratio`` (DeepSeek-V4).

    ``ratio`` 0 keeps only the sliding window. The output projection is low-rank in groups.
    """

    num_heads: int
    head_dim: int
    q_lora_rank: int
    o_lora_rank: int
    num_output_groups: int
    window_tokens: int
    ratio: int
    indexer: SparseIndexer | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearAttention:
    """Attention with a constant state per sequence (gated delta, lightning, KDA).

    ``extra_params`` counts what the family adds to q, k, v and output projections
    (gates, decay, convolution), ``state_elements`` the recurrent state of one sequence.
    """

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    output_gate: bool
    extra_matmul_params: int
    extra_vector_params: int
    state_dtype: DType


Attention = GroupedQueryAttention | LatentAttention | CompressedAttention | LinearAttention


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseFfn:
    """Feed-forward block: three matrices when gated, two otherwise."""

    width: int
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MoeFfn:
    """Mixture of experts: ``top_k`` of ``num_experts`` routed experts plus shared experts.

    ``expert_hidden`` is the width experts work in when it differs from the model's
    hidden size (latent MoE). ``extra_params`` counts what is neither router nor expert.
    """

    num_experts: int
    top_k: int
    expert_width: int
    gated: bool = True
    bias: bool = False
    shared_width: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    expert_hidden: int | None = None


Ffn = DenseFfn | MoeFfn


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One transformer layer; ``extra_params`` are weights outside attention, FFN and norms."""

    attention: Attention
    ffn: Ffn
    num_norms: int = 2
    norm_bias: bool = False
    extra_params: int = 0


class Shard(StrEnum):
    """How tensor parallelism may split a weight."""

    HEADS = "heads"
    KV_HEADS = "kv_heads"
    WIDTH = "width"
    EXPERTS = "experts"
    VOCAB = "vocab"
    REPLICATED = "replicated"


class WeightRole(StrEnum):
    """What a weight is for; decides its number format and where it is counted."""

    ATTENTION = "attention"
    DENSE_FFN = "dense_ffn"
    SHARED_EXPERT = "shared_expert"
    ROUTED_EXPERT = "routed_expert"
    ROUTER = "router"
    EMBEDDING = "embedding"
    HEAD = "head"
    NORM = "norm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """One weight tensor, or a family of equal ones.

    Parameters
    ----------
    num_params : int
        Elements; for routed experts, of **one** expert.
    matmul_params : int
        Elements that multiply one token: a token costs ``2 * matmul_params`` FLOP. Zero
        for norms, biases and looked-up tables.
    shard_ways : int
        Largest tensor-parallel degree that splits it (heads, KV heads, columns);
        beyond it, copies are kept.
    """

    name: str
    role: WeightRole
    shard: Shard
    num_params: int
    matmul_params: int
    shard_ways: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A model: its layers, tables and number formats.

    ``mtp_layers`` are multi-token-prediction layers: counted apart, in no total.
    """

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    layers: tuple[Layer, ...]
    mtp_layers: tuple[Layer, ...] = ()
    tied_embeddings: bool = False
    position_params: int = 0
    final_params: int = 0
    max_context: int | None = None
    precision: Precision
    source: str = ""
    published_total_params: int | None = None
    published_active_params: int | None = None
    ignored_fields: tuple[str, ...] = field(default=())
