"""Trains with Poisson arrivals: who is left behind, by two derivations."""

import math

import pytest

from planner.economics.queueing import MAX_LOAD, left_behind, slots_of_a_step, trains
from planner.errors import SpecError


def excess(mean, places):
    """E[(A - places)+] of a Poisson A, by summation."""
    count, total = places + 1, 0.0
    p = math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))
    for _ in range(3000):
        total += (count - places) * p
        count += 1
        p *= mean / count
    return total


def spitzer(load, places, terms=600):
    """The same mean by Spitzer's identity: sum of E[(A_k - k n)+] / k."""
    return sum(excess(k * load * places, k * places) / k for k in range(1, terms))


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9, 0.99])
def test_one_place(load):
    # No roots inside: 1/(2(1-r)) - (1+r)/2 = r^2 / (2 (1-r)), the slotted M/D/1 queue.
    assert left_behind(load, 1) == pytest.approx(load**2 / (2 * (1 - load)))


@pytest.mark.parametrize(
    ("load", "places"), [(0.5, 2), (0.8, 4), (0.9, 17), (0.95, 64), (0.9, 300)]
)
def test_roots_agree_with_spitzers_identity(load, places):
    assert left_behind(load, places) == pytest.approx(spitzer(load, places), rel=1e-6, abs=1e-12)


def test_large_trains_leave_nobody_behind():
    assert left_behind(0.5, 20_000) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("places", [1, 8, 100])
def test_queue_grows_with_the_load_and_stays_below_kingman(places):
    # Kingman: Var A / (2 (n - E A)) = r / (2 (1 - r)) for Poisson arrivals.
    loads = [0.3, 0.6, 0.9, 0.99, MAX_LOAD]
    waits = [left_behind(load, places) for load in loads]
    assert waits == sorted(waits)
    assert all(
        0 <= wait <= load / (2 * (1 - load)) for wait, load in zip(waits, loads, strict=True)
    )


@pytest.mark.parametrize("load", [0.0, -0.5, 1.0, 1.5, float("nan"), float("inf")])
def test_no_load(load):
    with pytest.raises(SpecError, match="--load"):
        left_behind(load, 4)


def test_mean_wait_by_littles_law():
    # One place every 2 s at load 1/2: 0.25 left behind; T/2 + T x 0.25 / 0.5 = 1 + 1.
    found = trains(2.0, 1, 0.5)
    assert (found.next_wait_s, found.mean_wait_s, found.worst_s) == (1.0, pytest.approx(2.0), 4.0)
    assert found.arrivals_per_s == 0.25


@pytest.mark.parametrize(
    ("batch", "output", "interval", "places"),
    [
        (1024, 256, 0.02, 4),  # four end per step
        (64, 256, 0.08, 1),  # one every four steps
        (100, 40, 0.016, 2),  # 2.5 per step: two every 0.8 steps
    ],
)
def test_places_that_become_free(batch, output, interval, places):
    found = slots_of_a_step(0.02, batch, output)
    assert found == (pytest.approx(interval), places)
    # No place is lost: batch / output of them per step.
    assert found[1] / found[0] == pytest.approx(batch / output / 0.02)
