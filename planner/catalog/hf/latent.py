"""Families with a latent cache: DeepSeek V2 to V4, Kimi-K2, GLM-5."""

from __future__ import annotations

from dataclasses import replace

from planner.catalog.hf import names
from planner.catalog.hf.blocks import (
    Body,
    MoeTraits,
    Shape,
    dense,
    mixed_ffns,
    moe,
    mtp_layer,
    num_mtp,
    read_shape,
    sparse_layers,
)
from planner.catalog.hf.fields import Fields
from planner.domain.dtypes import DType
from planner.domain.model import (
    CompressedAttention,
    LatentAttention,
    Layer,
    SparseIndexer,
)

# Engines cache an index key as 128 fp8 elements and one fp32 scale (132 bytes, as in the
# DeepSeek-V3.2 kernels): 1 + 1/32 bytes per element, which is what MXFP8 takes.
INDEX_KEY_DTYPE = DType.MXFP8


def latent(fields: Fields, output_gate: bool = False) -> LatentAttention:
    """Build multi-head latent attention; ``head_dim`` and KV heads mean nothing here."""
    fields.skip("head_dim", *names.NUM_KV_HEADS)
    size = 2**16
    return LatentAttention(
        num_heads=fields.count(*names.NUM_HEADS, maximum=size),
        q_lora_rank=fields.optional_count("q_lora_rank", maximum=size),
        kv_lora_rank=fields.count("kv_lora_rank", maximum=size),
        qk_nope_head_dim=fields.count("qk_nope_head_dim", maximum=size),
        qk_rope_head_dim=fields.count("qk_rope_head_dim", minimum=0, maximum=size),
        v_head_dim=fields.count("v_head_dim", maximum=size),
        output_gate=output_gate,
    )


def _latent_body(fields: Fields, router_bias: bool, indexed: bool = False) -> Body:
    shape = read_shape(fields)
    attention = latent(fields)
    indexers: tuple[SparseIndexer | None, ...] = (None,) * shape.num_layers
    mtp_indexer = None
    if indexed:
        indexers, mtp_indexer = _indexers(fields, shape, attention)
    sparse = sparse_layers(fields, shape)
    routed = moe(fields, MoeTraits(router_bias=router_bias)) if any(sparse) else None
    plain = None if all(sparse) else dense(fields)
    fields.skip(*names.DENSE_WIDTH)
    layers = tuple(
        Layer(attention=replace(attention, indexer=indexer), ffn=ffn)
        for indexer, ffn in zip(indexers, mixed_ffns(sparse, routed, plain), strict=True)
    )
    last = replace(layers[-1], attention=replace(attention, indexer=mtp_indexer))
    return Body(
        layers=layers,
        mtp_layers=(mtp_layer(last, shape.hidden),) * num_mtp(fields),
        final_params=shape.hidden,
    )


def deepseek_v2(fields: Fields) -> Body:
    """DeepSeek-V2: MLA, shared experts, no selection bias."""
    return _latent_body(fields, router_bias=fields.text("topk_method") == "noaux_tc")


def deepseek_v3(fields: Fields) -> Body:
    """DeepSeek-V3, R1 and Kimi-K2: a selection bias per expert."""
    return _latent_body(fields, router_bias=True)


def deepseek_v32(fields: Fields) -> Body:
    """DeepSeek-V3.2 and GLM-5: V3 with an indexer that picks cached tokens."""
    return _latent_body(fields, router_bias=True, indexed=True)


def _indexers(
    fields: Fields, shape: Shape, attention: LatentAttention
) -> tuple[tuple[SparseIndexer | None, ...], SparseIndexer]:
    """One indexer per layer, and that of a multi-token-prediction layer.

    The key norm is a layer norm: weight and bias of one key.
    """
    dim = fields.count("index_head_dim", maximum=2**16)
    full = SparseIndexer(
        top_k_tokens=fields.count("index_topk"),
        num_heads=fields.count("index_n_heads", maximum=2**16),
        head_dim=dim,
        query_rank=attention.q_lora_rank or shape.hidden,
        norm_params=2 * dim,
        key_dtype=INDEX_KEY_DTYPE,
    )
    kinds = fields.texts("indexer_types", shape.num_layers)
    if kinds is None:
        return (full,) * shape.num_layers, full
    for index, kind in enumerate(kinds):
        if kind not in ("full", "shared"):
            fields.fail_at("indexer_types", index, f"is {kind!r}; expected full or shared")
    shared = replace(full, computes_index=False)
    return tuple(full if kind == "full" else shared for kind in kinds), full


