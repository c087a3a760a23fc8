"""Totals of machines, re-derived by hand."""

from dataclasses import replace

import pytest

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.domain.hardware import Sizing, Wounds
from planner.topology.bisection import Bisection
from planner.topology.build import build_topology
from planner.topology.fabric_size import fabric_size
from planner.topology.losses import LostKind, SlowLink, losses, whole
from planner.topology.summary import (
    ChipTotal,
    DomainFigure,
    KindCount,
    PeakRate,
    TierTotal,
    TopologySummary,
    curve_rows,
    domain_names,
    summarise,
)


def machine(name, **size):
    return build_topology(sized(load_machine(name), Sizing(**size)))


def summary(name, **size):
    return summarise(machine(name, **size))


def close(value):
    return pytest.approx(value, rel=1e-12)


def counts(found):
    return {node.kind: node.count for node in found.nodes}


def chip_total(chip, count):
    return ChipTotal(
        name=chip.name,
        chips=count,
        peaks=tuple(
            PeakRate(rate=rate, flop_per_s=peak, achieved=dict(chip.efficiency.matmul)[rate])
            for rate, peak in chip.peak_flop_per_s
        ),
        hbm_bytes=chip.hbm_bytes,
        hbm_usable_bytes=chip.hbm_usable_bytes,
        hbm_bytes_per_s=chip.hbm_bytes_per_s,
        hbm_achieved=chip.efficiency.hbm,
        hbm_drain_s=close(chip.hbm_bytes / chip.hbm_bytes_per_s),
        hbm_usable_drain_s=close(chip.hbm_usable_bytes / chip.hbm_bytes_per_s),
        price_usd_per_hour=chip.price_usd_per_hour,
    )


def test_gb200_two_racks():
    chip = load_machine("gb200-nvl72").chip
    assert summary("gb200-nvl72", racks=2) == TopologySummary(
        name="gb200-nvl72",
        size="2 racks",
        num_chips=144,  # 2 x 18 trays x 4
        domain_chips=(72, 72),
        nodes=(
            KindCount(kind="chip", count=144),
            KindCount(kind="switch", count=36),  # 2 x 9 trays x 2
            KindCount(kind="nic", count=144),
            KindCount(kind="leaf", count=18),  # one scalable unit: 576 NICs / 32 ports
            KindCount(kind="spine", count=9),  # 18 x 32 uplinks / 64 ports
        ),
        tiers=(
            TierTotal(
                tier="nvlink",
                scale_up=True,
                links=2592,  # 144 x 18
                cables=2592,
                least_bytes_per_s=50e9,
                most_bytes_per_s=50e9,
            ),
            TierTotal(
                tier="nic",
                scale_up=False,
                links=288,  # chip to NIC, NIC to leaf
                cables=288,
                least_bytes_per_s=50e9,
                most_bytes_per_s=50e9,
            ),
            TierTotal(
                tier="leaf-spine",
                scale_up=False,
                links=162,  # 18 x 9
                cables=None,
                least_bytes_per_s=close(32 * 50e9 / 9),
                most_bytes_per_s=close(32 * 50e9 / 9),
            ),
        ),
        scale_up_links=2592,
        scale_up_bytes_per_s=close(900e9),  # 18 x 50 GB/s
        scale_up_least_bytes_per_s=close(900e9),
        scale_up_domain_bytes_per_s=close(64.8e12),  # 72 x 900 GB/s
        scale_up_bisection=Bisection(
            bytes_per_s=close(32.4e12),  # 36 x 900 GB/s
            method="half of the chips through the switches",
        ),
        scale_up_bisection_domain="r0",
        scale_out_bytes_per_s=close(50e9),
        scale_out_domain_bytes_per_s=close(3.6e12),  # 72 x 50 GB/s
        scale_out_worst_domain=DomainFigure(domain="r0", bytes_per_s=close(3.6e12)),
        scale_out_bisection=Bisection(
            bytes_per_s=close(3.6e12), method="first half of the racks to the others"
        ),
        scale_ratio=close(18),
        chips=(chip_total(chip, 144),),
        peak_flop_per_s=tuple(
            PeakRate(
                rate=rate,
                flop_per_s=close(144 * peak),
                achieved=close(dict(chip.efficiency.matmul)[rate]),
            )
            for rate, peak in chip.peak_flop_per_s
        ),
        hbm_bytes=close(144 * chip.hbm_bytes),
        hbm_usable_bytes=close(144 * chip.hbm_usable_bytes),
        hbm_bytes_per_s=close(144 * 8e12),
        hbm_drain_s=close(chip.hbm_bytes / 8e12),
        hbm_usable_drain_s=close(chip.hbm_usable_bytes / 8e12),
        price_usd_per_hour=close(144 * chip.price_usd_per_hour),
    )


