"""The worked cases of the theory, chapters 1 to 4, through the public closed forms."""

import math

import pytest

from planner.cost import roofline
from planner.cost.pipeline import decode_idle_fraction, decode_step_s


def test_critical_batch_of_the_lecture():
    # 300 x 256/32 = 2,400 and 300 x 671/37 = 5,440.5
    assert roofline.critical_batch(300, 256, 32) == 2400
    assert roofline.critical_batch(300, 671, 37) == pytest.approx(5440.54, abs=0.01)


@pytest.mark.parametrize(
    ("flop_per_s", "hbm_bytes_per_s", "weight_bytes", "expected"),
    [
        (989.4e12, 3.35e12, 2, 295),  # H100 bf16
        (1978.9e12, 3.35e12, 1, 295),  # H100 fp8: both halve and double
        (312e12, 2.039e12, 2, 153),  # A100-80
        (989.4e12, 4.8e12, 2, 206),  # H200
        (197e12, 0.819e12, 2, 241),  # TPU v5e
    ],
)
def test_ridge_of_chips(flop_per_s, hbm_bytes_per_s, weight_bytes, expected):
    assert round(roofline.ridge(flop_per_s, hbm_bytes_per_s, weight_bytes)) == expected


def test_int8_weights_under_bf16_matmuls_halve_the_ridge():
    full = roofline.ridge(989.4e12, 3.35e12, 2)
    assert roofline.ridge(989.4e12, 3.35e12, 1) == full / 2


def test_critical_batch_with_kv_is_unbounded_past_the_compute_slope():
    # r N / (N_act - r L kv'): 300 x 256 / (32 - 300 x 0.05) = 76,800 / 17
    assert roofline.critical_batch_with_kv(300, 256, 32, 0.05) == pytest.approx(76800 / 17)
    assert roofline.critical_batch_with_kv(300, 256, 32, 0.0) == 2400
    assert math.isinf(roofline.critical_batch_with_kv(300, 256, 32, 32 / 300))


def test_context_at_twice_the_balance_halves_mfu():
    # Compute slope 2 N_act / C equals the KV slope kv L / W at L = N_act / (300 kv').
    balanced = roofline.balanced_context(32e9, 300, 1000)
    assert balanced == pytest.approx(32e9 / 300e3)
    assert roofline.mfu_at_context(2 * balanced, balanced) == 0.5
    assert roofline.mfu_at_context(balanced / 2, balanced) == 1.0


def test_drain_time_and_train_interval():
    assert roofline.drain_s(288e9, 20e12) == pytest.approx(14.4e-3)
    assert roofline.drain_s(141e9, 4.8e12) == pytest.approx(29.375e-3)
    assert roofline.worst_wait_s(20e-3) == pytest.approx(40e-3)


def test_throughput_and_weight_cost_ratio():
    assert roofline.tokens_per_s(2000, 1 / 64) == 128_000
    assert roofline.cost_per_token_ratio(1, 2400) == 2400


def test_256_experts_on_72_chips_use_64():
    assert roofline.whole_expert_chips(256, 72) == (64, 4, 8)


@pytest.mark.parametrize(("racks", "slowdown"), [(2, 4), (4, 6), (8, 7)])
def test_all_to_all_across_racks_slows_down(racks, slowdown):
    assert roofline.rack_slowdown(racks, 8) == slowdown
    assert roofline.leaving_fraction(2) == 0.5


@pytest.mark.parametrize(
    ("top_k", "layers", "ratio"), [(8, 1, 2.0), (1, 1, 0.25), (1, 4, 1.0), (32, 1, 8.0)]
)
def test_stage_boundary_ratio(top_k, layers, ratio):
    assert roofline.stage_boundary_ratio(1 / 8, top_k, layers) == ratio


def test_decode_pipeline_of_four():
    # One batch in flight leaves 1 - 1/4 idle, four leave nothing idle.
    assert decode_idle_fraction([1.0] * 4, 1) == 0.75
    assert decode_idle_fraction([1.0] * 4, 4) == 0.0
    assert decode_step_s([1.0] * 4, 4) == 4.0


def test_uneven_stages_pace_the_loop():
    # Loop of 3 microbatches over stages 1, 2, 1: max(4, 3 x 2) = 6.
    assert decode_step_s([1.0, 2.0, 1.0], 3) == 6.0
    assert decode_step_s([1.0, 2.0, 1.0], 1) == 4.0


@pytest.mark.parametrize(("m", "bubble"), [(4, 3 / 7), (8, 3 / 11), (16, 3 / 19)])
def test_training_bubble_of_four_stages(m, bubble):
    assert roofline.training_bubble(4, m) == pytest.approx(bubble)


@pytest.mark.parametrize(("stages", "weights"), [(1, 10.94), (2, 5.47), (4, 2.73), (8, 1.37)])
def test_pipelining_divides_weights_and_leaves_kv(stages, weights):
    # 700 GB over 64 P chips; KV 2,400 x 100,000 x 2,048 B / 64 = 7.68 GB for every P.
    kv_per_sequence = 100_000 * 2048
    got_weights, got_kv = roofline.memory_per_chip_bytes(700e9, kv_per_sequence, (64, stages), 2400)
    assert got_weights / 1e9 == pytest.approx(weights, abs=0.005)
    assert got_kv / 1e9 == pytest.approx(7.68)


def test_scale_up_size_sets_the_weight_read_time():
    assert roofline.weight_read_s(1e12, 8, 3.35e12) == pytest.approx(37.3e-3, abs=0.05e-3)
    assert roofline.weight_read_s(1e12, 72, 8e12) == pytest.approx(1.74e-3, abs=0.005e-3)


def test_hops_add_to_the_token():
    assert roofline.token_latency_s(20e-3, 4, 2.5e-3) == pytest.approx(30e-3)
    assert decode_step_s([5e-3] * 4, 1, 2.5e-3) == pytest.approx(30e-3)


@pytest.mark.parametrize(
    ("batch", "expected_ms"),
    [(1, 4.98), (8, 12.13), (16, 20.30), (32, 36.65), (64, 69.33), (240, 249.09)],
)
def test_llama_13b_on_eight_v5e_under_the_sum_model(batch, expected_ms):
    # Scaling book: 8 chips x 8.2e11 B/s, 26e9 B of weights, 6.7e9 B of KV per sequence.
    bandwidth = 8 * 8.2e11
    compute = 2 * batch * 13e9 / (8 * 197e12)
    step = roofline.sum_step_s(compute, 26e9 / bandwidth, batch * 6.7e9 / bandwidth)
    assert step * 1e3 == pytest.approx(expected_ms, abs=0.02)


def test_overlap_takes_the_longer_of_compute_and_memory():
    assert roofline.overlap_step_s(3.0, 1.0, 1.5) == 3.0
    assert roofline.overlap_step_s(2.0, 1.0, 1.5) == 2.5
    assert roofline.sum_step_s(2.0, 1.0, 1.5) == 3.5
