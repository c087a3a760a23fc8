"""Caches and attention cores, each number derived in the comment above it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog.model_config import load_model, model_names
from planner.cost.attention import (
    AttentionCore,
    decode_core,
    kv_bytes_per_sequence,
    kv_bytes_read,
    kv_elements_per_sequence,
    kv_shard_ways,
)
from planner.cost.weights import active_params
from planner.domain.dtypes import DType
from planner.domain.model import LinearAttention

GQA_70B = load_model("llama-3.1-70b").layers[0].attention
MLA_V3 = load_model("deepseek-v3").layers[0].attention
DSA_V32 = load_model("deepseek-v3.2").layers[0].attention


def whole_cache(model, context, dtype):
    return sum(kv_bytes_per_sequence(layer.attention, context, dtype) for layer in model.layers)


# 80 layers x 2 x 8 KV heads x 128 x 1 byte: the scaling book's 163,840 bytes per token.
def test_llama_70b_int8_caches_163840_bytes_per_token():
    assert whole_cache(load_model("llama-3.1-70b"), 1, DType.INT8) == 163_840


# 512 + 64 elements in each of 61 layers.
def test_deepseek_v3_caches_576_elements_per_token_and_layer():
    model = load_model("deepseek-v3")
    elements = [kv_elements_per_sequence(layer.attention, 1) for layer in model.layers]
    assert elements == [576.0] * 61
    assert whole_cache(model, 1000, DType.BF16) == 61 * 576 * 1000 * 2


# Scores and weighted sum: 4 x 64 heads x 128 = 32,768 FLOP per cached token.
def test_grouped_query_core_of_llama_70b():
    core = decode_core(GQA_70B, 1000)
    read = 2 * 8 * 128 * 1000
    assert core == AttentionCore(flop=32_768_000.0, read_elements=read, num_heads=64)
    assert kv_bytes_read(GQA_70B, 1000, DType.BF16) == 2 * read
    assert kv_shard_ways(GQA_70B) == 8


# Absorbed: 2 x 128 x 576 for the scores and 2 x 128 x 512 for the sum, per cached token.
def test_absorbed_latent_core_of_deepseek_v3():
    core = decode_core(MLA_V3, 10)
    assert core.flop == 10 * (2 * 128 * 576 + 2 * 128 * 512) == 2_785_280
    assert core.read_elements == 5760
    assert kv_shard_ways(MLA_V3) == 1


# The context at which the core costs as much as the weights: about 53k tokens for a 70B GQA
# model and 4.4k for DeepSeek-V3 (weights a token multiplies: the core and the head).
@pytest.mark.parametrize(("name", "tokens"), [("llama-3.1-70b", 53e3), ("deepseek-v3", 4.4e3)])
def test_core_equals_weight_flop_at_the_published_context(name, tokens):
    model = load_model(name)
    head = model.vocab_size * model.hidden_size
    weight_flop = 2 * (active_params(model).core + head)
    per_token = sum(decode_core(layer.attention, 1).flop for layer in model.layers)
    assert weight_flop / per_token == pytest.approx(tokens, rel=0.03)


# gpt-oss, sliding layer: 128 of 10,000 tokens cached, read and scored.
def test_a_window_bounds_cache_reads_and_flop():
    window, full = (layer.attention for layer in load_model("gpt-oss-120b").layers[:2])
    assert kv_elements_per_sequence(window, 10_000) == 2 * 8 * 64 * 128
    assert decode_core(window, 10_000).flop == 4 * 64 * 64 * 128
    assert kv_elements_per_sequence(full, 10_000) == 2 * 8 * 64 * 10_000
    assert decode_core(window, 100) == decode_core(full, 100)


# DeepSeek-V3.2 at 10,000 tokens: 2,048 latents read, all index keys of 128 scanned by 64
# index heads.
def test_sparse_attention_reads_top_k_and_scans_every_index_key():
    core = decode_core(DSA_V32, 10_000)
    scan = 2 * 64 * 128 * 10_000
    assert core == AttentionCore(
        flop=2048 * (2 * 128 * 576 + 2 * 128 * 512) + scan,
        read_elements=2048 * 576 + 128 * 10_000,
        num_heads=128,
        replicated_flop=scan,
    )
    # bf16 latents; an index key takes 132 bytes (128 fp8 elements, one fp32 scale).
    assert kv_bytes_read(DSA_V32, 10_000, DType.BF16) == 2048 * 576 * 2 + 132 * 10_000
    assert kv_bytes_per_sequence(DSA_V32, 10_000, DType.BF16) == 10_000 * (576 * 2 + 132)


def test_a_layer_that_shares_an_index_neither_caches_nor_scans():
    shared = load_model("glm-5.2").layers[7].attention
    assert kv_elements_per_sequence(shared, 10_000) == 576 * 10_000
    core = decode_core(shared, 10_000)
    assert core.read_elements == 576 * 2048
    assert core.replicated_flop == 0


# MiniMax-M3: 16 blocks of 128 tokens; 4 index heads of 128; 64 heads, 4 KV heads of 128.
def test_block_sparse_attention_reads_whole_blocks():
    attention = load_model("minimax-m3").layers[3].attention
    core = decode_core(attention, 100_000)
    assert core.read_elements == 16 * 128 * 2 * 4 * 128 + 128 * 100_000
    assert core.flop == 4 * 64 * 128 * 2048 + 2 * 4 * 128 * 100_000


# DeepSeek-V4-Flash (heads 64 x 512, window 128, index 64 x 128, top 512 entries) at 8,192
# tokens. Ratio 4: 128 + 2,048 entries cached, 2,048 index keys, of which 512 entries read.
# Running sums: 2 buffers of 8 rows, (1,024 + 256) wide, in fp32.
def test_compressed_attention_of_ratio_four():
    attention = load_model("deepseek-v4-flash").layers[4].attention
    state = 2 * 8 * (1024 + 256)
    assert kv_elements_per_sequence(attention, 8192) == 2176 * 512 + 2048 * 128 + state
    expected = 2176 * 512 * 2 + 2048 * 132 + state * 4
    assert kv_bytes_per_sequence(attention, 8192, DType.BF16) == expected
    core = decode_core(attention, 8192)
    assert core.read_elements == (128 + 512) * 512 + 2048 * 128
    assert core.flop == 4 * 64 * 512 * (128 + 512) + 2 * 64 * 128 * 2048


# Ratio 128: 128 + 64 entries, all read; sums of 128 rows, 512 wide, twice.
def test_compressed_attention_of_ratio_128():
    attention = load_model("deepseek-v4-flash").layers[5].attention
    assert kv_elements_per_sequence(attention, 8192) == 192 * 512 + 2 * 128 * 512
    core = decode_core(attention, 8192)
    assert core.read_elements == 192 * 512
    assert core.flop == 4 * 64 * 512 * 192
    assert kv_shard_ways(attention) == 1


def test_ratio_zero_keeps_the_window_only():
    attention = load_model("deepseek-v4-flash").layers[0].attention
    assert kv_elements_per_sequence(attention, 8192) == 128 * 512


# Qwen3-Next: 32 value heads of 128 x 128 in fp32; convolution of 4 over 2 x 2048 + 4096
# channels, the last 3 inputs kept in bf16. Read and written each step.
def test_gated_delta_state_is_constant():
    attention = load_model("qwen3-next-80b-a3b").layers[0].attention
    state, inputs = 32 * 128 * 128, 3 * 8192
    for context in (1, 10**6):
        assert kv_elements_per_sequence(attention, context) == state + inputs
        held = kv_bytes_per_sequence(attention, context, DType.FP8)
        assert held == 4 * state + 2 * inputs
        assert kv_bytes_read(attention, context, DType.FP8) == 2 * held
    assert decode_core(attention, 1).flop == 7 * state + 2 * 4 * 8192
    assert kv_shard_ways(attention) == 32


# MiniMax-M1 lightning attention: 64 heads of 128 x 128, no convolution, no correction.
def test_lightning_state_costs_five_flop_per_element():
    attention = load_model("minimax-m1").layers[0].attention
    assert decode_core(attention, 5).flop == 5 * 64 * 128 * 128
    assert kv_elements_per_sequence(attention, 5) == 64 * 128 * 128


DISTINCT = sorted(
    {layer.attention for name in model_names() for layer in load_model(name).layers}, key=repr
)


@given(st.sampled_from(DISTINCT), st.integers(1, 10**6), st.integers(1, 10**6))
def test_cache_and_core_never_shrink_with_context(attention, first, second):
    low, high = sorted((first, second))
    assert kv_elements_per_sequence(attention, low) <= kv_elements_per_sequence(attention, high)
    assert decode_core(attention, low).flop <= decode_core(attention, high).flop
    assert decode_core(attention, low).read_elements <= decode_core(attention, high).read_elements


@given(st.sampled_from(DISTINCT), st.integers(1, 10**6))
def test_a_step_reads_no_more_than_is_cached(attention, context):
    held = kv_bytes_per_sequence(attention, context, DType.BF16)
    times = 2 if isinstance(attention, LinearAttention) else 1
    assert kv_bytes_read(attention, context, DType.BF16) <= times * held
    assert decode_core(attention, context).replicated_flop < decode_core(attention, context).flop
