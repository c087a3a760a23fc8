"""Totals of every machine of the catalogue, re-derived by hand."""

from dataclasses import replace

import pytest

from planner.catalog.machines import load_machine, resize
from planner.topology.build import build_topology
from planner.topology.network import fabric_size
from planner.topology.summary import TopologySummary, summarise


def summary(name, **size):
    return summarise(build_topology(resize(load_machine(name), **size)))


def close(value):
    return pytest.approx(value, rel=1e-12)


def test_gb200_two_racks():
    assert summary("gb200-nvl72", racks=2) == TopologySummary(
        name="gb200-nvl72",
        size="2 racks",
        num_chips=144,  # 2 x 18 trays x 4
        domain_chips=(72, 72),
        scale_up_switches=36,  # 2 x 9 trays x 2
        scale_up_links=2592,  # 144 x 18
        leaf_switches=18,  # one scalable unit: 576 NICs / 32 ports
        spine_switches=9,  # 18 x 32 uplinks / 64 ports
        scale_up_bytes_per_s=close(900e9),  # 18 x 50 GB/s
        scale_up_domain_bytes_per_s=close(64.8e12),  # 72 x 900 GB/s
        scale_up_bisection_bytes_per_s=close(32.4e12),  # 36 x 900 GB/s
        scale_out_bytes_per_s=close(50e9),
        scale_out_domain_bytes_per_s=close(3.6e12),  # 72 x 50 GB/s
        scale_ratio=close(18),
        peak_flop_per_s=(
            ("bf16", close(144 * 2.5e15)),
            ("fp8", close(144 * 5e15)),
            ("fp4", close(144 * 10e15)),
            ("int8", close(144 * 5e15)),
            ("tf32", close(144 * 1.25e15)),
            ("fp32", close(144 * 80e12)),
        ),
        hbm_bytes=close(144 * 186e9),
        hbm_usable_bytes=close(144 * 185 * 2**30),
        hbm_bytes_per_s=close(144 * 8e12),
        hbm_drain_s=close(0.02325),  # 186 GB / 8 TB/s
        hbm_usable_drain_s=close(185 * 2**30 / 8e12),
        price_usd_per_hour=close(144 * 4.54),
    )


def test_h100_four_nodes():
    found = summary("h100-hgx", nodes=4)
    assert found == TopologySummary(
        name="h100-hgx",
        size="4 nodes",
        num_chips=32,
        domain_chips=(8, 8, 8, 8),
        scale_up_switches=16,
        scale_up_links=576,  # 32 x (5 + 4 + 4 + 5)
        leaf_switches=8,  # one rail each
        spine_switches=4,  # 8 x 32 uplinks / 64 ports
        scale_up_bytes_per_s=close(450e9),  # 18 x 25 GB/s
        scale_up_domain_bytes_per_s=close(3.6e12),
        scale_up_bisection_bytes_per_s=close(1.8e12),
        scale_out_bytes_per_s=close(50e9),
        scale_out_domain_bytes_per_s=close(400e9),  # the scaling book's node egress
        scale_ratio=close(9),
        peak_flop_per_s=(
            ("bf16", close(32 * 989.4e12)),
            ("fp8", close(32 * 1978.9e12)),
            ("int8", close(32 * 1978.9e12)),
            ("tf32", close(32 * 494.7e12)),
            ("fp32", close(32 * 67e12)),
        ),
        hbm_bytes=close(32 * 80e9),
        hbm_usable_bytes=close(32 * 79.65 * 2**30),
        hbm_bytes_per_s=close(32 * 3.35e12),
        hbm_drain_s=close(80 / 3350),
        hbm_usable_drain_s=close(79.65 * 2**30 / 3.35e12),
        price_usd_per_hour=close(32 * 2.95),
    )


def test_h800_differs_in_its_links_and_has_no_price():
    h800, h100 = summary("h800-hgx"), summary("h100-hgx")
    assert h800 == replace(
        h100,
        name="h800-hgx",
        scale_up_links=64,  # 8 x 8
        scale_up_bytes_per_s=close(200e9),
        scale_up_domain_bytes_per_s=close(1.6e12),
        scale_up_bisection_bytes_per_s=close(0.8e12),
        scale_ratio=close(4),
        price_usd_per_hour=None,
    )


def test_h200_drains_in_29_ms():
    found = summary("h200-hgx")
    assert found.hbm_drain_s == pytest.approx(29.4e-3, abs=0.05e-3)  # 141 GB / 4.8 TB/s
    assert found.hbm_usable_drain_s == close(139.8 * 2**30 / 4.8e12)
    assert (found.num_chips, found.price_usd_per_hour) == (8, close(28.0))


def test_a_288_gb_chip_at_20_tb_per_s_drains_in_14_ms():
    spec = load_machine("gb200-nvl72")
    chip = replace(spec.chip, hbm_bytes=288e9, hbm_bytes_per_s=20e12)
    found = summarise(build_topology(replace(spec, chip=chip)))
    assert found.hbm_drain_s == close(14.4e-3)


@pytest.mark.parametrize(
    ("shape", "links", "bisection_links", "ports"),
    [
        ((16, 16), 512, 32, 4),  # 2 x 256 links; a cut crosses 16 rings twice
        ((4, 4), 24, 4, 4),  # 2 x 4 lines of 3 links; a cut crosses 4 lines once
        ((4, 2), 10, 2, 3),  # 2 lines of 3, 4 of 1; across the long axis
        ((16, 4), 112, 8, 4),  # 4 rings of 16, 16 lines of 3; 4 rings cut twice
        ((1, 1), 0, 0, 0),
    ],
)
def test_tpu_slices(shape, links, bisection_links, ports):
    found = summary("tpu-v5e", shape=shape)
    chips = shape[0] * shape[1]
    assert found.num_chips == chips
    assert found.domain_chips == (chips,)
    assert found.scale_up_links == links
    assert found.scale_up_bisection_bytes_per_s == close(bisection_links * 50e9)
    assert found.scale_up_bytes_per_s == close(ports * 50e9)
    assert (found.scale_up_switches, found.leaf_switches, found.spine_switches) == (0, 0, 0)
    assert (found.scale_out_domain_bytes_per_s, found.scale_ratio) == (0, None)
    assert found.price_usd_per_hour == close(chips * 1.2)


@pytest.mark.parametrize(("units", "spines"), [(1, 4), (2, 8), (4, 16)])
def test_spines_of_the_reference_architecture(units, spines):
    # DGX SuperPOD H100: 8 leaves per unit; 4, 8 and 16 spines for 1, 2 and 4 units
    fabric = load_machine("h100-hgx").scale_out
    found = fabric_size(fabric, 8, units)
    assert (found.leaves, found.spines) == (8 * units, spines)
    assert found.uplink_bytes_per_s == close(32 * 50e9)


def test_oversubscription_takes_uplinks_away():
    fabric = replace(load_machine("h100-hgx").scale_out, oversubscription=2.0)
    found = fabric_size(fabric, 8, 1)
    assert (found.spines, found.uplink_bytes_per_s) == (2, close(16 * 50e9))
