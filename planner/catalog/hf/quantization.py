"""Number formats of a configuration: ``torch_dtype`` and ``quantization_config``.

A role (attention, experts, head ...) has one format here. A checkpoint that converts some
matrices of a role and keeps others is refused, since no single format describes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from planner.catalog.hf import names
from planner.catalog.hf.document import describe
from planner.catalog.hf.fields import Fields
from planner.domain.dtypes import DType, Precision
from planner.domain.model import LatentAttention, Layer, MoeFfn

TORCH_DTYPES = {
    "bfloat16": DType.BF16,
    "float16": DType.FP16,
    "float32": DType.FP32,
}

# Formats of compressed-tensors by (type, bits); 4-bit floats are told apart by group size.
_FORMATS = {
    ("float", 8): DType.FP8,
    ("int", 8): DType.INT8,
    ("int", 4): DType.INT4,
}
_FLOAT4_GROUPS = {16: DType.NVFP4, 32: DType.MXFP4}

# Large matrices that stand for their role, as modules below ``model.layers.<n>``.
_MODULES = {
    "attention": ("self_attn.o_proj",),
    "dense_ffn": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "shared_expert": ("mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj"),
    "routed_expert": ("mlp.experts.0.up_proj", "mlp.experts.0.down_proj"),
}


def base_dtype(text: Fields, outer: Fields | None) -> DType:
    """Format of unquantised weights: ``torch_dtype`` or ``dtype``, bf16 if absent.

    The language model's own field wins over the one around it.
    """
    found = DType.BF16
    for fields in (text,) if outer is None else (outer, text):
        name = fields.text(*names.DTYPE)
        if name is None:
            continue
        dtype = TORCH_DTYPES.get(name.removeprefix("torch."))
        if dtype is None:
            key = next(key for key in names.DTYPE if fields.text(key) is not None)
            fields.fail(key, f"is {describe(name)}; known are {', '.join(TORCH_DTYPES)}")
        found = dtype
    return found


def uniform(dtype: DType) -> Precision:
    """Every role in ``dtype``."""
    return Precision(
        attention=dtype,
        dense_ffn=dtype,
        shared_expert=dtype,
        routed_expert=dtype,
        router=dtype,
        embedding=dtype,
        head=dtype,
        norm=dtype,
        activations=dtype,
        kv=dtype,
    )


def read_precision(text: Fields, outer: Fields | None, layers: tuple[Layer, ...]) -> Precision:
    """Derive the formats of all roles.

    Parameters
    ----------
    text, outer : Fields
        The language model's fields, and those around them if it is nested.
    layers : tuple of Layer
        Main layers: which roles exist, and how many layers a pattern must cover.

    Raises
    ------
    CatalogError
        For an unknown method, format or scheme, or a role converted only in part.
    """
    precision = uniform(base_dtype(text, outer))
    quantization = text.child("quantization_config")
    if outer is not None:
        around = outer.child("quantization_config")
        quantization = quantization or around
    if quantization is not None:
        method = quantization.text("quant_method")
        readers = {
            "fp8": _read_fp8,
            "mxfp4": _read_mxfp4,
            "compressed-tensors": _read_compressed,
        }
        if method is None:
            quantization.fail("quant_method", "is missing", f"known are {', '.join(readers)}")
        if method not in readers:
            quantization.fail(
                "quant_method",
                f"is {method!r}; known are {', '.join(readers)}",
                "remove quantization_config and choose the weight format of the run instead",
            )
        precision = readers[method](quantization, precision, layers)
    return _expert_dtype(text, precision)


def _expert_dtype(text: Fields, precision: Precision) -> Precision:
    """DeepSeek-V4 states the experts' format apart; its fp4 has one scale per 32 elements."""
    name = text.text("expert_dtype")
    if name is None:
        return precision
    formats = {"fp4": DType.MXFP4, "fp8": DType.FP8, "bf16": DType.BF16}
    if name not in formats:
        text.fail("expert_dtype", f"is {name!r}; known are {', '.join(formats)}")
    return replace(precision, routed_expert=formats[name])


def _read_fp8(fields: Fields, base: Precision, layers: tuple[Layer, ...]) -> Precision:
    """All matrices of the layers in fp8; tables, norms and router as they were."""
    scheme = fields.text("activation_scheme")
    if scheme not in (None, "dynamic", "static"):
        fields.fail("activation_scheme", f"is {scheme!r}; known are dynamic and static")
    patterns = _patterns(fields, "modules_to_not_convert", "ignored_layers")
    converted = _convert(fields, base, DType.FP8, patterns, layers)
    return replace(converted, activations=DType.FP8 if scheme else base.activations)


def _read_mxfp4(fields: Fields, base: Precision, layers: tuple[Layer, ...]) -> Precision:
    """The method converts experts only (gpt-oss); activations stay."""
    patterns = _patterns(fields, "modules_to_not_convert")
    converted = _convert(fields, base, DType.MXFP4, patterns, layers)
    return replace(base, routed_expert=converted.routed_expert)


