"""Families that mix softmax attention with constant-state attention."""

from __future__ import annotations

from dataclasses import replace

from planner.catalog.hf import names
from planner.catalog.hf.blocks import (
    Body,
    GqaTraits,
    MoeTraits,
    Shape,
    dense,
    grouped_query,
    mixed_ffns,
    moe,
    mtp_layer,
    num_mtp,
    read_shape,
    sparse_layers,
)
from planner.catalog.hf.fields import Fields
from planner.catalog.hf.latent import latent
from planner.domain.dtypes import DType
from planner.domain.model import Attention, Layer, LinearAttention, MoeFfn

_STATE_DTYPES = {
    "float32": DType.FP32,
    "bfloat16": DType.BF16,
    "float16": DType.FP16,
}


def qwen3_next(fields: Fields) -> Body:
    """Qwen3-Next: its one multi-token-prediction layer is announced by no field."""
    return _gated_delta_body(fields, default_mtp=1)


def qwen3_5_moe(fields: Fields) -> Body:
    """Qwen3.5-MoE: Qwen3-Next's layers, prediction layers announced."""
    return _gated_delta_body(fields, default_mtp=0)


def _gated_delta_body(fields: Fields, default_mtp: int) -> Body:
    shape = read_shape(fields)
    bias = fields.flag("attention_bias", False)
    gate = fields.flag("attn_output_gate", True)
    traits = GqaTraits(qkv_bias=bias, output_bias=bias, norm_scope="head", output_gate=gate)
    softmax = grouped_query(fields, shape, traits)
    linear = _gated_delta(fields, shape)
    sparse = sparse_layers(fields, shape)
    routed = moe(fields, MoeTraits(shared_gate=True)) if any(sparse) else None
    plain = None if all(sparse) else dense(fields)
    fields.skip(*names.DENSE_WIDTH)
    ffns = mixed_ffns(sparse, routed, plain)
    layers = tuple(
        Layer(attention=softmax if full else linear, ffn=ffn)
        for full, ffn in zip(_full_layers(fields, shape), ffns, strict=True)
    )
    last = mtp_layer(Layer(attention=softmax, ffn=ffns[-1]), shape.hidden)
    return Body(
        layers=layers,
        mtp_layers=(last,) * num_mtp(fields, default_mtp),
        final_params=shape.hidden,
    )


def _full_layers(fields: Fields, shape: Shape) -> tuple[bool, ...]:
    """Which layers are softmax: ``layer_types``, else every n-th."""
    kinds = fields.texts("layer_types", shape.num_layers)
    step = fields.count("full_attention_interval", default=4)
    if kinds is None:
        return tuple((layer + 1) % step == 0 for layer in range(shape.num_layers))
    for index, kind in enumerate(kinds):
        if kind not in ("full_attention", "linear_attention"):
            fields.fail_at(
                "layer_types",
                index,
                f"is {kind!r}; this family knows full_attention, linear_attention",
            )
    return tuple(kind == "full_attention" for kind in kinds)


def _gated_delta(fields: Fields, shape: Shape) -> LinearAttention:
    """Gated DeltaNet: two gates per value head from the hidden state, decay and step bias.

    The output norm has one value head's size.
    """
    size = 2**16
    heads = fields.count("linear_num_value_heads", maximum=size)
    values = fields.count("linear_value_head_dim", maximum=size)
    key_heads = fields.count("linear_num_key_heads", maximum=size)
    if heads % key_heads:
        fields.fail(
            "linear_num_value_heads", f"is {heads}, not a multiple of {key_heads} key heads"
        )
    return LinearAttention(
        num_key_heads=key_heads,
        num_value_heads=heads,
        key_head_dim=fields.count("linear_key_head_dim", maximum=size),
        value_head_dim=values,
        conv_kernel=fields.count("linear_conv_kernel_dim", maximum=1024),
        output_gate=True,
        extra_matmul_params=2 * heads * shape.hidden,
        extra_vector_params=2 * heads + values,
        state_dtype=_state_dtype(fields),
    )


def _state_dtype(fields: Fields) -> DType:
    name = fields.text("mamba_ssm_dtype") or "float32"
    if name not in _STATE_DTYPES:
        fields.fail("mamba_ssm_dtype", f"is {name!r}; known are {', '.join(_STATE_DTYPES)}")
    return _STATE_DTYPES[name]


