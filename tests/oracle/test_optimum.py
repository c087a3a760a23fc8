"""The planner's optimum is that of brute force, and so is its verdict that nothing fits."""

import itertools
import math
from dataclasses import replace

import pytest
from oracle_brute import TooManyError, problem_of
from oracle_tiny import pinned, tiny

from planner import DegreeLimits, Infeasible, Question, api
from planner.compose import assignment_of
from planner.domain.workload import Objective
from planner.search.experts import TOLERANCE

BLOCKS = 10
SEEDS_PER_BLOCK = 24
MOST_EVALUATIONS = 90


def compare(case):
    """Compare one question; return whether it has an answer, None if brute force is too long."""
    problem, _ = problem_of(case.question, MOST_EVALUATIONS)
    try:
        best = problem.optimum()
    except TooManyError:
        return None
    answer = api.plan(case.question)
    where = f"seed {case.seed}"
    if isinstance(answer, Infeasible):
        assert best == math.inf, f"{where}: {answer.message}"
        return False
    found, bound = answer.certificate.objective, answer.certificate.bound
    assert found >= best * (1 - 1e-9), where
    rates_add_up = case.question.batch is not None and problem.objective is not Objective.LATENCY
    if rates_add_up and found > best * (1 + 1e-9):
        # Replicas of unequal batches: see test_relaxations.test_unequal_replicas.
        alike = problem_of(case.question)[0].optimum(alike=True)
        assert found <= alike * (1 + 1e-9), where
        return True
    assert bound <= best * (1 + 1e-9), where
    if case.loads is None:
        assert found == pytest.approx(best, rel=1e-9), where
    else:
        # Placement stops within its tolerance of its bound, which the certificate shows.
        assert found <= best / (1 - TOLERANCE), where
        assert best <= found <= best + answer.certificate.gap * found + 1e-9 * best, where
    return True


@pytest.mark.parametrize("block", range(BLOCKS))
def test_planner_equals_brute_force(block, tmp_path):
    seeds = range(block * SEEDS_PER_BLOCK, (block + 1) * SEEDS_PER_BLOCK)
    answers = [compare(tiny(seed, tmp_path)) for seed in seeds]
    # Most questions are small enough, and have an answer.
    assert sum(answer is not None for answer in answers) >= SEEDS_PER_BLOCK * 2 // 3
    assert sum(bool(answer) for answer in answers) >= SEEDS_PER_BLOCK // 4


def orders(problem, assignment, cells):
    """The assignment with its stages on the cells of a strategy in every order."""
    d = assignment.degrees
    for order in itertools.permutations(cells, d.pp * d.replicas):
        placed = tuple(
            tuple(order[replica * d.pp + stage] for stage in range(d.pp))
            for replica in range(d.replicas)
        )
        yield problem.price_of(replace(assignment, cells=placed))


def test_no_other_cells_are_better(tmp_path):
    compared = 0
    for seed in range(3000, 3080):
        case = tiny(seed, tmp_path)
        problem, _ = problem_of(case.question, 400)
        if len(problem.topology.domains) == 1:
            continue
        answer = api.plan(case.question)
        if isinstance(answer, Infeasible):
            continue
        found = answer.certificate.objective
        for degrees, cells in problem.strategies():
            if degrees.pp == 1 or len(cells) > 4:
                continue
            try:
                every = list(problem.assignments(degrees, cells))
                best = min(every, key=lambda pair: problem.value(pair[1]), default=None)
                if best is None:
                    continue
                for prediction in orders(problem, best[0], cells):
                    if problem.is_small(prediction) and problem.is_fast(prediction):
                        assert problem.value(prediction) >= found * (1 - 2 * TOLERANCE)
                        compared += 1
            except TooManyError:
                break
    assert compared >= 30


@pytest.mark.xfail(
    raises=AssertionError,
    strict=True,
    reason="with a pinned batch fewer replicas are not enumerated",
)
def test_a_small_batch_needs_fewer_replicas(tmp_path):
    # One sequence on several chips: stages that fit twice are no strategy at all, although
    # one of them alone is faster than the largest stage.
    case = tiny(0, tmp_path, batch=1, objective=Objective.LATENCY, tpot_s=None)
    free = replace(case.question, limits=DegreeLimits(**pinned({})))
    alone = replace(free, limits=DegreeLimits(**pinned({"replicas": frozenset({1})})))
    found, best = api.plan(free), api.plan(alone)
    assert found.prediction.step_s <= best.prediction.step_s * (1 + 1e-9)


@pytest.mark.xfail(
    raises=AssertionError, strict=True, reason="free batches are multiples of the number of groups"
)
def test_groups_of_unequal_batches():
    asked = Question(model="mixtral-8x7b", machine="h100-hgx", context_tokens=4096, tpot_s=0.02)
    layout = api.plan(asked)
    problem, _ = problem_of(asked)
    assignment = assignment_of(layout, problem.topology)
    ((groups,),) = (replica.sequences for replica in layout.batches)
    # All groups but one get one sequence more; the limit is what that takes.
    more = (*(count + 1 for count in groups[:-1]), groups[-1])
    prediction = problem.price_of(replace(assignment, sequences=((more,),)))
    limited = api.plan(replace(asked, tpot_s=prediction.step_s))
    assert limited.certificate.bound <= problem.value(prediction) * (1 + 1e-9)
