"""Experts in two places: against all placements of small layers."""

import itertools

import numpy as np
import pytest

from planner.search.expert_apart import place_apart, two_copies
from planner.search.survive import twice_bound
from planner.search.survive_room import even_twice_touched


def every_placement(caps, place, num_experts):
    rows = [list(itertools.combinations(range(num_experts), int(cap))) for cap in caps]
    for chips in itertools.product(*rows):
        where = [{place[g] for g, own in enumerate(chips) if e in own} for e in range(num_experts)]
        if all(len(own) >= 2 for own in where):
            yield chips


def load_of(chips, row):
    copies = np.bincount(np.concatenate([np.array(c) for c in chips]), minlength=len(row))
    return max(sum(row[e] / copies[e] for e in chip) for chip in chips)


@pytest.mark.parametrize("seed", range(10))
def test_every_expert_lies_in_two_places_and_the_load_is_near_the_best(seed):
    rng = np.random.default_rng(seed)
    row = rng.dirichlet(np.full(4, 4.0))
    caps, place = np.array([2, 2, 2, 2]), np.array([0, 0, 1, 1])
    found = place_apart(row, caps, place, row.sum() / 4)
    for expert in range(4):
        assert len({place[g] for g, own in enumerate(found) if expert in own}) == 2
    assert [len(own) for own in found] == [2, 2, 2, 2]
    best = min(load_of(chips, row) for chips in every_placement(caps, place, 4))
    assert best <= load_of(found, row) <= 1.15 * best


def test_too_few_slots_or_places_give_nothing():
    row = np.full(4, 0.25)
    assert two_copies(row, 7, 4) is None
    assert place_apart(row, np.array([2, 2, 2, 2]), np.zeros(4, dtype=np.int64), 0.0) is None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("slots", [8, 9])
def test_bounds_hold_for_every_placement_with_two_copies(seed, slots):
    rng = np.random.default_rng(seed)
    row = np.full(4, 0.25) if seed < 2 else rng.dirichlet(np.full(4, 4.0))
    caps = np.array([2, 2, 2, 2]) if slots == 8 else np.array([3, 2, 2, 2])
    place = np.arange(4)
    tokens = float(rng.integers(1, 12))
    hot, touched = twice_bound(row[None], 1, (slots, 4), tokens)
    for chips in every_placement(caps, place, 4):
        copies = np.bincount(np.concatenate([np.array(c) for c in chips]), minlength=4)
        p = row / copies
        most = max(sum(1 - (1 - p[e]) ** tokens for e in own) for own in chips)
        assert touched[0] <= most * (1 + 1e-9)
        assert hot[0] <= load_of(chips, row) * (1 + 1e-9)
        if seed < 2:
            assert even_twice_touched((4, 1), (slots, 4), tokens) <= most * (1 + 1e-9)
