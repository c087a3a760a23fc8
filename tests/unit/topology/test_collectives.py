"""Prices of collectives: the scaling book's cases and the blackboard's, by hand."""

from dataclasses import replace
from functools import partial

import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.domain.curves import Curve, Curves, Op
from planner.domain.hardware import ideal
from planner.errors import SpecError
from planner.topology.build import build_topology
from planner.topology.collectives import collective_cost, collective_rate, send_recv_rate
from planner.topology.graph_price import graph_load
from planner.topology.groups import GroupShape, group_shape
from planner.topology.rate import FREE, CollectiveRate

# Seconds per byte are smaller than the absolute tolerance that pytest grants.
approx = partial(pytest.approx, rel=1e-6, abs=0.0)


def perfect(name, **size):
    return build_topology(ideal(resize(load_machine(name), **size)))


def whole(topology, op):
    return collective_rate(topology, op, group_shape(topology, range(topology.num_chips)))


def with_nic(topology, nic_bytes_per_s):
    fabric = replace(topology.spec.scale_out, nic_bytes_per_s=nic_bytes_per_s)
    return build_topology(replace(topology.spec, scale_out=fabric))


@pytest.mark.parametrize(
    ("rows", "columns", "seconds"),
    # V = 2 x rows x columns; V x 7 / 8 / 450e9
    [(4096, 65536, 1.044e-3), (1024, 16384, 65.2e-6)],
)
def test_all_gather_on_eight_h100(rows, columns, seconds):
    rate = whole(perfect("h100-hgx"), Op.ALL_GATHER)
    assert rate.seconds(2 * rows * columns) == approx(seconds, rel=1e-3)
    assert rate.link == "nvlink"


def test_forms_inside_a_domain():
    # N = 8, W = 450e9, every number of bytes counted as nccl-tests does
    topology = perfect("h100-hgx")
    expected = {
        Op.ALL_GATHER: 7 / 8,
        Op.REDUCE_SCATTER: 7 / 8,
        Op.ALL_REDUCE: 2 * 7 / 8,
        Op.ALL_TO_ALL: 7 / 8,
    }
    for op, load in expected.items():
        assert whole(topology, op) == CollectiveRate(
            latency_s=0.0, s_per_byte=approx(load / 450e9), link="nvlink"
        )
    pair = collective_rate(topology, Op.SEND_RECV, group_shape(topology, (0, 1)))
    assert pair.s_per_byte == approx(1 / 450e9)


def test_all_to_all_over_two_nodes_takes_2_57_times_one_node():
    # The same array V over the chips: one node V x 7 / (8^2 x 450e9), two nodes of
    # 400e9 egress V / (2^2 x 400e9). A chip's send buffer is V / 8 or V / 16.
    array = 1e9
    one = whole(perfect("h100-hgx"), Op.ALL_TO_ALL).seconds(array / 8)
    two = whole(perfect("h100-hgx", nodes=2), Op.ALL_TO_ALL).seconds(array / 16)
    assert one == approx(array * 7 / (64 * 450e9))
    assert two == approx(array / (4 * 400e9))
    assert two / one == approx(2.571, abs=5e-4)


@pytest.mark.parametrize(("racks", "slowdown"), [(2, 4.0), (4, 6.0), (8, 7.0)])
def test_expert_layer_over_several_racks(racks, slowdown):
    # Eight times slower outside: (R - 1) / R of the bytes leave, 8 (R - 1) / R. One rack
    # takes V / W on the blackboard, V x 71 / 72 / W exactly.
    topology = with_nic(perfect("gb200-nvl72", racks=racks), 900e9 / 8)
    inside = whole(perfect("gb200-nvl72"), Op.ALL_TO_ALL)
    across = whole(topology, Op.ALL_TO_ALL)
    assert across.s_per_byte * 900e9 == approx(slowdown)
    assert across.s_per_byte / inside.s_per_byte == approx(slowdown * 72 / 71)
    assert across.link == "nic"


def test_half_of_the_bytes_leave_one_of_two_racks():
    rate = whole(perfect("gb200-nvl72", racks=2), Op.ALL_TO_ALL)
    assert rate.s_per_byte * 50e9 == approx(0.5)


def test_hierarchical_forms_across_nodes():
    # M = 4 nodes of 8: between nodes V (M-1) / (M x 400e9) = 1.875 ps per byte, inside
    # V x 7 / (8 x 450e9) = 1.944 ps: the inside decides, until the NICs are half as fast.
    topology = perfect("h100-hgx", nodes=4)
    between, inside = 3 / 4 / 400e9, 7 / 8 / 450e9
    assert between < inside
    rate = whole(topology, Op.ALL_GATHER)
    assert rate.s_per_byte == approx(inside)
    assert rate.link == "nvlink"
    slow = with_nic(topology, 25e9)
    rate = whole(slow, Op.ALL_REDUCE)
    assert rate.s_per_byte == approx(2 * 3 / 4 / 200e9)
    assert rate.link == "nic"


