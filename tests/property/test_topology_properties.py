"""Laws that hold on every machine: cells, shapes, prices."""

from dataclasses import replace
from functools import cache, partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.domain.curves import Op
from planner.domain.hardware import ideal
from planner.topology.boxes import box_wraps, gather_load, worst_axis_load
from planner.topology.build import build_topology
from planner.topology.collectives import collective_rate, send_recv_rate
from planner.topology.covers import cover_domains, level_pieces
from planner.topology.graph_price import graph_load
from planner.topology.groups import carve, group_shape, max_cells

# Seconds per byte are smaller than the absolute tolerance that pytest grants.
approx = partial(pytest.approx, rel=1e-6, abs=0.0)

NODE = load_machine("h100-hgx")
POD = load_machine("tpu-v5e")


def routed(topology, op, chips):
    return graph_load(topology, op, [tuple(chips)]).s_per_byte


sizes_of_nodes = st.lists(st.integers(0, 8), min_size=1, max_size=6).filter(any)
slices = st.tuples(st.integers(1, 6), st.integers(1, 6))


def uneven(sizes):
    spec = resize(NODE, nodes=len(sizes))
    lost = [8 * node + chip for node, size in enumerate(sizes) for chip in range(size, 8)]
    return build_topology(spec, without=lost)


def most_covers(capacities, need):
    """Brute force over all ways to give disjoint sets of domains to cells."""

    @cache
    def best(left):
        top = 0
        taken = left
        while taken:
            if sum(c for i, c in enumerate(capacities) if taken >> i & 1) >= need:
                top = max(top, 1 + best(left & ~taken))
            taken = (taken - 1) & left
        return top

    return best((1 << len(capacities)) - 1)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=7), st.integers(1, 12))
def test_covers_are_as_many_as_possible(capacities, extra):
    need = max(capacities) + extra
    covers = cover_domains(capacities, need)
    assert len(covers) == most_covers(tuple(capacities), need)
    used = [domain for cover in covers for domain in cover]
    assert len(used) == len(set(used))
    for cover in covers:
        inside = [capacities[domain] for domain in cover]
        assert sum(inside) >= need
        # no domain of a cover is superfluous
        assert sum(inside) - min(inside) < need


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_level_pieces_are_as_equal_as_capacities_allow(capacities, data):
    need = data.draw(st.integers(1, sum(capacities)))
    pieces = level_pieces(capacities, need)
    assert sum(pieces) == need
    assert all(0 <= p <= c for p, c in zip(pieces, capacities, strict=True))
    for piece, capacity in zip(pieces, capacities, strict=True):
        # a domain that could take more has a piece within one of the largest
        assert piece == capacity or piece >= max(pieces) - 1


