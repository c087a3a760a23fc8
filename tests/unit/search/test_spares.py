"""Chips that a layout leaves idle: excluded ones and spares."""

import random

import pytest
from msgspec import structs

from planner.api import plan, verify
from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.domain.assignment import Assignment
from planner.domain.degrees import Degrees
from planner.domain.hardware import Sizing, Wounds
from planner.domain.question import DegreeLimits, Question
from planner.errors import SpecError
from planner.search.validate import (
    Limits,
    excluded_chips_are_idle,
    spares_are_idle,
    spares_are_listed,
)
from planner.topology.build import build_topology
from planner.topology.graph import Spared
from planner.topology.groups import carve, max_cells
from planner.topology.spares import excluded_chips, spare_chips, sparing


def machine(name, **size):
    return build_topology(sized(load_machine(name), Sizing(**size)))


def names(topology, chips):
    return [topology.chip_names[chip] for chip in sorted(chips)]


@pytest.mark.parametrize(
    ("texts", "chips"),
    [
        (("n1/c7",), [15]),
        (("chip:n1/c7",), [15]),
        (("node:n1",), list(range(8, 16))),
        (("n0/c0", "n*/c0"), [0, 8, 16]),
        (("node:*",), list(range(24))),
        ((), []),
    ],
)
def test_names_of_excluded_chips(texts, chips):
    assert sorted(excluded_chips(machine("h100-hgx", nodes=3), texts)) == chips


def test_a_tray_is_four_chips_and_a_rack_all():
    topology = machine("gb200-nvl72", racks=2)
    assert names(topology, excluded_chips(topology, ("tray:r1/t3",))) == [
        f"r1/t3/c{chip}" for chip in range(4)
    ]
    assert len(excluded_chips(topology, ("rack:r1",))) == 72


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("n3/c0", "did you mean"),
        ("node:n3", "did you mean node:n2"),
        ("node:n1/c0", "node:n"),
        ("tray:n1", "chips are named n0/c0 to n2/c7"),
        ("rack:", "write a chip"),
        ("link:a--b", "write a chip"),
        ("", "write a chip"),
        ("zzzzzz", "n0/c0 to n2/c7"),
    ],
)
def test_names_that_mean_nothing_are_refused(text, hint):
    with pytest.raises(SpecError) as caught:
        excluded_chips(machine("h100-hgx", nodes=3), (text,))
    assert repr(text).strip("'") in str(caught.value) and hint in str(caught.value)


@pytest.mark.parametrize(
    "spared",
    [
        Spared(excluded=frozenset(range(16))),
        Spared(reserve=16),
        Spared(reserve=17),
        Spared(reserve_per_domain=8),
        Spared(excluded=frozenset(range(8)), reserve=8),
    ],
)
def test_a_machine_without_a_chip_to_use_is_refused(spared):
    with pytest.raises(SpecError, match="no chip"):
        sparing(machine("h100-hgx", nodes=2), spared)


def test_open_domains_lose_excluded_chips_then_their_last():
    topology = sparing(
        machine("h100-hgx", nodes=2), Spared(excluded=frozenset({7, 9}), reserve_per_domain=2)
    )
    assert topology.open_domains == ((0, 1, 2, 3, 4), (8, 10, 11, 12, 13))
    assert topology.max_used == 10
    # 14 chips are not excluded; 5 of them reserved: 9 < 14.
    topology = sparing(machine("h100-hgx", nodes=2), Spared(excluded=frozenset({7, 9}), reserve=5))
    assert topology.max_used == 9


MACHINES = (
    ("h100-hgx", {"nodes": 3}),
    ("gb200-nvl72", {"racks": 1}),
    ("tpu-v5p", {"shape": (2, 4, 4), "slices": 2}),
    ("mi300x-hgx", {"nodes": 2}),
    ("v100-dgx", {"nodes": 2}),
    ("h100-hgx", {"nodes": 3, "wounds": Wounds(without=("chip:n1/c3",))}),
    ("tpu-v5p", {"shape": (2, 4, 4), "wounds": Wounds(without=("chip:x0y0z0",))}),
)