def curves(derate=1.0, fill_us=0.0, **latencies_us):
    """Curves of given ``(base, step)`` microseconds by operation; zero for the others."""
    listed = tuple(
        (op, Curve(base_s=base * 1e-6, step_s=step * 1e-6, fill_s=fill_us * 1e-6, derate=derate))
        for op, (base, step) in latencies_us.items()
    )
    rest = Curve(base_s=0.0, step_s=0.0, fill_s=fill_us * 1e-6, derate=derate)
    return Curves(default=rest, listed=listed)


def with_curves(topology, inside, outside=None):
    spec = topology.spec
    fabric = spec.scale_out
    if outside is not None:
        fabric = replace(fabric, curves=outside)
    scale_up = replace(spec.scale_up, curves=inside)
    return build_topology(replace(spec, scale_up=scale_up, scale_out=fabric))


def test_latencies_of_the_levels_add_up():
    # Inside a node of eight: reduce_scatter and all_gather 5 + 7 x 0.5 us. Between two nodes:
    # all_reduce 6 + 2 x 1 x 3, all_gather 7 + 1 x 2, all_to_all 20 + 1 us.
    topology = with_curves(
        perfect("h100-hgx", nodes=2),
        curves(reduce_scatter=(5, 0.5), all_gather=(5, 0.5), all_to_all=(9, 1)),
        curves(all_reduce=(6, 3), all_gather=(7, 2), reduce_scatter=(7, 2), all_to_all=(20, 1)),
    )

    def latency_us(op, chips):
        return collective_rate(topology, op, group_shape(topology, chips)).latency_s * 1e6

    assert latency_us(Op.ALL_REDUCE, range(16)) == approx(8.5 + 12 + 8.5)
    assert latency_us(Op.ALL_GATHER, range(16)) == approx(9 + 8.5)
    assert latency_us(Op.REDUCE_SCATTER, range(16)) == approx(9 + 8.5)
    # one chip per node: nothing happens inside
    assert latency_us(Op.ALL_REDUCE, (0, 8)) == approx(12)
    # an all-to-all is one kernel over both tiers; dispatch is one where not listed
    assert latency_us(Op.ALL_TO_ALL, range(16)) == approx(21)
    assert latency_us(Op.DISPATCH, range(16)) == approx(21)
    assert latency_us(Op.ALL_TO_ALL, range(8)) == approx(10)


def test_steps_of_rings_and_trees():
    # Rings pass n - 1 shards; a tree of eight is three levels deep, up and down for the sum.
    topology = with_curves(perfect("h100-hgx"), curves(all_gather=(0, 1), all_reduce=(0, 1)))

    def steps(op, size):
        return collective_rate(topology, op, group_shape(topology, range(size))).latency_s * 1e6

    assert [steps(Op.ALL_GATHER, n) for n in (2, 4, 8)] == approx([1, 3, 7])
    assert [steps(Op.ALL_REDUCE, n) for n in (2, 4, 5, 8)] == approx([2, 4, 6, 6])


def test_the_ramp_of_a_message():
    # x = 8 / 8... of 8 MB over 450 GB/s at 0.8: 7 MB / 360e9 = 19.44 us. Chunks of fixed cost
    # 4 us: 10 + 2 x 7 + 19.44 + 2 sqrt(4 x 19.44) = 61.08 us.
    topology = with_curves(perfect("h100-hgx"), curves(0.8, 4, all_gather=(10, 2)))
    cost = collective_cost(topology, Op.ALL_GATHER, range(8), 8e6)
    assert cost.latency_s == approx(24e-6)
    assert cost.wire_s == approx(7e6 / 360e9)
    assert cost.fill_s == approx(2 * (4e-6 * 7e6 / 360e9) ** 0.5)
    assert cost.seconds == approx(24e-6 + 19.444e-6 + 17.638e-6, rel=1e-4)
    # the best number of chunks: no other k is cheaper than k x fill + x / k
    x, fill = 7e6 / 360e9, 4e-6
    assert cost.fill_s <= min(k * fill + x / k for k in range(1, 20))


