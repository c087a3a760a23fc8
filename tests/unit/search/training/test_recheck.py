"""The re-check of training certificates: it agrees with the search, and catches what is made up."""

import random
from dataclasses import replace

import numpy as np
import pytest
import train_brute as brute
from msgspec import structs
from train_attack import bounded
from train_tiny import tiny_request

from planner.domain.hardware import Sizing, Wounds
from planner.domain.run import ScheduleKind
from planner.domain.train_layout import TrainLayout
from planner.domain.training import TrainLimits, TrainQuestion
from planner.domain.workload import Objective
from planner.errors import SpecError
from planner.search.training.recheck import count_again
from planner.search.training.rooms import slowest_device
from planner.search.training.scalar import ScalarBound
from planner.train_api import plan_training, verify_training
from planner.train_verify import verify_training_certificate

QUESTION = TrainQuestion(
    model="llama-3.1-70b",
    machine="h100-hgx",
    sizing=Sizing(nodes=16),
    global_batch=256,
    seq_len=4096,
)


@pytest.fixture(scope="module")
def layout():
    found = plan_training(QUESTION)
    assert isinstance(found, TrainLayout)
    return found


def with_certificate(layout, **changes):
    return structs.replace(layout, certificate=structs.replace(layout.certificate, **changes))


def test_an_honest_certificate_is_confirmed(layout):
    found = verify_training_certificate(layout)
    assert found.violations == ()
    assert found.strategies == layout.certificate.enumerated
    # No strategy near the layout is below the stated bound, which is that of some strategy.
    assert found.rederived_bound >= layout.certificate.bound * (1 - 1e-6)
    assert found.stated_bound <= found.best_built <= found.objective * (1 + 1e-9)


def test_a_bound_that_was_not_proved_is_caught(layout):
    # The best layout with 1F1B, said to be the best of all schedules: interleaved ones are better.
    limits = TrainLimits(schedules=frozenset({ScheduleKind.ONE_F_ONE_B}), pp=frozenset({2, 4}))
    worse = plan_training(replace(QUESTION, limits=limits))
    assert worse.certificate.bound > layout.certificate.objective
    claimed = structs.replace(
        worse.certificate,
        enumerated=layout.certificate.enumerated,
        pruned=worse.certificate.pruned
        + layout.certificate.enumerated
        - worse.certificate.enumerated,
    )
    found = verify_training_certificate(
        structs.replace(worse, inputs=layout.inputs, certificate=claimed)
    )
    assert found.rederived_bound < claimed.bound
    assert any("below the stated bound" in text for text in found.violations)
    assert any("less than the stated bound" in text for text in found.violations)


def test_a_made_up_count_is_caught(layout):
    proof = layout.certificate
    found = verify_training_certificate(
        with_certificate(layout, enumerated=proof.enumerated + 1, pruned=proof.pruned + 1)
    )
    assert any("strategies stated" in text for text in found.violations)


def test_a_made_up_objective_is_caught(layout):
    proof = layout.certificate
    found = verify_training_certificate(with_certificate(layout, objective=proof.bound, gap=0.0))
    assert any("does not follow from the decisions" in text for text in found.violations)


def test_numbers_that_contradict_each_other_are_caught(layout):
    for changes in ({"gap": 0.5}, {"solved": 10**9}):
        found = verify_training_certificate(with_certificate(layout, **changes))
        assert any(text.startswith("certificate: ") for text in found.violations)


def test_a_worse_layout_under_the_same_certificate_is_caught(layout):
    # All recomputed: slower, so the objective no longer follows.
    degrees = structs.replace(layout.degrees, recompute="full")
    found = verify_training_certificate(structs.replace(layout, degrees=degrees))
    assert any("objective" in text for text in found.violations)


def test_limits_of_the_file_bound_the_count():
    limits = TrainLimits(
        pp=frozenset({1, 2, 4}),
        schedules=frozenset({ScheduleKind.ONE_F_ONE_B, ScheduleKind.ZB_H1}),
        sequence_parallel=frozenset({True}),
        zero=frozenset({0, 1}),
    )
    question = TrainQuestion(
        model="mixtral-8x7b",
        machine="h100-hgx",
        sizing=Sizing(nodes=8),
        global_batch=64,
        seq_len=4096,
        limits=limits,
        objective=Objective.COST,
        price_usd_per_hour=2.0,
    )
    layout = plan_training(question)
    found = verify_training_certificate(layout)
    assert found.violations == ()
    wider = structs.replace(layout, inputs=structs.replace(layout.inputs, limits={"pp": "1,2,4"}))
    assert any("counted" in text for text in verify_training_certificate(wider).violations)
    odd = structs.replace(layout, inputs=structs.replace(layout.inputs, limits={"pp": "four"}))
    with pytest.raises(SpecError, match=r"inputs\.limits\.pp"):
        verify_training_certificate(odd)


def test_parts_of_a_machine_are_counted_together():
    # Whole racks, and 64 chips of each: the layout lies on the latter, a chip of the other is dead.
    question = TrainQuestion(
        model="mixtral-8x7b",
        machine="gb200-nvl72",
        sizing=Sizing(racks=2, wounds=Wounds(without=("chip:r1/t0/c0",))),
        global_batch=256,
        seq_len=4096,
        limits=TrainLimits(pp=frozenset({1, 2}), microbatch=frozenset({1})),
    )
    layout = plan_training(question)
    assert (layout.domain_chips, len(layout.chips)) == (64, 128)
    found = verify_training_certificate(layout)
    assert found.violations == ()
    # Groups of 8 ranks fill 72 chips as well as 64: both parts have strategies.
    case = structs.replace(layout, domain_chips=72)
    assert any("may not train" in text for text in verify_training(case))


def test_without_a_certificate_there_is_nothing_to_check(layout):
    with pytest.raises(SpecError, match="no certificate"):
        verify_training_certificate(structs.replace(layout, certificate=None))


def test_counts_and_scalar_bounds_agree_with_the_search(tmp_path):
    rng, checks = random.Random(7), 0
    for seed in range(400, 470):
        request = tiny_request(seed, tmp_path)
        assert count_again(request) == len(brute.strategies(request))
        search = bounded(request)
        rows = range(len(search.meshes))
        for row in rng.sample(rows, min(4, len(rows))):
            cases = search.cases(np.array([row]))
            for place in search.menu_places(cases.policies)[:8].tolist():
                slowest = slowest_device(search.pipeline(row, place))
                if slowest.seconds == np.inf:
                    continue
                own = search.bound.tight_step_s(
                    search.case(row, place), slowest.seconds, slowest.devices
                )
                scalar = ScalarBound(
                    model=request.model, topology=request.topology, run=search.run_of(row, place)
                )
                assert scalar.seconds(slowest) == pytest.approx(own, rel=1e-6), (seed, row, place)
                checks += 1
    assert checks > 200
