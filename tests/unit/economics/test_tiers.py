"""Costs of tiers: by hand, and as properties of the lower envelope."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.economics.tiers import (
    BreakEven,
    Keep,
    Tier,
    break_even,
    break_evens,
    by_drain_time,
    cheapest_spans,
    keep_in,
    recompute,
)


def tier(name, capacity, rate, usd):
    """A tier whose unit costs ``usd`` per second."""
    return Tier(
        name=name,
        label=name,
        capacity_bytes=capacity,
        bytes_per_s=rate,
        usd_per_byte_s=usd / capacity,
    )


FAST = tier("fast", 100.0, 10.0, 50.0)  # drains in 10 s, 0.5 per byte-second
SLOW = tier("slow", 1000.0, 2.0, 20.0)  # drains in 500 s, 0.02 per byte-second


def test_a_tier_is_bought_whole():
    # 4 bytes: read 4 x 50 / 10 = 20, hold 4 x 0.5 = 2 per s, there after 0.4 s.
    assert FAST.drain_s == 10.0
    kept = keep_in(FAST, 4.0)
    assert kept == Keep(
        name="fast", label="fast", once_usd=20.0, hold_usd_per_s=2.0, wait_s=0.4, drain_s=10.0
    )
    # At the drain time holding costs as much as reading.
    assert kept.usd(10.0) == 2 * kept.once_usd


def test_break_even_of_two_tiers():
    # Slow: read 4 x 20 / 2 = 40, hold 4 x 0.02 = 0.08 per s; 20 + 2 h = 40 + 0.08 h at 10.4 s.
    fast, slow = keep_in(FAST, 4.0), keep_in(SLOW, 4.0)
    found = break_even(slow, fast)
    assert found == BreakEven(first="fast", second="slow", hold_s=pytest.approx(20 / 1.92))
    assert fast.usd(found.hold_s) == pytest.approx(slow.usd(found.hold_s))


def test_break_even_that_always_or_never_comes():
    cheap = Keep(name="a", label="a", once_usd=1.0, hold_usd_per_s=1.0, wait_s=0.0, drain_s=1.0)
    dear = Keep(name="b", label="b", once_usd=2.0, hold_usd_per_s=2.0, wait_s=0.0, drain_s=1.0)
    assert break_even(dear, cheap) == BreakEven(first="b", second="a", hold_s=0.0)
    same = Keep(name="c", label="c", once_usd=3.0, hold_usd_per_s=1.0, wait_s=0.0, drain_s=1.0)
    assert break_even(cheap, same) == BreakEven(first="a", second="c", hold_s=None)


def test_every_pair_once():
    keeps = [keep_in(FAST, 1.0), keep_in(SLOW, 1.0), recompute(100.0, 3.0)]
    assert [(pair.first, pair.second) for pair in break_evens(keeps)] == [
        ("fast", "slow"),
        ("fast", "recompute"),
        ("slow", "recompute"),
    ]


def test_spans_of_two_tiers_and_recomputation():
    # Per byte: fast 5 + 0.5 h, slow 10 + 0.02 h, recompute 100: at 5/0.48 and 90/0.02 s.
    spans = cheapest_spans([keep_in(FAST, 1.0), keep_in(SLOW, 1.0), recompute(100.0, 3.0)])
    assert [span.name for span in spans] == ["fast", "slow", "recompute"]
    assert spans[0].to_s == spans[1].from_s == pytest.approx(5 / 0.48)
    assert spans[1].to_s == spans[2].from_s == pytest.approx(4500)
    assert spans[2].to_s is None


def test_a_dominated_tier_has_no_span():
    bad = tier("bad", 100.0, 5.0, 60.0)  # slower and dearer than FAST
    spans = cheapest_spans([keep_in(FAST, 1.0), keep_in(bad, 1.0), keep_in(SLOW, 1.0)])
    assert [span.name for span in spans] == ["fast", "slow"]


def test_nearest_drain_time_is_by_ratio():
    # 70 s is 7 times 10 s and 500/70 = 7.14 times below 500 s; 72 s is 7.2 and 6.9.
    assert by_drain_time([FAST, SLOW], 70.0).name == "fast"
    assert by_drain_time([FAST, SLOW], 72.0).name == "slow"


COSTS = st.floats(min_value=1e-6, max_value=1e6)


@given(
    st.lists(st.tuples(COSTS, COSTS), min_size=1, max_size=6),
    st.floats(min_value=0, max_value=1e9),
)
def test_the_span_of_a_hold_time_is_the_cheapest(costs, hold):
    keeps = [
        Keep(name=str(n), label="", once_usd=a, hold_usd_per_s=b, wait_s=0.0, drain_s=1.0)
        for n, (a, b) in enumerate(costs)
    ]
    spans = cheapest_spans(keeps)
    assert spans[0].from_s == 0 and spans[-1].to_s is None
    assert all(one.to_s == two.from_s for one, two in itertools.pairwise(spans))
    here = next(span for span in spans if hold <= (math.inf if span.to_s is None else span.to_s))
    chosen = next(keep for keep in keeps if keep.name == here.name)
    assert chosen.usd(hold) == pytest.approx(min(keep.usd(hold) for keep in keeps), rel=1e-6)
