"""Weights of a model, counted: what exists, how it may be split, what one token multiplies.

Assumptions
-----------
- Projections that read the same input and split the same way are one weight (query and
  gate; gate and up of an FFN): engines fuse them into one matrix multiply.
- A bias is counted with its matrix. Only matrices cost FLOP.
- MLA is priced in its absorbed form: the up-projection of keys and values multiplies every
  token once, on the query and on the output side (DeepSeek-V2, arXiv 2405.04434, section
  2.1.2), so ``matmul_params`` of ``kv_b_proj`` equals its size.
- Indexers, compressors and hyper-connections are replicated under tensor parallelism, as
  the public engines do.
- Compressors carry the attention format although checkpoints keep them in bf16: 0.3 % of a
  DeepSeek-V4 layer.
- Not counted: quantisation scales of plain fp8 (see :mod:`planner.domain.dtypes`), the
  token-to-expert table of hash routing, the queries of attention residuals (0.0001 % of
  Kimi-K3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from planner.domain.dtypes import BYTES_PER_ELEMENT, Precision
from planner.domain.model import (
    Attention,
    CompressedAttention,
    DenseFfn,
    Ffn,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    Shard,
    SparseIndexer,
    Weight,
    WeightRole,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActiveParams:
    """Weights that one token touches.

    Parameters
    ----------
    with_tables : int
        Embedding and head included (once when tied).
    core : int
        Without them.
    """

    with_tables: int
    core: int


def layer_weights(model: ModelSpec, layer: Layer) -> tuple[Weight, ...]:
    """Weights of one layer; those of routed experts count **one** expert.

    Parameters
    ----------
    model : ModelSpec
        Gives the hidden size.
    layer : Layer
        A main or a multi-token-prediction layer of ``model``.
    """
    return _layer_weights(model.hidden_size, layer)


@lru_cache(maxsize=4096)
def _layer_weights(hidden: int, layer: Layer) -> tuple[Weight, ...]:
    weights = [*_attention_weights(hidden, layer.attention), *_ffn_weights(hidden, layer.ffn)]
    if layer.num_norms:
        size = layer.num_norms * hidden * (2 if layer.norm_bias else 1)
        weights.append(_vector("norms", WeightRole.NORM, size))
    if layer.extra_params:
        weights.append(
            Weight(
                name="extra",
                role=WeightRole.NORM,
                shard=Shard.REPLICATED,
                num_params=layer.extra_params,
                matmul_params=layer.extra_matmul_params,
            )
        )
    return tuple(weights)


def table_weights(model: ModelSpec) -> tuple[Weight, ...]:
    """Embedding, learned positions, final norm and output head.

    The head is always listed, since its matrix multiply is always paid. ``tied`` marks a
    head that is the embedding table: totals skip it, and only a chip that does not hold
    the embedding stores it.
    """
    table = model.vocab_size * model.hidden_size
    weights = [
        Weight(
            name="embedding",
            role=WeightRole.EMBEDDING,
            shard=Shard.VOCAB,
            num_params=table,
            matmul_params=0,
            shard_ways=model.vocab_size,
        )
    ]
    if model.position_params:
        weights.append(_vector("positions", WeightRole.EMBEDDING, model.position_params))
    if model.final_params:
        weights.append(_vector("final_norm", WeightRole.NORM, model.final_params))
    weights.append(
        Weight(
            name="head",
            role=WeightRole.HEAD,
            shard=Shard.VOCAB,
            num_params=table + model.head_bias_params,
            matmul_params=table,
            shard_ways=model.vocab_size,
            tied=model.tied_embeddings,
        )
    )
    return tuple(weights)


def weight_bytes(weight: Weight, precision: Precision) -> float:
    """Bytes of ``weight`` in the format of its role (of one expert, for routed experts)."""
    return weight.num_params * BYTES_PER_ELEMENT[precision.of_role(weight.role.value)]


def layer_params(model: ModelSpec, layer: Layer) -> int:
    """Parameters of one layer, all experts included."""
    experts = layer.ffn.num_experts if isinstance(layer.ffn, MoeFfn) else 0
    return _sum_params(layer_weights(model, layer), experts)


def layer_active_params(model: ModelSpec, layer: Layer) -> int:
    """Parameters of one layer that one token touches: ``top_k`` of its routed experts."""
    experts = layer.ffn.top_k if isinstance(layer.ffn, MoeFfn) else 0
    return _sum_params(layer_weights(model, layer), experts)


def total_params(model: ModelSpec) -> int:
    """Parameters of the text model, without multi-token-prediction layers and vision tower."""
    layers = sum(layer_params(model, layer) for layer in model.layers)
    return layers + _sum_params(table_weights(model), 0)


def active_params(model: ModelSpec) -> ActiveParams:
    """Parameters that one token touches, with and without the vocabulary tables.

    Learned positions and the final norm belong to the core.
    """
    layers = sum(layer_active_params(model, layer) for layer in model.layers)
    tables = table_weights(model)
    vocabulary = [weight for weight in tables if weight.shard is Shard.VOCAB]
    everything = layers + _sum_params(tables, 0)
    return ActiveParams(with_tables=everything, core=everything - _sum_params(vocabulary, 0))


def mtp_params(model: ModelSpec) -> int:
    """Parameters of the multi-token-prediction layers; they share the model's tables."""
    return sum(layer_params(model, layer) for layer in model.mtp_layers)


