"""Curves: the model at each value, the lecture's lines beside it, and what is marked."""

from dataclasses import replace

import pytest

from planner import Question, plan
from planner.domain.degrees import Degrees
from planner.domain.outcome import Infeasible
from planner.domain.pinned import pinned
from planner.domain.workload import Phase
from planner.economics.napkin import ModelBytes
from planner.errors import SpecError
from planner.studies.curve import Along, Span, curve
from planner.studies.ideal import Napkin, ideal

DENSE = Question(model="llama-3.1-70b", machine="h100-hgx", context_tokens=8192)


@pytest.fixture(scope="module")
def batches():
    return curve(DENSE, Along.BATCH, Span(points=5))


def test_points_are_the_plan_of_the_kept_degrees(batches):
    kept = replace(DENSE, limits=pinned(plan(DENSE).degrees))
    for point in (batches.points[0], batches.points[-1]):
        layout = plan(replace(kept, batch=int(point.x)))
        assert layout.prediction.step_s == point.step_s
        assert sum(term.value for term in point.terms) == pytest.approx(point.step_s)


def test_the_model_is_never_faster_than_its_ideal(batches):
    for point in batches.points:
        assert point.step_s >= point.ideal.step_s
        assert point.mfu < 1.0
        assert point.usd_per_million_tokens >= point.ideal.usd_per_million_tokens


def test_cost_falls_with_the_batch_and_the_step_grows(batches):
    costs = [point.usd_per_million_tokens for point in batches.points]
    steps = [point.step_s for point in batches.points]
    assert costs == sorted(costs, reverse=True) and steps == sorted(steps)


def test_landmarks_of_a_batch(batches):
    marks = {own.name: own for own in batches.landmarks}
    # 300 x 1 for a dense model (chapter 1; 295 on an H100), 80 GB / 3.35 TB/s.
    assert marks["ideal B*"].value == pytest.approx(295, rel=0.05)
    assert marks["HBM drained once"].value == pytest.approx(80e9 / 3.35e12)
    assert marks["weights read once"].value == pytest.approx(141e9 / 8 / 3.35e12, rel=0.02)
    assert "cost floor" in marks and "B* of the model" in marks


def test_the_balanced_context_is_marked():
    found = curve(replace(DENSE, batch=16), Along.CONTEXT, Span(low=1024, high=16384, points=4))
    mark = next(own for own in found.landmarks if own.name == "balanced context")
    # 2 N_act W / (C kv) (chapter 6): 69.5 B multiplying weights, 327,680 B of cache per token.
    assert mark.value == pytest.approx(2 * 69.5e9 * 3.35e12 / (989e12 * 327680), rel=0.02)
    caches = [point.ideal.cache_s for point in found.points]
    assert caches[-1] / caches[0] == pytest.approx(16.0)


def test_chips_take_part_of_a_machine():
    found = curve(replace(DENSE, nodes=2), Along.CHIPS)
    assert [point.x for point in found.points] == [2.0, 4.0, 8.0, 16.0]
    assert found.left_out == (1.0,)  # 141 GB of weights on 80 GB


def test_stages_halve_the_weights_of_a_chip():
    found = curve(replace(DENSE, nodes=2), Along.STAGES, Span(low=1, high=2))
    one, two = found.points
    assert two.memory.weights_bytes == pytest.approx(one.memory.weights_bytes / 2, rel=0.02)


def test_bandwidth_is_a_multiple_of_the_machine():
    found = curve(DENSE, Along.BANDWIDTH, Span(low=0.25, high=4, points=3))
    slow, now, fast = found.points
    assert now.step_s == plan(DENSE).prediction.step_s
    assert slow.step_s > now.step_s > fast.step_s
    assert "scale-up" in found.label  # one node: nothing leaves it


def test_ideal_lines_by_hand():
    # 100 B weights of 1 byte, all active, on 4 chips of 10 TB/s and 3 PFLOP/s, one stage:
    # 100e9 / 40e12 = 2.5 ms of weights; 64 sequences: 2 64 100e9 / 12e15 = 1.0667 ms of compute;
    # 64 x 1000 x 1e5 B / 40e12 = 0.16 ms of cache.
    size = ModelBytes(
        active_params=100e9,
        weights_bytes=100e9,
        kv_read_bytes_per_token=1e5,
        kv_bytes_per_token=1e5,
        context=1000.0,
    )
    paper = Napkin(size=size, flop_per_s=3e15, hbm_bytes=200e9, hbm_bytes_per_s=10e12)
    degrees = Degrees(
        attn_tp=4, attn_dp=1, pp=1, ep=1, expert_tp=1, num_slots=0, microbatches=1, replicas=1
    )
    found = ideal(paper, degrees, 64.0, 3.6)
    assert found.weights_s == pytest.approx(2.5e-3)
    assert found.compute_s == pytest.approx(1.0667e-3, rel=1e-4)
    assert found.cache_s == pytest.approx(0.16e-3)
    assert found.step_s == pytest.approx(2.66e-3)
    # 4 chips at a thousandth of a dollar per second: 2.66 ms x 4e-3 / 64 tokens.
    assert found.usd_per_million_tokens == pytest.approx(2.66e-3 * 4e-3 / 64 * 1e6)
    # Two stages, two microbatches in flight: the same compute per chip on twice the chips, and
    # the weights of a chip are half but read twice: stages add no bandwidth (chapter 4).
    piped = replace(degrees, pp=2, microbatches=2)
    two = ideal(paper, piped, 64.0, 3.6)
    assert two.weights_s == pytest.approx(2.5e-3)
    assert two.compute_s == pytest.approx(found.compute_s / 2)
    # With one in flight, each stage waits for the other.
    alone = ideal(paper, replace(piped, microbatches=1), 64.0, 3.6)
    assert alone.compute_s == pytest.approx(found.compute_s)
    assert paper.balanced_context == pytest.approx(100e9 / (150 * 1e5))


@pytest.mark.parametrize(
    ("change", "along", "span", "text"),
    [
        ({}, Along.BATCH, Span(low=64, high=8), "empty range"),
        ({}, Along.BATCH, Span(points=1), "--points: 1"),
        ({}, Along.BATCH, Span(low=0), "--from: 0"),
        ({"batch": 8}, Along.BATCH, Span(), "--batch contradicts"),
        ({"phase": Phase.PREFILL}, Along.BATCH, Span(), "one of decode"),
        ({}, Along.CHIPS, Span(low=9, high=15), "no size between 9 and 15 chips"),
    ],
)
def test_bad_questions_are_refused(change, along, span, text):
    with pytest.raises(SpecError, match=text):
        curve(replace(DENSE, **change), along, span)


def test_nothing_fits_along_the_way():
    found = curve(
        replace(DENSE, batch=64), Along.CONTEXT, Span(low=200_000, high=400_000, points=2)
    )
    assert isinstance(found, Infeasible) and "context 200000" in found.message