@given(sizes_of_nodes, st.integers(1, 24), st.integers(1, 8))
def test_cells_of_nodes(sizes, size, unit):
    topology = uneven(sizes)
    cells = carve(topology, size, unit)
    assert len(cells) == max_cells(topology, size, unit)
    assert_disjoint(topology, cells, size)
    units = [len(domain) // unit for domain in topology.domains]
    if size % unit == 0 and size // unit <= max(units):
        # never split: as many as fit into each domain alone
        assert len(cells) == sum(len(domain) // size for domain in topology.domains)
        assert all(len(cell.pieces) == 1 for cell in cells)
    for cell in cells:
        for start in range(0, size, unit):
            run = cell.chips[start : start + unit]
            assert len({topology.domain_of(chip) for chip in run}) == 1
        assert sum(cell.pieces) == size
        assert tuple(sorted(cell.pieces, reverse=True)) == group_shape(topology, cell.chips).pieces


def assert_disjoint(topology, cells, size):
    chips = [chip for cell in cells for chip in cell.chips]
    assert len(chips) == len(set(chips)) == size * len(cells)
    assert set(chips) <= set(range(topology.num_chips))


@given(st.integers(1, 6), st.integers(9, 48), st.sampled_from([1, 2, 4, 8]))
def test_equal_domains_give_equal_cells(count, size, unit):
    topology = build_topology(resize(NODE, nodes=count))
    cells = carve(topology, size, unit)
    assert len({group_shape(topology, cell.chips).pieces for cell in cells}) <= 1
    for cell in cells:
        # the fewest nodes, and within a unit of equal
        assert len(cell.pieces) == -(-size // 8)
        assert max(cell.pieces) - min(cell.pieces) <= unit


@given(slices, st.integers(1, 36), st.sampled_from([1, 2, 3, 4, 6]))
def test_cells_of_a_torus(shape, size, unit):
    topology = build_topology(resize(POD, shape=shape))
    cells = carve(topology, size, unit)
    assert len(cells) == max_cells(topology, size, unit)
    assert_disjoint(topology, cells, size)
    for cell in cells:
        assert box_of(topology, cell.chips) == cell.box
        for start in range(0, size, unit):
            spans = box_of(topology, cell.chips[start : start + unit])
            assert spans[0] * spans[1] == unit
    # no other box of this size fills a grid with more cells
    for width in range(1, shape[0] + 1):
        height = size // width
        if size % unit == 0 and width * height == size and height <= shape[1]:
            tiles = any(
                unit % inner == 0 and width % inner == 0 and height % (unit // inner) == 0
                for inner in range(1, width + 1)
            )
            if tiles:
                assert len(cells) >= (shape[0] // width) * (shape[1] // height)


def box_of(topology, chips):
    places = [topology.coordinates[chip] for chip in chips]
    return tuple(max(axis) - min(axis) + 1 for axis in zip(*places, strict=True))


def some_group(data, topology, least=2):
    return data.draw(
        st.lists(
            st.integers(0, topology.num_chips - 1),
            min_size=min(least, topology.num_chips),
            max_size=12,
            unique=True,
        )
    )


@given(sizes_of_nodes, st.data())
def test_relabelling_domains_changes_nothing(sizes, data):
    topology = uneven(sizes)
    chips = some_group(data, topology)
    order = data.draw(st.permutations(range(len(topology.domains))))
    moved = uneven([len(topology.domains[index]) for index in order])
    where = {
        chip: moved.domains[new][position]
        for new, old in enumerate(order)
        for position, chip in enumerate(topology.domains[old])
    }
    shape = group_shape(topology, chips)
    assert shape == group_shape(moved, [where[chip] for chip in chips])
    for op in Op:
        assert collective_rate(topology, op, shape) == collective_rate(moved, op, shape)


@given(sizes_of_nodes, st.data(), st.sampled_from(list(Op)))
def test_order_of_ranks_changes_nothing(sizes, data, op):
    topology = uneven(sizes)
    chips = some_group(data, topology)
    shuffled = data.draw(st.permutations(chips))
    assert group_shape(topology, chips) == group_shape(topology, shuffled)
    assert collective_rate(topology, op, group_shape(topology, chips)).s_per_byte >= 0


factors = st.floats(1.0, 10.0)


@given(sizes_of_nodes, st.data(), factors, factors, st.sampled_from(list(Op)))
def test_more_bandwidth_is_never_slower(sizes, data, up, out, op):
    topology = uneven(sizes)
    spec = topology.spec
    faster = replace(
        spec,
        scale_up=replace(
            spec.scale_up,
            levels=tuple(
                replace(level, link_bytes_per_s=up * level.link_bytes_per_s)
                for level in spec.scale_up.levels
            ),
        ),
        scale_out=replace(spec.scale_out, nic_bytes_per_s=out * spec.scale_out.nic_bytes_per_s),
    )
    shape = group_shape(topology, some_group(data, topology))
    before = collective_rate(topology, op, shape)
    after = collective_rate(replace(topology, spec=faster, memo={}), op, shape)
    assert after.s_per_byte <= before.s_per_byte * (1 + 1e-12)
    assert after.latency_s == before.latency_s


@given(sizes_of_nodes, st.data(), st.sampled_from(list(Op)))
def test_friction_never_helps(sizes, data, op):
    topology = uneven(sizes)
    shape = group_shape(topology, some_group(data, topology, least=1))
    real = collective_rate(topology, op, shape)
    perfect = collective_rate(replace(topology, spec=ideal(topology.spec), memo={}), op, shape)
    assert perfect.s_per_byte <= real.s_per_byte
    assert perfect.latency_s == 0.0
    # friction may change which of two close links is the slower one, not that there is one
    assert bool(perfect.link) == bool(real.link) == (shape.size > 1)


@given(st.integers(2, 64), st.integers(2, 64), st.booleans())
def test_a_ring_is_never_slower_than_a_line(length, other, wrap):
    box = (length, other)
    ring, line = (True, wrap), (False, wrap)
    assert worst_axis_load(box, ring) <= worst_axis_load(box, line)
    assert gather_load(box, ring) <= gather_load(box, line)


@given(slices)
def test_only_whole_axes_close(shape):
    full = (6, 4)
    wraps = (shape[0] == 6, shape[1] == 4)
    assert box_wraps(shape, full, (True, True)) == wraps


@settings(max_examples=25, deadline=None)
@given(sizes_of_nodes, st.data())
def test_all_to_all_agrees_with_the_routed_graph(sizes, data):
    topology = uneven(sizes)
    chips = some_group(data, topology)
    if len(chips) < 2:
        return
    closed = collective_rate(topology, Op.ALL_TO_ALL, group_shape(topology, chips))
    assert closed.s_per_byte == approx(routed(topology, Op.ALL_TO_ALL, chips), rel=1e-9)
    pair = send_recv_rate(topology, chips[0], chips[1])
    assert pair.s_per_byte == approx(routed(topology, Op.SEND_RECV, chips[:2]), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(slices.filter(lambda shape: shape[0] * shape[1] > 1), st.booleans(), st.booleans())
def test_all_to_all_agrees_with_the_routed_torus(shape, first, second):
    # An axis is as long as the full torus, and closes, or is part of a longer one.
    full = (shape[0] if first else 16, shape[1] if second else 16)
    spec = replace(POD, scale_up=replace(POD.scale_up, full_shape=full), shape=shape)
    topology = build_topology(spec)
    everyone = range(topology.num_chips)
    closed = collective_rate(topology, Op.ALL_TO_ALL, group_shape(topology, everyone))
    assert closed.s_per_byte == approx(routed(topology, Op.ALL_TO_ALL, everyone), rel=1e-9)
