"""Closed forms against the loads of the real graph: the same busiest link, exactly."""

from dataclasses import replace

import pytest

from planner.catalog.machines import load_machine, resize
from planner.domain.hardware import Op, ideal
from planner.topology.build import build_topology
from planner.topology.collectives import collective_rate
from planner.topology.groups import group_shape
from planner.topology.loads import busiest_link, graph_rate, link_loads

HIERARCHICAL = (Op.ALL_REDUCE, Op.ALL_GATHER, Op.REDUCE_SCATTER)


def machine(name, **size):
    return build_topology(resize(load_machine(name), **size))


def mesh_or_torus(full, shape):
    spec = load_machine("tpu-v5e")
    torus = replace(spec.scale_up, full_shape=full)
    return build_topology(replace(spec, scale_up=torus, shape=shape))


def assert_agree(topology, op, chips):
    closed = collective_rate(topology, op, group_shape(topology, chips))
    routed = graph_rate(topology, op, chips)
    assert closed.s_per_byte == pytest.approx(routed.s_per_byte, rel=1e-9)
    assert closed.link == routed.link


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
    topology = machine(name, nodes=2)
    assert_agree(topology, Op.ALL_TO_ALL, range(12))
    routed = graph_rate(topology, Op.ALL_TO_ALL, range(12))
    assert routed.s_per_byte == pytest.approx(8 / 12 / (50e9 * 0.9))
    assert routed.link == "nic"


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


def test_all_gather_on_a_line_is_what_its_last_link_carries():
    # Four chips in a row; the shards of three pass the last link: 3/4 of the array.
    topology = mesh_or_torus((16, 16), (4, 1))
    to_the_end = {(source, 3): 1 / 4 for source in range(3)}
    routed = busiest_link(topology, link_loads(topology, to_the_end))
    closed = collective_rate(topology, Op.ALL_GATHER, group_shape(topology, range(4)))
    assert routed.ends == ("x2y0", "x3y0")
    assert closed.s_per_byte == pytest.approx(routed.s_per_byte)
    assert closed.s_per_byte == pytest.approx(3 / 4 / 45e9)


def test_oversubscribed_leaves_bound_a_full_unit():
    # One full unit: 32 nodes, 8 leaves with 32 NICs each, a quarter of the uplinks. Of 256
    # parts a chip keeps 8 in its node and 31 on its leaf; 217 climb to the spines. The
    # closed form charges all 248 that leave the node.
    spec = ideal(resize(load_machine("h100-hgx"), nodes=32))
    spec = replace(spec, scale_out=replace(spec.scale_out, oversubscription=4.0))
    topology = build_topology(spec)
    closed = collective_rate(topology, Op.ALL_TO_ALL, group_shape(topology, range(256)))
    assert closed.link == "leaf-spine"
    assert closed.s_per_byte == pytest.approx(248 / 256 * 4 / 50e9)
    routed = graph_rate(topology, Op.ALL_TO_ALL, range(256))
    assert routed.link == "leaf-spine"
    assert routed.s_per_byte == pytest.approx(217 / 256 * 4 / 50e9)


def test_an_all_reduce_within_a_unit_stays_on_its_rail():
    spec = ideal(resize(load_machine("h100-hgx"), nodes=32))
    blocking = replace(spec, scale_out=replace(spec.scale_out, oversubscription=4.0))
    rails = [chip for chip in range(256) if chip % 8 < 2]
    open_rate, blocked_rate = (
        graph_rate(build_topology(one), Op.ALL_REDUCE, rails) for one in (spec, blocking)
    )
    assert open_rate == blocked_rate
    topology = build_topology(blocking)
    closed = collective_rate(topology, Op.ALL_REDUCE, group_shape(topology, rails))
    assert closed.s_per_byte == pytest.approx(blocked_rate.s_per_byte)
    # 2 x (32 - 1) / (32 x 2) of the buffer through each NIC
    assert closed.s_per_byte == pytest.approx(2 * 31 / 64 / 50e9)
    assert closed.link == "nic"


def test_routing_refuses_what_it_cannot_route():
    torus = mesh_or_torus((4, 4), (4, 4))
    with pytest.raises(ValueError, match="pipelined along rings"):
        graph_rate(torus, Op.ALL_REDUCE, range(4))
    nodes = machine("h100-hgx", nodes=2)
    with pytest.raises(ValueError, match="equal pieces"):
        graph_rate(nodes, Op.ALL_GATHER, range(12))
    lonely = replace(nodes.spec, scale_out=None)
    with pytest.raises(ValueError, match="no path"):
        graph_rate(build_topology(lonely), Op.SEND_RECV, (0, 8))
