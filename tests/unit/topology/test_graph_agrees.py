"""Closed forms against the loads of the real graph: the same busiest link, exactly."""

from dataclasses import replace
from functools import partial

import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.domain.curves import Op
from planner.domain.hardware import ideal
from planner.errors import DisconnectedError
from planner.topology.build import build_topology
from planner.topology.collectives import collective_rate
from planner.topology.graph_price import graph_load
from planner.topology.groups import group_shape

# Seconds per byte are smaller than the absolute tolerance that pytest grants.
approx = partial(pytest.approx, rel=1e-6, abs=0.0)

HIERARCHICAL = (Op.ALL_REDUCE, Op.ALL_GATHER, Op.REDUCE_SCATTER)


def machine(name, **size):
    return build_topology(resize(load_machine(name), **size))


def routed(topology, op, chips):
    return graph_load(topology, op, [tuple(chips)])


def mesh_or_torus(full, shape):
    spec = load_machine("tpu-v5e")
    torus = replace(
        spec.scale_up, full_shape=full, link_bytes_per_s=(50e9,) * len(full), max_chips=10**6
    )
    return build_topology(replace(spec, scale_up=torus, shape=shape))


def assert_agree(topology, op, chips):
    closed = collective_rate(topology, op, group_shape(topology, chips))
    found = routed(topology, op, chips)
    assert closed.s_per_byte == approx(found.s_per_byte, rel=1e-9)
    assert closed.link == found.link


@pytest.mark.parametrize("op", [*HIERARCHICAL, Op.ALL_TO_ALL])
@pytest.mark.parametrize("size", [2, 64, 72])
def test_one_rack_72_chips_18_switches(op, size):
    assert_agree(machine("gb200-nvl72"), op, range(size))


@pytest.mark.parametrize("op", [*HIERARCHICAL, Op.ALL_TO_ALL])
def test_two_racks(op):
    topology = machine("gb200-nvl72", racks=2)
    # Few chips of each rack: the leaves and spines are far from busy, the NICs are not.
    assert_agree(topology, op, (*range(12), *range(72, 84)))


@pytest.mark.parametrize("op", [*HIERARCHICAL, Op.ALL_TO_ALL])
def test_two_nodes(op):
    assert_agree(machine("h100-hgx", nodes=2), op, range(16))


@pytest.mark.parametrize("name", ["h100-hgx", "h800-hgx"])
def test_all_to_all_with_unequal_pieces(name):
    # 8 + 4 chips: a chip of the smaller piece sends 8 of 12 parts through its NIC.
    topology = build_topology(ideal(resize(load_machine(name), nodes=2)))
    assert_agree(topology, Op.ALL_TO_ALL, range(12))
    found = routed(topology, Op.ALL_TO_ALL, range(12))
    assert found.s_per_byte == approx(8 / 12 / 50e9)
    assert found.link == "nic"


def test_messages_inside_and_between_nodes():
    topology = machine("h100-hgx", nodes=2)
    for pair in ((0, 5), (0, 8), (0, 13)):
        assert_agree(topology, Op.SEND_RECV, pair)


@pytest.mark.parametrize(
    ("full", "shape"),
    [
        ((4, 4), (4, 4)),  # both axes are rings
        ((16, 16), (4, 4)),  # neither
        ((4, 16), (4, 4)),  # one of them
        ((5, 16), (5, 3)),  # odd lengths
        ((16, 16), (4, 2)),
        ((8, 16), (8, 1)),
        ((4, 4, 4), (4, 4, 4)),
        ((4, 16, 4), (4, 2, 4)),
    ],
)
def test_all_to_all_on_torus_and_mesh(full, shape):
    topology = mesh_or_torus(full, shape)
    assert_agree(topology, Op.ALL_TO_ALL, range(topology.num_chips))


@pytest.mark.parametrize(
    ("full", "shape"), [((16, 16), (4, 1)), ((4, 4), (4, 4)), ((16, 16), (3, 2)), ((4, 3), (4, 3))]
)
def test_gathers_on_torus_and_mesh_reach_the_cut_bound(full, shape):
    topology = mesh_or_torus(full, shape)
    assert_agree(topology, Op.ALL_GATHER, range(topology.num_chips))
    assert_agree(topology, Op.ALL_REDUCE, range(topology.num_chips))


@pytest.mark.parametrize("op", [*HIERARCHICAL, Op.ALL_TO_ALL])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_full_mesh(op, size):
    # A pair has one link of 64 GB/s: V / (n x 64e9), all_reduce twice.
    topology = build_topology(ideal(load_machine("mi300x-hgx")))
    assert_agree(topology, op, range(size))
    times = 2 if op is Op.ALL_REDUCE else 1
    found = routed(topology, op, range(size))
    assert found.s_per_byte == approx(times / (size * 64e9))


