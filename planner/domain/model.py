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
        False where the layer reuses the index of an earlier layer: it then has no
        indexer weights and caches no index key.
    query_rank : int
        Width of the input of the index query projection.
    block_tokens : int
        Granularity of the selection; 1 selects single tokens.
    head_weights : bool
        Whether a projection weighs the index heads per token.
    norm_params : int
        Elements of the norms of index queries and keys.
    has_key_projection : bool
        False where a compressor supplies the index keys.
    key_dtype : DType, optional
        Format of the cached index key; ``None`` follows the KV cache.
    """

    top_k_tokens: int
    num_heads: int
    head_dim: int
    query_rank: int
    computes_index: bool = True
    block_tokens: int = 1
    head_weights: bool = True
    norm_params: int = 0
    has_key_projection: bool = True
    key_dtype: DType | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedQueryAttention:
    """Softmax attention with ``num_kv_heads`` key/value heads (MHA, GQA and MQA).

    ``window_tokens`` bounds what a query sees: a sliding window, or a chunk (whose exact
    content varies between one token and the whole chunk; the bound is used).
    ``output_gate`` adds one gate per query element, projected with the queries.
    """

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

    ``ratio`` 0 keeps only the sliding window. With ``overlap`` each entry pools two
    neighbouring blocks of ``ratio`` tokens, which doubles the compressor's width. The
    output projection is low-rank in groups. ``indexer.top_k_tokens`` counts tokens, so
    ``top_k_tokens / ratio`` entries are read.
    """

    num_heads: int
    head_dim: int
    q_lora_rank: int
    o_lora_rank: int
    num_output_groups: int
    window_tokens: int
    ratio: int
    overlap: bool = False
    indexer: SparseIndexer | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearAttention:
    """Attention with a constant state per sequence (gated delta, lightning, KDA).

    The state of one sequence is ``num_value_heads`` matrices of ``key_head_dim`` by
    ``value_head_dim`` in ``state_dtype``, plus the last ``conv_kernel - 1`` inputs of the
    short convolution (``conv_kernel`` 0: none).

    Parameters
    ----------
    output_gate : bool
        Whether a full-rank gate, as wide as the values, multiplies the output.
    extra_matmul_params : int
        Small projections split over heads (decay, beta, low-rank gate up-projections).
    replicated_matmul_params : int
        Small projections that every rank holds (low-rank down-projections).
    extra_vector_params : int
        Per-head and per-channel vectors (decay, step bias, output norm).
    delta_rule : bool
        Whether the state is corrected by what it already predicts (gated delta, KDA) or
        only decayed and added to (lightning).
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
    replicated_matmul_params: int = 0
    delta_rule: bool = True


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
    hidden size (latent MoE): two projections, and a norm if ``latent_norm``, lead there
    and back. ``bias`` gives every expert its biases; ``router_bias`` is one element per
    expert. ``shared_width`` is the summed width of all shared experts.
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
    latent_norm: bool = False


Ffn = DenseFfn | MoeFfn


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One transformer layer.

    ``extra_params`` are weights outside attention, FFN and norms (hyper-connections, the
    input projection of a multi-token-prediction layer); ``extra_matmul_params`` of them
    multiply a token.
    """

    attention: Attention
    ffn: Ffn
    num_norms: int = 2
    norm_bias: bool = False
    extra_params: int = 0
    extra_matmul_params: int = 0


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
        Largest degree that splits it (heads, KV heads, columns, experts); beyond it,
        copies are kept.
    tied : bool
        True for an output head that is the embedding table: no total counts it, and a
        chip that holds both stores one.
    """

    name: str
    role: WeightRole
    shard: Shard
    num_params: int
    matmul_params: int
    shard_ways: int = 1
    tied: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A model: its layers, tables and number formats.

    Parameters
    ----------
    architecture : str
        The ``model_type`` of the configuration.
    mtp_layers : tuple of Layer
        Multi-token-prediction layers: counted apart, in no total.
    position_params, final_params, head_bias_params : int
        Learned positions; the norm before the head (and what belongs to it); the bias of
        the head.
    published_total_params, published_active_params : int, optional
        Publisher's counts; a vision tower counted by the publisher is subtracted from the
        total where its size is published.
    ignored_fields : tuple of str
        Configuration fields that the reader does not know; none is known to matter.
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
    head_bias_params: int = 0
    max_context: int | None = None
    precision: Precision
    source: str = ""
    published_total_params: int | None = None
    published_active_params: int | None = None
    ignored_fields: tuple[str, ...] = field(default=())

    def __hash__(self) -> int:
        """Of a few fields: tables of prices look models up often, and layers are many."""
        few = (self.name, self.hidden_size, self.vocab_size, len(self.layers), self.precision)
        return hash(few)