def _read_compressed(fields: Fields, base: Precision, layers: tuple[Layer, ...]) -> Precision:
    """Every ``Linear`` but the ignored ones, in one format; the head is one of them."""
    groups = fields.child("config_groups")
    found = [] if groups is None else list(groups.children())
    if len(found) != 1:
        fields.fail(
            "config_groups",
            f"must hold one group, not {len(found)}",
            "checkpoints that mix formats by group are not read",
        )
    group = found[0][1]
    targets = group.texts("targets")
    if targets != ("Linear",):
        group.fail("targets", f"is {targets}; only ['Linear'] is read")
    weights = group.child("weights")
    if weights is None:
        group.fail("weights", "is missing; it gives the format")
    dtype = _scheme_dtype(weights)
    patterns = _patterns(fields, "ignore")
    converted = _convert(fields, base, dtype, patterns, layers)
    if not patterns.matches("lm_head"):
        converted = replace(converted, head=dtype)
    inputs, cache = group.child("input_activations"), fields.child("kv_cache_scheme")
    return replace(
        converted,
        activations=base.activations if inputs is None else _scheme_dtype(inputs),
        kv=base.kv if cache is None else _scheme_dtype(cache),
    )


def _scheme_dtype(scheme: Fields) -> DType:
    """Format of a compressed-tensors scheme: type, bits and group size."""
    kind = scheme.text("type") or "int"
    bits = scheme.count("num_bits", maximum=32)
    group = scheme.optional_count("group_size", minimum=-1)
    if (kind, bits) == ("float", 4):
        if group not in _FLOAT4_GROUPS:
            scheme.fail("group_size", f"is {describe(group)}; known for 4-bit floats: 16, 32")
        return _FLOAT4_GROUPS[group]
    dtype = _FORMATS.get((kind, bits))
    if dtype is None:
        scheme.fail("num_bits", f"is {bits} with type {kind!r}: an unknown format")
    if dtype is DType.INT4 and group is not None and 0 < group < 128:
        scheme.fail(
            "group_size",
            f"is {group}: scales then take {16 / group / 4:.1%} of the weights, "
            "which no known format counts",
            "choose the weight format of the run instead",
        )
    return dtype


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Modules that stay unconverted, and the field that lists them."""

    field: str
    expression: re.Pattern[str] | None
    by_layer: bool

    def matches(self, module: str) -> bool:
        return self.expression is not None and self.expression.search(module) is not None


def _patterns(fields: Fields, *keys: str) -> _Patterns:
    """Compile the list of modules under the first of ``keys`` that is present.

    ``re:`` starts a regular expression on the whole name. Other entries match whole dotted
    components anywhere in the name, ``*`` standing for any text within one.
    """
    key = next((key for key in keys if fields.has(key)), keys[0])
    listed = fields.texts(key) or ()
    parts = []
    for index, entry in enumerate(listed):
        if entry.startswith("re:"):
            part = f"^(?:{entry[3:]})"
        else:
            body = re.escape(entry).replace(r"\*", r"[^.]*")
            part = rf"(?:^|\.){body}(?:\.|$)"
        try:
            re.compile(part)
        except re.error as error:
            fields.fail_at(key, index, f"is not a regular expression: {error}")
        parts.append(part)
    by_layer = any(re.search(r"\d", entry) for entry in listed)
    return _Patterns(key, re.compile("|".join(parts)) if parts else None, by_layer)


def _convert(
    fields: Fields,
    base: Precision,
    dtype: DType,
    patterns: _Patterns,
    layers: tuple[Layer, ...],
) -> Precision:
    """Change the roles that ``patterns`` leave to ``dtype``."""
    changed = {}
    for role, modules in _MODULES.items():
        kept = [
            patterns.matches(f"model.layers.{index}.{module}")
            for index in _layers_of(role, layers, patterns)
            for module in _modules_of(role, modules, layers)
        ]
        if kept and any(kept) and not all(kept):
            fields.fail(
                patterns.field,
                f"keeps {sum(kept)} of {len(kept)} matrices of the role {role} unconverted; "
                "one format per role is read",
                "choose the weight format of the run instead",
            )
        changed[role] = base.of_role(role) if kept and all(kept) else dtype
    return replace(
        base,
        attention=changed["attention"],
        dense_ffn=changed["dense_ffn"],
        shared_expert=changed["shared_expert"],
        routed_expert=changed["routed_expert"],
    )


def _layers_of(role: str, layers: tuple[Layer, ...], patterns: _Patterns) -> list[int]:
    """Layers that have ``role``; one of them when no pattern names a number."""
    found = []
    for index, layer in enumerate(layers):
        ffn = layer.ffn
        is_moe = isinstance(ffn, MoeFfn)
        has_role = {
            "attention": True,
            "dense_ffn": not is_moe,
            "routed_expert": is_moe,
            "shared_expert": isinstance(ffn, MoeFfn) and ffn.shared_width > 0,
        }[role]
        if has_role:
            found.append(index)
    return found if patterns.by_layer else found[:1]


def _modules_of(role: str, modules: tuple[str, ...], layers: tuple[Layer, ...]) -> tuple[str, ...]:
    """Add the projections that this model's attention has."""
    if role != "attention":
        return modules
    if any(isinstance(layer.attention, LatentAttention) for layer in layers):
        return (*modules, "self_attn.kv_b_proj")
    return (*modules, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