def test_h100_four_nodes():
    found = summary("h100-hgx", nodes=4)
    assert (found.size, found.num_chips, found.domain_chips) == ("4 nodes", 32, (8,) * 4)
    # 8 leaves, one rail each; 8 x 32 uplinks over 64 ports are 4 spines
    assert counts(found) == {"chip": 32, "switch": 16, "nic": 32, "leaf": 8, "spine": 4}
    assert found.tiers[0] == TierTotal(
        tier="nvlink",
        scale_up=True,
        links=128,  # 32 x 4 switches
        cables=576,  # 32 x (5 + 4 + 4 + 5)
        least_bytes_per_s=100e9,
        most_bytes_per_s=125e9,
    )
    # 32 uplinks of 50 GB/s from each leaf to four spines
    assert (found.tiers[2].links, found.tiers[2].most_bytes_per_s) == (32, close(400e9))
    assert found.scale_up_bytes_per_s == close(450e9)  # 18 x 25 GB/s
    assert found.scale_up_domain_bytes_per_s == close(3.6e12)
    assert found.scale_up_bisection.bytes_per_s == close(1.8e12)
    assert found.scale_out_domain_bytes_per_s == close(400e9)  # the scaling book's node egress
    assert found.scale_out_bisection.bytes_per_s == close(800e9)  # two nodes
    assert found.scale_ratio == close(9)
    assert found.price_usd_per_hour == close(32 * 2.95)


def test_h800_differs_in_its_links_and_has_no_price():
    found = summary("h800-hgx")
    assert found.scale_up_links == 64  # 8 x 8
    assert found.scale_up_bytes_per_s == close(200e9)
    assert found.scale_up_bisection.bytes_per_s == close(800e9)
    assert found.scale_ratio == close(4)
    assert found.price_usd_per_hour is None
    assert found.scale_out_bisection is None  # one node


def test_mi300x_is_a_full_mesh():
    found = summary("mi300x-hgx")
    assert counts(found)["chip"] == 8 and "switch" not in counts(found)
    assert found.scale_up_links == 28  # 8 x 7 / 2
    assert found.scale_up_bytes_per_s == close(448e9)  # 7 x 64 GB/s
    assert found.scale_up_domain_bytes_per_s == close(8 * 448e9)
    assert found.scale_up_bisection == Bisection(
        bytes_per_s=close(16 * 64e9),  # 4 x 4 pairs
        method="least of all halves",
    )


def test_h200_drains_in_29_ms():
    found = summary("h200-hgx")
    assert found.hbm_drain_s == pytest.approx(29.4e-3, abs=0.05e-3)  # 141 GB / 4.8 TB/s
    assert found.hbm_usable_drain_s == close(139.8 * 2**30 / 4.8e12)


def test_a_288_gb_chip_at_20_tb_per_s_drains_in_14_ms():
    spec = load_machine("gb200-nvl72")
    chip = replace(spec.chip, hbm_bytes=288e9, hbm_bytes_per_s=20e12)
    found = summarise(build_topology(replace(spec, chip=chip)))
    assert found.hbm_drain_s == close(14.4e-3)


