"""Matrix multiplies: large ones run at the achieved fraction, small ones ramp up."""

from __future__ import annotations

import math

import pytest

from planner.cost.runs.gemm import is_ideal, matmul_seconds, sustained_chip
from planner.domain.hardware import Chip, Efficiency

CHIP = Chip(
    name="test",
    peak_flop_per_s=(("bf16", 1e15), ("fp8", 2e15)),
    hbm_bytes=80e9,
    hbm_usable_bytes=80e9,
    hbm_bytes_per_s=2e12,
    efficiency=Efficiency(
        matmul=(("bf16", 0.8), ("fp8", 0.5)),
        hbm=0.5,
        attention=0.5,
        kernel_s=3e-6,
        sustained=0.75,
    ),
)


def test_large_multiply_runs_at_the_achieved_fraction() -> None:
    # 8e11 FLOP at 0.8 x 1e15 FLOP/s take 1 ms; 1e6 bytes at 1e12 bytes/s take 1 us and add
    # (1e-3)^4 / 4 of nothing; one kernel adds 3 us.
    assert matmul_seconds(CHIP, "bf16", 8e11, 1e6, 8192) == pytest.approx(1.003e-3, rel=1e-9)


def test_rate_key_chooses_peak_and_fraction() -> None:
    # fp8: 0.5 x 2e15 = 1e15 FLOP/s.
    assert matmul_seconds(CHIP, "fp8", 1e12, 0.0, 8192) == pytest.approx(1.003e-3, rel=1e-9)


def test_reading_weights_bounds_a_few_rows() -> None:
    # 1e9 bytes at 0.5 x 2e12 bytes/s take 1 ms; 64 rows need no padding.
    assert matmul_seconds(CHIP, "bf16", 1e6, 1e9, 64) == pytest.approx(1.003e-3, rel=1e-9)


def test_ridge_is_softened() -> None:
    # Compute and memory of 1 ms each: (1 + 1)^(1/4) ms.
    seconds = matmul_seconds(CHIP, "bf16", 8e11, 1e9, 8192)
    assert seconds == pytest.approx(2**0.25 * 1e-3 + 3e-6, rel=1e-12)


def test_a_tile_costs_the_same_with_fewer_rows() -> None:
    # FLOP grow with the rows, the tile of 64 rows does not: 16 rows take as long as 64.
    flop_of_row = 1e10
    few = matmul_seconds(CHIP, "bf16", 16 * flop_of_row, 0.0, 16)
    full = matmul_seconds(CHIP, "bf16", 64 * flop_of_row, 0.0, 64)
    assert few == pytest.approx(full, rel=1e-12)


def test_kernels_add_their_fixed_cost() -> None:
    one = matmul_seconds(CHIP, "bf16", 8e11, 1e6, 8192)
    four = matmul_seconds(CHIP, "bf16", 8e11, 1e6, 8192, num_kernels=4)
    assert four - one == pytest.approx(9e-6, rel=1e-6)


@pytest.mark.parametrize("tokens", [1, 64, 4096])
def test_more_work_is_never_faster(tokens: float) -> None:
    base = matmul_seconds(CHIP, "bf16", 1e11, 1e8, tokens)
    assert matmul_seconds(CHIP, "bf16", 2e11, 1e8, tokens) > base
    assert matmul_seconds(CHIP, "bf16", 1e11, 2e8, tokens) > base


def test_no_work_takes_no_time() -> None:
    assert matmul_seconds(CHIP, "bf16", 0.0, 0.0, 8192) == 0.0


def test_tiny_times_do_not_underflow() -> None:
    assert math.isfinite(matmul_seconds(CHIP, "bf16", 1e-200, 1e-200, 64))


def test_unknown_rate_is_refused() -> None:
    with pytest.raises(KeyError):
        matmul_seconds(CHIP, "fp4", 1e12, 0.0, 8192)


def test_sustained_fraction_multiplies_once() -> None:
    # 0.8 x 0.75 = 0.6, and a sustained chip is its own sustained chip.
    chip = sustained_chip(CHIP)
    assert dict(chip.efficiency.matmul) == pytest.approx({"bf16": 0.6, "fp8": 0.375})
    assert sustained_chip(chip) == chip
    assert not is_ideal(chip)
