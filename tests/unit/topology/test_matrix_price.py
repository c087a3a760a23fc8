"""Exchanges with given traffic, by hand."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.domain.curves import Op
from planner.domain.hardware import Wounds, ideal
from planner.errors import SpecError
from planner.topology.build import build_topology
from planner.topology.collectives import collective_cost
from planner.topology.matrix_price import matrix_cost

# Seconds per byte are smaller than the absolute tolerance that pytest grants.
approx = partial(pytest.approx, rel=1e-6, abs=0.0)


def perfect(name, **size):
    return build_topology(ideal(resize(load_machine(name), **size)))


@pytest.mark.parametrize(
    ("name", "size"), [("h100-hgx", {"nodes": 2}), ("tpu-v5e", {"shape": (4, 2)}), ("v100-dgx", {})]
)
def test_an_even_matrix_is_the_uniform_exchange(name, size):
    topology = perfect(name, **size)
    count = topology.num_chips
    even = np.full((count, count), 1e6 / count)
    cost = matrix_cost(topology, range(count), even)
    uniform = collective_cost(topology, Op.ALL_TO_ALL, range(count), 1e6)
    assert cost.num_bytes == approx(1e6)
    assert cost.wire_s == approx(uniform.wire_s)
    assert cost.link == uniform.link


def test_a_hot_expert_binds_the_chip_that_holds_it():
    # Seven chips send 9 MB each to chip 3 and nothing else: 63 MB over its 450 GB/s.
    topology = perfect("h100-hgx")
    traffic = np.zeros((8, 8))
    traffic[:, 3] = 9e6
    cost = matrix_cost(topology, range(8), traffic, Op.DISPATCH)
    assert cost.wire_s == approx(63e6 / 450e9)
    assert cost.link_name.startswith("n0/c3--")
    assert cost.ratio == approx(1.0)
    # combine sends it back the other way
    back = matrix_cost(topology, range(8), traffic.T, Op.COMBINE)
    assert back.wire_s == approx(cost.wire_s)


def test_a_hot_chip_in_another_node_binds_its_nic():
    # Eight chips of node 0 send 1 MB each to chip 8: 8 MB through one NIC of 50 GB/s.
    topology = perfect("h100-hgx", nodes=2)
    traffic = np.zeros((16, 16))
    traffic[:8, 8] = 1e6
    cost = matrix_cost(topology, range(16), traffic)
    assert (cost.wire_s, cost.link) == (approx(8e6 / 50e9), "nic")
    slow = replace(topology.spec, wounds=Wounds(degrade=(("nic:n1/c0", 0.5),)))
    hurt = matrix_cost(build_topology(slow), range(16), traffic)
    assert hurt.wire_s == approx(2 * cost.wire_s)


def test_what_a_chip_keeps_is_free():
    cost = matrix_cost(perfect("h100-hgx"), range(8), np.diag([1e9] * 8))
    assert (cost.seconds, cost.num_bytes) == (0.0, 1e9)


@pytest.mark.parametrize(
    ("traffic", "op", "message"),
    [
        (np.ones((3, 3)), Op.ALL_TO_ALL, "matrix is 3 x 3, the group has 8"),
        (np.ones((8, 8)), Op.ALL_REDUCE, "does not go with all_reduce"),
        (np.full((8, 8), np.nan), Op.DISPATCH, "not bytes"),
        (-np.ones((8, 8)), Op.DISPATCH, "not bytes"),
    ],
)
def test_matrices_that_are_refused(traffic, op, message):
    with pytest.raises(SpecError, match=message):
        matrix_cost(perfect("h100-hgx"), range(8), traffic, op)
