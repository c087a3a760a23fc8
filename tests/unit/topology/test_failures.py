"""What may die at once, on racks, nodes and tori."""

import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.errors import SpecError
from planner.topology.build import build_topology
from planner.topology.failures import failure_units


def units(machine, survive, **size):
    return failure_units(build_topology(resize(load_machine(machine), **size)), survive)


def test_a_rack_has_trays_of_four_chips():
    # 18 compute trays of 4 GPUs; a node of the rack is such a tray.
    for survive in ("tray", "node", "any"):
        found = units("gb200-nvl72", survive, racks=1)
        assert len(found) == 18 and found[0] == frozenset({0, 1, 2, 3})
    assert len(units("gb200-nvl72", "chip", racks=1)) == 72


def test_nodes_die_whole_where_there_are_several():
    assert units("h100-hgx", "any", nodes=2) == (frozenset(range(8)), frozenset(range(8, 16)))
    assert len(units("h100-hgx", "any", nodes=1)) == 8
    assert len(units("tpu-v5p", "any", shape=(4, 4, 4))) == 64
    assert units("h100-hgx", None, nodes=1) == ()


@pytest.mark.parametrize("survive", ["tray", "node", "rack"])
def test_parts_that_a_machine_does_not_have_are_refused(survive):
    with pytest.raises(SpecError, match="--survive"):
        units("h100-hgx", survive, nodes=1)
