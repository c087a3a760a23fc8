"""Names of families and the degrees that they permit."""

import pytest

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.domain.hardware import Sizing
from planner.domain.question import DegreeLimits
from planner.domain.run import ScheduleKind
from planner.domain.training import TrainLimits
from planner.errors import SpecError
from planner.studies.families import default_names, family, within
from planner.studies.train_families import train_family, train_within

MOE, DENSE = load_model("deepseek-v3"), load_model("llama-3.1-70b")
RACK = load_machine("gb200-nvl72")
RACKS = sized(RACK, Sizing(racks=4))
ONE = frozenset({1})


def test_expert_parallelism_stays_in_a_rack_or_leaves_it():
    inside, outside = family("ep", MOE, RACKS).limits, family("wide-ep", MOE, RACKS).limits
    assert inside.ep == frozenset(range(2, 73))  # 72 chips of a rack
    assert outside.ep == frozenset(range(73, 289))  # up to 4 x 72
    for limits in (inside, outside):
        assert (limits.tp, limits.pp, limits.cp, limits.expert_tp) == (ONE, ONE, ONE, ONE)
        assert limits.replicas is None


def test_axes_join_and_pin():
    limits = family("ep64+pp2", MOE, RACKS).limits
    assert (limits.ep, limits.pp, limits.tp) == (frozenset({64}), frozenset({2}), ONE)
    assert family("tp", MOE, RACKS).limits.ep == ONE
    assert family("any", MOE, RACKS).limits == DegreeLimits()


def test_a_dense_model_leaves_expert_degrees_alone():
    limits = family("tp+pp", DENSE, RACK).limits
    assert limits.ep is None and limits.expert_tp is None
    assert min(limits.tp) == min(limits.pp) == 2


def test_one_rack_has_no_experts_across_racks():
    assert "one rack" in family("wide-ep", MOE, RACK).impossible
    assert not family("wide-ep", MOE, RACKS).impossible
    assert "wide-ep" in default_names(MOE, RACKS)
    assert "wide-ep" not in default_names(MOE, RACK)
    assert "ep" not in default_names(DENSE, RACK)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("turbo", "'turbo' in 'turbo' is not one of"),
        ("ep+", "'' in 'ep+' is not one of"),
        ("ep+ep", "names ep twice"),
        ("ep+wide-ep", "names ep twice"),
        ("tp0", "a degree of 0"),
    ],
)
def test_bad_names_are_refused(name, text):
    with pytest.raises(SpecError) as caught:
        family(name, MOE, RACKS)
    assert text in caught.value.message


def test_experts_of_a_dense_model_are_refused():
    with pytest.raises(SpecError, match="has none"):
        family("ep", DENSE, RACK)
    with pytest.raises(SpecError, match="has none"):
        train_family("ep", DENSE)


def test_limits_of_the_question_narrow_a_family():
    limits = within(family("ep", MOE, RACKS).limits, DegreeLimits(ep=frozenset({8, 99})), "ep")
    assert limits.ep == frozenset({8})
    with pytest.raises(SpecError, match="--pp leaves nothing of strategy 'ep'"):
        within(family("ep", MOE, RACKS).limits, DegreeLimits(pp=frozenset({4})), "ep")


def test_schedules_need_stages_and_leave_the_rest_free():
    limits = train_family("1f1b+zero1", MOE).limits
    assert limits.schedules == frozenset({ScheduleKind.ONE_F_ONE_B})
    assert limits.zero == frozenset({1})
    assert min(limits.pp) == 2 and limits.tp is None


def test_named_degrees_of_training_pin_the_others():
    limits = train_family("ep8+pp", MOE).limits
    assert (limits.ep, limits.tp, limits.cp) == (frozenset({8}), ONE, ONE)
    assert min(limits.pp) == 2 and limits.dp is None
    with pytest.raises(SpecError, match="--zero leaves nothing"):
        train_within(train_family("zero3", MOE).limits, TrainLimits(zero=frozenset({1})), "zero3")


@pytest.mark.parametrize("name", ["1f1b+gpipe", "zero1+zero2", "zero4", "tp+tp", "sideways"])
def test_bad_names_of_training_are_refused(name):
    with pytest.raises(SpecError):
        train_family(name, MOE)
