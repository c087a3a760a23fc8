"""Worked cases of the theory, chapters 1, 5 and 6, through the public functions."""

import pytest

from planner.cost import roofline
from planner.cost.runs.serving_speculative import tokens_per_pass
from planner.economics import budget, kink
from planner.economics.napkin import (
    Chips,
    ModelBytes,
    decode_step_s,
    floor_usd,
    input_usd,
    output_usd,
)
from planner.economics.queueing import trains


def test_a_train_every_20_ms_takes_40_at_worst():
    found = trains(20e-3, 2000, 0.5)
    assert found.worst_s == pytest.approx(40e-3)
    # Half of 2,000 places taken: nobody is left behind, the mean wait is half an interval.
    assert found.mean_wait_s == pytest.approx(10e-3)
    assert found.arrivals_per_s == pytest.approx(50_000)


def test_batch_of_2000_at_64_steps_a_second():
    assert roofline.tokens_per_s(2000, 1 / 64) == 128_000


# An example of the lecture's size: 100 B active and 800 B total parameters of one byte,
# chips of 600e12 FLOP/s and 1e12 B/s, so that C / (2 W) is its 300.
CHIPS = Chips(count=64, flop_per_s=600e12, hbm_bytes_per_s=1e12, usd_per_hour=3.6)


def model(context, kv=0.0):
    return ModelBytes(
        active_params=100e9,
        weights_bytes=800e9,
        kv_read_bytes_per_token=kv,
        kv_bytes_per_token=kv,
        context=context,
    )


def test_chips_have_the_lectures_ratio():
    assert CHIPS.flop_per_two_bytes == 300


def test_weights_only_cost_of_batch_1_is_2400_times_that_of_the_critical_batch():
    # 300 x 800/100 = 2,400: there matmuls take as long as reading all weights.
    alone, full = output_usd(model(1), CHIPS, 1), output_usd(model(1), CHIPS, 2400)
    assert alone / full == pytest.approx(2400)
    assert full == pytest.approx(input_usd(model(1), CHIPS))
    # Below it a step takes as long, above it longer.
    assert decode_step_s(model(1), CHIPS, 1200) == decode_step_s(model(1), CHIPS, 1)
    assert decode_step_s(model(1), CHIPS, 4800) == pytest.approx(
        2 * decode_step_s(model(1), CHIPS, 2400)
    )


def test_cost_floor_is_compute_or_cache():
    # Compute 2 x 100e9 / 600e12 = 1/3000 chip-seconds; cache 2,000 B x 200,000 / 1e12 = 0.4e-3.
    dollars = 3.6 / 3600
    assert floor_usd(model(1), CHIPS) == pytest.approx(dollars / 3000)
    assert floor_usd(model(200_000, 2000.0), CHIPS) == pytest.approx(dollars * 0.4e-3)


def test_twice_the_balanced_context_costs_twice_and_halves_mfu():
    balanced = kink.implied_context(100e9, CHIPS.flop_per_two_bytes, 2000.0)
    base = floor_usd(model(1), CHIPS)
    assert floor_usd(model(balanced, 2000.0), CHIPS) == pytest.approx(base)
    assert floor_usd(model(2 * balanced, 2000.0), CHIPS) == pytest.approx(2 * base)
    assert roofline.mfu_at_context(2 * balanced, balanced) == 0.5


def test_drafts_of_multi_token_prediction():
    # (1 - 0.8^4) / (1 - 0.8) = 2.952 tokens per pass of 3 drafts.
    assert tokens_per_pass(3, 0.8) == pytest.approx(2.952)


# Chapter 5.


def test_equal_spending_of_the_lecture():
    # 6 D_pre = 3 x 3 D_rl = 2 x 3 D_inf: D_pre = 1.5 D_rl = D_inf.
    tokens = budget.balanced_from_pretrain(15e12, budget.Coefficients(rl=3, inefficiency=3))
    assert tokens.pretrain == pytest.approx(1.5 * tokens.rl)
    assert tokens.inference == pytest.approx(tokens.pretrain)
    spent = budget.spending(1.0, tokens, budget.Coefficients())
    assert spent.pretrain == pytest.approx(spent.rl) == pytest.approx(spent.inference)


def test_tokens_served_in_two_months():
    # 500M tokens/s x 60 d x 86,400 s = 2.592e15
    assert budget.served_tokens(500e6, 60 * 86400) == pytest.approx(2.592e15)


def test_about_100_times_chinchilla():
    # 50M x 60 d = 2.592e14 tokens served, as many trained; 20 x 100e9 = 2e12: 129.6.
    served = budget.served_tokens(50e6, 60 * 86400)
    assert served == pytest.approx(2.592e14)
    tokens = budget.balanced_from_inference(served, budget.Coefficients())
    assert budget.over_training(tokens.pretrain, 100e9) == pytest.approx(129.6)


# Chapter 6.


def test_cache_bytes_implied_by_a_price_step():
    # 100e9 / (300 x 200,000) = 1,666.7 B
    assert kink.implied_kv_bytes(100e9, 300, 200_000) == pytest.approx(1666.7, abs=0.05)
    # Unit-safe: 2 N W / (C L) is the same where C / (2 W) is 300.
    assert kink.implied_kv_bytes(100e9, CHIPS.flop_per_two_bytes, 200_000) == pytest.approx(
        2 * 100e9 * 1e12 / (600e12 * 200_000)
    )
    # And back.
    assert kink.implied_context(100e9, 300, 5000 / 3) == pytest.approx(200_000)


def test_cache_of_one_unique_layer():
    # 1 layer x keys and values x 128 x 8 heads x 1 B
    assert kink.unique_kv_bytes(1, 128, 8, 1.0) == 2048


def test_drain_times_of_the_lecture():
    assert roofline.drain_s(288e9, 20e12) == pytest.approx(14.4e-3)
    assert roofline.drain_s(141e9, 4.8e12) == pytest.approx(29.4e-3, abs=0.05e-3)
