"""Sequences to replicas of unequal speed, requests of unequal length to groups."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.search.batches import (
    Replica,
    most_within,
    slowest_step,
    split_by_speed,
    split_evenly,
    spread_bound,
    spread_requests,
)


def linear(base, slope, least=1, most=100):
    return Replica(step_s=lambda n: base + slope * n, least=least, most=most)


def table(steps, least=0):
    """A replica whose step of ``least + i`` sequences takes ``steps[i]``."""
    return Replica(step_s=lambda n: steps[n - least], least=least, most=least + len(steps) - 1)


def test_the_slow_replica_gets_less():
    # n + m = 12 with n = 2 m: 8 and 4 take 8 s each
    assert split_by_speed(12, [linear(0, 1), linear(0, 2)]) == (8, 4)
    # 13: (9, 4) takes 9 s, (8, 5) 10 s
    assert split_by_speed(13, [linear(0, 1), linear(0, 2)]) == (9, 4)
    assert slowest_step(13, [linear(0, 1), linear(0, 2)]) == 9


def test_equal_replicas_are_split_evenly():
    replica = linear(3, 1)
    assert split_by_speed(11, [replica] * 4) == split_evenly(11, 4) == (3, 3, 3, 2)


def test_a_slow_start_leaves_the_others_below_the_slowest():
    # The second needs 50 s for one sequence, and must have one: the rest is spread evenly.
    first = linear(0, 1)
    assert split_by_speed(9, [first, linear(50, 0.1, most=1), first]) == (4, 1, 4)


def test_what_does_not_fit():
    assert split_by_speed(9, [linear(0, 1, most=4), linear(0, 1, most=4)]) is None
    assert split_by_speed(1, [linear(0, 1), linear(0, 1)]) is None
    assert split_by_speed(2, [table([0.0, math.inf, math.inf]), table([0.0, 1.0])]) is None
    assert most_within(linear(0, 1), 7.5) == 7
    assert most_within(linear(9, 1), 7.5) == 0
    assert most_within(linear(9, 1, least=3), 7.5) == 2


steps = st.lists(st.integers(0, 6), min_size=1, max_size=5).map(sorted)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(steps, st.integers(0, 2)), min_size=1, max_size=4), st.integers(0, 14))
def test_no_split_is_faster(machine, total):
    replicas = [table(own, least) for own, least in machine]
    ranges = [range(r.least, r.most + 1) for r in replicas]
    possible = [split for split in itertools.product(*ranges) if sum(split) == total]
    found = split_by_speed(total, replicas)
    if not possible:
        assert found is None
        return

    def slowest(split):
        return max(r.step_s(n) for r, n in zip(replicas, split, strict=True))

    assert found in possible
    assert slowest(found) == slowest_step(total, replicas) == min(map(slowest, possible))


def test_a_thousand_replicas_of_three_kinds():
    kinds = [linear(1, 1, most=10_000), linear(2, 1.5, most=10_000), linear(0, 3, most=10_000)]
    replicas = [kinds[i % 3] for i in range(3000)]
    found = split_by_speed(600_000, replicas)
    slowest = max(r.step_s(n) for r, n in zip(replicas, found, strict=True))
    # T with 1000 ((T - 1) + (T - 2) / 1.5 + T / 3) = 600,000: 2 T = 602.33..., T = 301.17
    assert sum(found) == 600_000
    assert 301.16 < slowest < 302.5
    for place in range(3):
        own = found[place::3]
        assert max(own) - min(own) <= 1
        assert list(own) == sorted(own, reverse=True)


def brute_spread(weights, sizes):
    best = math.inf
    for order in set(itertools.permutations([g for g, n in enumerate(sizes) for _ in range(n)])):
        loads = [0] * len(sizes)
        for weight, group in zip(weights, order, strict=True):
            loads[group] += weight
        best = min(best, max(loads))
    return best


@pytest.mark.parametrize("seed", range(40))
def test_spread_lies_between_its_bound_and_the_longest_first_rule(seed):
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers(0, 4, 3)]
    sizes[0] = max(1, sizes[0])
    weights = [int(w) for w in rng.integers(1, 50, sum(sizes))]
    found = spread_requests(weights, sizes)
    assert [len(group) for group in found] == sizes
    assert sorted(i for group in found for i in group) == list(range(len(weights)))
    fullest = max(sum(weights[i] for i in group) for group in found)
    untouched = spread_requests(weights, sizes, rounds=0)
    best = brute_spread(weights, sizes)
    assert spread_bound(weights, sum(n > 0 for n in sizes)) <= best <= fullest
    assert fullest <= max(sum(weights[i] for i in group) for group in untouched)


def test_exchanges_level_what_longest_first_leaves():
    # 8 7 6 | 5 4 by longest first into (2, 3): {8, 6} and {7, 5, 4}: 14, 16. Exchanging 7 for
    # 6 gives 15, 15, which is the mean.
    found = spread_requests([8, 7, 6, 5, 4], [2, 3])
    assert [sum([8, 7, 6, 5, 4][i] for i in group) for group in found] == [15, 15]


def test_many_requests_are_level():
    rng = np.random.default_rng(3)
    weights = [int(w) for w in rng.lognormal(8, 1, 34 * 100)]
    found = spread_requests(weights, [100] * 34)
    loads = [sum(weights[i] for i in group) for group in found]
    assert max(loads) <= 1.001 * spread_bound(weights, 34)


def test_sizes_must_add_up():
    with pytest.raises(ValueError, match="there are 3"):
        spread_requests([1, 2, 3], [1, 1])
    with pytest.raises(ValueError, match="cannot split"):
        split_evenly(-1, 2)