@pytest.mark.parametrize(
    ("shape", "links", "bisection_links", "ports"),
    [
        ((16, 16), 512, 32, (4, 4)),  # 2 x 256 links; a cut crosses 16 rings twice
        ((4, 4), 24, 4, (2, 4)),  # 2 x 4 lines of 3 links; a cut crosses 4 lines once
        ((4, 2), 10, 2, (2, 3)),  # 2 lines of 3, 4 of 1; across the long axis
        ((16, 4), 112, 8, (3, 4)),  # 4 rings of 16, 16 lines of 3; 4 rings cut twice
        ((1, 1), 0, 0, (0, 0)),
    ],
)
def test_tpu_slices(shape, links, bisection_links, ports):
    found = summary("tpu-v5e", shape=shape)
    chips = shape[0] * shape[1]
    assert found.num_chips == chips
    assert found.domain_chips == (chips,)
    assert found.scale_up_links == links
    assert found.scale_up_bisection.bytes_per_s == close(bisection_links * 50e9)
    assert found.scale_up_least_bytes_per_s == close(ports[0] * 50e9)
    assert found.scale_up_bytes_per_s == close(ports[1] * 50e9)
    assert counts(found)["chip"] == chips and "switch" not in counts(found)
    assert found.scale_out_bisection is None
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


def test_two_kinds_of_chips_add_up_where_both_have_a_rate():
    h100, h200 = load_machine("h100-hgx"), load_machine("h200-hgx")
    peaks = tuple((rate, peak) for rate, peak in h200.chip.peak_flop_per_s if rate != "int8")
    other = replace(h200.chip, peak_flop_per_s=peaks)
    spec = replace(sized(h100, Sizing(nodes=3)), mix=((1, other),))
    found = summarise(build_topology(spec))
    assert [(kind.name, kind.chips) for kind in found.chips] == [("H100-SXM", 16), ("H200-SXM", 8)]
    assert found.hbm_bytes == close(16 * 80e9 + 8 * 141e9)
    assert found.hbm_drain_s == close(141 / 4800)  # the slower train
    assert found.price_usd_per_hour == close(16 * 2.95 + 8 * other.price_usd_per_hour)
    assert found.peak_flop_per_s[0].flop_per_s == close(24 * 989.4e12)
    assert "int8" not in [peak.rate for peak in found.peak_flop_per_s]
    unpriced = replace(spec, mix=((1, replace(other, price_usd_per_hour=None)),))
    assert summarise(build_topology(unpriced)).price_usd_per_hour is None


def test_achieved_fraction_of_two_kinds_is_weighted_by_their_peaks():
    h100 = load_machine("h100-hgx")
    efficiency = replace(h100.chip.efficiency, matmul=(("bf16", 0.5),))
    first = replace(h100.chip, peak_flop_per_s=(("bf16", 1e15),), efficiency=efficiency)
    better = replace(efficiency, matmul=(("bf16", 0.8),))
    second = replace(first, name="other", peak_flop_per_s=(("bf16", 2e15),), efficiency=better)
    spec = replace(sized(replace(h100, chip=first), Sizing(nodes=2)), mix=((1, second),))
    (peak,) = summarise(build_topology(spec)).peak_flop_per_s
    # (1 x 0.5 + 2 x 0.8) / 3 of the same number of chips
    assert peak == PeakRate(rate="bf16", flop_per_s=close(8 * 3e15), achieved=close(0.7))


def test_curves_are_listed_tier_by_tier():
    spec = load_machine("h100-hgx")
    rows = curve_rows(spec)
    assert [row.op for row in rows if row.tier == "scale_up"][:1] == ["default"]
    listed = dict(spec.scale_out.curves.listed)
    for row in rows:
        if row.tier == "scale_out" and row.op != "default":
            curve = listed.pop(row.op)
            assert (row.derate, row.base_s) == (curve.derate, curve.base_s)
            assert (row.step_s, row.fill_s) == (curve.step_s, curve.fill_s)
    assert not listed


# --- wounded machines ------------------------------------------------------------------


def wounded(name, *without, degrade=(), usable=(), **size):
    wounds = Wounds(without=without, degrade=degrade, usable=usable)
    return machine(name, wounds=wounds, **size)


def test_a_dead_chip():
    found = summarise(wounded("gb200-nvl72", "chip:r0/t3/c2"))
    assert found.num_chips == 71
    assert found.scale_up_links == 71 * 18
    assert found.scale_up_bisection == Bisection(
        bytes_per_s=close(35 * 900e9), method="least of all halves"
    )
    assert counts(found)["nic"] == 71
    assert found.scale_out_domain_bytes_per_s == close(71 * 50e9)


