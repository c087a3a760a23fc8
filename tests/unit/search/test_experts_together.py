"""Weighted splits by windows, and pairs of experts brought together."""

from itertools import combinations, product

import numpy as np
import pytest

from planner.search.expert_check import DomainRule, chip_totals, placement_violations
from planner.search.expert_coactivation import gather_pairs
from planner.search.expert_domains import Domains, place_in_domains
from planner.search.expert_windows import place_windows

# --- weighted splits ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(80))
def test_windows_reach_the_mean(seed):
    rng = np.random.default_rng(seed)
    chips, slots = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    num_experts = chips * slots - (chips - 1) - int(rng.integers(0, 3))
    if num_experts < 1:
        pytest.skip("fewer slots than that need")
    row = rng.integers(0, 12, num_experts).astype(float)
    row[int(rng.integers(num_experts))] += 1
    placed, weights = place_windows(row, chips, slots)
    load = (weights * np.append(row, 0.0)[placed]).sum(axis=1)
    assert load == pytest.approx(np.full(chips, row.sum() / chips))
    groups = [[e for e in held if e >= 0] for held in placed.tolist()]
    assert not placement_violations(groups, row.tolist(), chips * slots)
    total = np.zeros(num_experts)
    np.add.at(total, placed[placed >= 0], weights[placed >= 0])
    assert total == pytest.approx(np.ones(num_experts))


# --- co-activation -----------------------------------------------------------------------


def share(slots, pairs, num_domains):
    """Expected share of pairs in one domain, slot by slot."""
    copies = np.bincount(slots[slots >= 0], minlength=len(pairs))
    per_domain = len(slots) // num_domains
    found = 0.0
    for domain in range(num_domains):
        held = slots[domain * per_domain : (domain + 1) * per_domain]
        for e, f in product(held[held >= 0], repeat=2):
            if e != f:
                found += pairs[e, f] / copies[e] / copies[f]
    return found / (pairs.sum() - np.trace(pairs))


@pytest.mark.parametrize("spread", [False, True])
def test_pairs_come_together_within_the_limit(spread):
    rng = np.random.default_rng(7)
    row = rng.uniform(1, 2, 16)
    row /= row.sum()
    pairs = rng.random((16, 16))
    # Experts e and e + 8 belong together.
    pairs[np.arange(8), np.arange(8) + 8] += 20
    pairs = pairs + pairs.T
    (placed,) = place_in_domains(row[None], 20, Domains(num_domains=2, chips=2), gap=0.005)
    limit = placed.max_load * 1.05
    found = gather_pairs(placed.slots, row, pairs, 2, limit, spread=spread)
    assert found.before == pytest.approx(share(placed.slots, pairs, 2))
    assert found.after == pytest.approx(share(found.slots, pairs, 2))
    assert found.num_swaps > 0 and found.after > found.before + 0.05
    groups = [[e for e in held if e >= 0] for held in found.slots.tolist()]
    rule = DomainRule(num_domains=2) if spread else None
    assert not placement_violations(groups, row.tolist(), 20, rule)
    assert max(chip_totals(groups, row.tolist())) <= limit * (1 + 1e-9)


def test_no_exchange_is_left_that_helps():
    rng = np.random.default_rng(1)
    row = np.full(8, 1 / 8)
    pairs = rng.random((8, 8))
    pairs = pairs + pairs.T
    slots = np.arange(8).reshape(4, 2)
    found = gather_pairs(slots, row, pairs, 4, 1.0)
    best = share(found.slots, pairs, 4)
    for a, b in combinations(range(8), 2):
        other = found.slots.copy().ravel()
        other[[a, b]] = other[[b, a]]
        assert share(other.reshape(4, 2), pairs, 4) <= best + 1e-12
