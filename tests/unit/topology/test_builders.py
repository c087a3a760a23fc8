"""Networks as they are built: names, counts, rates and cabling of every kind of machine."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine, machine_names
from planner.domain.hardware import Sizing
from planner.domain.scale_up import (
    GraphDomain,
    GraphLink,
    GraphNode,
    MeshDomain,
    SwitchDomain,
    SwitchLevel,
    Torus,
)
from planner.topology.builders import build_network, chip_names, torus_places
from planner.topology.network import CHIP, KINDS

H100 = load_machine("h100-hgx")
CURVES = H100.scale_up.curves


def network(name, **size):
    return build_network(sized(load_machine(name), Sizing(**size)))


def alone(scale_up, **changes):
    return build_network(replace(H100, scale_up=scale_up, scale_out=None, **changes))


def kinds(built):
    return Counter(KINDS[kind] for kind in built.kinds.tolist())


def tiers(built):
    return Counter(built.tier_names[tier] for tier in built.tiers.tolist())


def links(built):
    """Rate of every link by the names of its ends, both ways round."""
    found = {}
    for (a, b), rate in zip(built.ends.tolist(), built.bytes_per_s.tolist(), strict=True):
        found[built.names[a], built.names[b]] = found[built.names[b], built.names[a]] = rate
    return found


def neighbours(built, name):
    return sorted(b for a, b in links(built) if a == name)


def test_a_rack():
    rack = network("gb200-nvl72")
    assert kinds(rack) == {"chip": 72, "switch": 18, "nic": 72, "leaf": 18, "spine": 9}
    # 72 x 18; chip to NIC and NIC to leaf; 18 x 9
    assert tiers(rack) == {"nvlink": 1296, "nic": 144, "leaf-spine": 162}
    assert [rack.names[node] for node in (0, 5, 71)] == ["r0/t0/c0", "r0/t1/c1", "r0/t17/c3"]
    assert neighbours(rack, "r0/t3/c2") == sorted(
        [f"r0/sw{switch}" for switch in range(18)] + ["r0/t3/c2/nic"]
    )
    assert len(neighbours(rack, "r0/sw17")) == 72


def test_four_nodes_on_rails():
    nodes = network("h100-hgx", nodes=4)
    assert kinds(nodes) == {"chip": 32, "switch": 16, "nic": 32, "leaf": 8, "spine": 4}
    rates = links(nodes)
    assert [rates["n3/c7", f"n3/sw{switch}"] for switch in range(4)] == [125e9, 100e9, 100e9, 125e9]
    # NIC i of every node on leaf i
    assert neighbours(nodes, "su0/leaf3") == sorted(
        [f"n{node}/c3/nic" for node in range(4)] + [f"spine{spine}" for spine in range(4)]
    )
    assert rates["su0/leaf3", "spine0"] == 400e9  # 32 uplinks of 50 over 4 spines
    assert rates["n0/c3", "n0/c3/nic"] == rates["n0/c3/nic", "su0/leaf3"] == 50e9
    assert nodes.cables[nodes.scale_up].sum() == 32 * 18


def test_rails_fill_one_leaf_after_another():
    # Rail 0 is chip 0 of every tray: 18 of the first rack and 14 of the second fill 32 ports.
    racks = network("gb200-nvl72", racks=2)
    served = [name for name in neighbours(racks, "su0/leaf0") if name.endswith("nic")]
    first = [f"r0/t{tray}/c0/nic" for tray in range(18)]
    assert sorted(served) == sorted(first + [f"r1/t{tray}/c0/nic" for tray in range(14)])
    # Eight racks have 144 NICs per rail: leaf 4 takes 16 of rail 0 and 16 of rail 1.
    unit = network("gb200-nvl72", racks=8)
    rails = [name.split("/")[2] for name in neighbours(unit, "su0/leaf4") if "nic" in name]
    assert sorted(rails) == ["c0"] * 16 + ["c1"] * 16


def test_more_nics_than_leaves_go_round():
    # Without rails: NIC i to leaf i modulo the 8 leaves of a GB300 unit.
    spec = load_machine("gb300-nvl72")
    rack = build_network(replace(spec, scale_out=replace(spec.scale_out, rails=0)))
    served = [name for name in neighbours(rack, "su0/leaf3") if name.endswith("nic")]
    places = chip_names(spec)
    assert sorted(served) == sorted(f"{places[chip]}/nic" for chip in range(3, 72, 8))


def test_units_have_their_own_leaves():
    nodes = network("h100-hgx", nodes=33)
    assert neighbours(nodes, "su1/leaf0")[0] == "n32/c0/nic"
    assert "su0/leaf0" in neighbours(nodes, "n31/c0/nic")
    assert kinds(nodes)["leaf"] == 16


def test_three_tiers():
    # 16 units of 32 nodes: 128 leaves, 128 spines in 4 pods, 64 cores (DGX SuperPOD).
    big = network("h100-hgx", nodes=512)
    counts = kinds(big)
    assert (counts["leaf"], counts["spine"], counts["core"]) == (128, 128, 64)
    rates = links(big)
    spine_ups = [rate for (a, b), rate in rates.items() if a == "spine0" and b.startswith("core")]
    spine_downs = [rate for (a, b), rate in rates.items() if a == "spine0" and "leaf" in b]
    # 4 units of 8 leaves below each spine, as much bandwidth up as down
    assert len(spine_downs) == 32
    assert sum(spine_ups) == pytest.approx(sum(spine_downs), rel=1e-12)
    # A plane: spine 0 of each pod reaches the same cores.
    cores = [name for name in neighbours(big, "spine0") if name.startswith("core")]
    assert [name for name in neighbours(big, "spine32") if name.startswith("core")] == cores


def test_shared_nics():
    fabric = replace(H100.scale_out, chips_per_nic=4)
    built = build_network(replace(H100, num_domains=2, scale_out=fabric))
    assert kinds(built)["nic"] == 4
    assert neighbours(built, "n1/nic1") == ["n1/c4", "n1/c5", "n1/c6", "n1/c7", "su0/leaf1"]
    assert links(built)["n1/c4", "n1/nic1"] == 50e9


@pytest.mark.parametrize(
    ("shape", "count"),
    [((16, 16), 512), ((4, 2), 10), ((16, 4), 112), ((1, 1), 0), ((1, 8), 7), ((2, 2), 4)],
)
def test_slices_of_a_torus(shape, count):
    built = network("tpu-v5e", shape=shape)
    assert int(built.scale_up.sum()) == count
    rates = links(built)
    for (a, b), rate in rates.items():
        if "nic" not in a + b and "leaf" not in a + b:
            assert rate == 50e9, (a, b)


def test_axes_and_places_of_a_torus():
    pod = network("tpu-v5e")
    chips = {name: node for node, name in enumerate(pod.names)}
    assert chips["x3y5"] == 3 + 16 * 5  # the first axis runs fastest
    axes = {
        frozenset((pod.names[a], pod.names[b])): axis
        for (a, b), axis in zip(pod.ends.tolist(), pod.axes.tolist(), strict=True)
    }
    assert axes[frozenset(("x15y3", "x0y3"))] == 0
    assert axes[frozenset(("x2y15", "x2y0"))] == 1
    assert torus_places((2, 3)) == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]


def test_several_slices_have_prefixes():
    built = network("tpu-v5e", slices=2, shape=(4, 4))
    assert [built.names[chip] for chip in (0, 16)] == ["s0/x0y0", "s1/x0y0"]
    up = built.ends[built.scale_up]
    assert (built.domains[up[:, 0]] == built.domains[up[:, 1]]).all()


def cube(shape):
    torus = Torus(
        unit="slice",
        full_shape=(8, 8, 8),
        link_bytes_per_s=(1e9, 2e9, 3e9),
        curves=CURVES,
        wrap_multiple=4,
        max_chips=512,
    )
    return alone(torus, shape=shape)


def test_cubes_close_all_axes_or_none():
    closed = cube((4, 4, 8))
    assert int(closed.scale_up.sum()) == 3 * 128
    # 4 x 4 x 6 is not made of cubes: 3 x 24 + 3 x 24 + 5 x 16 links
    assert int(cube((4, 4, 6)).scale_up.sum()) == 72 + 72 + 80
    assert sorted(set(closed.bytes_per_s)) == [1e9, 2e9, 3e9]
    assert (closed.bytes_per_s == (closed.axes + 1) * 1e9).all()


def test_a_mesh_of_unequal_pairs():
    mesh = MeshDomain(
        unit="node",
        chips=4,
        pairs=((0, 1, 2), (0, 2, 1), (1, 3, 1), (2, 3, 2)),
        link_bytes_per_s=25e9,
        curves=CURVES,
    )
    built = alone(mesh)
    rates = links(built)
    assert rates["n0/c0", "n0/c1"] == rates["n0/c3", "n0/c2"] == 50e9
    assert rates["n0/c0", "n0/c2"] == 25e9
    assert ("n0/c0", "n0/c3") not in rates
    assert built.cables.sum() == 6


def test_levels_of_switches():
    levels = (
        SwitchLevel(span=2, links_per_switch=(3,), link_bytes_per_s=10e9),
        SwitchLevel(span=8, links_per_switch=(1, 1), link_bytes_per_s=5e9),
    )
    built = alone(SwitchDomain(unit="rack", chips=8, levels=levels, curves=CURVES))
    assert kinds(built) == {"chip": 8, "switch": 4 + 2}
    assert neighbours(built, "r0/l0g1/sw0") == ["r0/c2", "r0/c3"]
    assert len(neighbours(built, "r0/l1g0/sw1")) == 8
    rates = links(built)
    assert (rates["r0/c2", "r0/l0g1/sw0"], rates["r0/c2", "r0/l1g0/sw1"]) == (30e9, 5e9)
    # The wider level is the longer way.
    assert {
        tuple(pair) for pair in zip(built.bytes_per_s.tolist(), built.hops.tolist(), strict=True)
    } == {
        (30e9, 1),
        (5e9, 2),
    }


def test_cabinets_with_trunks():
    level = SwitchLevel(span=6, links_per_switch=(1, 1), link_bytes_per_s=10e9)
    domain = SwitchDomain(
        unit="rack", chips=6, levels=(level,), curves=CURVES, parts=3, trunk_links=4
    )
    built = alone(domain)
    assert kinds(built) == {"chip": 6, "switch": 6}
    assert neighbours(built, "r0/p1/sw0") == ["r0/c2", "r0/c3", "r0/p0/sw0", "r0/p2/sw0"]
    assert links(built)["r0/p0/sw1", "r0/p2/sw1"] == 40e9
    assert tiers(built)["trunk"] == 2 * 3  # two switches, three pairs of cabinets


def test_a_graph_lists_chips_first():
    domain = GraphDomain(
        unit="node",
        nodes=(
            GraphNode(name="hub", kind="switch"),
            GraphNode(name="b", kind="chip"),
            GraphNode(name="host", kind="host"),
            GraphNode(name="a", kind="chip"),
        ),
        links=(
            GraphLink(a="hub", b="a", bytes_per_s=1e9, tier="pcie", scale_up=True, links=2),
            GraphLink(a="b", b="hub", bytes_per_s=2e9, tier="fast", scale_up=True),
            GraphLink(a="host", b="b", bytes_per_s=3e9, tier="nic", scale_up=False),
        ),
        curves=CURVES,
        fabric_curves=CURVES,
    )
    built = alone(domain)
    assert built.names == ("b", "a", "hub", "host")
    assert built.num_chips == 2 and built.kinds[:2].tolist() == [CHIP, CHIP]
    assert links(built)["a", "hub"] == 1e9 and links(built)["b", "host"] == 3e9
    assert built.cables.tolist() == [2, 1, 1]
    assert built.tier_names == ("pcie", "fast", "nic")
    assert built.scale_up.tolist() == [True, True, False]


def test_one_chip_without_links():
    domain = GraphDomain(
        unit="node",
        nodes=(GraphNode(name="only", kind="chip"),),
        links=(),
        curves=CURVES,
        fabric_curves=CURVES,
    )
    built = alone(domain)
    assert (built.num_nodes, built.num_links) == (1, 0)


@pytest.mark.parametrize("name", machine_names())
def test_every_machine_that_ships_is_well_formed(name):
    spec = load_machine(name)
    built = build_network(spec)
    assert built.num_chips == spec.num_chips
    assert len(set(built.names)) == built.num_nodes
    assert (built.kinds[: built.num_chips] == CHIP).all()
    assert (built.kinds[built.num_chips :] != CHIP).all()
    assert (built.ends[:, 0] != built.ends[:, 1]).all()
    pairs = {tuple(sorted(ends)) for ends in built.ends.tolist()}
    assert len(pairs) == built.num_links  # parallel cables are one link
    assert (built.bytes_per_s > 0).all() and (built.cables >= 1).all()
    inside = built.ends[built.scale_up]
    assert (built.domains[inside[:, 0]] == built.domains[inside[:, 1]]).all()
    # Every chip sends what the file says.
    rates = np.zeros(built.num_nodes)
    np.add.at(
        rates, built.ends[built.scale_up].ravel(), np.repeat(built.bytes_per_s[built.scale_up], 2)
    )
    if not isinstance(spec.scale_up, Torus):
        assert rates[: built.num_chips].min() == pytest.approx(spec.scale_up.bytes_per_s)