def test_a_dead_switch():
    found = summarise(wounded("gb200-nvl72", "switch:r0/sw5", racks=2))
    assert counts(found)["switch"] == 35
    assert found.scale_up_links == 144 * 18 - 72
    assert found.scale_up_bytes_per_s == close(900e9)  # of the other rack
    assert found.scale_up_least_bytes_per_s == close(850e9)
    assert found.scale_up_bisection.bytes_per_s == close(36 * 850e9)
    assert found.scale_up_bisection_domain == "r0"


def test_a_slow_link():
    found = summarise(wounded("gb200-nvl72", degrade=(("link:r0/t3/c2--r0/sw5", 0.5),)))
    # The chip keeps 17.5 of 18 links; the cut takes its half: 35 whole chips and this one.
    assert found.scale_up_least_bytes_per_s == close(875e9)
    assert found.scale_up_bisection.bytes_per_s == close(35 * 900e9 + 875e9)


def test_a_dead_nic_and_a_dead_leaf():
    nic = summarise(wounded("gb200-nvl72", "nic:r1/t3/c2", racks=2))
    assert nic.scale_out_worst_domain == DomainFigure(domain="r1", bytes_per_s=close(71 * 50e9))
    assert nic.scale_out_domain_bytes_per_s == close(72 * 50e9)
    assert nic.scale_out_bisection.bytes_per_s == close(71 * 50e9)
    leaf = summarise(wounded("gb200-nvl72", "leaf:su0/leaf0", racks=2))
    # Leaf 0 serves the 18 NICs of rail 0 of the first rack and 14 of the second.
    assert leaf.scale_out_worst_domain.bytes_per_s == close(54 * 50e9)
    assert leaf.scale_out_bisection.bytes_per_s == close(54 * 50e9)
    assert leaf.num_chips == 144


def test_a_dead_spine_is_felt_between_units_only():
    one_unit = summarise(wounded("gb200-nvl72", "spine:spine0", racks=2))
    assert one_unit.scale_out_bisection.bytes_per_s == close(72 * 50e9)
    # Two units of 8 racks: 18 leaves with 32 uplinks each to 18 spines, 17 of them left.
    two = wounded("gb200-nvl72", "spine:spine0", racks=16)
    found = summarise(two)
    # The flow counts whole bytes/s; 32 uplinks on 18 spines are no whole number.
    assert found.scale_out_bisection.bytes_per_s == pytest.approx(17 * 32 * 50e9, rel=1e-10)
    assert found.scale_out_bisection.is_bound
    assert summarise(whole(two)).scale_out_bisection.bytes_per_s == close(18 * 32 * 50e9)


def test_a_chip_without_scale_up_links_is_a_domain_of_its_own():
    found = wounded("gb200-nvl72", "link:r0/t3/c2--r0/sw*")
    assert domain_names(found) == ("r0 from r0/t0/c0", "r0 from r0/t3/c2")
    total = summarise(found)
    assert total.domain_chips == (71, 1)
    assert total.scale_up_bisection == Bisection(bytes_per_s=0.0, method="one chip")
    assert total.scale_up_bisection_domain == "r0 from r0/t3/c2"
    assert total.scale_out_bisection is None  # pieces of one rack are not halves of a machine


def test_a_rack_without_chips_is_gone():
    found = wounded("gb200-nvl72", "chip:r0/*", racks=2)
    total = summarise(found)
    assert total.domain_chips == (72,)
    assert domain_names(found) == ("r1",)
    assert counts(total)["switch"] == 18
    assert total.scale_out_bisection is None


def test_losses_are_named():
    spec = wounded(
        "h100-hgx",
        "chip:n0/c3",
        "link:n0/c0--n0/sw1",
        degrade=(("link:n1/c0--n1/sw0", 0.25),),
        nodes=2,
    )
    lost = losses(whole(spec).network, spec.network)
    assert lost.nodes == (
        LostKind(kind="chip", names=("n0/c3",)),
        LostKind(kind="nic", names=("n0/c3/nic",)),
    )
    assert lost.links == ("n0/c0--n0/sw1",)
    assert lost.slowed == (SlowLink(name="n1/c0--n1/sw0", left=0.25),)


def test_nothing_is_lost_by_a_whole_machine():
    topology = machine("h100-hgx")
    lost = losses(topology.network, topology.network)
    assert (lost.nodes, lost.links, lost.slowed) == ((), (), ())
