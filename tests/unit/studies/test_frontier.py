"""Frontiers: every point is a plan, no point beats another in both respects."""

from dataclasses import replace
from itertools import pairwise

import pytest

from planner import Question, plan
from planner.domain.outcome import Infeasible
from planner.domain.workload import Objective, Phase
from planner.errors import SpecError
from planner.studies.frontier import frontier

DENSE = Question(model="llama-3.1-70b", machine="h100-hgx", context_tokens=8192)


@pytest.fixture(scope="module")
def found():
    return frontier(DENSE, points=8)


def test_a_point_is_what_plan_answers_under_its_limit(found):
    for point in (found.points[0], found.points[3], found.cheapest):
        layout = plan(replace(DENSE, tpot_s=point.limit_s))
        assert layout.prediction.step_s == point.step_s
        assert layout.prediction.tokens_per_s_per_chip == point.tokens_per_s_per_chip
        assert layout.degrees == point.degrees and layout.certificate.gap == point.gap


def test_points_trade_speed_for_throughput(found):
    assert len(found.points) >= 8
    for fast, slow in pairwise(found.points):
        assert fast.tokens_per_s_per_user > slow.tokens_per_s_per_user
        assert fast.tokens_per_s_per_chip < slow.tokens_per_s_per_chip
        assert fast.price > slow.price
    assert (found.cheapest.speed, found.cheapest.price) == (1.0, 1.0)


def test_the_floor_is_proven(found):
    # The floor is a lower bound on the fastest step; chapter 1 gives a looser one: every weight
    # is read once, 70.6 B of 2 bytes on 8 chips of 3.35 TB/s.
    assert found.floor_s <= found.fastest.step_s
    assert found.floor_s > 70e9 * 2 / (8 * 3.35e12) * 0.9
    assert 0.99 < found.cheapest_bound <= 1.0


def test_multiples_are_those_of_the_cheapest(found):
    point = found.at_speed(1.5)
    assert point.speed >= 1.5
    rate = point.tokens_per_s_per_user / found.cheapest.tokens_per_s_per_user
    assert point.speed == pytest.approx(rate)
    usd = point.usd_per_million_tokens / found.cheapest.usd_per_million_tokens
    assert point.price == pytest.approx(usd)
    assert found.at_speed(1e6) is None


def test_drafts_move_the_front_out(found):
    # With tokens accepted nine times in ten, fast points yield more.
    drafted = frontier(replace(DENSE, acceptance=0.9), points=4)
    assert any(point.degrees.draft for point in drafted.points)
    assert drafted.fastest.tokens_per_s_per_user > found.fastest.tokens_per_s_per_user


def test_cost_can_be_set_against_speed():
    found = frontier(replace(DENSE, objective=Objective.COST, price_usd_per_hour=2.0), points=4)
    prices = [point.usd_per_million_tokens for point in found.points]
    assert prices == sorted(prices, reverse=True)


def test_a_speed_that_nobody_reaches_is_infeasible():
    found = frontier(replace(DENSE, tpot_s=1e-6), points=4)
    assert isinstance(found, Infeasible) and found.resource == "tpot"


@pytest.mark.parametrize(
    ("change", "points", "text"),
    [
        ({"objective": Objective.LATENCY}, 8, "one end of the frontier"),
        ({"phase": Phase.PREFILL}, 8, "one of decode"),
        ({}, 1, "--points: 1"),
        ({}, 100_000, "--points: 100000"),
    ],
)
def test_bad_questions_are_refused(change, points, text):
    with pytest.raises(SpecError, match=text):
        frontier(replace(DENSE, **change), points=points)
