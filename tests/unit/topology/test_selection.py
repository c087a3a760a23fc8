"""Groups of chips by number, by name, and the ones beside them."""

import pytest

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.domain.hardware import Sizing
from planner.errors import SpecError
from planner.topology.build import build_topology
from planner.topology.selection import chips_by_name, chips_by_number, groups_alike

NODES = build_topology(sized(load_machine("h100-hgx"), Sizing(nodes=2)))


def test_numbers_and_ranges():
    assert chips_by_number(NODES, "0-3,8, 10-11") == (0, 1, 2, 3, 8, 10, 11)
    assert chips_by_number(NODES, "9,2") == (9, 2)  # the order is the sender's and receiver's


@pytest.mark.parametrize("text", ["", "a", "0-", "-3", "1..4", "0,,1", "٣", "1-2-3"])
def test_numbers_that_cannot_be_read(text):
    with pytest.raises(SpecError, match="--chips: cannot read"):
        chips_by_number(NODES, text)


@pytest.mark.parametrize("text", ["16", "0-16", "5-3", "999999999"])
def test_chips_that_do_not_exist(text):
    with pytest.raises(SpecError, match="not a range of chips") as caught:
        chips_by_number(NODES, text)
    assert "0 to 15" in caught.value.remedy


def test_a_chip_is_named_once():
    with pytest.raises(SpecError, match=r"n0/c2 \(chip 2\) is named twice"):
        chips_by_number(NODES, "0-3,2")
    with pytest.raises(SpecError, match="named twice"):
        chips_by_name(NODES, "n0/*,*/c3")


def test_names_and_patterns():
    assert chips_by_name(NODES, "n1/*") == tuple(range(8, 16))
    assert chips_by_name(NODES, "*/c3, n0/c0") == (3, 11, 0)


def test_names_that_do_not_exist():
    with pytest.raises(SpecError, match="no chip is called 'n0/c9'") as caught:
        chips_by_name(NODES, "n0/c9")
    assert "n0/c" in caught.value.remedy
    with pytest.raises(SpecError, match="no chip is called"):
        chips_by_name(NODES, "n0/c[0-3]")


def test_groups_side_by_side():
    assert groups_alike(32, range(8)) == (
        tuple(range(8, 16)),
        tuple(range(16, 24)),
        tuple(range(24, 32)),
    )
    # 20 chips: two more groups of eight do not fit
    assert groups_alike(20, range(4, 12)) == (tuple(range(12, 20)),)


def test_groups_that_interleave():
    found = groups_alike(16, (0, 8))
    assert found == tuple((chip, chip + 8) for chip in range(1, 8))


def test_a_group_in_the_middle_has_neighbours_on_both_sides():
    assert groups_alike(6, (2, 3)) == ((0, 1), (4, 5))


def test_the_whole_machine_is_alone():
    assert groups_alike(16, range(16)) == ()
