"""Placements of experts that are partly in place: against all placements of small layers."""

import itertools

import numpy as np
import pytest

from planner.search.assignment import best_assignment
from planner.search.experts import place_experts
from planner.search.replan_experts import placements


def every_placement(caps, num_experts):
    """All fillings of chips with distinct experts, each expert somewhere."""
    rows = [list(itertools.combinations(range(num_experts), int(cap))) for cap in caps]
    for chips in itertools.product(*rows):
        if len(set(itertools.chain(*chips))) == num_experts:
            yield chips


def figures(chips, row, held):
    copies = np.bincount(np.concatenate([np.array(c) for c in chips]), minlength=len(row))
    load = max(sum(row[e] / copies[e] for e in chip) for chip in chips)
    new = sum(not held[g, e] for g, chip in enumerate(chips) for e in chip)
    return new, load


@pytest.mark.parametrize("seed", range(12))
def test_placements_begin_with_the_fewest_new_copies_and_end_with_the_best_balance(seed):
    rng = np.random.default_rng(seed)
    caps = np.array([2, 2, 2])
    row = rng.dirichlet(np.ones(5))
    held = np.zeros((3, 5), dtype=bool)
    for chip in range(3):
        held[chip, rng.choice(5, 2, replace=False)] = True
    found = placements(row, caps, held)
    possible = [figures(chips, row, held) for chips in every_placement(caps, 5)]
    assert found[0].new_copies == min(new for new, _ in possible)
    # The packing is within 0.2 % of its bound, or the best that its moves find: here the optimum.
    (best,) = place_experts(row[None], 3, caps)
    assert found[-1].max_load <= best.max_load * (1 + 1e-9)
    for one in found:
        assert figures(one.groups, row, held) == pytest.approx((one.new_copies, one.max_load))
        assert set(itertools.chain(*one.groups)) == set(range(5))
        assert all(len(set(group)) == cap for group, cap in zip(one.groups, caps, strict=True))
    assert all(a.new_copies < b.new_copies for a, b in itertools.pairwise(found))
    assert all(a.max_load > b.max_load for a, b in itertools.pairwise(found))


def test_what_is_in_place_and_balanced_stays():
    row = np.full(6, 1 / 6)
    (placed,) = place_experts(row[None], 4, np.full(4, 2))
    held = np.zeros((4, 6), dtype=bool)
    for chip, experts in enumerate(placed.groups):
        held[chip, list(experts)] = True
    (found,) = placements(row, np.full(4, 2), held)
    assert found.new_copies == 0
    assert found.groups == placed.groups


def test_lost_experts_take_the_place_of_second_copies():
    # Chips 0 and 1 hold 0 1 and 0 2; expert 3 died with its chip. One of the two copies of 0
    # gives way, and no other copy is new.
    held = np.zeros((2, 4), dtype=bool)
    held[0, [0, 1]] = held[1, [0, 2]] = True
    (found,) = placements(np.full(4, 0.25), np.array([2, 2]), held)
    assert found.new_copies == 1
    assert sorted(itertools.chain(*found.groups)) == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    values = rng.random((5, 5))
    allowed = rng.random((5, 5)) < 0.8
    np.fill_diagonal(allowed, True)
    target = best_assignment(values, allowed)
    assert sorted(target) == list(range(5)) and allowed[range(5), target].all()
    best = max(
        sum(values[i, p[i]] for i in range(5))
        for p in itertools.permutations(range(5))
        if all(allowed[i, p[i]] for i in range(5))
    )
    assert values[range(5), target].sum() == pytest.approx(best, rel=1e-6)


def test_of_equal_assignments_things_keep_their_own_places():
    assert best_assignment(np.ones((4, 4)), np.ones((4, 4), dtype=bool)).tolist() == [0, 1, 2, 3]
