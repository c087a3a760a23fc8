"""The planner's optimum is that of brute force, and so is its verdict that nothing fits."""

import itertools
import math
import random
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
MOST_EVALUATIONS = 240


def compare(case, most=MOST_EVALUATIONS):
    """Compare one question; return whether it has an answer, None if brute force is too long."""
    problem, _ = problem_of(case.question, most)
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


def all_axes(seed, folder):
    """A question with shared contexts, overlap and drafts, now and then pinned."""
    rng = random.Random(seed)
    case = tiny(seed, folder, acceptance=rng.choice([None, None, 0.5, 0.9]))
    limits = case.question.limits
    if rng.random() < 0.7:
        limits = replace(limits, cp=None)
    if rng.random() < 0.3:
        limits = replace(limits, overlap=frozenset({rng.randrange(4)}))
    if case.question.acceptance and rng.random() < 0.4:
        limits = replace(limits, draft=frozenset({rng.randrange(3)}))
    case.question = replace(case.question, limits=limits)
    return case


@pytest.mark.parametrize("block", range(4))
def test_planner_equals_brute_force_on_all_axes(block, tmp_path):
    seeds = range(5000 + block * SEEDS_PER_BLOCK, 5000 + (block + 1) * SEEDS_PER_BLOCK)
    answers = [compare(all_axes(seed, tmp_path), 300) for seed in seeds]
    assert sum(answer is not None for answer in answers) >= SEEDS_PER_BLOCK // 3
    assert sum(bool(answer) for answer in answers) >= SEEDS_PER_BLOCK // 6


def test_a_batch_that_leaves_ranks_no_whole_sequences_may_share_contexts(tmp_path):
    assert compare(all_axes(31043, tmp_path), 300)


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


def test_a_small_batch_needs_fewer_replicas(tmp_path):
    # One sequence on several chips: stages that fit twice are used once.
    case = tiny(0, tmp_path, batch=1, objective=Objective.LATENCY, tpot_s=None)
    free = replace(case.question, limits=DegreeLimits(**pinned({})))
    alone = replace(free, limits=DegreeLimits(**pinned({"replicas": frozenset({1})})))
    found, best = api.plan(free), api.plan(alone)
    assert found.prediction.step_s <= best.prediction.step_s * (1 + 1e-9)


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
    assert limited.certificate.objective <= problem.value(prediction) * (1 + 1e-9)
    assert limited.certificate.bound <= problem.value(prediction) * (1 + 1e-9)
