"""Dead, slow and spared parts: names, hints, renumbering, and the network that is left."""

from dataclasses import replace

import numpy as np
import pytest

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.domain.hardware import Sizing, Wounds
from planner.domain.scale_up import GraphDomain, GraphLink, GraphNode
from planner.errors import SpecError
from planner.topology.build import build_topology
from planner.topology.network import CHIP, KINDS, NIC_NODE, SWITCH
from planner.topology.wounds import scale_up_components

RACK = "gb200-nvl72"


def machine(name, *without, degrade=(), usable=(), **size):
    wounds = Wounds(without=without, degrade=degrade, usable=usable)
    return build_topology(sized(load_machine(name), Sizing(wounds=wounds, **size)))


def rate(topology, a, b):
    network = topology.network
    ends = {network.index[a], network.index[b]}
    (link,) = [link for link in range(network.num_links) if set(network.ends[link]) == ends]
    return network.bytes_per_s[link]


def count(topology, kind):
    return int((topology.network.kinds == KINDS.index(kind)).sum())


def chip_rates(topology):
    """Scale-up bandwidth of each chip, link by link."""
    network = topology.network
    rates = np.zeros(network.num_nodes)
    for (a, b), speed, inside in zip(
        network.ends, network.bytes_per_s, network.scale_up, strict=True
    ):
        if inside:
            rates[a] += speed
            rates[b] += speed
    return rates[: network.num_chips]


# --- what goes with what ---------------------------------------------------------------


def test_a_dead_chip_takes_its_links_and_its_nic():
    topology = machine(RACK, "chip:r0/t3/c2")
    network = topology.network
    assert topology.num_chips == 71
    assert int(network.scale_up.sum()) == 71 * 18
    assert count(topology, "nic") == 71 and "r0/t3/c2/nic" not in network.index
    assert count(topology, "switch") == 18
    assert set(chip_rates(topology)) == {900e9}


def test_a_dead_switch_slows_every_chip():
    topology = machine(RACK, "switch:r0/sw5")
    assert topology.num_chips == 72
    assert set(chip_rates(topology)) == {850e9}  # 17 of 18 links


def test_a_dead_tray_is_four_chips():
    topology = machine(RACK, "tray:r0/t3")
    assert topology.num_chips == 68
    assert not any(name.startswith("r0/t3/") for name in topology.network.names)


@pytest.mark.parametrize(
    ("name", "unit", "size", "gone"),
    [("gb200-nvl72", "rack:r1", {"racks": 3}, "r1/"), ("h100-hgx", "node:n0", {"nodes": 2}, "n0/")],
)
def test_a_dead_domain_takes_chips_nics_and_switches(name, unit, size, gone):
    whole, left = machine(name, **size), machine(name, unit, **size)
    assert len(left.domains) == len(whole.domains) - 1
    assert set(left.network.names) == {
        node for node in whole.network.names if not node.startswith(gone)
    }


def test_a_dead_slice():
    topology = machine("tpu-v5e", "slice:s1", slices=2, shape=(4, 4))
    assert topology.num_chips == 16
    assert topology.chip_names[0] == "s0/x0y0"


def test_a_dead_nic_leaves_its_chip():
    topology = machine(RACK, "nic:r0/t3/c2", racks=2)
    assert topology.num_chips == 144
    network = topology.network
    chip = network.index["r0/t3/c2"]
    assert network.scale_up[(network.ends == chip).any(axis=1)].all()
    assert machine(RACK, "nic:r0/t3/c2/nic", racks=2).network.num_links == network.num_links


def test_a_dead_leaf_and_a_dead_spine():
    whole = machine(RACK)
    leaf = machine(RACK, "leaf:su0/leaf0")
    # The 18 NICs of rail 0 and 9 spines.
    assert whole.network.num_links - leaf.network.num_links == 18 + 9
    spine = machine(RACK, "spine:spine4")
    assert whole.network.num_links - spine.network.num_links == 18
    assert leaf.num_chips == spine.num_chips == 72


def test_a_dead_link():
    topology = machine(RACK, "link:r0/sw5--r0/t3/c2")  # either end first
    rates = chip_rates(topology)
    assert rates[topology.network.index["r0/t3/c2"]] == 850e9
    assert sorted(set(rates)) == [850e9, 900e9]
    assert count(topology, "chip") == 72


