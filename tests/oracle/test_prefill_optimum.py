"""The best prefill is that of brute force, over all ways to share contexts and to overlap."""

import math
import random
from dataclasses import replace

import pytest
from oracle_brute import TooManyError, problem_of
from oracle_tiny import tiny

from planner import Infeasible, api, verify
from planner.domain.workload import Phase, TimeModel
from planner.search.experts import TOLERANCE
from planner.verify_api import verify_certificate

MOST_EVALUATIONS = 200


def prefill(seed, folder):
    """A tiny question about prompts: limits and memory bind now and then."""
    rng = random.Random(seed)
    # One sequence: with more, replicas of unequal batches are another question.
    case = tiny(seed, folder, batch=rng.choice([None, None, 1]))
    asked = case.question
    limits = asked.limits
    if rng.random() < 0.5:
        limits = replace(limits, cp=None)
    if rng.random() < 0.3:
        limits = replace(limits, overlap=frozenset({0}))
    ttft_s = None if asked.tpot_s is None else asked.tpot_s * rng.uniform(1.0, 3.0)
    return replace(
        asked,
        phase=Phase.PREFILL,
        context_tokens=rng.choice([0, asked.context_tokens // 2]),
        seq_len=rng.choice([1, 3, 40, 300]),
        tpot_s=None,
        ttft_s=ttft_s,
        limits=limits,
    )


def compare(asked, is_skewed):
    """Compare one question; whether it has an answer, None if brute force takes too long."""
    problem, _ = problem_of(asked, MOST_EVALUATIONS)
    try:
        best = problem.optimum()
    except TooManyError:
        return None
    answer = api.plan(asked)
    if isinstance(answer, Infeasible):
        assert best == math.inf, answer.message
        return False
    found, bound = answer.certificate.objective, answer.certificate.bound
    assert bound <= best * (1 + 1e-9)
    assert found >= best * (1 - 1e-9)
    if is_skewed:
        assert found <= best / (1 - TOLERANCE)
    else:
        assert found == pytest.approx(best, rel=1e-9)
    assert verify(answer) == ()
    return True


@pytest.mark.parametrize("block", range(6))
def test_prefill_equals_brute_force(block, tmp_path):
    answers = []
    for seed in range(7000 + block * 16, 7000 + (block + 1) * 16):
        asked = prefill(seed, tmp_path)
        answers.append(compare(asked, asked.loads is not None))
    assert sum(answer is not None for answer in answers) >= 4
    assert sum(bool(answer) for answer in answers) >= 2


def test_the_proof_of_a_prefill_is_checked_again(tmp_path):
    checked = 0
    for seed in range(7200, 7212):
        answer = api.plan(prefill(seed, tmp_path))
        if isinstance(answer, Infeasible):
            continue
        found = verify_certificate(answer)
        assert found.violations == ()
        assert found.rederived_bound <= answer.certificate.objective * (1 + 1e-9)
        checked += 1
    assert checked >= 4


def test_a_bound_that_is_too_good_is_refuted(tmp_path):
    from msgspec import structs

    asked = replace(prefill(7205, tmp_path), batch=None, time_model=TimeModel.SUM)
    answer = api.plan(asked)
    proof = answer.certificate
    false = structs.replace(proof, bound=proof.objective * 1.1, gap=-0.1)
    found = verify_certificate(structs.replace(answer, certificate=false))
    assert any("bound" in violation for violation in found.violations)
