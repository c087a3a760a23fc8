"""Families of ordinary softmax attention, one function each.

Each docstring says how the family differs from Llama; the source of every trait is the
model's published code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.catalog.hf import names
from planner.catalog.hf.blocks import (
    Body,
    GqaTraits,
    MoeTraits,
    Shape,
    chunks,
    dense,
    grouped_query,
    mixed_ffns,
    moe,
    mtp_layer,
    num_mtp,
    read_shape,
    sparse_layers,
    windows,
)
from planner.catalog.hf.fields import Fields
from planner.domain.model import (
    DenseFfn,
    Ffn,
    GroupedQueryAttention,
    Layer,
    MoeFfn,
    SparseIndexer,
)

Family = Callable[[Fields], Body]


def _layers(
    attention: GroupedQueryAttention,
    seen: tuple[int | None, ...],
    ffns: tuple[Ffn, ...],
    num_norms: int = 2,
    norm_bias: bool = False,
) -> tuple[Layer, ...]:
    return tuple(
        Layer(
            attention=replace(attention, window_tokens=window),
            ffn=ffn,
            num_norms=num_norms,
            norm_bias=norm_bias,
        )
        for window, ffn in zip(seen, ffns, strict=True)
    )


def _plain(fields: Fields, traits: GqaTraits, ffn_bias: bool = False) -> Body:
    shape = read_shape(fields)
    attention = grouped_query(fields, shape, traits)
    ffns = (dense(fields, bias=ffn_bias),) * shape.num_layers
    return Body(layers=_layers(attention, windows(fields, shape), ffns), final_params=shape.hidden)


def llama(fields: Fields) -> Body:
    """Llama and Mistral: gated FFN, two RMS norms, optional biases."""
    bias = fields.flag("attention_bias", False)
    traits = GqaTraits(qkv_bias=bias, output_bias=bias)
    return _plain(fields, traits, fields.flag("mlp_bias", False))


def qwen2(fields: Fields) -> Body:
    """Qwen2: biases on queries, keys and values that no field announces."""
    return _plain(fields, GqaTraits(qkv_bias=True))


def qwen3(fields: Fields) -> Body:
    """Qwen3: a norm per head on queries and keys."""
    bias = fields.flag("attention_bias", False)
    return _plain(fields, GqaTraits(qkv_bias=bias, output_bias=bias, norm_scope="head"))


def nemotron(fields: Fields) -> Body:
    """Nemotron: squared ReLU without gate, layer norms with bias."""
    shape = read_shape(fields)
    bias = fields.flag("attention_bias", False)
    attention = grouped_query(fields, shape, GqaTraits(qkv_bias=bias, output_bias=bias))
    ffn = dense(fields, gated=False, bias=fields.flag("mlp_bias", False))
    total = shape.num_layers
    layers = _layers(attention, (None,) * total, (ffn,) * total, norm_bias=True)
    return Body(layers=layers, final_params=2 * shape.hidden)


def palm(fields: Fields) -> Body:
    """PaLM: attention and FFN in parallel behind one norm, one KV head, tied table."""
    shape = read_shape(fields)
    parallel = fields.flag("parallel_attn_ffn", True)
    attention = grouped_query(fields, shape, GqaTraits())
    total = shape.num_layers
    layers = _layers(
        attention, (None,) * total, (dense(fields),) * total, num_norms=1 if parallel else 2
    )
    return Body(layers=layers, tied_by_default=True, final_params=shape.hidden)


def gptj(fields: Fields) -> Body:
    """GPT-J: parallel blocks behind one layer norm, biases in FFN and head only."""
    shape = read_shape(fields)
    if not fields.flag("parallel_attn_ffn", True):
        fields.fail("parallel_attn_ffn", "is false; this family is parallel")
    attention = grouped_query(fields, shape, GqaTraits())
    width = fields.count(*names.DENSE_WIDTH, default=4 * shape.hidden, maximum=2**24)
    ffn = DenseFfn(width=width, gated=fields.flag("mlp_gated", False), bias=True)
    total = shape.num_layers
    layers = _layers(attention, (None,) * total, (ffn,) * total, num_norms=1, norm_bias=True)
    return Body(
        layers=layers,
        final_params=2 * shape.hidden,
        head_bias_params=fields.count("vocab_size"),
    )


def falcon(fields: Fields) -> Body:
    """Falcon: plain FFN of four hidden sizes, biased layer norms, no other bias.

    The new decoder normalises attention and FFN apart; the old one (7B) has one KV head
    and one shared norm.
    """
    shape = read_shape(fields)
    bias = fields.flag("use_bias", fields.flag("bias", False))
    new = fields.flag("new_decoder_architecture", False)
    parallel = fields.flag("parallel_attn", True)
    single = fields.flag("multi_query", True) and not new
    traits = GqaTraits(qkv_bias=bias, output_bias=bias)
    if single:
        fields.skip(*names.NUM_KV_HEADS)
    attention = grouped_query(fields, shape, traits, kv_heads=1 if single else None)
    width = fields.count(*names.DENSE_WIDTH, default=4 * shape.hidden, maximum=2**24)
    ffn = DenseFfn(width=width, gated=fields.flag("mlp_gated", False), bias=bias)
    fields.skip("alibi")
    total = shape.num_layers
    num_norms = 1 if parallel and not new else 2
    layers = _layers(attention, (None,) * total, (ffn,) * total, num_norms, norm_bias=True)
    return Body(layers=layers, tied_by_default=True, final_params=2 * shape.hidden)


def megatron_gpt(fields: Fields) -> Body:
    """Megatron GPT: biases everywhere, plain FFN, learned positions, tied table."""
    shape = read_shape(fields)
    bias = fields.flag("use_bias", not fields.flag("no_bias", False))
    fields.flag("no_bias", False)
    attention = grouped_query(fields, shape, GqaTraits(qkv_bias=bias, output_bias=bias))
    ffn = dense(fields, gated=False, bias=bias)
    total = shape.num_layers
    layers = _layers(attention, (None,) * total, (ffn,) * total, norm_bias=True)
    positions = 0
    if fields.flag("learned_pos_emb", True):
        positions = fields.count(*names.MAX_CONTEXT, maximum=10**9) * shape.hidden
    return Body(
        layers=layers,
        tied_by_default=True,
        position_params=positions,
        final_params=2 * shape.hidden,
    )


def gemma3(fields: Fields) -> Body:
    """Gemma 3: four norms per layer, norms on queries and keys, five windows to one full."""
    shape = read_shape(fields)
    bias = fields.flag("attention_bias", False)
    traits = GqaTraits(qkv_bias=bias, output_bias=bias, norm_scope="head")
    attention = grouped_query(fields, shape, traits)
    seen = windows(fields, shape, pattern=6)
    ffns = (dense(fields),) * shape.num_layers
    layers = _layers(attention, seen, ffns, num_norms=4)
    return Body(layers=layers, tied_by_default=True, final_params=shape.hidden)


def _routed(
    fields: Fields, shape: Shape, traits: GqaTraits, experts: MoeTraits, num_norms: int = 2
) -> tuple[Layer, ...]:
    attention = grouped_query(fields, shape, traits)
    sparse = sparse_layers(fields, shape)
    routed = moe(fields, experts) if any(sparse) else None
    plain = None if all(sparse) else dense(fields)
    # In wholly sparse models the dense width is a filler of the configuration.
    fields.skip(*names.DENSE_WIDTH)
    ffns = mixed_ffns(sparse, routed, plain)
    return _layers(attention, windows(fields, shape), ffns, num_norms)


def mixtral(fields: Fields) -> Body:
    """Mixtral: every layer routed, no bias."""
    shape = read_shape(fields)
    layers = _routed(fields, shape, GqaTraits(), MoeTraits())
    return Body(layers=layers, final_params=shape.hidden)


def grok1(fields: Fields) -> Body:
    """Grok-1: four norms per layer, tied table."""
    shape = read_shape(fields)
    layers = _routed(fields, shape, GqaTraits(), MoeTraits(), num_norms=4)
    return Body(layers=layers, tied_by_default=True, final_params=shape.hidden)


def dbrx(fields: Fields) -> Body:
    """DBRX: KV heads and experts in nested objects, layer norms without bias."""
    shape = read_shape(fields)
    inner, ffn = fields.child("attn_config"), fields.child("ffn_config")
    if ffn is None:
        fields.fail("ffn_config", "is missing", "give a complete config.json")
    kv_heads = 1 if inner is None else inner.count("kv_n_heads", default=1)
    attention = grouped_query(fields, shape, GqaTraits(), kv_heads=kv_heads)
    num_experts = ffn.count("moe_num_experts", default=4)
    top_k = ffn.count("moe_top_k", default=1)
    if top_k > num_experts:
        ffn.fail("moe_top_k", f"is {top_k}, more than the {num_experts} experts")
    routed = MoeFfn(
        num_experts=num_experts,
        top_k=top_k,
        expert_width=ffn.count("ffn_hidden_size", default=3584),
    )
    total = shape.num_layers
    layers = _layers(attention, (None,) * total, (routed,) * total)
    return Body(layers=layers, final_params=shape.hidden)


def qwen2_moe(fields: Fields) -> Body:
    """Qwen2-MoE: QKV biases, a gated shared expert."""
    shape = read_shape(fields)
    layers = _routed(fields, shape, GqaTraits(qkv_bias=True), MoeTraits(shared_gate=True))
    return Body(layers=layers, final_params=shape.hidden)


def qwen3_moe(fields: Fields) -> Body:
    """Qwen3-MoE: norms on queries and keys, no shared expert."""
    shape = read_shape(fields)
    bias = fields.flag("attention_bias", fields.flag("qkv_bias", False))
    scope = "head" if fields.flag("use_qk_norm", True) else ""
    traits = GqaTraits(qkv_bias=bias, output_bias=bias, norm_scope=scope)
    layers = _routed(fields, shape, traits, MoeTraits(shared_gate=True))
    return Body(layers=layers, final_params=shape.hidden)


def glm4_moe(fields: Fields) -> Body:
    """GLM-4.5: QKV biases without output bias, a selection bias, dense first layers."""
    shape = read_shape(fields)
    scope = "head" if fields.flag("use_qk_norm", False) else ""
    traits = GqaTraits(qkv_bias=fields.flag("attention_bias", False), norm_scope=scope)
    layers = _routed(fields, shape, traits, MoeTraits(router_bias=True))
    last = mtp_layer(layers[-1], shape.hidden)
    return Body(layers=layers, mtp_layers=(last,) * num_mtp(fields), final_params=shape.hidden)


def gpt_oss(fields: Fields) -> Body:
    """gpt-oss: biases everywhere, attention sinks, every other layer a window."""
    shape = read_shape(fields)
    bias = fields.flag("attention_bias", True)
    traits = GqaTraits(qkv_bias=bias, output_bias=bias, sinks=True)
    attention = grouped_query(fields, shape, traits)
    routed = moe(fields, MoeTraits(router_bias=True, expert_bias=True))
    seen = windows(fields, shape, pattern=2)
    layers = _layers(attention, seen, (routed,) * shape.num_layers)
    return Body(layers=layers, final_params=shape.hidden)


def llama4(fields: Fields) -> Body:
    """Llama 4: one shared expert, MoE every ``interleave_moe_layer_step``-th layer, chunks.

    Its norm on queries and keys has no weights.
    """
    shape = read_shape(fields)
    bias = fields.flag("attention_bias", False)
    fields.flag("use_qk_norm", True)
    attention = grouped_query(fields, shape, GqaTraits(qkv_bias=bias, output_bias=bias))
    sparse = sparse_layers(fields, shape)
    routed = moe(fields, MoeTraits(always_shared=True)) if any(sparse) else None
    plain = None if all(sparse) else dense(fields)
    fields.skip(*names.DENSE_WIDTH)
    ffns = mixed_ffns(sparse, routed, plain)
    return Body(layers=_layers(attention, chunks(fields, shape), ffns), final_params=shape.hidden)


def minimax_m2(fields: Fields) -> Body:
    """MiniMax-M2: one norm over all query heads and one over all key heads."""
    shape = read_shape(fields)
    kinds = fields.counts("attn_type_list", shape.num_layers) or ()
    for index, kind in enumerate(kinds):
        if kind != 1:
            fields.fail_at("attn_type_list", index, f"is {kind}; this family has softmax (1) only")
    scope = _norm_scope(fields)
    experts = MoeTraits(router_bias=fields.flag("use_routing_bias", False))
    layers = _routed(fields, shape, GqaTraits(norm_scope=scope), experts)
    last = mtp_layer(layers[-1], shape.hidden)
    return Body(layers=layers, mtp_layers=(last,) * num_mtp(fields), final_params=shape.hidden)


def minimax_m3(fields: Fields) -> Body:
    """MiniMax-M3: grouped-query attention over blocks that an indexer picks."""
    shape = read_shape(fields)
    traits = GqaTraits(
        norm_scope=_norm_scope(fields), output_gate=fields.flag("attention_output_gate", False)
    )
    experts = MoeTraits(router_bias=fields.flag("use_routing_bias", False))
    layers = _routed(fields, shape, traits, experts)
    sparse = fields.child("sparse_attention_config")
    if sparse is not None and sparse.flag("use_sparse_attention", True):
        indexer = _block_indexer(sparse, shape)
        marks = sparse.counts("sparse_attention_freq", shape.num_layers)
        layers = tuple(
            _with_indexer(layer, indexer) if marks is None or marks[index] else layer
            for index, layer in enumerate(layers)
        )
    last = mtp_layer(layers[-1], shape.hidden)
    return Body(layers=layers, mtp_layers=(last,) * num_mtp(fields), final_params=shape.hidden)


def _norm_scope(fields: Fields) -> str:
    kind = fields.text("qk_norm_type") or "per_layer"
    scopes = {"per_layer": "layer", "per_head": "head"}
    if kind not in scopes:
        fields.fail("qk_norm_type", f"is {kind!r}; known are {', '.join(scopes)}")
    return scopes[kind] if fields.flag("use_qk_norm", False) else ""


def _block_indexer(sparse: Fields, shape: Shape) -> SparseIndexer:
    """Index queries from the hidden state, one shared key, one norm for each."""
    block = sparse.count("sparse_block_size")
    dim = sparse.count("sparse_index_dim", maximum=2**16)
    return SparseIndexer(
        top_k_tokens=block * sparse.count("sparse_topk_blocks"),
        num_heads=sparse.count("sparse_num_index_heads", maximum=2**16),
        head_dim=dim,
        query_rank=shape.hidden,
        block_tokens=block,
        head_weights=False,
        norm_params=2 * dim,
    )


def _with_indexer(layer: Layer, indexer: SparseIndexer) -> Layer:
    assert isinstance(layer.attention, GroupedQueryAttention)
    return replace(layer, attention=replace(layer.attention, indexer=indexer))
