"""What must hold for every expert placement, whatever the loads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.search.expert_bounds import even_caps
from planner.search.expert_check import placement_violations
from planner.search.expert_greedy import count_repeats, greedy_slots
from planner.search.expert_layers import place_layers
from planner.search.experts import chip_loads, split_tokens

GAP = 0.005


def solve(row, caps):
    (placed,) = place_layers(np.array([row]), np.asarray(caps), gap=GAP)
    return placed


@st.composite
def instances(draw):
    """Loads of an expert and slots of each chip; loads are continuous: no ties."""
    chips = draw(st.integers(2, 10))
    num_slots = draw(st.integers(chips, 4 * chips))
    num_experts = draw(st.integers(1, num_slots))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["uniform", "lognormal", "zipf"]))
    if kind == "uniform":
        row = rng.uniform(0.01, 1, num_experts)
    elif kind == "lognormal":
        row = rng.lognormal(0, 1.5, num_experts)
    else:
        row = np.arange(1, num_experts + 1) ** -1.2 * rng.uniform(0.9, 1.1, num_experts)
    return row / row.sum(), even_caps(num_slots, chips), rng


@settings(max_examples=60, deadline=None)
@given(instances())
def test_placements_are_valid_and_bracket(instance):
    row, caps, _ = instance
    placed = solve(row, caps)
    assert not placement_violations(placed.groups, row.tolist(), int(caps.sum()))
    assert 1 / len(caps) <= placed.bound * (1 + 1e-9)
    assert placed.bound <= placed.max_load
    assert placed.max_load == pytest.approx(chip_loads(placed.slots, row).max())
    assert split_tokens(placed, row).max_load <= placed.max_load * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(instances())
def test_numbers_of_experts_and_chips_change_nothing(instance):
    row, caps, rng = instance
    placed = solve(row, caps)
    order = rng.permutation(len(row))
    other = solve(row[order], caps)
    assert other.max_load == pytest.approx(placed.max_load, rel=1e-12)
    assert other.bound == pytest.approx(placed.bound, rel=1e-12)
    assert np.array_equal(other.num_copies, placed.num_copies[order])
    turned = solve(row, caps[::-1].copy())
    assert turned.max_load == pytest.approx(placed.max_load, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(instances(), st.sampled_from([0.25, 8.0, 2.0**40]))
def test_scaled_loads_scale_the_answer(instance, factor):
    # Powers of two: no digit changes, so that every comparison falls as before.
    row, caps, _ = instance
    placed, scaled = solve(row, caps), solve(row * factor, caps)
    assert np.array_equal(placed.slots, scaled.slots)
    assert scaled.bound == pytest.approx(placed.bound * factor, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(instances())
def test_more_slots_are_never_provably_worse(instance):
    # A slot may stay empty: the bound with more slots holds for what fewer slots reach.
    row, caps, _ = instance
    few, many = solve(row, caps), solve(row, even_caps(int(caps.sum()) + len(caps), len(caps)))
    assert many.bound <= few.max_load * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(instances())
def test_not_below_the_greedy_rule(instance):
    row, caps, _ = instance
    slots = greedy_slots(row, caps)
    if not count_repeats(slots):
        assert solve(row, caps).max_load <= chip_loads(slots, row).max() * (1 + 1e-9)
