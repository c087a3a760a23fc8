"""Counts of weights, each derived by hand in the comment above it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog.model_config import load_model, model_names, override_precision
from planner.cost.weights import (
    active_params,
    layer_active_params,
    layer_params,
    layer_weights,
    mtp_params,
    table_weights,
    total_params,
    weight_bytes,
)
from planner.domain.dtypes import DType
from planner.domain.model import (
    DenseFfn,
    GroupedQueryAttention,
    Layer,
    MoeFfn,
    Shard,
    Weight,
    WeightRole,
)


def by_name(model, layer):
    return {weight.name: weight for weight in layer_weights(model, layer)}


def sizes(model, layer):
    return {name: weight.num_params for name, weight in by_name(model, layer).items()}


# Llama-3.1-70B: hidden 8192, 64 heads and 8 KV heads of 128, FFN 28672, 80 layers,
# vocabulary 128256.
def test_llama_70b_layer_is_counted_matrix_by_matrix():
    model = load_model("llama-3.1-70b")
    assert sizes(model, model.layers[0]) == {
        "q_proj": 8192 * 64 * 128,  # 67,108,864
        "kv_proj": 8192 * 2 * 8 * 128,  # 16,777,216
        "o_proj": 64 * 128 * 8192,  # 67,108,864
        "up_proj": 2 * 8192 * 28672,  # gate and up, 469,762,048
        "down_proj": 28672 * 8192,  # 234,881,024
        "norms": 2 * 8192,
    }
    # 855,654,400 a layer x 80 + 2 tables of 128256 x 8192 + final norm 8192
    assert layer_params(model, model.layers[0]) == 855_654_400
    assert total_params(model) == 80 * 855_654_400 + 2 * 1_050_673_152 + 8192 == 70_553_706_496
    assert active_params(model).with_tables == 70_553_706_496
    assert active_params(model).core == 80 * 855_654_400 + 8192


# DeepSeek-V3: hidden 7168, 128 heads, ranks 1536 and 512, head sizes 128 + 64 and 128.
def test_deepseek_v3_latent_attention_is_counted_matrix_by_matrix():
    model = load_model("deepseek-v3")
    weights = by_name(model, model.layers[0])
    attention = {
        "qkv_a_proj": 7168 * (1536 + 512 + 64),  # 15,138,816
        "q_b_proj": 1536 * 128 * (128 + 64),  # 37,748,736
        "kv_b_proj": 512 * 128 * (128 + 128),  # 16,777,216
        "o_proj": 128 * 128 * 7168,  # 117,440,512
        "latent_norms": 1536 + 512,
    }
    assert {name: weights[name].num_params for name in attention} == attention
    assert sum(attention.values()) == 187_107_328
    # Absorbed: every projection multiplies each token once, norms none.
    assert sum(weights[name].matmul_params for name in attention) == 187_107_328 - 2048
    assert {name: weights[name].shard for name in attention} == {
        "qkv_a_proj": Shard.REPLICATED,
        "q_b_proj": Shard.HEADS,
        "kv_b_proj": Shard.HEADS,
        "o_proj": Shard.HEADS,
        "latent_norms": Shard.REPLICATED,
    }


def test_deepseek_v3_moe_layer_counts_one_expert_and_active_counts_eight():
    model = load_model("deepseek-v3")
    layer = model.layers[3]  # the first three layers are dense
    weights = by_name(model, layer)
    # One expert: 3 x 7168 x 2048 = 44,040,192; the shared one has the same size.
    routed = [w for w in weights.values() if w.role is WeightRole.ROUTED_EXPERT]
    shared = [w for w in weights.values() if w.role is WeightRole.SHARED_EXPERT]
    assert sum(weight.num_params for weight in routed) == 44_040_192
    assert sum(weight.num_params for weight in shared) == 44_040_192
    assert all(weight.shard is Shard.EXPERTS and weight.shard_ways == 256 for weight in routed)
    # Router 256 x 7168 and one selection bias per expert.
    assert weights["router"].num_params == 256 * 7168 + 256
    assert weights["router"].matmul_params == 256 * 7168
    rest = 187_107_328 + 44_040_192 + 256 * 7168 + 256 + 2 * 7168
    assert layer_params(model, layer) == rest + 256 * 44_040_192
    assert layer_active_params(model, layer) == rest + 8 * 44_040_192


# Prediction layer: an MoE layer, the 2 x 7168 -> 7168 projection, three norms.
def test_deepseek_v3_prediction_layer_is_in_no_total():
    model = load_model("deepseek-v3")
    layer = layer_params(model, model.layers[60])
    assert mtp_params(model) == layer + 2 * 7168 * 7168 + 3 * 7168
    assert len(model.layers) == 61
    assert total_params(model) == pytest.approx(671.026e9, rel=1e-6)


# gpt-oss-120b: hidden 2880, 64 heads and 8 KV heads of 64, 128 experts of width 2880,
# biases everywhere, one sink per head, 36 layers, vocabulary 201088.
def test_gpt_oss_120b_is_counted_with_biases_and_sinks():
    model = load_model("gpt-oss-120b")
    assert sizes(model, model.layers[0]) == {
        "q_proj": 2880 * 4096 + 4096,  # 11,800,576
        "kv_proj": 2880 * 1024 + 1024,  # 2,950,144
        "o_proj": 4096 * 2880 + 2880,  # 11,799,360
        "sinks": 64,
        "router": 2880 * 128 + 128,  # 368,768
        "expert_up_proj": 5760 * 2880 + 5760,  # 16,594,560
        "expert_down_proj": 2880 * 2880 + 2880,  # 8,297,280
        "norms": 2 * 2880,
    }
    # 26,924,672 + 128 x 24,891,840 = 3,213,080,192 a layer
    assert layer_params(model, model.layers[0]) == 3_213_080_192
    total = 36 * 3_213_080_192 + 2 * 201_088 * 2880 + 2880
    assert total_params(model) == total == 116_829_156_672
    assert layer_active_params(model, model.layers[0]) == 26_924_672 + 4 * 24_891_840


# GLM-5.2 reuses an index: a sharing layer lacks 2048 x 32 x 128 + 6144 x (128 + 32) + 256.
def test_a_layer_that_shares_an_index_has_no_indexer_weights():
    model = load_model("glm-5.2")
    full, shared = model.layers[6], model.layers[7]
    assert not shared.attention.indexer.computes_index
    missing = 2048 * 32 * 128 + 6144 * (128 + 32) + 2 * 128
    assert layer_params(model, full) - layer_params(model, shared) == missing


# DeepSeek-V4-Flash, ratio 4 against ratio 128 (hidden 4096, head 512, index 64 x 128, rank
# 1024). Ratio 4 pools overlapping blocks: 2 x 4096 x 1024 + 4 x 1024 + 512 = 8,393,216;
# its index compressor 2 x 4096 x 256 + 4 x 256 + 128 = 2,098,304; index queries and head
# weights 1024 x 8192 + 4096 x 64 = 8,650,752. Ratio 128: 2 x 4096 x 512 + 128 x 512 + 512
# = 4,260,352.
def test_compressed_layers_differ_by_compressor_and_indexer():
    model = load_model("deepseek-v4-flash")
    assert [model.layers[i].attention.ratio for i in (4, 5)] == [4, 128]
    difference = layer_params(model, model.layers[4]) - layer_params(model, model.layers[5])
    assert difference == 8_393_216 + 2_098_304 + 8_650_752 - 4_260_352


# Hyper-connections, 4 streams of 4096: 24 outputs from 16384 inputs, 24 biases, 3 scales,
# twice per layer.
def test_hyper_connections_are_counted_and_multiply_every_token():
    model = load_model("deepseek-v4-flash")
    extra = by_name(model, model.layers[0])["extra"]
    assert extra.num_params == 2 * (24 * 16_384 + 24 + 3)
    assert extra.matmul_params == 2 * 24 * 16_384


# Kimi-K3 experts live in 3584 of 7168 dimensions: 3 x 3584 x 3072 = 33,030,144 each.
def test_latent_experts_are_counted_in_their_own_width():
    model = load_model("kimi-k3")
    weights = by_name(model, model.layers[1])
    routed = sum(weights[name].num_params for name in ("expert_up_proj", "expert_down_proj"))
    assert routed == 33_030_144
    assert weights["latent_proj"].num_params == 2 * 7168 * 3584
    assert weights["latent_norm"].num_params == 3584


def test_a_tied_head_is_listed_and_counted_once():
    model = load_model("gemma-3-27b")
    head = next(w for w in table_weights(model) if w.role is WeightRole.HEAD)
    table = 262_208 * 5376
    assert head == Weight(
        name="head",
        role=WeightRole.HEAD,
        shard=Shard.VOCAB,
        num_params=table,
        matmul_params=table,
        shard_ways=262_208,
        tied=True,
    )
    active = active_params(model)
    assert active.with_tables - active.core == table


# GPT-J: head bias of 50400, final layer norm 2 x 4096.
def test_gpt_j_head_has_a_bias():
    tables = {w.name: w.num_params for w in table_weights(load_model("gpt-j-6b"))}
    assert tables == {
        "embedding": 50_400 * 4096,
        "final_norm": 2 * 4096,
        "head": 50_400 * 4096 + 50_400,
    }


def test_learned_positions_are_an_embedding_and_belong_to_the_core():
    model = load_model("megatron-22b")
    positions = next(w for w in table_weights(model) if w.name == "positions")
    assert positions.num_params == 2048 * 6144
    assert positions.role is WeightRole.EMBEDDING
    assert positions.shard is Shard.REPLICATED
    active = active_params(model)
    assert active.with_tables - active.core == 51_200 * 6144


def test_weight_bytes_follow_the_format_of_the_role():
    model = load_model("gpt-oss-120b")
    weights = by_name(model, model.layers[0])
    # MXFP4: 4 bits and one 8-bit scale for 32 elements; attention bf16.
    expert = weights["expert_down_proj"]
    assert weight_bytes(expert, model.precision) == expert.num_params * 0.53125
    assert weight_bytes(weights["q_proj"], model.precision) == 11_800_576 * 2
    int8 = override_precision(model, weights=DType.INT8)
    assert weight_bytes(weights["q_proj"], int8.precision) == 11_800_576
    assert weight_bytes(weights["norms"], int8.precision) == 2 * 2880 * 2


@pytest.mark.parametrize("name", model_names())
def test_shards_divide_what_they_claim_to_divide(name):
    model = load_model(name)
    for layer in {*model.layers, *model.mtp_layers}:
        for weight in layer_weights(model, layer):
            assert 0 <= weight.matmul_params <= weight.num_params
            assert (weight.shard is Shard.REPLICATED) == (weight.shard_ways == 1) or (
                weight.shard_ways == 1 and weight.shard is Shard.KV_HEADS  # multi-query
            )
            if weight.shard not in (Shard.REPLICATED, Shard.EXPERTS):
                assert weight.matmul_params % weight.shard_ways == 0


@given(
    st.integers(1, 64), st.integers(1, 8), st.integers(1, 128), st.integers(1, 512), st.booleans()
)
def test_one_expert_of_top_one_costs_a_dense_ffn_and_a_router(hidden, groups, dim, width, gated):
    attention = GroupedQueryAttention(num_heads=4 * groups, num_kv_heads=groups, head_dim=dim)
    moe = MoeFfn(num_experts=1, top_k=1, expert_width=width, gated=gated)
    model = load_model("mistral-7b")
    small = replace(model, hidden_size=hidden)
    plain = Layer(attention=attention, ffn=DenseFfn(width=width, gated=gated))
    routed = Layer(attention=attention, ffn=moe)
    assert layer_params(small, routed) == layer_params(small, plain) + hidden
    assert layer_active_params(small, routed) == layer_params(small, routed)