@pytest.mark.parametrize(("name", "size"), MACHINES)
def test_cells_leave_excluded_and_spare_chips_free(name, size):
    whole = machine(name, **size)
    rng = random.Random(7)
    for _ in range(25):
        spared = Spared(
            excluded=frozenset(rng.sample(range(whole.num_chips), rng.randrange(5))),
            reserve=rng.choice((0, 0, 1, 5)),
            reserve_per_domain=rng.choice((0, 0, 1, 3)),
        )
        topology = sparing(whole, spared)
        unit = rng.choice((1, 1, 2, 4))
        stage = unit * rng.randrange(1, 1 + whole.num_chips // unit)
        cells = carve(topology, stage, unit)
        most = max_cells(topology, stage, unit)
        assert most == min(len(cells), topology.max_used // stage)
        used = [chip for cell in cells for chip in cell.chips]
        assert len(used) == len(set(used)) and spared.excluded.isdisjoint(used)
        for domain in topology.domains:
            free = set(domain) - spared.excluded
            needed = min(spared.reserve_per_domain, len(free))
            assert len(free - set(used)) >= needed
        taken = frozenset(chip for cell in cells[:most] for chip in cell.chips)
        spares = spare_chips(topology, taken)
        assert taken.isdisjoint(spares) and spared.excluded.isdisjoint(spares)
        if not spared.reserve_per_domain:
            assert len(spares) == spared.reserve


def test_spares_are_whole_idle_nodes_first():
    topology = sparing(machine("h100-hgx", nodes=3), Spared(reserve=10))
    # Node 1 is idle as a whole; then the last chips of node 2.
    used = frozenset({0, 1, 2, 3, 16, 17})
    assert spare_chips(topology, used) == (*range(8, 16), 22, 23)


def two_stages():
    return Assignment(
        degrees=Degrees(
            attn_tp=2, attn_dp=1, pp=2, ep=1, expert_tp=1, num_slots=0, microbatches=1, replicas=1
        ),
        stage_ends=(1, 2),
        cells=(((0, 1), (4, 5)),),
        slot_maps=(),
        sequences=(((1,),),),
    )


def test_each_constraint_names_its_violation():
    plain = {"num_chips": 8, "step_limit_s": None, "batch": None}
    domains = ((0, 1, 2, 3), (4, 5, 6, 7))
    used = two_stages()
    limits = Limits(**plain, excluded=frozenset({5, 6}))
    assert excluded_chips_are_idle(used, limits) == ["chip 5 is excluded but has a rank"]
    assert spares_are_idle(used, Limits(**plain, reserve=4)) == []
    assert spares_are_idle(used, Limits(**plain, reserve=5)) == ["4 chips are idle, 5 are reserved"]
    # An excluded chip is no spare: 2, 3 and 7 are left.
    few = Limits(**plain, excluded=frozenset({6}), reserve=4)
    assert spares_are_idle(used, few) == ["3 chips are idle, 4 are reserved"]
    each = Limits(**plain, excluded=frozenset({6}), reserve_per_domain=2, domains=domains)
    assert spares_are_idle(used, each) == ["1 chips of domain 1 are idle, 2 are reserved"]
    assert spares_are_listed((2, 3, 7), used, each) == [
        "1 spares of domain 1 are listed, 2 are reserved"
    ]
    two = Limits(**plain, reserve=2)
    assert spares_are_listed((2, 7), used, two) == []
    assert spares_are_listed((2, 2), used, two) == ["chip 2 is listed as a spare twice"]
    assert spares_are_listed((2, 4), used, two) == ["chip 4 is listed as a spare but not free"]
    assert spares_are_listed((2,), used, two) == ["1 spares are listed, 2 are reserved"]
    assert spares_are_listed((2,), used, Limits(**plain)) == [
        "1 spares are listed, none are reserved"
    ]


def question(**changes):
    given = {"model": "llama-3.1-70b", "machine": "h100-hgx", "nodes": 2, "context_tokens": 8192}
    return Question(**{**given, **changes})


def test_a_machine_without_its_last_node_plans_like_a_smaller_one():
    smaller = plan(question())
    spared = plan(question(nodes=3, exclude=("node:n2",)))
    assert spared.degrees == smaller.degrees
    assert spared.prediction.step_s == smaller.prediction.step_s
    assert [rank.chip for rank in spared.ranks] == [rank.chip for rank in smaller.ranks]
    # Throughput per chip of the machine counts its idle chips.
    assert spared.prediction.tokens_per_s_per_chip == pytest.approx(
        smaller.prediction.tokens_per_s_per_chip * 16 / 24
    )


def test_spares_that_are_chosen_are_never_worse_than_spares_that_are_given():
    chosen = plan(question(reserve=3, gap=0.0)).certificate
    free = plan(question(gap=0.0)).certificate
    assert free.bound <= chosen.objective
    for given in (("n0/c0", "n0/c1", "n0/c2"), ("n0/c7", "n1/c7", "n1/c6")):
        excluded = plan(question(exclude=given, gap=0.0)).certificate
        assert chosen.bound <= excluded.objective
    each = plan(question(reserve_per_domain=2, gap=0.0)).certificate
    assert plan(question(reserve=4, gap=0.0)).certificate.bound <= each.objective


def test_a_plan_keeps_its_spares_and_is_checked_for_them():
    layout = plan(question(reserve_per_domain=1, exclude=("n1/c0",)))
    assert layout.reserved_chips == ("n0/c7", "n1/c7")
    assert layout.inputs.exclude == ("n1/c0",)
    assert "n1/c0" in layout.idle_chips and verify(layout) == ()
    others = structs.replace(layout, reserved_chips=("n0/c7",))
    assert verify(others) == ("0 spares of domain 1 are listed, 1 are reserved",)
    unknown = structs.replace(layout, reserved_chips=("n0/c7", "n9/c7"))
    assert verify(unknown) == ("reserved_chips: there is no chip 'n9/c7' on this machine",)
    busy = structs.replace(layout.inputs, exclude=(layout.ranks[0].chip,))
    assert verify(structs.replace(layout, inputs=busy)) == ("chip 0 is excluded but has a rank",)


def test_pinned_degrees_that_need_the_spares_do_not_fit():
    limits = DegreeLimits(tp=frozenset({8}), replicas=frozenset({2}))
    found = plan(question(limits=limits, reserve=1))
    assert found.resource == "chips" and found.available == "15 chips"