def deepseek_v4(fields: Fields) -> Body:
    """DeepSeek-V4: one shared key/value head, compressed caches, hyper-connections."""
    shape = read_shape(fields)
    # The single key/value head is part of the attention's definition.
    kv_heads = fields.count(*names.NUM_KV_HEADS, default=1)
    if kv_heads != 1:
        fields.fail(names.NUM_KV_HEADS[0], f"is {kv_heads}; this family has one")
    fields.skip("qk_rope_head_dim", *names.DENSE_WIDTH)
    mtp = num_mtp(fields)
    ratios = fields.counts("compress_ratios")
    if ratios is None or len(ratios) not in (shape.num_layers, shape.num_layers + mtp):
        fields.fail(
            "compress_ratios",
            f"must list one ratio for each of the {shape.num_layers} layers"
            + (f", and may for the {mtp} prediction layers" if mtp else ""),
        )
    hashed = fields.count("num_hash_layers", default=0, minimum=0)
    routed = moe(fields, MoeTraits(router_bias=True))
    streams = fields.count("hc_mult", default=1, maximum=2**10)
    extra, extra_matmul = _hyper_connections(shape.hidden, streams)
    attentions = _compressed_attentions(fields, shape, ratios)
    layers = tuple(
        Layer(
            attention=attention,
            ffn=replace(routed, router_bias=index >= hashed),
            extra_params=2 * extra,
            extra_matmul_params=2 * extra_matmul,
        )
        for index, attention in enumerate(attentions)
    )
    # Head: mixes the streams into one (weights, bias, scale), then the norm.
    mixing = streams * streams * shape.hidden + streams + 1 if streams > 1 else 0
    return Body(
        layers=layers[: shape.num_layers],
        mtp_layers=tuple(
            mtp_layer(layers[min(shape.num_layers + index, len(layers) - 1)], shape.hidden)
            for index in range(mtp)
        ),
        final_params=shape.hidden + mixing,
    )


def _hyper_connections(hidden: int, streams: int) -> tuple[int, int]:
    """Parameters, and those that multiply a token, of one manifold hyper-connection.

    From all streams it predicts what to read, what to write and how to mix:
    ``(2 + streams) * streams`` numbers, each with a bias, and three scales.
    """
    if streams == 1:
        return 0, 0
    outputs = (2 + streams) * streams
    matmul = outputs * streams * hidden
    return matmul + outputs + 3, matmul


def _compressed_attentions(
    fields: Fields, shape: Shape, ratios: tuple[int, ...]
) -> tuple[CompressedAttention, ...]:
    """Attention of every ratio: 0 window only, 4 overlapping and indexed, else plain."""
    heads = fields.count(*names.NUM_HEADS, maximum=2**16)
    dim = fields.count("head_dim", maximum=2**16)
    groups = fields.count("o_groups", maximum=2**16)
    if heads % groups:
        fields.fail("o_groups", f"is {groups}, which does not divide {heads} attention heads")
    base = CompressedAttention(
        num_heads=heads,
        head_dim=dim,
        q_lora_rank=fields.count("q_lora_rank", maximum=2**16),
        o_lora_rank=fields.count("o_lora_rank", maximum=2**16),
        num_output_groups=groups,
        window_tokens=fields.count("sliding_window"),
        ratio=0,
    )
    indexer = SparseIndexer(
        top_k_tokens=4 * fields.count("index_topk"),
        num_heads=fields.count("index_n_heads", maximum=2**16),
        head_dim=fields.count("index_head_dim", maximum=2**16),
        query_rank=base.q_lora_rank,
        block_tokens=4,
        has_key_projection=False,
        key_dtype=INDEX_KEY_DTYPE,
    )
    kinds = {
        0: base,
        4: replace(base, ratio=4, overlap=True, indexer=indexer),
        128: replace(base, ratio=128),
    }
    for index, ratio in enumerate(ratios):
        if ratio not in kinds:
            fields.fail_at("compress_ratios", index, f"is {ratio}; known are 0, 4 and 128")
    return tuple(kinds[ratio] for ratio in ratios)
