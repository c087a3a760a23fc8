"""Model configurations: the shipped catalogue, a ``config.json``, or a directory with one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from planner.catalog.hf import families, hybrid, latent, names
from planner.catalog.hf.blocks import Body
from planner.catalog.hf.document import Document, describe, read_document
from planner.catalog.hf.fields import Fields
from planner.catalog.hf.quantization import read_precision
from planner.domain.dtypes import DType
from planner.domain.model import ModelSpec
from planner.errors import CatalogError, SpecError

CATALOGUE = Path(__file__).parent / "models"

FAMILIES: dict[str, Callable[[Fields], Body]] = {
    "dbrx": families.dbrx,
    "deepseek_v2": latent.deepseek_v2,
    "deepseek_v3": latent.deepseek_v3,
    "deepseek_v32": latent.deepseek_v32,
    "deepseek_v4": latent.deepseek_v4,
    "falcon": families.falcon,
    "gemma3_text": families.gemma3,
    "glm4_moe": families.glm4_moe,
    "glm_moe_dsa": latent.deepseek_v32,
    "gpt_oss": families.gpt_oss,
    "gptj": families.gptj,
    "grok-1": families.grok1,
    "kimi_k2": latent.deepseek_v3,
    "kimi_linear": hybrid.kimi_linear,
    "llama": families.llama,
    "llama4_text": families.llama4,
    "megatron_gpt": families.megatron_gpt,
    "minimax_m1": hybrid.minimax_m1,
    "minimax_m2": families.minimax_m2,
    "minimax_m3": families.minimax_m3,
    "mistral": families.llama,
    "mixtral": families.mixtral,
    "nemotron": families.nemotron,
    "palm": families.palm,
    "qwen2": families.qwen2,
    "qwen2_moe": families.qwen2_moe,
    "qwen3": families.qwen3,
    "qwen3_5_moe_text": hybrid.qwen3_5_moe,
    "qwen3_moe": families.qwen3_moe,
    "qwen3_next": hybrid.qwen3_next,
}

# Multimodal wrappers keep the language model under ``text_config``.
WRAPPERS = ("gemma3", "kimi_k3", "llama4", "qwen3_5_moe")


@lru_cache(maxsize=1)
def model_names() -> tuple[str, ...]:
    """Names of the shipped models, sorted."""
    return tuple(sorted(path.stem for path in CATALOGUE.glob("*.json")))


def load_model(name_or_path: str) -> ModelSpec:
    """Read a model.

    Parameters
    ----------
    name_or_path : str
        Name in the catalogue (see :func:`model_names`), path of a Hugging Face
        ``config.json``, or a directory that holds one. A catalogue name wins over a file
        of the same name.

    Raises
    ------
    SpecError
        If it is neither a name nor an existing path; names the nearest ones.
    CatalogError
        If the file cannot be read, or a field is missing, wrong or not understood; names
        file, line and field.
    """
    path = _resolve(name_or_path)
    if not path.is_file():
        return _read_spec(read_document(path), _model_name(path))
    now = path.stat()
    return _read_once(path, (now.st_mtime_ns, now.st_size))


@lru_cache(maxsize=8)
def _read_once(path: Path, stamp: tuple[int, int]) -> ModelSpec:
    """The model of a file as it is: studies ask for the same one hundreds of times."""
    return _read_spec(read_document(path), _model_name(path))


def model_facts(name_or_path: str) -> dict[str, object]:
    """What the configuration of a model says, as plain data that a layout can carry along.

    Raises
    ------
    SpecError, CatalogError
        As :func:`load_model`.
    """
    path = _resolve(name_or_path)
    document = read_document(path)
    _read_spec(document, _model_name(path))
    return document.root


def model_from_facts(
    facts: Mapping[str, object], name: str, file: str = "model facts"
) -> ModelSpec:
    """Build the model that :func:`model_facts` wrote down.

    Parameters
    ----------
    facts : mapping
        Plain data, for example from a layout file.
    name : str
        Name of the model.
    file : str
        What to call the facts in messages.

    Raises
    ------
    CatalogError
        The facts are not those of a model.
    """
    return _read_spec(Document(file=file, text="", root=dict(facts)), name)


def _read_spec(document: Document, name: str) -> ModelSpec:
    outer = Fields(document, document.root, ())
    kind = outer.text("model_type")
    text = outer.child("text_config") if kind in WRAPPERS else None
    inner, around = (outer, None) if text is None else (text, outer)
    family = _family(inner, kind)
    body = FAMILIES[family](inner)
    spec = ModelSpec(
        name=name,
        architecture=family,
        hidden_size=inner.count(*names.HIDDEN),
        vocab_size=inner.count("vocab_size"),
        layers=body.layers,
        mtp_layers=body.mtp_layers,
        tied_embeddings=_tied(inner, around, body),
        position_params=body.position_params,
        final_params=body.final_params,
        head_bias_params=body.head_bias_params,
        max_context=inner.optional_count(*names.MAX_CONTEXT, maximum=10**9),
        precision=read_precision(inner, around, body.layers),
    )
    inner.refuse_unread(family)
    unknown = inner.unknown()
    if around is not None:
        around.refuse_unread(family)
        unknown = tuple(sorted(unknown + around.unknown()))
    return _with_sources(replace(spec, ignored_fields=unknown), outer)


def override_precision(
    model: ModelSpec,
    weights: DType | None = None,
    activations: DType | None = None,
    kv: DType | None = None,
) -> ModelSpec:
    """Change number formats; ``None`` keeps what the configuration says.

    ``weights`` changes the matrices of attention, FFNs and experts, not tables, norms and
    router.
    """
    precision = model.precision
    if weights is not None:
        precision = replace(
            precision,
            attention=weights,
            dense_ffn=weights,
            shared_expert=weights,
            routed_expert=weights,
        )
    if activations is not None:
        precision = replace(precision, activations=activations)
    if kv is not None:
        precision = replace(precision, kv=kv)
    return replace(model, precision=precision)


def _resolve(name_or_path: str) -> Path:
    known = model_names()
    if name_or_path in known:
        return CATALOGUE / f"{name_or_path}.json"
    try:
        path = Path(name_or_path)
        if name_or_path and path.is_dir():
            config = path / "config.json"
            if not config.exists():
                raise CatalogError(
                    "is a directory without config.json",
                    file=name_or_path,
                    remedy="give the directory of a Hugging Face checkpoint, or a file",
                )
            return config
        if name_or_path and path.exists():
            return path
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CatalogError(f"cannot be read: {reason}", file=repr(name_or_path)[1:-1]) from None
    stem = name_or_path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".json").casefold()
    near = difflib.get_close_matches(stem, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise SpecError(
        f"unknown model {describe(name_or_path)}: no such name in the catalogue, no such path",
        f"{hint}Give one of {len(known)} catalogue names or the path of a config.json",
    )


def _model_name(path: Path) -> str:
    """Stem of the file; a ``config.json`` is named after its directory."""
    return path.absolute().parent.name if path.name == "config.json" else path.stem


def _family(inner: Fields, outer_kind: str | None) -> str:
    """Key of ``FAMILIES``; a wrapper's language model may leave its type to the wrapper."""
    kind = inner.text("model_type") or outer_kind
    if kind is None:
        inner.fail("model_type", "is missing", f"known families: {', '.join(FAMILIES)}")
    if kind in FAMILIES:
        return kind
    if kind in WRAPPERS and f"{kind}_text" in FAMILIES:
        return f"{kind}_text"
    if kind in WRAPPERS:
        inner.fail("text_config", f"is missing; {kind!r} keeps the language model there")
    inner.fail(
        "model_type",
        f"is {describe(kind)}, an architecture that the reader does not know",
        f"known families: {', '.join(sorted((*FAMILIES, *WRAPPERS)))}",
    )


def _tied(inner: Fields, outer: Fields | None, body: Body) -> bool:
    """Whether head and embedding are one table; the outer object decides when nested.

    Nested language models often carry the library's default, and the checkpoint follows
    the object around them.
    """
    tied = inner.flag("tie_word_embeddings", body.tied_by_default)
    return tied if outer is None else outer.flag("tie_word_embeddings", tied)


def _with_sources(spec: ModelSpec, outer: Fields) -> ModelSpec:
    meta = outer.child("_meta")
    if meta is None:
        return spec
    limit = 10**16
    total = meta.optional_count("published_total_params", maximum=limit)
    vision = meta.count("published_vision_params", default=0, minimum=0, maximum=limit)
    active = meta.optional_count("published_active_params", maximum=limit)
    return replace(
        spec,
        source=meta.text("config_source") or "",
        published_total_params=None if total is None else total - vision,
        published_active_params=active,
    )
