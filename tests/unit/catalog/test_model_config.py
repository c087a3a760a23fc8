"""Reading configurations: every family's traits, and clear errors for every bad input."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog.hf.document import find_line
from planner.catalog.hf.names import EFFECT, INERT
from planner.catalog.model_config import (
    CATALOGUE,
    load_model,
    model_facts,
    model_from_facts,
    model_names,
    override_precision,
)
from planner.cost.weights import total_params
from planner.domain.dtypes import DType
from planner.domain.model import (
    DenseFfn,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    MoeFfn,
    SparseIndexer,
)
from planner.errors import CatalogError, PlannerError, SpecError

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
MLA = {
    **LLAMA,
    "model_type": "deepseek_v3",
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}


@pytest.fixture
def write(tmp_path):
    def write_config(config):
        path = tmp_path / "model.json"
        text = config if isinstance(config, str) else json.dumps(config, indent=1)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_config


def refused(path):
    """The error of loading ``path``, as printed."""
    with pytest.raises(CatalogError) as caught:
        load_model(path)
    return caught.value


# ---- what is read ----------------------------------------------------------------------


def test_a_llama_config_becomes_records(write):
    model = load_model(write(LLAMA))
    attention = GroupedQueryAttention(num_heads=4, num_kv_heads=2, head_dim=16)
    assert model.name == "model"
    assert model.architecture == "llama"
    assert model.layers == (Layer(attention=attention, ffn=DenseFfn(width=128)),) * 2
    assert model.final_params == 64
    assert model.precision.attention is DType.BF16
    assert not model.tied_embeddings
    assert model.source == ""


def test_a_directory_is_read_by_its_config_and_gives_the_name(tmp_path):
    directory = tmp_path / "my-model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    assert load_model(str(directory)).name == "my-model"
    assert load_model(str(directory / "config.json")).name == "my-model"


def test_a_byte_order_mark_is_ignored(tmp_path):
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(LLAMA).encode())
    assert load_model(str(path)).hidden_size == 64


def test_catalogue_names_are_sorted_and_a_name_wins_over_a_file(tmp_path, monkeypatch):
    assert list(model_names()) == sorted(model_names())
    assert len(model_names()) == 102
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mistral-7b").mkdir()
    assert load_model("mistral-7b").hidden_size == 4096


def test_aliases_are_read_first_match_first(write):
    config = {**LLAMA, "num_layers": 7, "n_layer": 9}
    assert len(load_model(write(config)).layers) == 2


def test_latent_attention_ignores_head_dim_and_kv_heads(write):
    config = {**MLA, "head_dim": 192, "num_key_value_heads": 3}
    layers = load_model(write(config)).layers
    assert layers[0].attention == LatentAttention(
        num_heads=4,
        q_lora_rank=None,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
    )
    assert layers[0].ffn == DenseFfn(width=128)
    assert layers[1].ffn == MoeFfn(
        num_experts=4, top_k=2, expert_width=32, shared_width=32, router_bias=True
    )


@pytest.mark.parametrize(
    ("name", "sparse"),
    [
        ("deepseek-v3", "0" * 3 + "1" * 58),  # first_k_dense_replace
        ("glm-5.2", "0" * 3 + "1" * 75),  # mlp_layer_types
        ("minimax-m3", "0" * 3 + "1" * 57),  # moe_layer_freq as a list
        ("llama-4-maverick", "01" * 24),  # interleave_moe_layer_step 2
        ("qwen3-30b-a3b", "1" * 48),  # decoder_sparse_step 1
    ],
)
def test_which_layers_are_mixtures(name, sparse):
    layers = load_model(name).layers
    assert "".join("1" if isinstance(layer.ffn, MoeFfn) else "0" for layer in layers) == sparse


def test_dense_only_layers_and_sparse_step(write):
    config = {
        **MIXTRAL,
        "model_type": "qwen3_moe",
        "num_hidden_layers": 6,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
    }
    layers = load_model(write(config)).layers
    # Layers 1, 3, 5 by the step, less layer 3.
    sparse = [index for index, layer in enumerate(layers) if isinstance(layer.ffn, MoeFfn)]
    assert sparse == [1, 5]
    assert layers[0].ffn == DenseFfn(width=128)


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("gpt-oss-20b", [128, None] * 12),
        ("gemma-3-12b", ([1024] * 5 + [None]) * 8),
        ("llama-4-scout", ([8192] * 3 + [None]) * 12),
        ("qwen2.5-72b", [None] * 80),  # use_sliding_window is false
        ("mixtral-8x7b", [None] * 32),
    ],
)
def test_which_layers_see_a_window(name, windows):
    assert [layer.attention.window_tokens for layer in load_model(name).layers] == windows


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("qwen3-next-80b-a3b", "1110" * 12),  # full_attention_interval 4
        ("qwen3.5-397b-a17b", "1110" * 15),  # layer_types
        ("minimax-m1", "11111110" * 10),  # attn_type_list
        ("kimi-k3", "1110" * 23 + "0"),  # linear_attn_config, counted from 1
    ],
)
def test_which_layers_are_linear(name, linear):
    layers = load_model(name).layers
    kinds = (isinstance(layer.attention, LinearAttention) for layer in layers)
    assert "".join("1" if kind else "0" for kind in kinds) == linear


def test_deepseek_v32_indexer():
    indexer = load_model("deepseek-v3.2").layers[0].attention.indexer
    assert indexer == SparseIndexer(
        top_k_tokens=2048,
        num_heads=64,
        head_dim=128,
        query_rank=1536,
        norm_params=256,
        key_dtype=DType.MXFP8,
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [("deepseek-v3", 1), ("qwen3-next-80b-a3b", 1), ("minimax-m2", 3), ("kimi-k2", 0)],
)
def test_prediction_layers(name, count):
    assert len(load_model(name).mtp_layers) == count


# Published checkpoints that the catalogue does not ship: Falcon-7B (one KV head, one shared
# norm, tied: 6.92B on Hugging Face less the stored copy of the head) and DeepSeek-V2-Lite
# (plain queries, 15.7B).
FALCON_7B = {
    "model_type": "falcon",
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "multi_query": True,
    "parallel_attn": True,
    "new_decoder_architecture": False,
    "bias": False,
    "vocab_size": 65024,
}
DEEPSEEK_V2_LITE = {
    **MLA,
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 102400,
}


@pytest.mark.parametrize(
    ("config", "total"), [(FALCON_7B, 6_921_720_704), (DEEPSEEK_V2_LITE, 15_706_484_224)]
)
def test_checkpoints_outside_the_catalogue_have_their_published_size(write, config, total):
    assert total_params(load_model(write(config))) == total


def test_published_total_leaves_out_the_vision_tower():
    assert load_model("gemma-3-27b").published_total_params == 27_430_000_000 - 417_000_000


def test_facts_travel_and_come_back_as_the_same_model():
    for name in model_names():
        facts = json.loads(json.dumps(model_facts(name)))
        assert model_from_facts(facts, name) == load_model(name)


def test_bad_facts_are_refused_without_a_line():
    with pytest.raises(CatalogError) as caught:
        model_from_facts({**LLAMA, "hidden_size": -1}, "x", file="layout.json")
    assert (caught.value.field, caught.value.line) == ("hidden_size", None)
    assert str(caught.value).startswith("layout.json: field 'hidden_size': is -1")


def test_unknown_fields_are_reported_and_known_lists_do_not_overlap(write):
    model = load_model(write({**LLAMA, "zz_new": 1, "rope_theta": 1e4, "a_new": None}))
    assert model.ignored_fields == ("a_new", "zz_new")
    assert not EFFECT & INERT


# ---- formats ---------------------------------------------------------------------------


def formats(model):
    p = model.precision
    return (p.attention, p.dense_ffn, p.shared_expert, p.routed_expert, p.head, p.activations)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-2-70b", "fp16 fp16 fp16 fp16 fp16 fp16"),
        ("deepseek-v3", "fp8 fp8 fp8 fp8 bf16 fp8"),
        ("minimax-m2.5", "fp8 fp8 fp8 fp8 bf16 fp8"),  # keeps "gate", not gate_proj
        ("gpt-oss-120b", "bf16 bf16 bf16 mxfp4 bf16 bf16"),
        ("kimi-k3", "bf16 bf16 bf16 mxfp4 bf16 bf16"),
        ("deepseek-v4-flash", "fp8 fp8 fp8 mxfp4 bf16 fp8"),
    ],
)
def test_formats_by_role(name, expected):
    model = load_model(name)
    assert " ".join(formats(model)) == expected
    assert model.precision.kv is model.precision.norm is model.precision.embedding


def test_override_changes_matrices_and_leaves_tables_norms_and_router():
    model = load_model("deepseek-v3")
    changed = override_precision(model, DType.NVFP4, DType.BF16, DType.FP8)
    assert " ".join(formats(changed)) == "nvfp4 nvfp4 nvfp4 nvfp4 bf16 bf16"
    assert changed.precision.router is changed.precision.embedding is DType.BF16
    assert changed.precision.norm is DType.BF16
    assert changed.precision.kv is DType.FP8
    assert override_precision(model) == model


def compressed(weights, **extra):
    group = {"targets": ["Linear"], "weights": weights, **extra.pop("group", {})}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **extra}


@pytest.mark.parametrize(
    ("quantization", "expected", "kv"),
    [
        ({"quant_method": "fp8"}, "fp8 fp8 fp8 fp8 bf16 bf16", "bf16"),
        (
            {"quant_method": "fp8", "modules_to_not_convert": ["self_attn", "mlp.gate"]},
            "bf16 fp8 fp8 fp8 bf16 bf16",
            "bf16",
        ),
        (
            compressed({"type": "int", "num_bits": 8}, ignore=["lm_head"]),
            "int8 int8 int8 int8 bf16 bf16",
            "bf16",
        ),
        (
            compressed({"type": "int", "num_bits": 4, "group_size": 128}),
            "int4 int4 int4 int4 int4 bf16",
            "bf16",
        ),
        (
            compressed(
                {"type": "float", "num_bits": 4, "group_size": 16},
                ignore=["re:.*lm_head", r"re:.*self_attn.*"],
                group={"input_activations": {"type": "float", "num_bits": 8}},
                kv_cache_scheme={"type": "float", "num_bits": 8},
            ),
            "bf16 nvfp4 nvfp4 nvfp4 bf16 fp8",
            "fp8",
        ),
    ],
)
def test_quantization_methods(write, quantization, expected, kv):
    model = load_model(write({**MLA, "quantization_config": quantization}))
    assert " ".join(formats(model)) == expected
    assert model.precision.kv == kv


def test_patterns_that_name_every_layer_keep_the_role(write):
    kept = [f"model.layers.{layer}.self_attn.{p}_proj" for layer in (0, 1) for p in "qkvo"]
    config = {"quant_method": "fp8", "modules_to_not_convert": kept}
    model = load_model(write({**LLAMA, "quantization_config": config}))
    assert formats(model)[:2] == (DType.BF16, DType.FP8)


@pytest.mark.parametrize(
    ("quantization", "field"),
    [
        ({"quant_method": "gptq"}, "quantization_config.quant_method"),
        ({}, "quantization_config.quant_method"),
        (
            {"quant_method": "fp8", "activation_scheme": "magic"},
            "quantization_config.activation_scheme",
        ),
        (
            {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.self_attn"]},
            "quantization_config.modules_to_not_convert",
        ),
        (
            {"quant_method": "fp8", "modules_to_not_convert": [3]},
            "quantization_config.modules_to_not_convert[0]",
        ),
        ({"quant_method": "compressed-tensors"}, "quantization_config.config_groups"),
        (
            compressed({"type": "int", "num_bits": 3}),
            "quantization_config.config_groups.group_0.weights.num_bits",
        ),
        (
            compressed({"type": "int", "num_bits": 4, "group_size": 32}),
            "quantization_config.config_groups.group_0.weights.group_size",
        ),
        (
            compressed({"type": "float", "num_bits": 4, "group_size": 64}),
            "quantization_config.config_groups.group_0.weights.group_size",
        ),
        (
            compressed({"num_bits": 8}, group={"targets": ["re:.*mlp.*"]}),
            "quantization_config.config_groups.group_0.targets",
        ),
        (compressed({"num_bits": 8}, ignore=["re:("]), "quantization_config.ignore[0]"),
    ],
)
def test_unknown_formats_are_refused_by_field(write, quantization, field):
    assert refused(write({**LLAMA, "quantization_config": quantization})).field == field


def test_unknown_dtype_and_expert_dtype_are_refused(write):
    assert refused(write({**LLAMA, "dtype": "float64"})).field == "dtype"
    assert refused(write({**LLAMA, "torch_dtype": ""})).field == "torch_dtype"
    assert refused(write({**LLAMA, "expert_dtype": "fp2"})).field == "expert_dtype"


# ---- files that are not configurations -------------------------------------------------


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(SpecError, match="did you mean deepseek-v3") as caught:
        load_model("deepseek-ai/DeepSeek-V3")
    assert "unknown model 'deepseek-ai/DeepSeek-V3'" in str(caught.value)
    with pytest.raises(SpecError, match=r"Give one of \d+ catalogue names"):
        load_model("")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800", "line\nbreak"])
def test_impossible_names_are_refused_in_printable_text(name):
    with pytest.raises(PlannerError) as caught:
        load_model(name)
    str(caught.value).encode("utf-8")


def test_a_directory_without_config(tmp_path):
    assert "directory without config.json" in str(refused(str(tmp_path)))


def test_malformed_json_names_file_and_line(write):
    path = write('{\n "hidden_size": 64,\n "vocab_size" 3\n}')
    error = refused(path)
    assert error.line == 3
    assert str(error).startswith(f"{path}:3: not valid JSON")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "not valid JSON"),
        ("[1, 2]", 1, "holds a list of 2 where a JSON object is expected"),
        ("null", 1, "holds null"),
        ('{\n "a": NaN}', 2, "holds NaN"),
        ('{"a": -Infinity}', 1, "holds -Infinity"),
        ('{\n\n "a": 1e999}', 3, "too large for a number"),
        ('{"a": 1,\n "a": 2}', 2, "repeats the key 'a'"),
        ('{"b": {"a": 1,\n "a": 2}}', 2, "repeats the key 'a'"),
        ("[" * 100_000, None, "nested too deeply"),
        ('{"a": ' * 100_000, None, "nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", None, "number that cannot be read"),
    ],
)
def test_defective_json_is_refused(write, text, line, message):
    error = refused(write(text))
    assert message in str(error)
    assert error.line == line


def test_binary_files_are_refused_with_a_line(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"{\n\xff\xfe}")
    error = refused(str(path))
    assert error.line == 2
    assert "not UTF-8" in str(error)


def test_a_file_of_weights_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(20_000_000)
    assert "too large for a model configuration" in str(refused(str(path)))


def test_a_pipe_is_refused(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "not a regular file" in str(refused(str(path)))


# ---- fields ----------------------------------------------------------------------------


@pytest.mark.parametrize("field", sorted(set(LLAMA) - {"num_key_value_heads"}))
def test_a_missing_field_is_named(write, field):
    config = {key: value for key, value in LLAMA.items() if key != field}
    if field == "intermediate_size":
        field = "intermediate_size_mlp"  # first of its aliases
    error = refused(write(config))
    assert error.field == field
    assert "is missing" in error.message
    assert error.remedy


@pytest.mark.parametrize("value", [-1, 0, 10**12, "64", 64.0, True, [64], {"a": 1}])
def test_a_wrong_size_is_named_with_its_line(write, value):
    error = refused(write({**LLAMA, "hidden_size": value}))
    assert (error.field, error.line) == ("hidden_size", 3)
    assert "expected" in error.message


def test_an_unknown_architecture_lists_the_known(write):
    error = refused(write({**LLAMA, "model_type": "rwkv"}))
    assert (error.field, error.line) == ("model_type", 2)
    assert "'rwkv'" in error.message
    assert "deepseek_v3" in error.remedy


@pytest.mark.parametrize("value", [3, None, ["llama"], "\ud800"])
def test_a_strange_model_type_is_refused(write, value):
    error = refused(write({**LLAMA, "model_type": value}))
    assert error.field == "model_type"
    str(error).encode("utf-8")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({**LLAMA, "num_attention_heads": 5, "num_key_value_heads": 5}, "head_dim"),
        ({**LLAMA, "num_key_value_heads": 3}, "num_key_value_heads"),
        ({**LLAMA, "layer_types": ["full_attention"]}, "layer_types"),
        ({**LLAMA, "layer_types": ["full_attention", "mamba"]}, "layer_types[1]"),
        ({**LLAMA, "layer_types": ["sliding_attention"] * 2}, "sliding_window"),
        ({**LLAMA, "tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({**LLAMA, "kv_lora_rank": 512}, "kv_lora_rank"),
        ({**LLAMA, "num_local_experts": 8}, "num_local_experts"),
        ({**LLAMA, "index_topk": 2048}, "index_topk"),
        ({**LLAMA, "linear_attn_config": {"num_heads": 1}}, "linear_attn_config"),
        ({**LLAMA, "_meta": 3}, "_meta"),
        ({**LLAMA, "model_type": "palm", "use_bias": True}, "use_bias"),
        ({**LLAMA, "model_type": "gptj", "parallel_attn_ffn": False}, "parallel_attn_ffn"),
        ({**MIXTRAL, "num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({**MIXTRAL, "attention_bias": True}, "attention_bias"),
        ({**MIXTRAL, "mlp_only_layers": [2]}, "mlp_only_layers"),
        ({**MIXTRAL, "mlp_layer_types": ["dense", "odd"]}, "mlp_layer_types[1]"),
        ({**MIXTRAL, "moe_layer_freq": [0, 2]}, "moe_layer_freq[1]"),
        ({**MLA, "attention_bias": True}, "attention_bias"),
        ({**MLA, "v_head_dim": None}, "v_head_dim"),
        ({**MLA, "first_k_dense_replace": 3}, "first_k_dense_replace"),
        ({**LLAMA, "model_type": "kimi_k3"}, "text_config"),
    ],
)
def test_contradictions_and_unhandled_effects_are_refused(write, config, field):
    assert refused(write(config)).field == field


def test_effect_fields_that_mean_absent_are_accepted(write):
    config = {**LLAMA, "kv_lora_rank": None, "shared_intermediate_size": 0, "mlp_only_layers": []}
    assert load_model(write(config)).ignored_fields == ()


@pytest.mark.parametrize(
    ("name", "field", "value", "expected"),
    [
        ("deepseek-v4-flash", "compress_ratios", [4, 16] * 22, "compress_ratios[1]"),
        ("deepseek-v4-flash", "compress_ratios", [4], "compress_ratios"),
        ("glm-5.2", "indexer_types", ["full"] * 77 + ["odd"], "indexer_types[77]"),
        ("minimax-m1", "attn_type_list", [2] * 80, "attn_type_list[0]"),
        ("minimax-m1", "attn_type_list", None, "attn_type_list"),
        ("minimax-m2", "attn_type_list", [0] * 62, "attn_type_list[0]"),
        ("minimax-m2", "qk_norm_type", "odd", "qk_norm_type"),
        ("qwen3-next-80b-a3b", "linear_num_value_heads", 17, "linear_num_value_heads"),
        ("qwen3-next-80b-a3b", "layer_types", ["odd"] * 48, "layer_types[0]"),
        ("dbrx", "ffn_config", None, "ffn_config"),
    ],
)
def test_unknown_kinds_of_layer_are_refused(write, name, field, value, expected):
    assert refused(write({**model_facts(name), field: value})).field == expected


def test_nested_fields_are_named_with_their_path_and_line(write):
    facts = model_facts("kimi-k3")
    config = facts["text_config"]["linear_attn_config"]
    config["kda_layers"] = config["kda_layers"][1:]
    path = write(facts)
    error = refused(path)
    assert error.field == "text_config.linear_attn_config.kda_layers"
    with open(path, encoding="utf-8") as file:
        assert "kda_layers" in file.read().splitlines()[error.line - 1]


def test_lines_are_found_through_strings_that_look_like_structure():
    text = '{\n "a": "}{\\",[",\n "b": [1, {"b": 2},\n  3],\n "c": {"b":\n 4}\n}'
    assert find_line(text, ("b",)) == 3
    assert find_line(text, ("b", 2)) == 4
    assert find_line(text, ("b", 1, "b")) == 3
    assert find_line(text, ("c", "b")) == 5
    assert find_line(text, ("c", "missing")) is None


# ---- any input -------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.data())
def test_any_change_of_any_field_gives_a_model_or_a_clear_error(data):
    facts = model_facts(data.draw(st.sampled_from(model_names())))
    places = [facts, *(value for value in facts.values() if isinstance(value, dict))]
    place = data.draw(st.sampled_from(places))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    try:
        model = model_from_facts(facts, "changed")
    except CatalogError as error:
        assert error.field
        str(error).encode("utf-8")
    else:
        assert model.layers


def test_reading_imports_nothing_heavy():
    code = (
        "import sys; from planner.catalog.model_config import load_model; "
        "load_model('llama-2-7b'); "
        "print([m for m in ('numpy', 'ortools', 'networkx', 'click') if m in sys.modules])"
    )
    root = CATALOGUE.parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
