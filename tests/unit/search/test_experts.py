"""Expert placement against brute force on tiny instances, and the cases of the theory."""

from itertools import combinations, product

import numpy as np
import pytest

from planner.search.batches import split_evenly
from planner.search.experts import (
    chip_loads,
    expert_lower_bound,
    place_experts,
    split_tokens,
    uniform_imbalance,
)


def optimum(row, caps):
    """Least hottest load over every placement that fills no chip beyond its slots."""
    experts = range(len(row))
    choices = [[c for size in range(cap + 1) for c in combinations(experts, size)] for cap in caps]
    best = np.inf
    for groups in product(*choices):
        copies = np.bincount([e for g in groups for e in g], minlength=len(row))
        if (copies == 0).any():
            continue
        best = min(best, max(sum(row[e] / copies[e] for e in g) for g in groups))
    return best


@pytest.mark.parametrize("seed", range(120))
def test_bound_and_placement_bracket_the_optimum(seed):
    rng = np.random.default_rng(seed)
    chips = int(rng.integers(2, 4))
    cap = int(rng.integers(1, 3))
    num_experts = int(rng.integers(2, min(5, chips * cap) + 1))
    row = rng.integers(1, 20, num_experts).astype(float)
    row /= row.sum()
    caps = np.full(chips, cap)
    best = optimum(row, caps.tolist())
    (placed,) = place_experts(row[None], chips, caps)
    assert expert_lower_bound(row, chips, caps) <= best * (1 + 1e-9)
    assert placed.bound <= best * (1 + 1e-9)
    assert best <= placed.max_load * (1 + 1e-9)
    assert chip_loads(placed.slots, row).max() == pytest.approx(placed.max_load)
    for group in placed.groups:
        assert len(set(group)) == len(group) <= cap
    assert {e for group in placed.groups for e in group} == set(range(num_experts))
    assert split_tokens(placed, row).max_load <= placed.max_load * (1 + 1e-6)


def test_256_experts_on_72_chips_without_copies_put_four_on_the_fullest():
    (placed,) = place_experts(np.full((1, 256), 1 / 256), 72, np.array(split_evenly(256, 72)))
    assert placed.max_load == pytest.approx(4 / 256)
    # Fullest over mean: (4 / 256) x 72 = 1.125.
    assert uniform_imbalance(256, 72, 256) == pytest.approx(1.125)
    # 32 copies do not help: 288 slots of which 224 hold whole experts need 4 somewhere.
    assert uniform_imbalance(256, 72, 288) == pytest.approx(1.125)
    assert uniform_imbalance(256, 64, 256) == pytest.approx(1.0)


@pytest.mark.parametrize(("chips", "slots"), [(32, 288), (64, 320), (72, 288)])
def test_skewed_loads_balance_to_a_proven_half_percent(chips, slots):
    rng = np.random.default_rng(0)
    weights = 1.0 / np.arange(1, 257) ** 0.5
    rows = np.stack([rng.permutation(weights) for _ in range(4)])
    rows /= rows.sum(axis=1, keepdims=True)
    for placed in place_experts(rows, chips, slots // chips):
        assert placed.gap <= 0.005
        assert placed.max_load * chips <= 1.005


def test_relabelling_experts_changes_no_load():
    rng = np.random.default_rng(3)
    row = rng.random(64)
    row /= row.sum()
    (one,) = place_experts(row[None], 8, 9)
    (two,) = place_experts(rng.permutation(row)[None], 8, 9)
    assert one.max_load == pytest.approx(two.max_load, rel=1e-12)


def test_split_evenly():
    assert split_evenly(10, 4) == (3, 3, 2, 2)
    assert split_evenly(0, 2) == (0, 0)
    with pytest.raises(ValueError):
        split_evenly(-1, 2)


@pytest.mark.parametrize(
    ("chips", "slots", "hottest"),
    [
        # The mean, 256 / 48 experts per chip, from chips of six pieces each: packing alone
        # ends 3 % above it.
        (48, 288, 1.0),
        (72, 288, 1.125),
        (64, 256, 1.0),
    ],
)
def test_uniform_loads_reach_the_proven_optimum(chips, slots, hottest):
    (placed,) = place_experts(np.full((1, 256), 1 / 256), chips, slots // chips)
    assert placed.max_load * chips == pytest.approx(hottest)
    assert placed.bound * chips == pytest.approx(hottest)
    assert (placed.slots >= 0).all()


@pytest.mark.parametrize("seed", range(40))
def test_counting_model_brackets_the_optimum_of_few_values(seed):
    from planner.search.expert_patterns import solve_patterns

    rng = np.random.default_rng(seed)
    chips, cap = 3, 2
    num_experts = int(rng.integers(3, 6))
    row = np.sort(rng.choice([1.0, 2.0], num_experts))[::-1]
    row = row / row.sum()
    caps = np.full(chips, cap)
    best = optimum(row, caps.tolist())
    found = solve_patterns(row, caps, lower=1 / chips, upper=best * 1.5)
    assert found.bound <= best * (1 + 1e-6)
    if found.slots is not None:
        slots = np.where(found.slots == num_experts, -1, found.slots)
        assert best <= chip_loads(slots, row).max() * (1 + 1e-9)
        for group in slots:
            assert len(set(group.tolist())) == cap
