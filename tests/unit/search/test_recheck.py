"""The re-check of certificates: its space, its floors, its limits."""

import pytest

import planner.search.recheck_decode as decode
from planner import DegreeLimits, Question, SpecError, api, plan, verify_certificate
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.domain.ranges import read_ranges, write_ranges
from planner.domain.workload import Objective, Phase
from planner.search.recheck import recheck
from planner.search.recheck_build import deal_experts, dealt_sequences
from planner.search.recheck_refine import slowest_stage
from planner.search.recheck_space import Space
from planner.topology.build import build_topology


def space(model, machine, **options):
    return Space(
        topology=build_topology(load_machine(machine)),
        model=load_model(model),
        objective=options.pop("objective", Objective.THROUGHPUT),
        limits=options.pop("limits", {}),
        batch=options.pop("batch", None),
        **options,
    )


def test_strategies_are_counted_by_hand():
    # Dense, 8 chips, two stages at most. S = 8: 1 cell, S = 4: 2, S = 2: 4, S = 1: 8, and
    # S = 3, 5, 6, 7 hold 2, 1, 1, 1 cells. attn_tp = S, of the divisors of S the only one
    # that leaves attn_dp 1. pp = 1 has one row; pp = 2, where 2 cells are there (S = 1, 2, 3,
    # 4), has 1, 2, 3 and 4 microbatches. Sums may hide or not, except with one chip.
    rows = {1: 5, 2: 5, 3: 5, 4: 5, 5: 1, 6: 1, 7: 1, 8: 1}
    count = sum(rows[size] * (1 if size == 1 else 2) for size in rows)
    found = space("llama-3.1-8b", "h100-hgx", limits={"pp": frozenset({1, 2})})
    assert found.count() == count == 5 + 2 * 19


def test_limits_narrow_the_space():
    free = space("mixtral-8x7b", "h100-hgx")
    pinned = space("mixtral-8x7b", "h100-hgx", limits={"ep": frozenset({8}), "tp": frozenset({1})})
    assert 0 < pinned.count() < free.count()
    assert {(split.ep, split.attn_tp) for split in pinned.splits()} == {(8, 1)}
    # A batch of two leaves no sequence for a third microbatch or replica.
    small = space("mixtral-8x7b", "h100-hgx", batch=2)
    assert all(m * r <= 2 for split in small.splits() for _, m, r in small.rows(split))


@pytest.mark.parametrize(
    "options",
    [
        {"tpot_s": 0.05},
        {"objective": Objective.LATENCY},
        {"objective": Objective.COST, "batch": 24},
        {"limits": DegreeLimits(dp=frozenset({2, 4}), pp=frozenset({1, 2}))},
    ],
)
def test_bound_is_re_derived(options):
    question = Question(model="mixtral-8x7b", machine="h100-hgx", context_tokens=4096, **options)
    layout = plan(question)
    found = verify_certificate(layout)
    assert found.violations == ()
    assert found.strategies == layout.certificate.enumerated
    stated = layout.certificate.bound
    assert stated * (1 - decode.AGREEMENT) <= found.rederived_bound
    assert found.rederived_bound <= layout.certificate.objective * (1 + 1e-9)


def test_large_spaces_are_thinned(monkeypatch):
    layout = plan(
        Question(model="mixtral-8x7b", machine="h100-hgx", context_tokens=4096, tpot_s=0.05)
    )
    monkeypatch.setattr(decode, "MOST_SPLITS", 20)
    found = verify_certificate(layout)
    assert found.violations == ()
    assert 0 < found.checked < found.strategies
    assert found.rederived_bound <= layout.certificate.objective * (1 + 1e-9)


def test_other_phases_have_no_re_check_yet():
    with pytest.raises(SpecError, match="train"):
        recheck(Phase.TRAIN, None)


def test_question_keeps_its_limits_in_the_layout():
    limits = DegreeLimits(pp=frozenset({1, 2, 3, 5}), ep=frozenset({8}))
    question = Question(
        model="mixtral-8x7b", machine="h100-hgx", context_tokens=4096, limits=limits, gap=0.01
    )
    inputs, _ = api.read_question(question)
    assert inputs.limits == {"pp": "1..3,5", "ep": "8"}
    assert inputs.gap == 0.01


def test_ranges_are_read_as_written():
    assert write_ranges([5, 1, 2, 3, 9, 8]) == "1..3,5,8,9"
    assert read_ranges("1..3,5,8,9") == frozenset({1, 2, 3, 5, 8, 9})
    assert read_ranges("") == frozenset()
    with pytest.raises(ValueError, match="x"):
        read_ranges("1..x")


def test_stages_are_cut_exactly():
    # Layers of 4, 1, 1, 4 seconds in two stages: 4 1 | 1 4. With room for three layers of one
    # byte at most nothing changes; with room for one byte each there is no cut.
    assert slowest_stage([4, 1, 1, 4], [1, 1, 1, 1], 3, 2) == pytest.approx(5)
    assert slowest_stage([4, 1, 1, 4], [1, 1, 1, 1], 1, 2) is None
    # Bytes 3, 1, 1, 1 with room for three: 4 | 1 1 4.
    assert slowest_stage([4, 1, 1, 4], [3, 1, 1, 1], 3, 2) == pytest.approx(6)


def test_experts_and_sequences_are_dealt_out():
    # Six slots on three groups: 0.5 and 0.3 get a second copy; no group holds one twice.
    groups = deal_experts([0.5, 0.3, 0.1, 0.1], 3, 6)
    assert sorted(expert for group in groups for expert in group) == [0, 0, 1, 1, 2, 3]
    assert all(len(set(group)) == len(group) == 2 for group in groups)
    from planner.domain.degrees import Degrees

    degrees = Degrees(
        attn_tp=1, attn_dp=2, pp=2, ep=2, expert_tp=1, num_slots=4, microbatches=2, replicas=2
    )
    # Seven on two replicas: four and three; each group caches two, or two and one.
    assert dealt_sequences(degrees, 7) == (((1, 1), (1, 1)), ((1, 1), (1, 0)))