@pytest.mark.parametrize("op", [*HIERARCHICAL, Op.ALL_TO_ALL])
def test_levels_of_switches(op):
    # Trainium3: four chips of a server at 128 GB/s, the others of a rack at 160, the other
    # rack at 64: of 144 parts 3, 68 and 72 go each way.
    topology = build_topology(ideal(load_machine("trn3")))
    for chips in (range(4), range(72), range(144), (0, 1, 4, 5, 72, 73)):
        assert_agree(topology, op, chips)
    found = routed(topology, Op.ALL_TO_ALL, range(144))
    assert found.s_per_byte == approx(72 / 144 / 64e9)


@pytest.mark.parametrize("op", [*HIERARCHICAL, Op.ALL_TO_ALL])
def test_two_part_rack(op):
    # Half of the bytes cross to the twin switches, over trunks as wide as 36 chips' links.
    topology = machine("gb200-nvl36x2")
    for chips in (range(36), range(72), (0, 1, 70, 71)):
        assert_agree(topology, op, chips)


def contended(nodes, ratio=4.0):
    spec = ideal(resize(load_machine("h100-hgx"), nodes=nodes))
    return build_topology(replace(spec, scale_out=replace(spec.scale_out, oversubscription=ratio)))


def test_oversubscribed_leaves_bound_a_full_unit():
    # One full unit: 32 nodes, 8 leaves with 32 NICs each, a quarter of the uplinks. Of 256
    # parts a chip keeps 8 in its node and 31 on its leaf; 217 climb to the spines.
    topology = contended(32)
    assert_agree(topology, Op.ALL_TO_ALL, range(256))
    found = routed(topology, Op.ALL_TO_ALL, range(256))
    assert found.link == "leaf-spine"
    assert found.s_per_byte == approx(217 / 256 * 4 / 50e9)


@pytest.mark.parametrize("op", [*HIERARCHICAL, Op.ALL_TO_ALL])
def test_oversubscribed_leaves_of_two_units(op):
    # 64 nodes: a lane of 64 chips has 32 in the other unit.
    topology = contended(64)
    assert_agree(topology, op, range(512))


def test_an_all_reduce_within_a_unit_stays_on_its_rail():
    rails = [chip for chip in range(256) if chip % 8 < 2]
    blocked = contended(32)
    open_load = routed(contended(32, ratio=1.0), Op.ALL_REDUCE, rails)
    blocked_load = routed(blocked, Op.ALL_REDUCE, rails)
    assert open_load == blocked_load
    closed = collective_rate(blocked, Op.ALL_REDUCE, group_shape(blocked, rails))
    assert closed.s_per_byte == approx(blocked_load.s_per_byte)
    # 2 x (32 - 1) / (32 x 2) of the buffer through each NIC
    assert closed.s_per_byte == approx(2 * 31 / 64 / 50e9)
    assert closed.link == "nic"


def test_groups_that_straddle_the_same_units_slow_each_other_down():
    # Two expert groups of 64 chips, each in four nodes of both units. A leaf has four NICs of
    # each; its 53 of 64 parts that leave it share uplinks of 32 x 50 / 16 = 100 GB/s.
    topology = contended(64, ratio=16.0)
    first, second = (
        tuple(8 * node + chip for node in nodes for chip in range(8))
        for nodes in ((0, 1, 2, 3, 32, 33, 34, 35), (4, 5, 6, 7, 36, 37, 38, 39))
    )
    alone = graph_load(topology, Op.ALL_TO_ALL, [first])
    both = graph_load(topology, Op.ALL_TO_ALL, [first, second])
    assert alone.s_per_byte == approx(4 * 53 / 64 / 100e9)
    assert both.s_per_byte == approx(2 * alone.s_per_byte)
    assert both.link == "leaf-spine"
    # within a unit they are on other NICs of the same leaves, and nothing else is shared
    near = graph_load(topology, Op.ALL_TO_ALL, [range(8), range(8, 16)])
    assert near.s_per_byte == approx(7 / 8 / 450e9)


def test_chips_without_a_path_are_an_error():
    lonely = replace(load_machine("h100-hgx"), scale_out=None, num_domains=2)
    with pytest.raises(DisconnectedError, match="n0/c0 and n1/c0 are not connected"):
        routed(build_topology(lonely), Op.SEND_RECV, (0, 8))
