"""Laws of wounded machines: what is taken away never helps, and names do not matter."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.domain.curves import Op
from planner.domain.hardware import Wounds, ideal
from planner.errors import DisconnectedError
from planner.topology.build import build_topology
from planner.topology.collectives import collective_cost
from planner.topology.graph_price import graph_load

# Seconds per byte are smaller than the absolute tolerance that pytest grants.
approx = partial(pytest.approx, rel=1e-6, abs=0.0)

NODES = resize(load_machine("h100-hgx"), nodes=3)
MESHES = resize(load_machine("mi300x-hgx"), nodes=2)
OPS = [Op.ALL_TO_ALL, Op.ALL_GATHER, Op.ALL_REDUCE, Op.SEND_RECV, Op.BROADCAST]

chips = st.builds("n{}/c{}".format, st.integers(0, 2), st.integers(0, 7))
switch_links = st.builds("link:{}--n{}/sw{}".format, chips, st.integers(0, 2), st.integers(0, 3))


@st.composite
def wounds(draw):
    """Dead switches, NICs, leaves and slow links of the three nodes; no dead chips."""
    without = draw(
        st.lists(
            st.one_of(
                st.builds("switch:n{}/sw{}".format, st.integers(0, 2), st.integers(0, 3)),
                st.builds("spine:spine{}".format, st.integers(0, 3)),
                st.builds("nic:{}".format, chips),
            ),
            max_size=3,
            unique=True,
        )
    )
    slow = draw(
        st.dictionaries(
            st.builds("link:{0}--{0}/nic".format, chips), st.sampled_from([0.5, 0.25]), max_size=2
        )
    )
    for chip in draw(st.lists(chips, max_size=2, unique=True)):
        switch = draw(st.integers(0, 3))
        slow[f"link:{chip}--{chip.split('/')[0]}/sw{switch}"] = draw(st.sampled_from([0.5, 0.1]))
    gone = {text.removeprefix("switch:") for text in without}
    lost = {f"{text.removeprefix('nic:')}/nic" for text in without if text.startswith("nic:")}
    kept = {
        name: left
        for name, left in slow.items()
        if name.split("--")[1] not in gone and name.split("--")[1] not in lost
    }
    return Wounds(without=tuple(without), degrade=tuple(sorted(kept.items())))


def seconds(topology, op, names, num_bytes=64e6):
    group = [topology.chip_names.index(name) for name in names]
    group = group[:2] if op is Op.SEND_RECV else group
    return collective_cost(topology, op, group, num_bytes).seconds


def groups_of(spec, least=2):
    return st.lists(
        st.sampled_from(build_topology(spec).chip_names), min_size=least, max_size=8, unique=True
    )


@settings(max_examples=60, deadline=None)
@given(wounds(), groups_of(NODES), st.sampled_from(OPS))
def test_a_wound_never_speeds_a_group_up(hurt, group, op):
    before = seconds(build_topology(NODES), op, group)
    wounded = build_topology(replace(NODES, wounds=hurt))
    try:
        after = seconds(wounded, op, group)
    except DisconnectedError:
        return
    assert after >= before * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(wounds(), groups_of(NODES), st.sampled_from(OPS), st.data())
def test_removing_another_chip_never_speeds_the_rest_up(hurt, group, op, data):
    spec = replace(NODES, wounds=hurt)
    topology = build_topology(spec)
    other = data.draw(st.sampled_from([n for n in topology.chip_names if n not in group]))
    fewer = replace(hurt, without=(*hurt.without, f"chip:{other}"))
    try:
        before = seconds(topology, op, group)
        after = seconds(build_topology(replace(spec, wounds=fewer)), op, group)
    except DisconnectedError:
        return
    assert after >= before * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(groups_of(MESHES, least=3), st.sampled_from(OPS), st.data())
def test_a_dead_link_of_a_mesh_never_helps(group, op, data):
    # Chips forward, so traffic finds its way round through a third one.
    node = group[0].split("/")[0]
    a, b = data.draw(st.lists(st.integers(0, 7), min_size=2, max_size=2, unique=True))
    hurt = replace(MESHES, wounds=Wounds(without=(f"link:{node}/c{a}--{node}/c{b}",)))
    before = seconds(build_topology(MESHES), op, group)
    after = seconds(build_topology(hurt), op, group)
    assert after >= before * (1 - 1e-9)


@settings(max_examples=30, deadline=None)
@given(wounds(), groups_of(NODES), st.sampled_from(OPS), st.permutations([0, 1, 2]))
def test_relabelling_nodes_changes_nothing(hurt, group, op, order):
    def renamed(text):
        for old in range(3):
            text = text.replace(f"n{old}/", f"N{order[old]}/")
        return text.replace("N", "n")

    moved = Wounds(
        without=tuple(renamed(text) for text in hurt.without),
        degrade=tuple(sorted((renamed(name), left) for name, left in hurt.degrade)),
    )
    # A chain visits domains in their order: a broadcast may start elsewhere.
    assume(op is not Op.BROADCAST)
    found = []
    for wound, names in ((hurt, group), (moved, [renamed(name) for name in group])):
        try:
            found.append(seconds(build_topology(replace(NODES, wounds=wound)), op, names))
        except DisconnectedError:
            found.append(None)
    if found[0] is None or found[1] is None:
        assert found[0] == found[1]
    else:
        assert found[0] == approx(found[1], rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(wounds(), groups_of(NODES), st.sampled_from(OPS), st.floats(1.0, 8.0))
def test_more_bandwidth_everywhere_is_never_slower(hurt, group, op, factor):
    slow = build_topology(replace(NODES, wounds=hurt))
    levels = tuple(
        replace(level, link_bytes_per_s=factor * level.link_bytes_per_s)
        for level in NODES.scale_up.levels
    )
    fabric = replace(NODES.scale_out, nic_bytes_per_s=factor * NODES.scale_out.nic_bytes_per_s)
    spec = replace(
        NODES,
        wounds=hurt,
        scale_up=replace(NODES.scale_up, levels=levels),
        scale_out=fabric,
    )
    try:
        before = seconds(slow, op, group)
    except DisconnectedError:
        return
    assert seconds(build_topology(spec), op, group) <= before * (1 + 1e-9)


TORI = {
    "ring": replace(
        load_machine("tpu-v5e"),
        scale_up=replace(load_machine("tpu-v5e").scale_up, full_shape=(4, 4)),
        shape=(4, 4),
    ),
    "mesh": resize(load_machine("tpu-v5e"), shape=(4, 3)),
    "cube": load_machine("tpu-v5p"),
    "unequal": resize(load_machine("trn2"), shape=(4, 4, 2)),
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(TORI)), st.sampled_from(OPS), st.data())
def test_a_wound_never_speeds_a_torus_up(name, op, data):
    spec = TORI[name]
    whole = build_topology(spec)
    names = whole.chip_names
    group = data.draw(st.lists(st.sampled_from(names), min_size=2, max_size=10, unique=True))
    link = data.draw(st.sampled_from(range(whole.network.num_links)))
    text = f"link:{whole.network.link_name(link)}"
    hurt = data.draw(
        st.one_of(
            st.sampled_from([n for n in names if n not in group]).map(
                lambda chip: Wounds(without=(f"chip:{chip}",))
            ),
            st.just(Wounds(without=(text,))),
            st.sampled_from([0.99, 0.5]).map(lambda left: Wounds(degrade=((text, left),))),
        )
    )
    before = seconds(whole, op, group)
    try:
        after = seconds(build_topology(replace(spec, wounds=hurt)), op, group)
    except DisconnectedError:
        return
    assert after >= before * (1 - 1e-9)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(TORI)), st.sampled_from(OPS), st.data())
def test_a_slow_nic_does_not_concern_a_slice(name, op, data):
    spec = TORI[name]
    whole = build_topology(spec)
    group = data.draw(
        st.lists(st.sampled_from(whole.chip_names), min_size=2, max_size=8, unique=True)
    )
    nic = data.draw(st.sampled_from(whole.chip_names))
    hurt = replace(spec, wounds=Wounds(degrade=((f"nic:{nic}", 0.5),)))
    assert seconds(build_topology(hurt), op, group) == approx(seconds(whole, op, group))


def test_a_chip_without_a_nic_uses_its_neighbours():
    # Two nodes of eight. Chip 0 of the first sends 8/16 of its V through seven other NICs,
    # which have their own 8/16 to send: 8/7 of the load. Inside, it sends all of that too.
    spec = ideal(resize(load_machine("h100-hgx"), nodes=2))
    hurt = build_topology(replace(spec, wounds=Wounds(without=("nic:n0/c0",))))
    found = graph_load(hurt, Op.ALL_TO_ALL, [range(16)])
    assert found.link == "nic"
    assert found.s_per_byte == approx(8 / 7 * 0.5 / 50e9)
    # A dead leaf: one chip of each node. Seven lanes carry the traffic of eight.
    leaf = build_topology(replace(spec, wounds=Wounds(without=("leaf:su0/leaf3",))))
    assert graph_load(leaf, Op.ALL_TO_ALL, [range(16)]).s_per_byte == approx(8 / 7 * 0.5 / 50e9)


def test_a_node_without_any_nic_is_cut_off():
    spec = resize(load_machine("h100-hgx"), nodes=2)
    hurt = build_topology(replace(spec, wounds=Wounds(without=("nic:n0/*",))))
    with pytest.raises(DisconnectedError, match="are not connected"):
        graph_load(hurt, Op.ALL_TO_ALL, [range(16)])
    # inside of the node nothing is missing
    assert graph_load(hurt, Op.ALL_TO_ALL, [range(8)]).link == "nvlink"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 15), st.sampled_from([Op.ALL_TO_ALL, Op.ALL_GATHER]))
def test_a_torus_routes_around_a_dead_chip(dead, op):
    # 15 chips of a 4 x 4 torus: per chip they send as much as before to fewer chips, over
    # fewer links.
    spec = load_machine("tpu-v5e")
    spec = replace(spec, scale_up=replace(spec.scale_up, full_shape=(4, 4)), shape=(4, 4))
    whole, hurt = (
        build_topology(replace(spec, wounds=Wounds(without=without)))
        for without in ((), (f"chip:x{dead % 4}y{dead // 4}",))
    )
    assert hurt.num_chips == 15
    before = graph_load(whole, op, [range(16)]).s_per_byte
    after = graph_load(hurt, op, [range(15)]).s_per_byte
    assert after > before
    # every chip is as good as any other: a torus has no middle
    first = build_topology(replace(spec, wounds=Wounds(without=("chip:x0y0",))))
    assert after == approx(graph_load(first, op, [range(15)]).s_per_byte)
