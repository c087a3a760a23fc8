"""What looks wrong with a machine."""

from dataclasses import replace

import pytest

from planner.catalog.machines import load_machine, machine_names
from planner.domain.hardware import Wounds
from planner.domain.scale_up import GraphDomain, GraphLink, GraphNode
from planner.topology.build import build_topology
from planner.topology.checks import listed, warnings
from planner.topology.summary import summarise

H100 = load_machine("h100-hgx")


def found(spec):
    topology = build_topology(spec)
    return warnings(topology, summarise(topology))


def graph(nodes, links):
    kinds = {"c": "chip", "s": "switch", "n": "nic"}
    domain = GraphDomain(
        unit="node",
        nodes=tuple(GraphNode(name=name, kind=kinds[name[0]]) for name in nodes),
        links=tuple(
            GraphLink(a=a, b=b, bytes_per_s=rate, tier="link", scale_up=inside)
            for a, b, rate, inside in links
        ),
        curves=H100.scale_up.curves,
        fabric_curves=H100.scale_out.curves,
    )
    return replace(H100, scale_up=domain, scale_out=None)


def test_nothing_is_wrong_with_an_hgx():
    assert found(H100) == ()


@pytest.mark.parametrize("name", machine_names())
def test_machines_that_ship_are_connected(name):
    text = " ".join(found(load_machine(name)))
    assert "without any link" not in text and "no link joins" not in text
    assert "ports" not in text and "exceeds" not in text


def test_chips_and_switches_without_links():
    spec = graph(["c0", "c1", "c2", "s0"], [("c0", "c1", 1.0, True)])
    text = found(spec)
    assert text[0] == "1 of kind chip without any link: c2"
    assert text[1] == "1 of kind switch without any link: s0"
    assert text[2] == "the chips fall into 2 parts that no link joins; first chips: c0, c2"


def test_parts_that_no_link_joins():
    links = [("c0", "c1", 1.0, True), ("c2", "c3", 1.0, True)]
    (text,) = found(graph(["c0", "c1", "c2", "c3"], links))
    assert text.startswith("the chips fall into 2 parts")
    # A link of the fabric joins them.
    assert found(graph(["c0", "c1", "c2", "c3"], [*links, ("c1", "c2", 0.5, False)])) == ()


def test_scale_out_faster_than_scale_up():
    fast = replace(H100, scale_out=replace(H100.scale_out, nic_bytes_per_s=500e9))
    assert found(fast) == (
        "a chip's scale-out bandwidth (500 GB/s) exceeds its scale-up bandwidth (450 GB/s)",
    )


def test_a_leaf_with_too_few_ports():
    # 32 nodes x 8 NICs on 8 leaves are 32 down and 32 up.
    few = replace(H100, scale_out=replace(H100.scale_out, leaf_ports=48))
    (text,) = found(few)
    assert "32 ports down and 32 up" in text and "48" in text
    thin = replace(few, scale_out=replace(few.scale_out, oversubscription=2.0))
    assert found(thin) == ()  # 32 down, 16 up


def test_leaves_that_serve_nobody():
    many = replace(H100, scale_out=replace(H100.scale_out, leaves_per_unit=12))
    assert found(many) == (
        "4 leaf switches have no NIC: su0/leaf8, su0/leaf9, su0/leaf10, su0/leaf11",
    )


def test_usable_memory_and_price():
    chip = replace(H100.chip, hbm_usable_bytes=81 * 2.0**30, price_usd_per_hour=None)
    text = found(replace(H100, chip=chip))
    assert text[0].startswith("H100-SXM: usable HBM (81 GiB) exceeds the label (80)")
    assert text[1] == "H100-SXM: no price, so cost figures need --price"


def test_a_mix_beyond_the_machine():
    spec = replace(H100, num_domains=2, mix=((1, H100.chip), (5, H100.chip)))
    assert found(spec) == ("mix names node 5, but the default size has only 0 to 1",)


def test_wounds_may_cut_a_machine_apart():
    spec = replace(H100, num_domains=2, wounds=Wounds(without=("leaf:*",)))
    assert any("fall into 2 parts" in text for text in found(spec))


def test_long_lists_are_cut():
    assert listed([str(index) for index in range(7)]) == "0, 1, 2, 3, 4 and 2 more"
    assert listed(["a"]) == "a"
