"""Crossings: enclosed, whatever the function does between its ends."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.studies.roots import crossing


@given(
    root=st.floats(1.5, 900.0),
    up=st.booleans(),
    power=st.floats(0.1, 5.0),
)
def test_a_power_law_crosses_where_it_should(root, up, power):
    # lead(x) = (root / x)^power - 1 changes its sign at x = root, from either side
    ends = (1.0, 1000.0) if up else (1000.0, 1.0)
    sign = 1.0 if up else -1.0
    found = crossing(lambda x: sign * ((root / x) ** power - 1.0), ends)
    low, high = sorted((found.before, found.after))
    assert low <= root <= high
    assert high <= 1.02 * low
    assert low <= found.at <= high


def test_a_jump_from_infinite_is_enclosed():
    # A layout fits up to 77 and not beyond: no slope to follow.
    found = crossing(lambda x: 1.0 if x <= 77 else -math.inf, (1.0, 1e6))
    assert found.before <= 77 < found.after <= 1.02 * found.before


def test_whole_numbers_end_at_neighbours():
    # The lead is lost between 12 and 13, which are further apart than the tolerance.
    found = crossing(lambda n: 12.5 - n, (2.0, 64.0), whole=True)
    assert (found.before, found.after) == (12.0, 13.0)


def test_equal_signs_are_an_error():
    with pytest.raises(ValueError, match="no change of sign"):
        crossing(lambda x: 1.0, (1.0, 2.0))