def test_a_nic_of_two_chips_dies_with_the_second():
    spec = load_machine("h100-hgx")
    spec = replace(spec, scale_out=replace(spec.scale_out, chips_per_nic=2))
    one = build_topology(replace(spec, wounds=Wounds(without=("chip:n0/c0",))))
    both = build_topology(replace(spec, wounds=Wounds(without=("chip:n0/c0", "chip:n0/c1"))))
    assert (count(one, "nic"), count(both, "nic")) == (4, 3)
    assert "n0/nic0" not in both.network.index


def test_a_rack_that_loses_all_its_chips_disappears():
    topology = machine(RACK, "chip:r0/*", racks=2)
    assert topology.domains == (tuple(range(72)),)
    assert topology.chip_names[0] == "r1/t0/c0"
    assert {place[0] for place in topology.places} == {1}
    # Its switches reach nobody and are gone too; the fabric stays.
    assert count(topology, "switch") == 18 and "r0/sw0" not in topology.network.index
    assert count(topology, "leaf") == 18


def test_leaving_chips_out_by_number_is_a_wound_too():
    spec = sized(load_machine(RACK), Sizing(racks=2))
    by_number = build_topology(spec, without=(1, 71))
    by_name = build_topology(
        replace(spec, wounds=Wounds(without=("chip:r0/t0/c1", "chip:r0/t17/c3")))
    )
    assert by_number.spec.wounds == by_name.spec.wounds
    assert by_number.chip_names == by_name.chip_names


# --- degraded and spared ---------------------------------------------------------------


def test_a_slow_link_and_a_slow_switch():
    topology = machine(RACK, degrade=(("link:r0/t3/c2--r0/sw5", 0.5), ("switch:r0/sw7", 0.1)))
    assert rate(topology, "r0/t3/c2", "r0/sw5") == 25e9
    assert rate(topology, "r0/t3/c2", "r0/sw7") == 5e9
    assert rate(topology, "r0/t0/c0", "r0/sw5") == 50e9
    assert chip_rates(topology)[topology.network.index["r0/t3/c2"]] == pytest.approx(830e9)


def test_a_slow_chip_is_slow_on_every_link():
    topology = machine("h100-hgx", degrade=(("chip:n0/c3", 0.5),))
    assert chip_rates(topology)[3] == 225e9
    assert rate(topology, "n0/c3", "n0/c3/nic") == 25e9
    assert rate(topology, "n0/c3/nic", "su0/leaf3") == 50e9


def test_a_slow_nic_is_slow_on_both_sides():
    topology = machine("h100-hgx", degrade=(("nic:n0/c3", 0.5),))
    assert rate(topology, "n0/c3", "n0/c3/nic") == rate(topology, "n0/c3/nic", "su0/leaf3") == 25e9


def test_two_names_do_not_slow_a_link_twice():
    topology = machine("h100-hgx", degrade=(("chip:n0/c3", 0.5), ("link:n0/c3--n0/sw0", 0.5)))
    assert rate(topology, "n0/c3", "n0/sw0") == 125e9 / 2


def test_usable_keeps_the_first_chips_of_a_rack():
    topology = machine(RACK, usable=(("r0", 70),), racks=2)
    assert [len(domain) for domain in topology.domains] == [70, 72]
    assert "r0/t17/c1" in topology.chip_names and "r0/t17/c2" not in topology.chip_names


def test_usable_of_every_rack_and_of_one():
    topology = machine(RACK, usable=(("*", 64), ("r1", 70)), racks=3)
    assert [len(domain) for domain in topology.domains] == [64, 70, 64]


def test_usable_counts_live_chips():
    topology = machine(RACK, "chip:r0/t0/c0", usable=(("r0", 70),))
    assert topology.num_chips == 70
    assert "r0/t17/c2" in topology.chip_names and "r0/t17/c3" not in topology.chip_names
    # Fewer live ones than usable ones: all of them.
    assert machine(RACK, "tray:r0/t0", usable=(("*", 70),)).num_chips == 68


def test_none_usable_is_a_rack_less():
    assert machine(RACK, usable=(("r0", 0),), racks=2).chip_names[0] == "r1/t0/c0"


# --- numbering -------------------------------------------------------------------------


def test_nodes_are_renumbered_and_links_follow_them():
    whole = machine("h100-hgx", nodes=2)
    left = machine("h100-hgx", "chip:n0/c3", "switch:n1/sw1", nodes=2)
    network = left.network
    assert network.kinds[:15].tolist() == [CHIP] * 15
    assert network.names[3] == "n0/c4" and left.places[3] == (0, 4)
    named = {
        frozenset((network.names[a], network.names[b])): speed
        for (a, b), speed in zip(network.ends.tolist(), network.bytes_per_s, strict=True)
    }
    before = whole.network
    expected = {
        frozenset((before.names[a], before.names[b])): speed
        for (a, b), speed in zip(before.ends.tolist(), before.bytes_per_s, strict=True)
        if not {"n0/c3", "n0/c3/nic", "n1/sw1"} & {before.names[a], before.names[b]}
    }
    assert named == expected
    assert [left.domain_of(chip) for chip in (6, 7)] == [0, 1]
    assert sorted(left.domains[1]) == list(range(7, 15))


