"""Cells carved out of machines, and the shapes of groups."""

from dataclasses import replace
from itertools import pairwise

import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.topology.boxes import axis_load, choose_boxes, factor_boxes, gather_load, snake
from planner.topology.build import build_topology
from planner.topology.covers import cover_domains, level_pieces
from planner.topology.groups import Cell, GroupShape, carve, group_shape, max_cells


def racks(count):
    return build_topology(resize(load_machine("gb200-nvl72"), racks=count))


def nodes(count):
    return build_topology(resize(load_machine("h100-hgx"), nodes=count))


def slice_of(*shape):
    return build_topology(resize(load_machine("tpu-v5e"), shape=shape))


def uneven(*sizes):
    """Nodes of at most eight chips with the given numbers of chips left."""
    spec = resize(load_machine("h100-hgx"), nodes=len(sizes))
    lost = [8 * node + chip for node, size in enumerate(sizes) for chip in range(size, 8)]
    return build_topology(spec, without=lost)


def test_a_cell_within_a_domain_is_never_split():
    # 40 of 72: one per rack, although the two rests of 32 would hold a third
    cells = carve(racks(2), 40, 8)
    assert cells == (
        Cell(chips=tuple(range(40)), pieces=(40,)),
        Cell(chips=tuple(range(72, 112)), pieces=(40,)),
    )


def test_cells_fill_a_domain():
    cells = carve(nodes(2), 2, 2)
    assert [cell.chips for cell in cells] == [(i, i + 1) for i in range(0, 16, 2)]


def test_a_larger_cell_takes_the_fewest_domains_in_equal_pieces():
    # 80 chips over two racks: 40 + 40, not 72 + 8
    cells = carve(racks(4), 80, 8)
    assert [cell.pieces for cell in cells] == [(40, 40), (40, 40)]
    assert cells[1].chips == (*range(144, 184), *range(216, 256))
    # 20 chips in units of 4: three nodes of two units, 5 units = 2 + 2 + 1
    assert [cell.pieces for cell in carve(nodes(3), 20, 4)] == [(8, 8, 4)]


def test_units_stay_in_one_domain():
    # 18 chips in units of 3: two units per node of eight, six units in three nodes
    cells = carve(nodes(3), 18, 3)
    assert [cell.pieces for cell in cells] == [(6, 6, 6)]
    assert carve(nodes(2), 18, 3) == ()


@pytest.mark.parametrize(
    ("size", "unit"), [(24, 16), (16, 3), (17, 1), (0, 1), (4, 0), (-8, -8), (4, 8)]
)
def test_impossible_cells(size, unit):
    assert carve(nodes(2), size, unit) == ()
    assert max_cells(nodes(2), size, unit) == 0


def test_irregular_domains():
    topology = uneven(8, 5, 8, 2)
    # four chips: 2 + 1 + 2 + 0
    assert max_cells(topology, 4, 4) == len(carve(topology, 4, 4)) == 5
    # ten chips: only 8 + 8 + 5 + 2 = 23 are there; 8 + 2 and 8 + 5
    cells = carve(topology, 10, 1)
    assert [cell.pieces for cell in cells] == [(8, 2), (5, 5)]
    assert max_cells(topology, 10, 1) == 2


def test_exact_search_beats_the_greedy_rule():
    # 13 from 7, 7, 5, 4, 2, 1 (26 in all): 7 + 5 + 1 and 7 + 4 + 2. Largest first and then
    # the smallest that completes takes 7 + 7 and is left with 12.
    assert cover_domains([7, 7, 5, 4, 2, 1], 13) == ((0, 2, 5), (1, 3, 4))
    assert cover_domains([8, 8, 5, 4, 1, 1, 1], 14) == ((0, 2, 4), (1, 3, 5, 6))


def test_a_cover_leaves_no_domain_idle_inside_it():
    # 10 from 7, 5, 5, 3: two pairs; 9 from 8, 8, 1: one of the large ones is not needed
    assert cover_domains([7, 5, 5, 3], 10) == ((0, 3), (1, 2))
    assert cover_domains([8, 8, 1], 9) == ((0, 2),)
    assert cover_domains([8, 0, 8], 17) == ()


def test_level_pieces():
    assert level_pieces([8, 8], 9) == (5, 4)
    assert level_pieces([8, 2, 8], 12) == (5, 2, 5)
    assert level_pieces([3, 8, 8], 16) == (3, 7, 6)


def test_shape_of_a_group():
    topology = nodes(33)
    assert group_shape(topology, (3, 8, 9, 1, 0)) == GroupShape(pieces=(3, 2))
    # nodes 0 and 32 stand in different scalable units
    assert group_shape(topology, (0, 256)) == GroupShape(pieces=(1, 1), num_units=2)
    assert group_shape(topology, (0, 256)).size == 2


@pytest.mark.parametrize("chips", [(), (1, 1)])
def test_no_group(chips):
    with pytest.raises(ValueError, match="distinct"):
        group_shape(nodes(1), chips)


def test_shape_on_a_torus():
    pod = slice_of(16, 16)
    box = [x + 16 * y for x in range(2, 4) for y in range(16)]
    expected = GroupShape(pieces=(32,), box=(16, 2), wrap=(True, False))
    assert group_shape(pod, box) == expected
    # the same box lying down is the same shape
    assert group_shape(pod, [16 * x + y for x in range(2, 4) for y in range(16)]) == expected


