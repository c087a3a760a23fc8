"""Rank orders by hand, from the engines' own numbering."""

import pytest
from deploy_factory import degrees

from planner.deployment.ranks import (
    by_host,
    cells_of,
    devices_of,
    engine_order,
    host_of,
    in_launch_order,
    instance_of,
    node_size,
)
from planner.domain.deployment import Engine


def test_vllm_numbers_dp_slowest_then_pp_then_tp():
    # DP 2, PP 2, TP 2: DP rank 0 has both stages; in a cell DP rank 1 owns places 2 and 3.
    own = degrees(attn_tp=2, attn_dp=2, pp=2, ep=4, num_slots=4)
    assert engine_order(Engine.VLLM, own) == (
        *((0, 0), (0, 1), (1, 0), (1, 1)),
        *((0, 2), (0, 3), (1, 2), (1, 3)),
    )


def test_sglang_numbers_stages_slowest():
    own = degrees(attn_tp=2, attn_dp=2, pp=2, ep=4, num_slots=4)
    assert engine_order(Engine.SGLANG, own) == tuple((s, p) for s in (0, 1) for p in range(4))


def test_trtllm_runs_through_expert_ranks_fastest():
    # moe_ep_rank = rank % 2, moe_tp_rank = rank // 2: place = ep_rank * expert_tp + expert_tp_rank.
    own = degrees(attn_tp=4, ep=2, expert_tp=2, num_slots=4)
    assert engine_order(Engine.TRTLLM, own) == ((0, 0), (0, 2), (0, 1), (0, 3))


@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.SGLANG, Engine.TRTLLM])
def test_cells_invert_the_order(engine):
    own = degrees(attn_tp=2, attn_dp=4, pp=3, ep=4, expert_tp=2, num_slots=4)
    order = engine_order(engine, own)
    assert sorted(order) == [(s, p) for s in range(3) for p in range(8)]
    cells = cells_of(order, range(24), 3)
    assert all(cells[stage][place] == rank for rank, (stage, place) in enumerate(order))


def test_node_size_is_the_longest_that_stays_on_hosts():
    assert node_size("aaaabbbb") == 4
    assert node_size("aaaabbbbb"[:8]) == 4
    # Changes of host after 2, 6 and 8 ranks: nodes of 2.
    assert node_size("aabbbbcc") == 2
    assert node_size("abab") == 1
    assert node_size("aaa") == 3


def test_hosts_and_devices_by_name():
    names = ["r0/t0/c0", "r0/t0/c2", "r0/t1/c0", "n0/x1y0", "n0/x0y1"]
    assert [host_of(name) for name in names] == ["r0/t0", "r0/t0", "r0/t1", "n0", "n0"]
    # c1 is dead: c2 is still device 2. Coordinates are counted.
    assert list(devices_of(names).values()) == [0, 2, 0, 0, 1]
    assert by_host(["b/c0", "a/c0", "b/c1"]) == ("b/c0", "b/c1", "a/c0")


def test_ranks_that_alternate_between_hosts_are_sorted():
    alternating = ["a/c0", "b/c0", "a/c1", "b/c1"]
    assert in_launch_order(alternating, sorted(alternating)) == ("a/c0", "a/c1", "b/c0", "b/c1")
    # Any order of hosts and devices is kept as long as all nodes see the same devices.
    swapped = ["b/c1", "b/c0", "a/c1", "a/c0"]
    assert in_launch_order(swapped, sorted(swapped)) == tuple(swapped)
    mixed = ["b/c1", "b/c0", "a/c0", "a/c1"]
    assert in_launch_order(mixed, sorted(mixed)) == ("a/c0", "a/c1", "b/c0", "b/c1")


def test_nodes_of_an_instance():
    chips = ("b/c4", "b/c5", "a/c0", "a/c1")
    found = instance_of(chips, devices_of(chips))
    assert [(node.host, node.devices) for node in found.nodes] == [("b", (4, 5)), ("a", (0, 1))]
    assert found.node_chips == 2 and found.chips == 4