def test_domains_that_fall_apart():
    # Chip c0 loses its switches: a domain of its own, in the order of the chips.
    topology = machine("h100-hgx", "link:n0/c0--n0/sw*")
    assert topology.domains == ((0,), (1, 2, 3, 4, 5, 6, 7))
    assert topology.network.domains[topology.network.index["n0/sw0"]] == 1
    assert topology.rental_units([0]) == (8,)  # rented as it stands in the hall


def test_components_of_scale_up_links():
    network = machine("h100-hgx", nodes=2).network
    found = scale_up_components(network)
    assert found[:16].tolist() == [0] * 8 + [1] * 8
    assert (found[network.kinds == SWITCH] >= 0).all()
    assert (found[network.kinds == NIC_NODE] == -1).all()


# --- names that do not exist -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("chip:r0/t3c2", "chip:r0/t3/c2"),
        ("tray:r0/t33", "tray:r0/t3"),
        ("rack:r3", "rack:r0"),
        ("switch:r0/sw55", "switch:r0/sw5"),
        ("leaf:leaf3", "leaf:su0/leaf3"),
        ("nic:r0/t3/c22", "nic:r0/t3/c2/nic"),
        ("link:r0/t3/c2--r0/sw55", "r0/sw5"),
    ],
)
def test_unknown_names_get_near_ones(text, hint):
    with pytest.raises(SpecError, match="there is no '") as caught:
        machine(RACK, text)
    assert hint in caught.value.remedy


@pytest.mark.parametrize("text", ["tray:r0", "rack:r0/t1", "node:*/t1", "slice:s0"])
def test_a_name_of_another_level_is_not_taken_for_a_pattern(text):
    with pytest.raises(SpecError, match="there is no '"):
        machine(RACK, text)


def test_machines_without_trays_have_no_trays():
    with pytest.raises(SpecError, match="there is no 'tray:n0'"):
        machine("h100-hgx", "tray:n0")


@pytest.mark.parametrize("text", ["r0/t3/c2", "chip:", "chp:r0", ":x", ""])
def test_texts_that_are_no_names(text):
    with pytest.raises(SpecError, match="cannot read") as caught:
        machine(RACK, text)
    assert "chip:r0/t3/c2" in caught.value.remedy


def test_links_that_do_not_exist():
    with pytest.raises(SpecError, match="no link joins r0/t0/c0 and r0/t0/c1"):
        machine(RACK, "link:r0/t0/c0--r0/t0/c1")
    with pytest.raises(SpecError, match="cannot read"):
        machine(RACK, "link:r0/t0/c0")


@pytest.mark.parametrize(
    ("usable", "message"),
    [
        ((("r0", 73),), "r0 has 72 chips, not 73"),
        ((("r0", -3),), "r0 has 72 chips, not -3"),
        ((("r7", 1),), "no domain 'r7'"),
        ((("x", 1),), "no domain 'x'"),
        ((("*", 0),), "no chip of the machine is left"),
    ],
)
def test_usable_that_cannot_be(usable, message):
    with pytest.raises(SpecError, match=message):
        machine(RACK, usable=usable)


@pytest.mark.parametrize("text", ["chip:*", "rack:*", "tray:r0/*"])
def test_no_chip_left(text):
    with pytest.raises(SpecError, match="no chip of the machine is left"):
        machine(RACK, text)


def test_stars_match_across_names():
    assert machine(RACK, "tray:*/t3", racks=2).num_chips == 136
    assert count(machine(RACK, "switch:r1/sw1*", racks=2), "switch") == 36 - 9  # sw1, sw10..sw17


def test_dots_and_brackets_in_names_are_no_patterns():
    # "r0.t3.c2" would match r0/t3/c2 if the dot were a pattern.
    with pytest.raises(SpecError, match="there is no"):
        machine(RACK, "chip:r0.t3.c2")
    with pytest.raises(SpecError, match="there is no"):
        machine(RACK, "chip:r0.t3*")


# --- explicit graphs -------------------------------------------------------------------


