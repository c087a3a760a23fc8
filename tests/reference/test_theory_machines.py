"""Worked cases of the theory that need a machine: the unit trap, and collectives."""

import pytest

from planner import Sizing, load_topology
from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.cost import roofline
from planner.cost.block import distinct_groups
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.hardware import ideal
from planner.topology.build import build_topology
from planner.topology.collectives import collective_cost


@pytest.mark.parametrize(
    ("machine", "rate", "weight_bytes", "bracket"),
    [
        # C beta / (2 W) at the dense peak: 312e12 x 2 / (2 x 2.039e12) = 153.0 and so on.
        ("a100-80-hgx", "bf16", 2, 153),
        ("h100-hgx", "bf16", 2, 295),
        ("h100-hgx", "fp8", 1, 295),
        ("h200-hgx", "bf16", 2, 206),
        ("b200-hgx", "bf16", 2, 281),
        ("gb300-nvl72", "fp8", 1, 312),
        ("gb300-nvl72", "fp4", 0.5, 469),
        ("tpu-v5e", "bf16", 2, 241),
        ("tpu-v5p", "bf16", 2, 166),
        ("tpu-v6e", "bf16", 2, 560),
    ],
)
def test_the_lectures_300_of_each_chip(machine, rate, weight_bytes, bracket):
    chip = load_topology(machine).chip
    ridge = roofline.ridge(dict(chip.peak_flop_per_s)[rate], chip.hbm_bytes_per_s, weight_bytes)
    assert ridge == pytest.approx(bracket, abs=0.5)


def test_raw_fp4_flops_per_byte_are_four_times_off():
    # 9,000e12 / 8e12 = 1,125 FLOP per byte of B200 against 9,000e12 x 0.5 / (2 x 8e12) = 281.
    chip = load_topology("b200-hgx").chip
    fp4 = dict(chip.peak_flop_per_s)["fp4"]
    raw = fp4 / chip.hbm_bytes_per_s
    assert raw / roofline.ridge(fp4, chip.hbm_bytes_per_s, 0.5) == pytest.approx(4.0)
    # Block scales of NVFP4 make the weights 0.5625 bytes and the true bracket 12.5 % larger.
    scaled = roofline.ridge(fp4, chip.hbm_bytes_per_s, BYTES_PER_ELEMENT[DType.NVFP4])
    assert scaled == pytest.approx(316.4, abs=0.1)


def seconds(machine, op, chips, num_bytes, **size):
    """A collective at nameplate, without latency, as the scaling book counts."""
    topology = build_topology(ideal(sized(load_machine(machine), Sizing(**size))))
    return collective_cost(topology, op, chips, num_bytes).seconds


@pytest.mark.parametrize(
    ("rows", "columns", "expected_s"),
    [
        # V (N - 1) / (N W): 4096 x 65536 x 2 B x 7/8 / 450e9 = 1.044 ms
        (4096, 65536, 1.04e-3),
        # 1024 x 16384 x 2 B x 7/8 / 450e9 = 65.2 us
        (1024, 16384, 65e-6),
    ],
)
def test_all_gather_on_eight_h100(rows, columns, expected_s):
    found = seconds("h100-hgx", Op.ALL_GATHER, range(8), rows * columns * 2)
    assert found == pytest.approx(expected_s, rel=5e-3)


def test_all_to_all_over_two_nodes():
    # Of one array V: V 7 / (64 x 450) on one node; V / (4 x 400) over two: 18/7 = 2.571.
    # Buffers are counted per chip: V / 8, then V / 16.
    one = seconds("h100-hgx", Op.ALL_TO_ALL, range(8), 1e9 / 8)
    two = seconds("h100-hgx", Op.ALL_TO_ALL, range(16), 1e9 / 16, nodes=2)
    assert two / one == pytest.approx(18 / 7)


def test_torus_collectives_over_a_wrapped_axis():
    # Both ways of a 50 GB/s link: W = 100e9. A ring of 16 moves 15/16 of V, of any length
    # about V / W; two axes halve it; all-reduce takes twice; all-to-all a quarter of V / W.
    whole, full_array = 1e9 / 100e9, 1e9
    gather = seconds("tpu-v5e", Op.ALL_GATHER, range(16), full_array, shape=(16, 16))
    assert gather == pytest.approx(whole * 15 / 16)
    both = seconds("tpu-v5e", Op.ALL_GATHER, range(256), full_array, shape=(16, 16))
    assert both == pytest.approx(whole / 2, rel=1 / 128)
    reduced = seconds("tpu-v5e", Op.ALL_REDUCE, range(16), full_array, shape=(16, 16))
    assert reduced == pytest.approx(2 * gather)
    exchange = seconds("tpu-v5e", Op.ALL_TO_ALL, range(16), full_array / 16, shape=(16, 16))
    assert exchange == pytest.approx(whole / 4)


def test_torus_all_gather_without_wrap():
    # A line of 8: (X - 1) / X of V at one way, 50e9.
    found = seconds("tpu-v5e", Op.ALL_GATHER, range(8), 1e9, shape=(8, 1))
    assert found == pytest.approx(7 / 8 * 1e9 / 50e9)


def test_distinct_destinations_of_a_token():
    # G (1 - (1 - 1/G)^k): 8 experts over 72 chips hit 72 (1 - (71/72)^8) = 7.62 of them;
    # with one chip one, with k = 1 one.
    assert distinct_groups(72, 8) == pytest.approx(7.622, abs=1e-3)
    assert distinct_groups(1, 8) == 1
    assert distinct_groups(64, 1) == pytest.approx(1)