def _sum_params(weights: Iterable[Weight], num_experts: int) -> int:
    total = 0
    for weight in weights:
        copies = num_experts if weight.role is WeightRole.ROUTED_EXPERT else 1
        total += 0 if weight.tied else weight.num_params * copies
    return total


def _vector(name: str, role: WeightRole, size: int) -> Weight:
    return Weight(name=name, role=role, shard=Shard.REPLICATED, num_params=size, matmul_params=0)


def _matrix(name: str, size: int, shard: Shard, ways: int = 1, bias: int = 0) -> Weight:
    return Weight(
        name=name,
        role=WeightRole.ATTENTION,
        shard=shard,
        num_params=size + bias,
        matmul_params=size,
        shard_ways=ways,
    )


def _attention_weights(hidden: int, attention: Attention) -> list[Weight]:
    match attention:
        case GroupedQueryAttention():
            weights = _grouped_query(hidden, attention)
        case LatentAttention():
            weights = _latent(hidden, attention)
        case CompressedAttention():
            weights = _compressed(hidden, attention)
        case LinearAttention():
            return _linear(hidden, attention)
    if attention.indexer is not None:
        weights += _indexer(hidden, attention.indexer)
    return weights


def _grouped_query(hidden: int, attention: GroupedQueryAttention) -> list[Weight]:
    heads = attention.num_heads
    width = heads * attention.head_dim
    queries = 2 * width if attention.output_gate else width
    kv_width = 2 * attention.num_kv_heads * attention.head_dim
    biased = attention.qkv_bias
    weights = [
        _matrix("q_proj", hidden * queries, Shard.HEADS, heads, queries if biased else 0),
        _matrix(
            "kv_proj",
            hidden * kv_width,
            Shard.KV_HEADS,
            attention.num_kv_heads,
            kv_width if biased else 0,
        ),
        _matrix(
            "o_proj", width * hidden, Shard.HEADS, heads, hidden if attention.output_bias else 0
        ),
    ]
    if attention.qk_norm_params:
        weights.append(_vector("qk_norm", WeightRole.NORM, attention.qk_norm_params))
    if attention.sinks:
        weights.append(_matrix("sinks", 0, Shard.HEADS, heads, heads))
    return weights


def _latent(hidden: int, attention: LatentAttention) -> list[Weight]:
    """DeepSeek-V2, arXiv 2405.04434, equations 9 to 19."""
    heads = attention.num_heads
    queries = heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim)
    latent = attention.kv_lora_rank + attention.qk_rope_head_dim
    values = heads * attention.v_head_dim
    rank = attention.q_lora_rank
    up = attention.kv_lora_rank * heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    weights = [
        _matrix("qkv_a_proj", hidden * (latent + (rank or 0)), Shard.REPLICATED),
        _matrix("q_b_proj", (rank or hidden) * queries, Shard.HEADS, heads),
        _matrix("kv_b_proj", up, Shard.HEADS, heads),
        _matrix("o_proj", values * hidden, Shard.HEADS, heads),
        _vector("latent_norms", WeightRole.NORM, attention.kv_lora_rank + (rank or 0)),
    ]
    if attention.output_gate:
        weights.append(_matrix("gate_proj", hidden * values, Shard.HEADS, heads))
    return weights


def _compressed(hidden: int, attention: CompressedAttention) -> list[Weight]:
    """DeepSeek-V4 reference model: latent queries, one shared key/value head."""
    heads, dim, rank = attention.num_heads, attention.head_dim, attention.q_lora_rank
    groups, output = attention.num_output_groups, attention.o_lora_rank
    weights = [
        _matrix("qkv_a_proj", hidden * (rank + dim), Shard.REPLICATED),
        _matrix("q_b_proj", rank * heads * dim, Shard.HEADS, heads),
        # Block-diagonal: each group maps its own heads to its own rank.
        _matrix("o_a_proj", heads * dim * output, Shard.HEADS, groups),
        _matrix("o_b_proj", groups * output * hidden, Shard.HEADS, groups),
        _vector("latent_norms", WeightRole.NORM, rank + dim),
        _matrix("sinks", 0, Shard.HEADS, heads, heads),
    ]
    if attention.ratio:
        weights += _compressor("compressor", hidden, attention, dim)
        if attention.indexer is not None:
            weights += _compressor(
                "index_compressor", hidden, attention, attention.indexer.head_dim
            )
    return weights


