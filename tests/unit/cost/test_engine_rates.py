"""Collectives by the kernels of an engine, and small operations, counted by hand."""

import pytest

from planner.catalog.model_config import load_model, override_precision
from planner.cost.block import Split, Tokens
from planner.cost.fabric import STAGING, engine_rate
from planner.cost.runs.inference_engine import ENGINES
from planner.cost.small import small_op
from planner.domain.dtypes import DType
from planner.topology.rate import Algorithm, CollectiveRate

RATES = {
    Algorithm.FUSED: CollectiveRate(latency_s=3e-6, s_per_byte=4e-12, fill_s=1e-6),
    Algorithm.LIBRARY: CollectiveRate(latency_s=20e-6, s_per_byte=3e-12, fill_s=2e-6),
    Algorithm.IN_NETWORK: CollectiveRate(latency_s=15e-6, s_per_byte=2e-12, fill_s=2e-6),
}


def test_registered_buffers_are_one_more_algorithm():
    # 10 MB: two barriers of 3 us, 20 us / 1.24 on the wire, 2 sqrt(1 us x wire) to fill it.
    rate = engine_rate(ENGINES["current"], RATES)
    assert len(rate.others) == 3
    wire = 10e6 * 2e-12 / STAGING
    assert rate.seconds(10e6) == pytest.approx(6e-6 + wire + 2 * (1e-6 * wire) ** 0.5)


def test_other_engines_have_fewer():
    assert len(engine_rate(ENGINES["2024"], RATES).others) == 2
    first = engine_rate(ENGINES["2022"], RATES)
    # The library's alone, and a wait before each: 15 + 12 us at no bytes.
    assert len(first.others) == 1
    assert first.seconds(0.0) == pytest.approx(27e-6)


def test_small_operations_of_a_dense_layer():
    # Llama-3.1-8B, 4 tokens on 2 ranks in bf16: 2 norms of 4 passes of 4,096; 32 + 2 x 8 heads
    # of 128, read and written; three passes of 14,336; two bytes each.
    model = override_precision(load_model("llama-3.1-8b"), DType.BF16, DType.BF16, DType.BF16)
    split = Split(attn_tp=2.0, attn_dp=1.0, ep=1.0, expert_tp=1.0)
    load = (Tokens(group=4.0, stage=4.0), None)
    op = small_op(model, ENGINES["current"], model.layers[0], split, load)
    elements = 2 * 4 * 4096 + (2 * 48 * 128 + 3 * 14_336) / 2
    assert op.hbm_bytes == pytest.approx(4 * elements * 2)
    assert op.num_kernels == 4
    narrow = override_precision(load_model("llama-3.1-8b"), DType.FP8, DType.FP8, DType.BF16)
    op = small_op(narrow, ENGINES["current"], narrow.layers[0], split, load)
    # Four inputs are read in bf16 and written in fp8: two of 4,096, a half, and half of 14,336.
    converted = 2 * 4096 + 4096 / 2 + 14_336 / 2
    assert op.hbm_bytes == pytest.approx(4 * (elements * 2 + converted * 3))
    assert op.num_kernels == 8
