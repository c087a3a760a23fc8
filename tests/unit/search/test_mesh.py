"""Cells for stages: whole ones, shared domains, and bounds that no mapping beats."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.cost.fabric import axis_ops, replica_rates, stage_rates
from planner.domain.curves import Op
from planner.domain.degrees import Degrees
from planner.domain.hardware import Wounds
from planner.search.mapping import can_share, map_cells, most_cells
from planner.search.mapping_model import solve_mapping
from planner.search.mesh import MeshMapper
from planner.search.rates import strategy_rates
from planner.search.strategies import Strategies
from planner.topology.build import build_topology
from planner.topology.groups import max_cells

H100 = load_machine("h100-hgx")
DISPATCH = ("ep", Op.DISPATCH)


def uneven(*sizes):
    """Nodes of at most eight chips with the given numbers of chips left."""
    spec = resize(H100, nodes=len(sizes))
    dead = tuple(f"chip:n{n}/c{c}" for n, size in enumerate(sizes) for c in range(size, 8))
    return build_topology(replace(spec, wounds=Wounds(without=dead)))


def degrees(ep, replicas, pp=1, expert_tp=1, attn_tp=1):
    return Degrees(
        attn_tp=attn_tp,
        attn_dp=ep * expert_tp // attn_tp,
        pp=pp,
        ep=ep,
        expert_tp=expert_tp,
        num_slots=ep,
        microbatches=1,
        replicas=replicas,
    )


def slowest(topology, cells, asked):
    every = [cell for stages in cells for cell in stages]
    found = [replica_rates(topology, stages, asked, every) for stages in cells]
    return {key: max(float(own[key].s_per_byte) for own in found) for key in found[0]}


def test_whole_cells_come_first():
    topology = uneven(8, 7, 8, 6)
    mapper = MeshMapper.of(topology)
    # four of seven chips and no split: 8 7 8
    assert mapper.assign(degrees(7, 3)) == (
        (tuple(range(7)),),
        (tuple(range(8, 15)),),
        (tuple(range(15, 22)),),
    )
    # 29 chips hold four cells of seven: the fourth takes 1 + 6
    assert max_cells(topology, 7, 1) == 3
    assert most_cells(topology, 7, 1) == 4
    cells = mapper.assign(degrees(7, 4))
    pieces = [[topology.domain_of(chip) for chip in stage] for (stage,) in cells]
    assert [len(set(own)) for own in pieces[:2]] == [1, 1]
    assert len({chip for stages in cells for stage in stages for chip in stage}) == 28
    assert mapper.assign(degrees(7, 5)) is None


def test_stages_of_a_replica_follow_each_other():
    cells = MeshMapper.of(build_topology(resize(H100, nodes=4))).assign(degrees(8, 2, pp=2))
    assert [[stage[0] for stage in stages] for stages in cells] == [[0, 8], [16, 24]]


def test_a_replica_stays_within_a_domain_if_it_can():
    # three cells of 24 per rack: in order the second replica would be cut between the racks
    topology = build_topology(resize(load_machine("gb200-nvl72"), racks=3))
    mapper = MeshMapper.of(topology)
    asked = degrees(24, 3, pp=2)
    cells = mapper.assign(asked)
    assert [[stage[0] for stage in stages] for stages in cells] == [[0, 24], [72, 96], [144, 168]]
    every = [cell for stages in cells for cell in stages]
    paid = [replica_rates(topology, own, asked, every)["pp", Op.SEND_RECV] for own in cells]
    near = mapper.optimistic_hop(24, 2)
    assert {rate.s_per_byte for rate in paid} == {near.s_per_byte}
    # four replicas need cells 5 and 6 of the machine together
    crossing = mapper.assign(degrees(24, 4, pp=2))
    assert [[stage[0] for stage in stages] for stages in crossing][1] == [48, 72]
    # four stages of 24 never fit into a rack of 72
    assert mapper.optimistic_hop(24, 4).s_per_byte > near.s_per_byte


def test_where_domains_are_not_shared():
    assert can_share(uneven(8, 5))
    tight = replace(H100, scale_out=replace(H100.scale_out, oversubscription=2.0))
    assert not can_share(build_topology(resize(tight, nodes=64)))
    assert not can_share(build_topology(load_machine("tpu-v5e")))
    hurt = replace(resize(H100, nodes=2), wounds=Wounds(without=("nic:n0/c0",)))
    assert not can_share(build_topology(hurt))
    assert most_cells(build_topology(hurt), 6, 1) == max_cells(build_topology(hurt), 6, 1) == 2


def layouts(sizes, need, cells):
    """Every way to lay cells over domains, as units of each cell in each domain."""

    def one(left, room):
        if len(room) == 1:
            if left <= room[0]:
                yield (left,)
            return
        for first in range(min(left, room[0]) + 1):
            for rest in one(left - first, room[1:]):
                yield (first, *rest)

    if cells == 0:
        yield ()
        return
    for own in one(need, sizes):
        room = tuple(a - b for a, b in zip(sizes, own, strict=True))
        for rest in layouts(room, need, cells - 1):
            if not rest or own <= rest[0]:
                yield (own, *rest)


machines = st.lists(st.integers(1, 5), min_size=2, max_size=4).filter(lambda own: sum(own) <= 12)


@settings(max_examples=60, deadline=None)
@given(machines, st.integers(2, 6), st.integers(1, 4))
def test_no_mapping_of_a_tiny_machine_beats_the_bound(sizes, ep, cells):
    topology = uneven(*sizes)
    asked = degrees(ep, cells)
    mapper = MeshMapper.of(topology)
    found = mapper.assign(asked)
    possible = list(layouts(tuple(sizes), ep, cells))
    assert (found is None) == (not possible)
    if found is None:
        return
    best = math.inf
    for layout in possible:
        taken = [list(domain) for domain in topology.domains]
        chips = []
        for own in layout:
            cell = [taken[d].pop() for d, units in enumerate(own) for _ in range(units)]
            chips.append((tuple(cell),))
        best = min(best, slowest(topology, chips, asked)[DISPATCH])
    bound = float(mapper.wounded_rates(asked)[DISPATCH].s_per_byte)
    chosen = slowest(topology, found, asked)[DISPATCH]
    assert bound <= best * (1 + 1e-12)
    assert best <= chosen * (1 + 1e-12)
    if cells > max_cells(topology, ep, 1):
        # Where domains are shared the mapping is the best there is, and proved to be.
        assert chosen == pytest.approx(best, rel=1e-12)
        assert bound == pytest.approx(best, rel=1e-12)


sizes = st.lists(st.integers(2, 8), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(2, 12), st.sampled_from([1, 2]), st.data())
def test_cells_are_disjoint_complete_and_bounded(own, ep, expert_tp, data):
    topology = uneven(*own)
    most = most_cells(topology, ep * expert_tp, expert_tp)
    if most == 0:
        return
    asked = degrees(ep, data.draw(st.integers(1, most)), expert_tp=expert_tp)
    mapper = MeshMapper.of(topology)
    cells = mapper.assign(asked)
    chips = [chip for stages in cells for stage in stages for chip in stage]
    assert len(chips) == len(set(chips)) == asked.chips_used
    for start in range(0, len(chips), expert_tp):
        assert len({topology.domain_of(chip) for chip in chips[start : start + expert_tp]}) == 1
    paid = slowest(topology, cells, asked)
    for key, rate in mapper.wounded_rates(asked).items():
        assert float(rate.s_per_byte) <= paid[key] * (1 + 1e-12)
    for key, rate in mapper.optimistic_rates(asked).items():
        assert float(rate.s_per_byte) <= paid[key] * (1 + 1e-12)
    assert MeshMapper.of(uneven(*own)).assign(asked) == cells


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(2, 12), st.randoms(use_true_random=False))
def test_names_of_nodes_do_not_matter(own, ep, random):
    other = list(own)
    random.shuffle(other)
    here, there = uneven(*own), uneven(*other)
    most = most_cells(here, ep, 1)
    assert most == most_cells(there, ep, 1)
    if most == 0:
        return
    asked = degrees(ep, most)
    prices = []
    for topology in (here, there):
        mapper = MeshMapper.of(topology)
        prices.append(slowest(topology, mapper.assign(asked), asked)[DISPATCH])
        prices.append(float(mapper.wounded_rates(asked)[DISPATCH].s_per_byte))
    if most > max_cells(here, ep, 1):
        assert prices[:2] == prices[2:]


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(2, 12), st.data())
def test_a_lost_chip_never_makes_shared_cells_faster(own, ep, data):
    place = data.draw(st.integers(0, len(own) - 1))
    fewer = [size - (index == place) for index, size in enumerate(own)]
    before, after = uneven(*own), uneven(*fewer)
    most = most_cells(after, ep, 1)
    if most <= max_cells(before, ep, 1):
        return
    asked = degrees(ep, most)
    here = slowest(before, MeshMapper.of(before).assign(asked), asked)[DISPATCH]
    there = slowest(after, MeshMapper.of(after).assign(asked), asked)[DISPATCH]
    assert there >= here * (1 - 1e-12)


def table(choices):
    names = [field.name for field in fields(Strategies)]
    return Strategies(
        **{n: np.array([int(getattr(c, n)) for c in choices], dtype=np.int64) for n in names}
    )


MACHINES = {
    "nodes": resize(H100, nodes=4),
    "racks": resize(load_machine("gb200-nvl72"), racks=2),
    "torus": resize(load_machine("tpu-v5e"), shape=(4, 4)),
    "mesh": resize(load_machine("mi300x-hgx"), nodes=3),
    "tight": replace(
        resize(H100, nodes=40), scale_out=replace(H100.scale_out, oversubscription=2.0)
    ),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_many_strategies_are_priced_as_one_by_one(machine):
    topology = build_topology(MACHINES[machine])
    choices = [
        degrees(ep, replicas=1, expert_tp=expert_tp, attn_tp=attn_tp)
        for expert_tp in (1, 2, 4)
        for ep in (1, 2, 4, 6, 8, 12)
        for attn_tp in (1, 2, 4, 8)
        if (ep * expert_tp) % attn_tp == 0
        and ep * expert_tp <= topology.num_chips
        and max_cells(topology, ep * expert_tp, math.lcm(attn_tp, expert_tp))
    ]
    choices = [*choices, *choices[:3]]
    mapper = MeshMapper.of(topology)
    rates = strategy_rates(mapper, table(choices)).expand()
    for index, asked in enumerate(choices):
        alone = MeshMapper.of(topology).optimistic_rates(asked)
        for key in axis_ops(topology):
            for name in ("latency_s", "s_per_byte", "fill_s"):
                assert getattr(rates[key], name)[index] == getattr(alone[key], name), (asked, key)


def test_crowded_strategies_are_bounded_without_a_solver():
    topology = uneven(8, 7, 8, 6)
    choices = [degrees(7, 3), degrees(7, 4), degrees(8, 2), degrees(8, 3)]
    rates = strategy_rates(MeshMapper.of(topology), table(choices)).expand()[DISPATCH]
    nic = topology.spec.scale_out
    # one cell of seven or eight is split, in half at best: 3 / 7 stay, or 4 / 8
    load = 1 / nic.chip_bytes_per_s / nic.curves.of(Op.DISPATCH).derate
    assert rates.s_per_byte[1] == pytest.approx(4 / 7 * load)
    assert rates.s_per_byte[3] == pytest.approx(4 / 8 * load)
    assert rates.s_per_byte[0] < rates.s_per_byte[1]
    assert rates.s_per_byte[2] < rates.s_per_byte[3]
    for asked, bound in zip(choices, rates.s_per_byte, strict=True):
        mapper = MeshMapper.of(topology)
        paid = slowest(topology, mapper.assign(asked), asked)[DISPATCH]
        tight = float(mapper.wounded_rates(asked)[DISPATCH].s_per_byte)
        assert bound <= tight * (1 + 1e-12) <= paid * (1 + 1e-9)


def test_equal_replicas_are_priced_once():
    topology = build_topology(resize(H100, nodes=64))
    asked = degrees(16, 32)
    cells = MeshMapper.of(topology).assign(asked)
    every = [cell for stages in cells for cell in stages]
    rates = {id(replica_rates(topology, stages, asked, every)) for stages in cells}
    assert len(rates) == 1
    own = replica_rates(topology, cells[-1], asked, every)
    fresh = build_topology(resize(H100, nodes=64))
    assert {key: own[key] for key in stage_rates(fresh, cells[-1], asked)} == stage_rates(
        fresh, cells[-1], asked
    )


def test_a_mapping_uses_every_chip_at_most_once_on_racks():
    spec = resize(load_machine("gb200-nvl72"), racks=16)
    topology = build_topology(replace(spec, wounds=Wounds(usable=(("*", 70),))))
    assert max_cells(topology, 72, 1) == 8
    cells = map_cells(topology, 72, 1, 15)
    chips = [chip for cell in cells for chip in cell]
    assert len(chips) == len(set(chips)) == 1080
    solve_mapping.cache_clear()
    assert map_cells(topology, 72, 1, 15) == cells