def test_switches_that_add_up():
    # Rings send 2 x 7 / 8 of the buffer, NVLS one copy: V / W. Its latency is higher, so the
    # library switches over where 20 + V / W = 5 + 1.75 V / W: V = 20e-6 W = 9 MB.
    inside = curves(all_reduce=(5, 0), in_network_all_reduce=(20, 0), fused_all_reduce=(1, 0))
    topology = with_curves(perfect("h100-hgx"), inside)
    small, large = (
        collective_cost(topology, Op.ALL_REDUCE, range(8), size) for size in (8.9e6, 9.1e6)
    )
    assert (small.algorithm, large.algorithm) == ("library", "in_network")
    assert large.wire_s == approx(9.1e6 / 450e9)
    fused = collective_cost(topology, Op.ALL_REDUCE, range(8), 9e6, "fused")
    assert fused.seconds == approx(1e-6 + 1.75 * 9e6 / 450e9)
    # two nodes have no common switch that adds up
    two = with_curves(perfect("h100-hgx", nodes=2), inside)
    with pytest.raises(SpecError, match="no in_network form"):
        collective_cost(two, Op.ALL_REDUCE, range(16), 1e6, "in_network")


def test_flat_and_hierarchical_gathers():
    # Four nodes of eight. Flat: each NIC carries the 24 shards of other nodes, V x 24 / 32 / w.
    # Hierarchical: its lane's three, V x 3 / 32 / w.
    topology = with_nic(perfect("h100-hgx", nodes=4), 1e9)
    flat = collective_cost(topology, Op.ALL_GATHER, range(32), 1e9, "flat")
    lanes = collective_cost(topology, Op.ALL_GATHER, range(32), 1e9, "hierarchical")
    assert flat.seconds == approx(24 / 32)
    assert lanes.seconds == approx(3 / 32)
    assert collective_cost(topology, Op.ALL_GATHER, range(32), 1e9) == lanes
    twice = collective_cost(topology, Op.ALL_REDUCE, range(32), 1e9, "flat")
    assert twice.seconds == approx(2 * flat.seconds)


def test_groups_at_the_same_time_share_a_nic():
    # Two chips share each NIC of a V100 node: alone, a pair of chips of two nodes has it for
    # itself on the graph; with its neighbours at work it has half.
    topology = perfect("v100-dgx", nodes=2)
    alone = graph_load(topology, Op.ALL_TO_ALL, [(0, 8)])
    both = graph_load(topology, Op.ALL_TO_ALL, [(0, 8), (1, 9)])
    assert alone.s_per_byte == approx(0.5 / 12.5e9)
    assert both.s_per_byte == approx(2 * alone.s_per_byte)
    cost = collective_cost(topology, Op.ALL_TO_ALL, (0, 8), 1e9, others=[(1, 9)])
    assert cost.wire_s == approx(1 / 12.5)
    # a group of another place does not matter
    apart = graph_load(topology, Op.ALL_TO_ALL, [(0, 8), (2, 10)])
    assert apart.s_per_byte == approx(alone.s_per_byte)


def test_one_chip_needs_no_network():
    for name in ("h100-hgx", "tpu-v5e"):
        topology = build_topology(load_machine(name))
        for op in Op:
            assert collective_rate(topology, op, group_shape(topology, (3,))) == FREE
        assert send_recv_rate(topology, 3, 3) == FREE


def test_hops_of_a_pipeline():
    topology = with_curves(
        perfect("gb200-nvl72", racks=2),
        curves(0.75, send_recv=(8, 2)),
        curves(0.9, send_recv=(9, 0)),
    )
    inside, across = (send_recv_rate(topology, 0, chip) for chip in (71, 72))
    # 900e9 x 0.75 and 50e9 x 0.9
    assert inside == CollectiveRate(
        latency_s=approx(10e-6), s_per_byte=approx(1 / 675e9), link="nvlink"
    )
    assert across == CollectiveRate(latency_s=approx(9e-6), s_per_byte=approx(1 / 45e9), link="nic")


def torus(full, shape):
    spec = ideal(load_machine("tpu-v5e"))
    scale_up = replace(spec.scale_up, full_shape=full)
    return build_topology(replace(spec, scale_up=scale_up, shape=shape))


@pytest.mark.parametrize("length", [4, 8, 16])
def test_ring_forms(length):
    # W = 100e9 both ways: all-gather (X - 1) V / (X W), the theory's V / W for a long ring,
    # all-reduce twice, all-to-all of the array V / 4 W: V = length x send buffer.
    ring = torus((length, 16), (length, 1))
    gather = whole(ring, Op.ALL_GATHER).s_per_byte
    assert gather == approx((length - 1) / length / 100e9)
    assert whole(ring, Op.REDUCE_SCATTER).s_per_byte == gather
    assert whole(ring, Op.ALL_REDUCE).s_per_byte == approx(2 * gather)
    array, buffer = 1e9, 1e9 / length
    assert whole(ring, Op.ALL_TO_ALL).seconds(buffer) == approx(array / 4 / 100e9)


def test_two_wrapped_axes_gather_twice_as_fast():
    # 15/16 V / (n W), n = 2
    assert whole(torus((4, 4), (4, 4)), Op.ALL_GATHER).s_per_byte == approx(15 / 16 / 200e9)


