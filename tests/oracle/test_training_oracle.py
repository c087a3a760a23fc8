"""The training search against brute force: every mesh, policy and cut of tiny requests, priced.

Brute force (``train_brute``) enumerates what the certificate says that the space is, in plain
loops, and shares nothing with the search but the names of the request.
"""

import math
import random

import pytest
import train_brute as brute
from train_attack import violations_of
from train_tiny import tiny_request

from planner.domain.outcome import Infeasible
from planner.search.training.result import search_training

SEEDS = range(0, 330)
MOST_LAYOUTS = 400
CHUNK = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


def layouts_of(request, every):
    """Cuts of all strategies together."""
    layers = len(request.model.layers)
    return sum(len(brute.cuts(layers, kind, mesh[3], v)) for mesh, (kind, v, *_) in every)


def checked(seed, folder):
    """Compare one request with brute force; None where it has too many layouts."""
    request = tiny_request(seed, folder)
    every = brute.strategies(request)
    if layouts_of(request, every) > MOST_LAYOUTS:
        return None
    best = brute.best_of(request, every)
    found = search_training(request)
    if isinstance(found, Infeasible):
        assert best == math.inf, seed
        return False
    proof = found.certificate
    assert found.best.value == pytest.approx(best, rel=1e-9), seed
    assert proof.bound <= best * (1 + 1e-9), seed
    assert proof.enumerated == len(every), seed
    parts = (proof.infeasible_memory, proof.infeasible_tpot, proof.pruned, proof.solved)
    assert sum(parts) == proof.enumerated and min(parts) >= 0, seed
    assert proof.objective * (1 - proof.gap) == pytest.approx(proof.bound, rel=1e-12), seed
    for _, other in found.runners_up:
        assert other.value >= found.best.value, seed
    return True


@pytest.mark.parametrize("start", range(SEEDS.start, SEEDS.stop, CHUNK))
def test_the_search_finds_the_optimum(start, folder):
    done = [checked(seed, folder) for seed in range(start, start + CHUNK)]
    answered = [one for one in done if one is not None]
    # Most requests are small enough, and some of both kinds are among them.
    assert len(answered) >= 20
    assert True in answered and False in answered


@pytest.mark.parametrize("start", range(10_000, 10_120, 40))
def test_relaxations_are_never_above_a_price(start, folder):
    checks = 0
    for seed in range(start, start + 40):
        counted, broken = violations_of(tiny_request(seed, folder), random.Random(seed), (6, 8, 5))
        assert not broken, (seed, broken)
        checks += counted
    assert checks > 200
