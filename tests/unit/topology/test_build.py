"""Chips, names, domains and the graph's nodes and edges."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.errors import SpecError
from planner.topology.build import build_topology


def machine(name, **size):
    return build_topology(resize(load_machine(name), **size))


def kinds(graph):
    return Counter(kind for _, kind in graph.nodes(data="kind"))


def tiers(graph):
    return Counter(tier for _, _, tier in graph.edges(data="tier"))


def test_names():
    racks = machine("gb200-nvl72", racks=2)
    assert [racks.chip_names[i] for i in (0, 7, 143)] == ["r0/t0/c0", "r0/t1/c3", "r1/t17/c3"]
    assert machine("h100-hgx", nodes=5).chip_names[39] == "n4/c7"
    pod = machine("tpu-v5e")
    assert pod.chip_names[3 + 16 * 5] == "x3y5"
    for topology in (racks, pod):
        assert len(set(topology.chip_names)) == topology.num_chips


def test_domains_and_units():
    nodes = machine("h100-hgx", nodes=33)
    assert nodes.domains[2] == tuple(range(16, 24))
    assert [nodes.domain_of(chip) for chip in (0, 7, 8, 263)] == [0, 0, 1, 32]
    # 32 nodes per scalable unit
    assert [nodes.unit_of(chip) for chip in (0, 255, 256)] == [0, 0, 1]
    assert machine("tpu-v5e", shape=(4, 2)).domains == (tuple(range(8)),)


def test_whole_domains_are_rented():
    nodes = machine("h100-hgx", nodes=3)
    assert nodes.rental_units([0, 1, 17]) == (8, 8)
    assert nodes.rental_units([]) == ()
    assert machine("tpu-v5e", shape=(4, 2)).rental_units([5]) == (8,)


def test_chips_can_be_left_out():
    # Racks of 70 and 72: the first lost its second and its last chip.
    topology = build_topology(resize(load_machine("gb200-nvl72"), racks=2), without=(1, 71))
    assert [len(domain) for domain in topology.domains] == [70, 72]
    assert topology.chip_names[:2] == ("r0/t0/c0", "r0/t0/c2")
    assert topology.chip_names[70] == "r1/t0/c0"
    assert topology.rental_units([0]) == (70,)
    whole_rack = build_topology(topology.spec, without=range(72))
    assert whole_rack.domains == (tuple(range(72)),)
    assert whole_rack.chip_names[0] == "r1/t0/c0"


def test_chips_that_cannot_be_left_out():
    spec = load_machine("h100-hgx")
    with pytest.raises(SpecError, match="chips 0 to 7"):
        build_topology(spec, without=[8])
    with pytest.raises(SpecError, match="no chip"):
        build_topology(spec, without=range(8))


def test_contention_counts_the_busy_ports():
    # oversubscription 1 never contends; 4:1 does once more than a quarter is in use
    spec = resize(load_machine("h100-hgx"), nodes=16)
    assert build_topology(spec).contention == 1.0
    fabric = replace(spec.scale_out, oversubscription=4.0)
    half = replace(spec, scale_out=fabric)
    assert build_topology(half).contention == 2.0
    assert build_topology(resize(half, nodes=4)).contention == 1.0
    assert build_topology(resize(half, nodes=64)).contention == 4.0
    # the fullest unit counts: 32 nodes and one
    assert build_topology(resize(half, nodes=33)).contention == 4.0


def test_graph_of_a_rack():
    graph = machine("gb200-nvl72").graph
    assert kinds(graph) == {"chip": 72, "switch": 18, "nic": 72, "leaf": 18, "spine": 9}
    # 72 x 18 links; two edges per NIC; 18 leaves x 9 spines
    assert tiers(graph) == {"nvlink": 1296, "nic": 144, "leaf-spine": 162}
    assert all(graph.degree(f"r0/sw{switch}") == 72 for switch in range(18))
    assert graph.edges["r0/t0/c0", "r0/sw3"]["bytes_per_s"] == 50e9


def test_graph_of_two_nodes():
    graph = machine("h100-hgx", nodes=2).graph
    assert kinds(graph) == {"chip": 16, "switch": 8, "nic": 16, "leaf": 8, "spine": 4}
    links = [graph.edges["n1/c4", f"n1/sw{switch}"]["links"] for switch in range(4)]
    assert links == [5, 4, 4, 5]
    # rail-optimised: NIC i of every node on leaf i
    assert set(graph["su0/leaf3"]) >= {"n0/c3/nic", "n1/c3/nic"}
    # 32 uplinks of 50 GB/s to four spines
    assert graph.edges["su0/leaf3", "spine0"]["bytes_per_s"] == pytest.approx(400e9)


def test_graph_of_a_torus():
    pod = machine("tpu-v5e").graph
    assert kinds(pod)["chip"] == 256
    ici = [(a, b) for a, b, tier in pod.edges(data="tier") if tier == "ici"]
    assert set(Counter(end for edge in ici for end in edge).values()) == {4}
    assert pod.edges["x15y3", "x0y3"]["axis"] == "x"
    assert pod.edges["x2y15", "x2y0"]["axis"] == "y"
    mesh = machine("tpu-v5e", shape=(4, 2)).graph
    assert tiers(mesh)["ici"] == 10
    assert not mesh.has_edge("x0y0", "x3y0")


def test_the_graph_is_built_once_and_networkx_only_then():
    code = (
        "import sys\n"
        "from planner.catalog.machines import load_machine\n"
        "from planner.domain.curves import Op\n"
        "from planner.topology.build import build_topology\n"
        "from planner.topology.collectives import collective_rate\n"
        "from planner.topology.groups import carve, group_shape\n"
        "from planner.topology.summary import summarise\n"
        "topology = build_topology(load_machine('gb200-nvl72'))\n"
        "cell = carve(topology, 64, 8)[0]\n"
        "collective_rate(topology, Op.ALL_TO_ALL, group_shape(topology, cell.chips))\n"
        "summarise(topology)\n"
        "assert 'networkx' not in sys.modules\n"
        "assert topology.graph is topology.graph\n"
        "assert 'networkx' in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr
