"""What every replan keeps: its limit, the bound, every expert; and the bytes that it says move."""

import random

import pytest
from oracle_tiny import tiny
from replan_tiny import changed, missing_bytes

from planner import (
    Changes,
    Infeasible,
    ReplanQuestion,
    SpecError,
    evaluate_layout,
    plan,
    replan,
    verify,
)

UNLIMITED = 1e15
ROUNDING = 1 + 1e-9


def running(seed, folder):
    """A layout to begin with, or a skip."""
    case = tiny(seed, folder)
    try:
        found = plan(case.question)
    except SpecError:
        pytest.skip("the question has no answer")
    if isinstance(found, Infeasible):
        pytest.skip("nothing fits")
    return case.question, found


def received(record):
    """Weights that every chip gets, by name."""
    found = {}
    for move in record.migration.moves:
        if move.kind != "caches":
            found[move.target] = found.get(move.target, 0.0) + move.num_bytes
    return found


@pytest.mark.parametrize("seed", range(0, 24, 3))
def test_with_nothing_changed_nothing_moves(seed, tmp_path):
    _, layout = running(seed, tmp_path)
    for limit in (None, 0.0, UNLIMITED):
        found = replan(ReplanQuestion(layout=layout, changes=Changes(), max_move_bytes=limit))
        assert found.layout == layout
        assert found.record.migration.moved_bytes == 0
        assert not found.record.migration.moves
        assert found.record.changes == ()


@pytest.mark.parametrize("seed", range(40))
def test_a_replan_keeps_its_limit_and_the_bound_and_meets_the_plan(seed, tmp_path):
    question, layout = running(seed, tmp_path)
    changes, asked = changed(random.Random(seed), question, layout, tmp_path)
    try:
        fresh = plan(asked)
    except SpecError:
        pytest.skip("the changed question has no answer")
    free = replan(ReplanQuestion(layout=layout, changes=changes, max_move_bytes=UNLIMITED))
    if isinstance(fresh, Infeasible):
        assert isinstance(free, Infeasible)
        return
    record = free.record
    # Never worse than from scratch without a limit, never better than what is proven; questions
    # ask for a gap of nothing, so that the plan is the best.
    assert record.chosen.objective <= fresh.certificate.objective * ROUNDING
    assert record.chosen.objective >= fresh.certificate.objective / ROUNDING
    assert verify(free.layout) == ()
    assert evaluate_layout(free.layout).prediction == free.layout.prediction
    # What moves is what chips lack, counted weight by weight from the two files.
    lacks, gets = missing_bytes(layout, free.layout), received(record)
    for chip in {*lacks, *gets}:
        assert gets.get(chip, 0.0) == pytest.approx(lacks.get(chip, 0.0), rel=1e-6, abs=1.0)
    for share in (0.0, 0.4, 0.8, 1.0):
        limit = share * record.migration.moved_bytes
        found = replan(ReplanQuestion(layout=layout, changes=changes, max_move_bytes=limit))
        if isinstance(found, Infeasible):
            assert found.resource == "moved bytes"
            continue
        assert found.record.migration.moved_bytes <= limit
        assert found.record.chosen.objective >= record.chosen.objective / ROUNDING
        assert verify(found.layout) == ()
    assert found.record.chosen.objective <= record.chosen.objective * ROUNDING