def test_cells_of_a_torus_are_boxes_of_boxes():
    topology = slice_of(4, 4)
    cells = carve(topology, 8, 4)
    assert [cell.box for cell in cells] == [(2, 4), (2, 4)]
    names = topology.chip_names
    # units of 2 x 2, one above the other
    assert [names[chip] for chip in cells[0].chips[:4]] == ["x0y0", "x1y0", "x0y1", "x1y1"]
    assert [names[chip] for chip in cells[0].chips[4:]] == ["x0y2", "x1y2", "x0y3", "x1y3"]
    assert [names[chip] for chip in cells[1].chips[:1]] == ["x2y0"]


def test_most_cells_come_before_good_ones():
    # 12 chips on 4 x 4: 3 x 4 or 4 x 3, once; six: 2 x 3 fits twice, with room for 2 x 1
    assert max_cells(slice_of(4, 4), 12, 3) == 1
    assert [cell.box for cell in carve(slice_of(4, 4), 6, 1)] == [(2, 3), (2, 3)]
    # two axes of four: five does not fit, as no box of 5 does
    assert carve(slice_of(4, 4), 5, 1) == ()
    # whole rings are preferred: 64 of 16 x 16 as 4 x 16, not as 8 x 8
    assert carve(slice_of(16, 16), 64, 1)[0].box == (4, 16)


def test_consecutive_cells_are_neighbours():
    topology = slice_of(8, 8)
    corners = [topology.coordinates[cell.chips[0]] for cell in carve(topology, 4, 4)]
    for (x, y), (after_x, after_y) in pairwise(corners):
        assert abs(x - after_x) + abs(y - after_y) == 2


def test_choose_boxes_needs_a_unit_that_tiles():
    # units of 3 within 9 = 3 x 3: 1 x 3; units of 4 do not divide 6
    assert choose_boxes((16, 16), (True, True), 9, 3) == (25, (3, 3), (1, 3))
    assert choose_boxes((16, 16), (True, True), 6, 4) is None


def test_box_arithmetic():
    assert set(factor_boxes(8, (4, 4))) == {(2, 4), (4, 2)}
    assert list(factor_boxes(7, (4, 4))) == []
    assert snake((2, 3)) == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]
    # ring of 8: mean distance 2 over two directions; line of 5: 2 x 3 / 5
    assert axis_load(8, True) == 1.0
    assert axis_load(5, False) == 1.2
    # ring of 5: distances 0 1 2 2 1, mean 6 / 5 over two directions
    assert axis_load(5, True) == pytest.approx(0.6)
    assert gather_load((16, 2), (True, False)) == pytest.approx(31 / 32 / 3)


def test_closed_count_equals_the_cells():
    machines = [racks(3), nodes(5), uneven(8, 5, 8, 2), slice_of(4, 8)]
    machines.append(build_topology(replace(nodes(2).spec, num_domains=4)))
    for topology in machines:
        for size in range(1, topology.num_chips + 1):
            for unit in (1, 2, 3, 4, 8):
                assert max_cells(topology, size, unit) == len(carve(topology, size, unit))


def test_units_leave_the_others_whole_rings():
    # 8 x 8 x 16 in units of two: across an axis of 8 the chips at the same place in their units
    # still see rings of 8, 16 and a line of 7; along the axis of 16 they would see a line of 15.
    count, box, inner = choose_boxes((8, 8, 16), (True,) * 3, 1024, 2)
    assert (count, box, inner) == (1, (8, 8, 16), (1, 2, 1))
    # 512 chips in units of two: 8 x 8 x 8 and 4 x 8 x 16 exchange alike (2 = 4 * 4 / 8 = 16 / 8),
    # but a unit of two in the latter breaks a ring: (15 // 2) * 8 / 15 = 3.73
    assert choose_boxes((8, 8, 16), (True,) * 3, 512, 2)[1] == (8, 8, 8)
    assert axis_load(15, False) == pytest.approx(3.733, abs=1e-3)


@pytest.mark.parametrize("unit", [2, 4, 8, 16])
@pytest.mark.parametrize("size", [64, 256, 512, 1024])
def test_no_other_boxes_are_better_for_tensor_and_expert_parallelism(size, unit):
    shape, wraps = (8, 8, 16), (True,) * 3

    def prices(box, inner):
        def exchange(own):
            rings = [length == full for length, full in zip(own, shape, strict=True)]
            return max(axis_load(n, ring) for n, ring in zip(own, rings, strict=True))

        rings = [length == full for length, full in zip(inner, shape, strict=True)]
        strided = tuple(o - i + 1 for o, i in zip(box, inner, strict=True))
        return exchange(box), gather_load(inner, rings), exchange(strided)

    count, box, inner = choose_boxes(shape, wraps, size, unit)
    chosen = prices(box, inner)
    for other in factor_boxes(size, shape):
        cells = 1
        for full, length in zip(shape, other, strict=True):
            cells *= full // length
        if cells < count:
            continue
        for own in factor_boxes(unit, other):
            if all(o % i == 0 for o, i in zip(other, own, strict=True)):
                assert chosen <= tuple(price + 1e-12 for price in prices(other, own))
