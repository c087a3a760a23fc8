"""Groups that differ by names alone."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.domain.curves import Op
from planner.domain.hardware import Wounds
from planner.topology.build import build_topology
from planner.topology.collectives import collective_rate, send_recv_rate
from planner.topology.groups import group_shape
from planner.topology.kinds import distinct_groups, first_meetings, group_kinds

NODES = resize(load_machine("h100-hgx"), nodes=4)


def test_first_meetings():
    table = np.array([[7, 7, 3, 7, 3], [1, 2, 3, 2, 1]])
    assert first_meetings(table).tolist() == [[0, 0, 2, 0, 2], [0, 1, 2, 1, 0]]


def test_names_of_chips_and_nodes_do_not_matter():
    topology = build_topology(NODES)
    # two and two in two nodes; three and one; two and two, but interleaved
    groups = [(0, 1, 8, 9), (30, 31, 2, 7), (0, 1, 2, 8), (0, 8, 1, 9), (16, 17, 26, 25)]
    kinds = group_kinds(topology, groups)
    assert kinds[0] == kinds[1] == kinds[4]
    assert len({kinds[0], kinds[2], kinds[3]}) == 3
    assert distinct_groups(topology, groups).tolist() == [list(groups[i]) for i in (0, 2, 3)]


def test_a_group_among_wounds_is_like_no_other():
    hurt = Wounds(without=("nic:n1/c3",), degrade=(("link:n2/c0--n2/sw1", 0.5),))
    topology = build_topology(replace(NODES, wounds=hurt))
    # within node 1 a dead NIC does not matter; across nodes it does
    inside = group_kinds(topology, [(0, 1), (8, 9), (16, 17), (24, 25)])
    assert inside[0] == inside[1] == inside[3]
    assert inside[2] == (16, 17)
    across = group_kinds(topology, [(0, 8), (0, 24), (1, 25)])
    assert across[0] == (0, 8)
    assert across[1] == across[2]


def test_leaves_tell_groups_apart_where_they_are_oversubscribed():
    spec = resize(load_machine("h100-hgx"), nodes=64)
    tight = replace(spec, scale_out=replace(spec.scale_out, oversubscription=2.0))
    # one rail, or two, of two nodes of a unit; nodes 0 and 32 stand in different units
    groups = [(0, 8), (0, 9), (0, 256), (3, 11)]
    plain = group_kinds(build_topology(spec), groups)
    assert len(set(plain)) == 1
    told = group_kinds(build_topology(tight), groups)
    assert len(set(told)) == 3
    assert told[0] == told[3]


MACHINES = [
    build_topology(resize(load_machine("tpu-v5e"), shape=(4, 8))),
    build_topology(resize(load_machine("tpu-v5p"), shape=(4, 4, 4))),
    build_topology(NODES),
    build_topology(replace(NODES, wounds=Wounds(without=("chip:n0/c1", "nic:n2/c0")))),
    build_topology(resize(load_machine("mi300x-hgx"), nodes=3)),
    build_topology(resize(load_machine("gb200-nvl72"), racks=2)),
    build_topology(
        replace(NODES, scale_out=replace(NODES.scale_out, oversubscription=3.0), num_domains=40)
    ),
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(MACHINES), st.integers(2, 6), st.data())
def test_equal_kinds_cost_the_same(topology, size, data):
    chip = st.integers(0, min(topology.num_chips, 400) - 1)
    group = st.lists(chip, min_size=size, max_size=size, unique=True)
    groups = data.draw(st.lists(group, min_size=2, max_size=12))
    prices = {}
    for own, kind in zip(groups, group_kinds(topology, groups), strict=True):
        price = [
            collective_rate(topology, op, group_shape(topology, own))
            for op in (Op.ALL_TO_ALL, Op.ALL_GATHER, Op.ALL_REDUCE)
        ]
        price.append(send_recv_rate(topology, own[0], own[1]))
        assert prices.setdefault(kind, price) == price
    assert len(distinct_groups(topology, groups)) == len(prices)


def test_boxes_of_a_torus_are_alike_wherever_they_stand():
    spec = resize(load_machine("tpu-v5e"), shape=(4, 8))
    topology = build_topology(spec)
    groups = [(0, 1, 4, 5), (2, 3, 6, 7), (0, 1, 2, 3), (24, 25, 28, 29)]
    kinds = group_kinds(topology, groups)
    assert kinds[0] == kinds[1] == kinds[3] != kinds[2]
    # with a chip dead somewhere every group is looked at by itself
    hurt = build_topology(replace(spec, wounds=Wounds(without=(f"chip:{topology.chip_names[9]}",))))
    assert len(set(group_kinds(hurt, [(0, 1), (2, 3)]))) == 2