def explicit(links, nodes=("a0", "a1", "b0", "b1", "hub"), **wounds):
    base = load_machine("h100-hgx")
    domain = GraphDomain(
        unit="node",
        nodes=tuple(
            GraphNode(name=name, kind="switch" if name == "hub" else "chip") for name in nodes
        ),
        links=tuple(
            GraphLink(a=a, b=b, bytes_per_s=speed, tier="link", scale_up=inside)
            for a, b, speed, inside in links
        ),
        curves=base.scale_up.curves,
        fabric_curves=base.scale_out.curves,
    )
    return build_topology(replace(base, scale_up=domain, scale_out=None, wounds=Wounds(**wounds)))


PAIRS = (("a0", "a1", 10.0, True), ("b0", "b1", 20.0, True), ("a0", "b0", 1.0, False))


def test_domains_of_a_graph_are_what_scale_up_links_join():
    topology = explicit((*PAIRS, ("hub", "b1", 5.0, True)))
    assert [sorted(domain) for domain in topology.domains] == [[0, 1], [2, 3]]
    assert topology.network.domains.tolist() == [0, 0, 1, 1, 1]
    assert topology.rental_units([0]) == (4,)


def test_a_graph_falls_apart_without_its_switch():
    links = tuple((chip, "hub", 10.0, True) for chip in ("a0", "a1", "b0", "b1"))
    assert len(explicit(links).domains) == 1
    assert len(explicit(links, without=("switch:hub",)).domains) == 4
    assert explicit(links, without=("chip:a1",)).chip_names == ("a0", "b0", "b1")


def test_usable_counts_the_domains_of_a_graph():
    topology = explicit(PAIRS, usable=(("n1", 1),))
    assert topology.chip_names == ("a0", "a1", "b0")


def test_a_slow_link_of_a_graph():
    topology = explicit(PAIRS, degrade=(("link:b1--b0", 0.25),))
    assert rate(topology, "b0", "b1") == 5.0


# --- mixed chips -----------------------------------------------------------------------


def test_mixed_chips_keep_their_kind_when_chips_are_lost(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'extends = "h100-hgx"\n[size]\ndomains = 2\n'
        '[[mix]]\ndomains = [1]\nchip = "h200-hgx"\n'
        '[wounds]\nwithout = ["chip:n0/c3"]\n'
    )
    topology = build_topology(load_machine(str(path)))
    assert topology.num_chips == 15
    assert topology.chip_at(6).name == "H100-SXM"
    assert topology.chip_at(7).name == "H200-SXM"
    common = topology.chip
    h100, h200 = load_machine("h100-hgx").chip, load_machine("h200-hgx").chip
    for figure in ("hbm_bytes", "hbm_usable_bytes", "hbm_bytes_per_s"):
        assert getattr(common, figure) == min(getattr(h100, figure), getattr(h200, figure))
    assert common.price_usd_per_hour == max(h100.price_usd_per_hour, h200.price_usd_per_hour)


def test_a_common_chip_achieves_the_least_of_every_rate():
    base = load_machine("h100-hgx")
    fast = replace(
        base.chip,
        name="fast",
        peak_flop_per_s=(("bf16", 2e15), ("fp8", 4e15)),
        hbm_bytes_per_s=8e12,
        efficiency=replace(
            base.chip.efficiency,
            matmul=(("bf16", 0.3), ("fp8", 0.5)),
            hbm=0.5,
            attention=0.2,
            kernel_s=9e-6,
        ),
    )
    plain = replace(
        base.chip,
        peak_flop_per_s=(("bf16", 1e15), ("int8", 2e15)),
        hbm_bytes_per_s=5e12,
        efficiency=replace(
            base.chip.efficiency, matmul=(("bf16", 0.8), ("int8", 0.6)), hbm=0.9, attention=0.5
        ),
    )
    spec = replace(base, chip=plain, num_domains=2, mix=((1, fast),))
    common = build_topology(spec).chip
    # bf16: peaks 1 and 2, achieved 0.8 and 0.6 PFLOP/s; fp8 and int8 are not shared.
    assert common.peak_flop_per_s == (("bf16", 1e15),)
    assert dict(common.efficiency.matmul)["bf16"] == pytest.approx(0.6)
    # HBM: 5 x 0.9 = 4.5 and 8 x 0.5 = 4 TB/s.
    assert common.efficiency.hbm == pytest.approx(4 / 5)
    # attention: 1 x 0.5 and 2 x 0.2 PFLOP/s.
    assert common.efficiency.attention == pytest.approx(0.4)
    assert common.efficiency.kernel_s == 9e-6
