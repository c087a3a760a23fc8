"""Groups, sweeps, memory scores, worst rows and refusals of outcomes made by hand."""

import math

import pytest

from planner.domain.cost import Bound
from planner.errors import SpecError
from planner.validation.grouping import (
    MemoryScore,
    Refusal,
    Sweep,
    group_by,
    memory_score,
    misjudged,
    parse_keys,
    refusals,
    sweeps,
    worst,
)
from planner.validation.outcome import Outcome, OutcomeMemory, OutcomeTerm, RowClass
from planner.validation.statistics import ErrorStats


def outcome(name, measured=1.0, predicted=1.0, **rest):
    given = {
        "kind": "train",
        "row_class": RowClass.DENSE_TRAINING,
        "model": "toy",
        "chip": "box",
        "num_chips": 8,
        "source": "study",
        "software": "",
        "quality": "A",
    }
    return Outcome(id=name, measured_s=measured, predicted_s=predicted, **{**given, **rest})


def memory(needed, capacity=80e9):
    return OutcomeMemory(needed_bytes=needed, capacity_bytes=capacity, fits=needed <= capacity)


def refused(name, reason, **rest):
    return outcome(name, predicted=None, reason=reason, **rest)


def test_keys_of_one_and_of_several():
    assert parse_keys("kind") == (("kind",),)
    assert parse_keys("kind, chip+quality,kind") == (("kind",), ("chip", "quality"))
    with pytest.raises(SpecError, match="unknown key 'chp'"):
        parse_keys("kind,chp")


def test_groups_by_one_key_with_their_statistics():
    rows = [
        outcome("a", 1.0, 1.5, chip="one"),
        outcome("b", 2.0, 2.0, chip="two"),
        outcome("c", 1.0, 0.5, chip="one"),
        refused("d", "no", chip="one"),
    ]
    one, two = group_by(rows, ("chip",)).groups
    # Errors .5 and .5; ratios 1.5 and .5.
    expected = ErrorStats(
        median=0.5, mean=0.5, p90=0.5, bias=pytest.approx((math.log(1.5) + math.log(0.5)) / 2)
    )
    assert (one.name, one.num_rows, one.num_represented, one.errors) == (("one",), 3, 2, expected)
    assert one.share == pytest.approx(2 / 3)
    assert (two.name, two.num_rows, two.errors.median) == (("two",), 1, 0)


def test_groups_by_several_keys_and_rows_without_a_value():
    rows = [outcome("a", quality="B"), outcome("b", quality=""), outcome("c", chip="other")]
    found = group_by(rows, ("chip", "quality"))
    assert found.by == "chip+quality"
    assert [group.name for group in found.groups] == [("box", "-"), ("box", "B"), ("other", "A")]


def test_the_latencies_of_serving_are_kinds_of_their_own():
    rows = [
        outcome("a", kind="serving", row_class=RowClass.TTFT),
        outcome("a", kind="serving", row_class=RowClass.TPOT),
    ]
    names = [group.name for group in group_by(rows, ("kind",)).groups]
    assert names == [("serving TPOT",), ("serving TTFT",)]


def test_a_group_without_measured_times_has_no_errors():
    (group,) = group_by([outcome("a", measured=None), refused("b", "no")], ("kind",)).groups
    assert (group.errors, group.rank, group.num_represented) == (None, None, 1)


def sweep_rows(count, predicted, **rest):
    return [
        outcome(
            f"row-{index}",
            1.0 + index,
            predicted(index),
            **{"sweep": "given", "layout": f"chosen {index}", **rest},
        )
        for index in range(count)
    ]


def test_a_sweep_needs_ten_layouts():
    assert sweeps(sweep_rows(9, lambda index: 1.0 + index)) == ()
    (found,) = sweeps(sweep_rows(10, lambda index: 2.0 + index))
    assert found == Sweep(name="given", num_rows=10, num_layouts=10, rank=1.0)


