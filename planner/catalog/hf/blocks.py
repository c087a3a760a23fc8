"""Building blocks shared by families: attention, FFNs, and which layer has which."""

from __future__ import annotations

from dataclasses import dataclass

from planner.catalog.hf import names
from planner.catalog.hf.fields import MAX_LAYERS, Fields
from planner.domain.model import (
    DenseFfn,
    Ffn,
    GroupedQueryAttention,
    Layer,
    MoeFfn,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What every family has: sizes read once from the language model's fields."""

    hidden: int
    num_layers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """What a family makes of a configuration; tables are described beside the layers."""

    layers: tuple[Layer, ...]
    mtp_layers: tuple[Layer, ...] = ()
    tied_by_default: bool = False
    position_params: int = 0
    final_params: int
    head_bias_params: int = 0


def read_shape(fields: Fields) -> Shape:
    """Read hidden size and number of layers."""
    return Shape(
        hidden=fields.count(*names.HIDDEN, maximum=2**20),
        num_layers=fields.count(*names.NUM_LAYERS, maximum=MAX_LAYERS),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class GqaTraits:
    """What a family adds to plain grouped-query attention.

    ``norm_scope``: ``head`` has one query and one key norm of the head size, ``layer`` one
    over all heads.
    """

    qkv_bias: bool = False
    output_bias: bool = False
    norm_scope: str = ""
    sinks: bool = False
    output_gate: bool = False


def grouped_query(
    fields: Fields, shape: Shape, traits: GqaTraits, kv_heads: int | None = None
) -> GroupedQueryAttention:
    """Build grouped-query attention; the number of KV heads defaults to all heads."""
    heads = fields.count(*names.NUM_HEADS, maximum=2**16)
    kv = kv_heads or fields.count(*names.NUM_KV_HEADS, default=heads, maximum=2**16)
    if heads % kv:
        fields.fail(
            names.NUM_KV_HEADS[0], f"is {kv}, which does not divide {heads} attention heads"
        )
    head_dim = fields.optional_count(*names.HEAD_DIM, maximum=2**16)
    if head_dim is None:
        if shape.hidden % heads:
            fields.fail(
                names.HEAD_DIM[0],
                f"is missing, and {heads} heads do not divide the hidden size {shape.hidden}",
                "add head_dim",
            )
        head_dim = shape.hidden // heads
    norms = {"": 0, "head": 2 * head_dim, "layer": (heads + kv) * head_dim}
    return GroupedQueryAttention(
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=head_dim,
        qkv_bias=traits.qkv_bias,
        output_bias=traits.output_bias,
        qk_norm_params=norms[traits.norm_scope],
        sinks=traits.sinks,
        output_gate=traits.output_gate,
    )


def dense(fields: Fields, gated: bool = True, bias: bool = False) -> DenseFfn:
    """Build a dense FFN; an explicit ``mlp_gated`` overrides the family's choice."""
    return DenseFfn(
        width=fields.count(*names.DENSE_WIDTH, maximum=2**24),
        gated=fields.flag("mlp_gated", gated),
        bias=bias,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MoeTraits:
    """What a family adds to plain routed experts.

    ``router_bias`` counts one element per expert (also a selection bias that is not added
    to the output). ``shared_gate``: a sigmoid gate on the shared expert.
    ``always_shared``: one shared expert that no field announces.
    """

    router_bias: bool = False
    shared_gate: bool = False
    always_shared: bool = False
    expert_bias: bool = False


def moe(fields: Fields, traits: MoeTraits) -> MoeFfn:
    """Build routed and shared experts."""
    num_experts = fields.count(*names.NUM_EXPERTS, maximum=2**20)
    top_k = fields.count(*names.TOP_K, maximum=2**20)
    if top_k > num_experts:
        fields.fail(names.TOP_K[0], f"is {top_k}, more than the {num_experts} experts")
    width = fields.count(*names.EXPERT_WIDTH, maximum=2**24)
    shared = fields.optional_count(*names.SHARED_WIDTH, minimum=0, maximum=2**24)
    num_shared = fields.optional_count(*names.NUM_SHARED, minimum=0, maximum=2**16)
    if traits.always_shared:
        num_shared = 1
    shared_width = num_shared * width if num_shared is not None else shared or 0
    return MoeFfn(
        num_experts=num_experts,
        top_k=top_k,
        expert_width=width,
        gated=fields.flag("mlp_gated", True),
        bias=traits.expert_bias,
        shared_width=shared_width,
        shared_gate=traits.shared_gate and shared_width > 0,
        router_bias=traits.router_bias,
    )


def sparse_layers(fields: Fields, shape: Shape) -> tuple[bool, ...]:
    """Which layers are mixtures of experts; all, unless a field says otherwise.

    Raises
    ------
    CatalogError
        For an unknown kind of layer or a list of the wrong length.
    """
    total = shape.num_layers
    kinds = fields.texts("mlp_layer_types", total)
    if kinds is not None:
        fields.skip("first_k_dense_replace", "moe_layer_freq")
        for index, kind in enumerate(kinds):
            if kind not in ("dense", "sparse"):
                fields.fail_at("mlp_layer_types", index, f"is {kind!r}; expected dense or sparse")
        return tuple(kind == "sparse" for kind in kinds)
    if fields.has("first_k_dense_replace", "moe_layer_freq"):
        return _dense_first(fields, total)
    listed = fields.counts("moe_layers")
    step = fields.count("interleave_moe_layer_step", "decoder_sparse_step", default=1)
    dense_only = set(fields.counts("mlp_only_layers") or ())
    chosen = set(listed) if listed is not None else set(range(step - 1, total, step))
    outside = max(chosen | dense_only, default=0)
    if outside >= total:
        field = "moe_layers" if listed and outside in listed else "mlp_only_layers"
        fields.fail(field, f"names layer {outside}, but there are {total}, counted from 0")
    return tuple(layer in chosen and layer not in dense_only for layer in range(total))


def _dense_first(fields: Fields, total: int) -> tuple[bool, ...]:
    """DeepSeek's rule: the first layers dense, then every ``moe_layer_freq``-th sparse."""
    first = fields.count("first_k_dense_replace", default=0, minimum=0, maximum=total)
    if fields.is_list("moe_layer_freq"):
        marks = fields.counts("moe_layer_freq", total) or ()
        for index, mark in enumerate(marks):
            if mark > 1:
                fields.fail_at("moe_layer_freq", index, f"is {mark}; expected 0 or 1")
        return tuple(mark == 1 for mark in marks)
    step = fields.count("moe_layer_freq", default=1)
    return tuple(layer >= first and layer % step == 0 for layer in range(total))


def windows(fields: Fields, shape: Shape, pattern: int | None = None) -> tuple[int | None, ...]:
    """Tokens that each layer sees, ``None`` for all of them.

    ``pattern`` is the family's default: every ``pattern``-th layer sees everything, the
    others the window.

    Raises
    ------
    CatalogError
        For an unknown entry of ``layer_types``, or a window kind without its size.
    """
    total = shape.num_layers
    window = fields.optional_count("sliding_window")
    if not fields.flag("use_sliding_window", True):
        window = None
    kinds = fields.texts("layer_types", total)
    step = fields.optional_count("sliding_window_pattern", "_sliding_window_pattern") or pattern
    if kinds is None:
        if window is not None and fields.flag("use_sliding_window", False):
            # Qwen's rule: only layers from max_window_layers on use the window.
            first = fields.count("max_window_layers", default=0, minimum=0)
            return tuple(window if layer >= first else None for layer in range(total))
        return tuple(
            None if step is not None and (layer + 1) % step == 0 else window
            for layer in range(total)
        )
    sizes = {"full_attention": None, "sliding_attention": window}
    for index, kind in enumerate(kinds):
        if kind not in sizes:
            fields.fail_at(
                "layer_types",
                index,
                f"is {kind!r}; this family knows {', '.join(sizes)}",
                "attention of another kind needs another family",
            )
        if kind == "sliding_attention" and window is None:
            fields.fail("sliding_window", f"is missing, but layer {index} uses it")
    return tuple(sizes[kind] for kind in kinds)


def chunks(fields: Fields, shape: Shape) -> tuple[int | None, ...]:
    """Tokens that each Llama-4 layer sees: a chunk where positions rotate, else all.

    Rotating layers are those with 1 in ``no_rope_layers`` (so named for the zeros), by
    default all but every fourth.
    """
    total = shape.num_layers
    chunk = fields.optional_count("attention_chunk_size")
    kinds = fields.texts("layer_types", total)
    if kinds is not None:
        fields.skip("no_rope_layers", "no_rope_layer_interval")
        for index, kind in enumerate(kinds):
            if kind not in ("full_attention", "chunked_attention"):
                fields.fail_at("layer_types", index, f"is {kind!r}: unknown kind of attention")
        return tuple(chunk if kind == "chunked_attention" else None for kind in kinds)
    marks = fields.counts("no_rope_layers")
    if marks:
        if len(marks) != total:
            fields.fail("no_rope_layers", f"has {len(marks)} entries; {total} are expected")
        return tuple(chunk if mark else None for mark in marks)
    interval = fields.count("no_rope_layer_interval", default=4)
    return tuple(chunk if (layer + 1) % interval else None for layer in range(total))


def num_mtp(fields: Fields, default: int = 0) -> int:
    """Number of multi-token-prediction layers."""
    per_module = fields.count("mtp_transformer_layers", default=1, maximum=MAX_LAYERS)
    modules = fields.count(*names.NUM_MTP, default=default, minimum=0, maximum=MAX_LAYERS)
    return modules * per_module if fields.flag("use_mtp", True) else 0


def mtp_layer(layer: Layer, hidden: int) -> Layer:
    """Turn a main layer into a multi-token-prediction layer.

    It adds the projection of hidden state and embedding together, a norm for each, and the
    norm before the shared head (DeepSeek-V3, arXiv 2412.19437, section 2.2).
    """
    return Layer(
        attention=layer.attention,
        ffn=layer.ffn,
        num_norms=layer.num_norms,
        norm_bias=layer.norm_bias,
        extra_params=layer.extra_params + 2 * hidden * hidden + 3 * hidden,
        extra_matmul_params=layer.extra_matmul_params + 2 * hidden * hidden,
    )


def mixed_ffns(
    sparse: tuple[bool, ...], routed: MoeFfn | None, plain: DenseFfn | None
) -> tuple[Ffn, ...]:
    """FFN of each layer."""
    chosen: list[Ffn] = []
    for is_sparse in sparse:
        ffn = routed if is_sparse else plain
        assert ffn is not None
        chosen.append(ffn)
    return tuple(chosen)