def _compressor(name: str, hidden: int, attention: CompressedAttention, dim: int) -> list[Weight]:
    """Gated pooling of ``ratio`` tokens: value and score projections, a bias per position."""
    width = dim * (2 if attention.overlap else 1)
    return [
        _matrix(f"{name}_proj", 2 * hidden * width, Shard.REPLICATED),
        _vector(f"{name}_vectors", WeightRole.NORM, attention.ratio * width + dim),
    ]


def _indexer(hidden: int, indexer: SparseIndexer) -> list[Weight]:
    """DeepSeek-V3.2 lightning indexer; a compressed cache supplies its own index keys."""
    if not indexer.computes_index:
        return []
    queries = indexer.query_rank * indexer.num_heads * indexer.head_dim
    keys = hidden * indexer.head_dim if indexer.has_key_projection else 0
    weights = [_matrix("index_q_proj", queries, Shard.REPLICATED)]
    inputs = keys + (hidden * indexer.num_heads if indexer.head_weights else 0)
    if inputs:
        weights.append(_matrix("index_k_proj", inputs, Shard.REPLICATED))
    if indexer.norm_params:
        weights.append(_vector("index_norms", WeightRole.NORM, indexer.norm_params))
    return weights


def _linear(hidden: int, attention: LinearAttention) -> list[Weight]:
    key_heads, heads = attention.num_key_heads, attention.num_value_heads
    keys = key_heads * attention.key_head_dim
    values = heads * attention.value_head_dim
    gate = hidden * values if attention.output_gate else 0
    vectors = attention.conv_kernel * (2 * keys + values) + attention.extra_vector_params
    weights = [
        _matrix("qk_proj", 2 * hidden * keys, Shard.HEADS, key_heads),
        _matrix(
            "v_gate_proj",
            hidden * values + gate + attention.extra_matmul_params,
            Shard.HEADS,
            heads,
        ),
        _matrix("o_proj", values * hidden, Shard.HEADS, heads),
    ]
    if attention.replicated_matmul_params:
        size = attention.replicated_matmul_params
        weights.append(_matrix("low_rank_proj", size, Shard.REPLICATED))
    if vectors:
        weights.append(_vector("linear_vectors", WeightRole.NORM, vectors))
    return weights


def _ffn_weights(hidden: int, ffn: Ffn) -> list[Weight]:
    match ffn:
        case DenseFfn():
            return _mlp(WeightRole.DENSE_FFN, hidden, ffn.width, ffn.gated, ffn.bias)
        case MoeFfn():
            return _moe(hidden, ffn)


def _mlp(role: WeightRole, hidden: int, width: int, gated: bool, bias: bool) -> list[Weight]:
    inner = 2 * width if gated else width
    return [
        Weight(
            name="up_proj",
            role=role,
            shard=Shard.WIDTH,
            num_params=inner * (hidden + bias),
            matmul_params=inner * hidden,
            shard_ways=width,
        ),
        Weight(
            name="down_proj",
            role=role,
            shard=Shard.WIDTH,
            num_params=width * hidden + (hidden if bias else 0),
            matmul_params=width * hidden,
            shard_ways=width,
        ),
    ]


def _moe(hidden: int, ffn: MoeFfn) -> list[Weight]:
    router = hidden * ffn.num_experts
    weights = [
        Weight(
            name="router",
            role=WeightRole.ROUTER,
            shard=Shard.REPLICATED,
            num_params=router + (ffn.num_experts if ffn.router_bias else 0),
            matmul_params=router,
        )
    ]
    inside = ffn.expert_hidden or hidden
    for weight in _mlp(WeightRole.ROUTED_EXPERT, inside, ffn.expert_width, ffn.gated, ffn.bias):
        weights.append(
            Weight(
                name=f"expert_{weight.name}",
                role=weight.role,
                shard=Shard.EXPERTS,
                num_params=weight.num_params,
                matmul_params=weight.matmul_params,
                shard_ways=ffn.num_experts,
            )
        )
    if ffn.shared_width:
        weights += _mlp(WeightRole.SHARED_EXPERT, hidden, ffn.shared_width, ffn.gated, False)
    if ffn.shared_gate:
        weights.append(_shared("shared_gate", hidden))
    if ffn.expert_hidden:
        weights.append(_shared("latent_proj", 2 * hidden * ffn.expert_hidden))
        if ffn.latent_norm:
            weights.append(_vector("latent_norm", WeightRole.NORM, ffn.expert_hidden))
    return weights


def _shared(name: str, size: int) -> Weight:
    """Weight of an MoE layer that every token passes and every rank holds."""
    return Weight(
        name=name,
        role=WeightRole.SHARED_EXPERT,
        shard=Shard.REPLICATED,
        num_params=size,
        matmul_params=size,
    )