def test_a_layout_measured_twice_counts_once_and_is_ranked_twice():
    rows = sweep_rows(10, lambda index: 10.0 - index)
    assert sweeps(rows[:9] + rows[:1]) == ()
    twice = outcome("again", 20.0, 10.0, sweep="given", layout="chosen 0")
    (found,) = sweeps([*rows, twice])
    assert (found.num_rows, found.num_layouts) == (11, 10)
    # Ranks less their mean of 6: measured -5..5; predicted 4.5 3 2 1 0 -1 -2 -3 -4 -5 4.5,
    # the two tens sharing 10.5. Products: -22.5-12-6-2+0-0-2-6-12-20+22.5 = -60; squares
    # 110, and 20.25 + 9+4+1+0+1+4+9+16+25 + 20.25 = 109.5.
    assert found.rank == pytest.approx(-60 / (110 * 109.5) ** 0.5)


def test_rows_that_could_not_be_predicted_do_not_rank():
    rows = sweep_rows(9, lambda index: 1.0 + index)
    assert sweeps([*rows, refused("x", "no", sweep="given", layout="other")]) == ()


def test_the_rank_of_a_group_is_the_median_over_its_sweeps():
    rows = [
        *sweep_rows(10, lambda index: 1.0 + index),
        *sweep_rows(10, lambda index: 10.0 - index, sweep="other"),
        *sweep_rows(10, lambda index: 3.0, sweep="constant"),
    ]
    (group,) = group_by(rows, ("kind",)).groups
    # 1, -1 and undefined.
    assert (group.rank, group.num_sweeps) == (0.0, 3)


def test_memory_is_right_when_what_ran_fits_and_what_did_not_does_not():
    rows = [
        outcome("ran-fits", memory=memory(70e9)),
        outcome("ran-too-large", memory=memory(90e9)),
        outcome("ran-fits-too", memory=memory(80e9)),
        outcome("oom-too-large", measured=None, memory=memory(81e9)),
        outcome("oom-fits", measured=None, memory=memory(20e9)),
        outcome("collective"),
        refused("refused", "no", measured=None),
    ]
    score = memory_score(rows)
    assert score == MemoryScore(ran_right=2, ran_total=3, oom_right=1, oom_total=2)
    assert (score.right, score.total) == (3, 5)
    # Off by 80 / 20 = 4 and by 90 / 80.
    assert [row.id for row in misjudged(rows)] == ["oom-fits", "ran-too-large"]


def test_other_rows_score_the_memory_of_their_group_only():
    own = [outcome("oom", measured=None, memory=memory(90e9), source="x")]
    beside = [
        outcome("ran", memory=memory(10e9), source="x"),
        outcome("elsewhere", memory=memory(10e9), source="y"),
    ]
    (group,) = group_by(own, ("source",), beside).groups
    assert group.memory == MemoryScore(ran_right=1, ran_total=1, oom_right=1, oom_total=1)
    assert (group.num_rows, group.errors) == (1, None)


def test_worst_rows_are_off_by_the_largest_factor_either_way():
    rows = [
        outcome("right"),
        outcome("slow", 1.0, 3.0),
        outcome("fast", 4.0, 1.0),
        outcome("oom", measured=None),
        refused("refused", "no"),
    ]
    assert [row.id for row in worst(rows)] == ["fast", "slow", "right"]
    assert [row.id for row in worst(rows, 1)] == ["fast"]


def test_the_largest_term_of_a_row():
    terms = tuple(
        OutcomeTerm(name=name, seconds=seconds, bound=Bound.COMPUTE)
        for name, seconds in (("a", 0.2), ("b", 0.5), ("c", 0.3))
    )
    assert outcome("x", terms=terms).largest_term.name == "b"
    assert outcome("x").largest_term is None


def test_refusals_by_reason_the_most_frequent_first():
    rows = [
        refused("a", "no model"),
        refused("b", "no machine"),
        refused("c", "no machine"),
        # The two latencies of one serving row.
        refused("d", "not yet", row_class=RowClass.TTFT),
        refused("d", "not yet", row_class=RowClass.TPOT),
        outcome("fine"),
    ]
    assert refusals(rows) == (
        Refusal(reason="no machine", num_rows=2, example="b"),
        Refusal(reason="no model", num_rows=1, example="a"),
        Refusal(reason="not yet", num_rows=1, example="d"),
    )