def minimax_m1(fields: Fields) -> Body:
    """MiniMax-Text-01 and M1: lightning attention (0), every few layers softmax (1)."""
    shape = read_shape(fields)
    softmax = grouped_query(fields, shape, GqaTraits())
    heads, width = softmax.num_heads, softmax.num_heads * softmax.head_dim
    lightning = LinearAttention(
        num_key_heads=heads,
        num_value_heads=heads,
        key_head_dim=softmax.head_dim,
        value_head_dim=softmax.head_dim,
        conv_kernel=0,
        output_gate=True,
        extra_matmul_params=0,
        extra_vector_params=width,
        state_dtype=DType.FP32,
        delta_rule=False,
    )
    routed = moe(fields, MoeTraits())
    kinds = fields.counts("attn_type_list", shape.num_layers)
    if kinds is None:
        fields.fail("attn_type_list", "is missing", "give a complete config.json")
    for index, kind in enumerate(kinds):
        if kind not in (0, 1):
            fields.fail_at("attn_type_list", index, f"is {kind}; expected 0 or 1")
    layers = tuple(Layer(attention=softmax if kind else lightning, ffn=routed) for kind in kinds)
    return Body(layers=layers, final_params=shape.hidden)


def kimi_linear(fields: Fields) -> Body:
    """Kimi Linear and Kimi-K3: KDA layers, MLA layers, experts in a latent space."""
    shape = read_shape(fields)
    config = fields.child("linear_attn_config")
    if config is None:
        fields.fail("linear_attn_config", "is missing", "give a complete config.json")
    softmax = latent(fields, output_gate=fields.flag("mla_use_output_gate", False))
    delta = _kimi_delta(config, shape)
    full = _listed_layers(config, shape)
    sparse = sparse_layers(fields, shape)
    routed = _latent_moe(fields) if any(sparse) else None
    plain = None if all(sparse) else dense(fields)
    fields.skip(*names.DENSE_WIDTH)
    ffns = mixed_ffns(sparse, routed, plain)
    attentions: list[Attention] = [softmax if is_full else delta for is_full in full]
    layers = tuple(
        Layer(attention=attention, ffn=ffn) for attention, ffn in zip(attentions, ffns, strict=True)
    )
    last = mtp_layer(Layer(attention=softmax, ffn=ffns[-1]), shape.hidden)
    # The queries of attention residuals weigh 0.0001 %: see planner.cost.weights.
    fields.skip("attn_res_block_size")
    return Body(layers=layers, mtp_layers=(last,) * num_mtp(fields), final_params=shape.hidden)


def _listed_layers(config: Fields, shape: Shape) -> tuple[bool, ...]:
    """Which layers are softmax; both lists count layers from 1."""
    full = set(config.counts("full_attn_layers") or ())
    delta = set(config.counts("kda_layers") or ())
    expected = set(range(1, shape.num_layers + 1))
    if full & delta or full | delta != expected:
        config.fail(
            "kda_layers",
            f"and full_attn_layers must name each of layers 1 to {shape.num_layers} once",
        )
    return tuple(layer in full for layer in range(1, shape.num_layers + 1))


def _kimi_delta(config: Fields, shape: Shape) -> LinearAttention:
    """Kimi delta attention (arXiv 2510.26692): decay per channel through a low rank.

    Vectors: decay and step bias per head and channel, output norm.
    """
    heads = config.count("num_heads", maximum=2**16)
    dim = config.count("head_dim", maximum=2**16)
    width = heads * dim
    full_rank = config.flag("use_full_rank_gate", False)
    low_ranks = 1 if full_rank else 2
    return LinearAttention(
        num_key_heads=heads,
        num_value_heads=heads,
        key_head_dim=dim,
        value_head_dim=dim,
        conv_kernel=config.count("short_conv_kernel_size", maximum=1024),
        output_gate=full_rank,
        extra_matmul_params=low_ranks * dim * width + heads * shape.hidden,
        replicated_matmul_params=low_ranks * shape.hidden * dim,
        extra_vector_params=heads + width + dim,
        state_dtype=DType.FP32,
    )


def _latent_moe(fields: Fields) -> MoeFfn:
    inside = fields.optional_count("routed_expert_hidden_size", maximum=2**20)
    has_norm = fields.flag("latent_moe_use_norm", False)
    return replace(
        moe(fields, MoeTraits(router_bias=True)),
        expert_hidden=inside,
        latent_norm=has_norm and inside is not None,
    )