def test_line_forms():
    # (X - 1) V / (X w) with w = 50e9 one way
    line = torus((16, 16), (4, 1))
    assert whole(line, Op.ALL_GATHER).s_per_byte == approx(3 / 4 / 50e9)
    # all-to-all: two chips send half of their buffers over the middle link
    assert whole(line, Op.ALL_TO_ALL).s_per_byte == approx(1 / 50e9)


def test_mesh_gathers_over_both_links_of_its_corner():
    # The corner of a 4 x 4 mesh receives 15/16 of the array over two links.
    mesh = torus((16, 16), (4, 4))
    assert whole(mesh, Op.ALL_GATHER).s_per_byte == approx(15 / 16 / 100e9)


def test_torus_latency_counts_hops():
    # 16 x 16 rings: 8 hops each way; a 4 x 2 mesh: 3 + 1. 5 us and one per hop.
    spec = load_machine("tpu-v5e")
    hop = Curve(base_s=5e-6, step_s=1e-6, fill_s=0.0, derate=0.9)
    spec = replace(spec, scale_up=replace(spec.scale_up, curves=Curves(default=hop)))
    pod = build_topology(spec)
    assert whole(pod, Op.ALL_TO_ALL).latency_s == approx(21e-6)
    assert whole(pod, Op.ALL_REDUCE).latency_s == approx(37e-6)
    mesh = build_topology(resize(spec, shape=(4, 2)))
    assert whole(mesh, Op.ALL_GATHER).latency_s == approx(9e-6)
    # around the ring: x0 and x15 are neighbours in the pod, not in a slice of 8
    assert send_recv_rate(pod, 0, 15).latency_s == approx(6e-6)
    short = build_topology(resize(spec, shape=(8, 8)))
    assert send_recv_rate(short, 0, 7).latency_s == approx(12e-6)


def test_axes_of_unequal_links():
    # Trainium2 UltraServer: rings of 128, 128 and 64 GB/s. An all-to-all loads every ring
    # alike (h = 1/2 for four chips): the slow axis decides, V / 2 / 64e9. A gather receives
    # over all six links, 63/64 V / (2 x 128 + 2 x 128 + 2 x 64 = 640e9).
    topology = build_topology(ideal(resize(load_machine("trn2"), shape=(4, 4, 4))))
    assert whole(topology, Op.ALL_TO_ALL).s_per_byte == approx(1 / 2 / 64e9)
    assert whole(topology, Op.ALL_GATHER).s_per_byte == approx(63 / 64 / 640e9)
    along_z = group_shape(topology, (0, 16))
    assert collective_rate(topology, Op.SEND_RECV, along_z).s_per_byte == approx(1 / 64e9)


def test_interleaved_groups_share_the_links_of_their_box():
    # Every other chip of a line of four: two such groups gather at once over each link.
    line = torus((16, 16), (4, 1))
    shape = group_shape(line, (0, 2))
    assert shape == GroupShape(pieces=(2,), box=(3, 1), wrap=(False, False))
    rate = collective_rate(line, Op.ALL_GATHER, shape)
    assert rate.s_per_byte == approx(3 / 2 * (2 / 3) / 50e9)


def test_shapes_of_another_machine_are_refused():
    pod = build_topology(load_machine("tpu-v5e"))
    with pytest.raises(ValueError, match="box"):
        collective_rate(pod, Op.ALL_TO_ALL, GroupShape(pieces=(8,)))
    node = build_topology(replace(load_machine("h100-hgx"), scale_out=None))
    with pytest.raises(ValueError, match="fabric"):
        collective_rate(node, Op.ALL_TO_ALL, GroupShape(pieces=(8, 8)))


def test_the_smallest_piece_has_the_fewest_nics():
    # 8 + 4 chips: the node of four receives half of the array over 4 x 50e9
    topology = perfect("h100-hgx", nodes=2)
    rate = collective_rate(topology, Op.ALL_GATHER, GroupShape(pieces=(8, 4)))
    assert rate == CollectiveRate(latency_s=0.0, s_per_byte=approx(1 / 2 / 200e9), link="nic")


def test_groups_over_two_scalable_units_climb_to_the_spines():
    # 64 nodes in two units; leaves 4:1 oversubscribed
    spec = ideal(resize(load_machine("h100-hgx"), nodes=64))
    fabric = replace(spec.scale_out, oversubscription=4.0)
    topology = build_topology(replace(spec, scale_out=fabric))
    near = collective_rate(topology, Op.ALL_REDUCE, group_shape(topology, (0, 8)))
    far = collective_rate(topology, Op.ALL_REDUCE, group_shape(topology, (0, 256)))
    # 2 x (2 - 1) / 2 of the buffer through each NIC, four times slower above the leaves
    assert (near.s_per_byte, near.link) == (approx(1 / 50e9), "nic")
    assert (far.s_per_byte, far.link) == (approx(4 / 50e9), "leaf-spine")
