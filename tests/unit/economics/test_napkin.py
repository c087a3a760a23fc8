"""The napkin's figures of real models."""

import pytest

from planner.catalog.model_config import load_model
from planner.economics.kink import covered_context
from planner.economics.napkin import (
    Chips,
    kept_kv_bytes,
    model_bytes,
    output_usd,
    read_kv_bytes,
    resident_bytes,
)


def test_bytes_of_llama_70b():
    # 70,553,706,496 parameters of 2 B; 80 layers x 2 x 8 heads x 128 x 2 B = 327,680 B per token.
    model = load_model("llama-3.1-70b")
    assert resident_bytes(model) == 2 * 70_553_706_496
    assert kept_kv_bytes(model, 1000) == 327_680_000
    assert read_kv_bytes(model, 1000) == 327_680_000


def test_a_tied_head_is_one_table():
    # Megatron's count of the 18.4 B model, P = 12 l h^2 (1 + 13/(12 h) + (V + s)/(12 l h)) with
    # l 40, h 6,144, V 51,200, s 2,048: one table, in 2 bytes.
    model = load_model("megatron-18b")
    assert model.tied_embeddings
    params = 12 * 40 * 6144**2 * (1 + 13 / (12 * 6144) + (51_200 + 2048) / (12 * 40 * 6144))
    assert resident_bytes(model) == pytest.approx(2 * params, rel=1e-5)


def test_sparse_attention_reads_less_than_it_keeps():
    # DeepSeek-V3.2 keeps 61 x (576 latents + one index key) per token and reads 2,048 latents.
    sizes = model_bytes(load_model("deepseek-v3.2"), 100_000)
    assert sizes.kv_read_bytes_per_token < sizes.kv_bytes_per_token / 3


def test_weights_multiply_a_token_with_the_head():
    # 80 x 855,638,016 matmul parameters (norms of 16,384 left out) and the head of
    # 128,256 x 8,192.
    sizes = model_bytes(load_model("llama-3.1-70b"), 1)
    assert sizes.active_params == 80 * (855_654_400 - 2 * 8192) + 128_256 * 8192


def test_price_scales_with_the_price_of_a_chip():
    sizes = model_bytes(load_model("llama-3.1-70b"), 8192)
    one = Chips(count=8, flop_per_s=1e15, hbm_bytes_per_s=3e12, usd_per_hour=1.0)
    three = Chips(count=8, flop_per_s=1e15, hbm_bytes_per_s=3e12, usd_per_hour=3.0)
    assert output_usd(sizes, three, 16) == pytest.approx(3 * output_usd(sizes, one, 16))


def test_more_chips_shorten_the_step_and_not_the_price():
    # Perfect sharding: chips x time is constant.
    sizes = model_bytes(load_model("llama-3.1-70b"), 8192)
    few = Chips(count=8, flop_per_s=1e15, hbm_bytes_per_s=3e12, usd_per_hour=1.0)
    many = Chips(count=64, flop_per_s=1e15, hbm_bytes_per_s=3e12, usd_per_hour=1.0)
    assert output_usd(sizes, many, 16) == pytest.approx(output_usd(sizes, few, 16))


def test_a_higher_price_covers_longer_contexts_in_proportion():
    assert covered_context(200_000, 2.0) == 400_000
