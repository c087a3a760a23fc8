"""Error statistics, each answer worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.validation.statistics import (
    ErrorStats,
    average_ranks,
    bias,
    error_stats,
    median,
    quantile,
    spearman,
)

NUMBERS = st.lists(st.integers(-50, 50), min_size=2, max_size=30)


def test_median_of_odd_and_even_numbers():
    assert median([5, 1, 3]) == 3
    assert median([4, 1, 3, 2]) == 2.5


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [
        # Five values stand at 0, 1/4, 1/2, 3/4, 1: 0.9 lies 0.6 of the way from 40 to 50.
        ([10, 20, 30, 40, 50], 0.9, 46.0),
        # Eleven values 0..10 stand at tenths.
        (list(range(11)), 0.9, 9.0),
        ([3, 1], 0.25, 1.5),
        ([7], 0.9, 7.0),
        ([2, 1], 0.0, 1.0),
        ([2, 1], 1.0, 2.0),
    ],
)
def test_quantiles_interpolate_linearly(values, fraction, expected):
    assert quantile(values, fraction) == pytest.approx(expected)


def test_no_values_have_no_quantile():
    with pytest.raises(ValueError, match="at least one"):
        quantile([], 0.5)


def test_bias_is_the_median_logarithm_of_the_ratio():
    # Ratios 2, 1/2, 2: logarithms ln 2, -ln 2, ln 2, the middle one is ln 2.
    assert bias([2, 1, 6], [1, 2, 3]) == pytest.approx(math.log(2))
    # Twice too slow and twice too fast cancel: (ln 2 - ln 2) / 2.
    assert bias([2, 1], [1, 2]) == pytest.approx(0)


def test_equal_values_share_the_mean_of_their_ranks():
    # Sorted: 10 (1), 20 20 (2, 3 -> 2.5), 30 (4).
    assert average_ranks([20, 10, 30, 20]).tolist() == [2.5, 1, 4, 2.5]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        # Ranks 1234 against 2143, no ties: 1 - 6 * 4 / (4 * 15) = 0.6.
        ([1, 2, 3, 4], [2, 1, 4, 3], 0.6),
        # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: deviations -1.5 0 0 1.5 and
        # -1.5 -.5 .5 1.5: 4.5 / sqrt(4.5 * 5).
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(22.5)),
    ],
)
def test_spearman_by_hand(first, second, expected):
    assert spearman(first, second) == pytest.approx(expected)


def test_spearman_of_a_constant_is_undefined():
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1], [2]) is None
    with pytest.raises(ValueError, match="2 values against 1"):
        spearman([1, 2], [1])


@given(NUMBERS)
def test_spearman_of_a_growing_function_is_one(values):
    found = spearman(values, [3 * value + 7 for value in values])
    assert found == (None if len(set(values)) == 1 else pytest.approx(1))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=30))
def test_spearman_is_symmetric_and_within_one(pairs):
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    found = spearman(first, second)
    assert found == spearman(second, first)
    assert found is None or -1 <= found <= 1


def test_error_stats_of_four_rows():
    # Errors 0.1, 0.2, 0, 0.5, sorted 0, .1, .2, .5. Median .15, mean .2; 0.9 lies at place
    # 2.7: .2 + .7 * .3 = .41. Ratios 1.1, .8, 1, 1.5: logarithms sorted -.223 0 .0953 .405.
    assert error_stats([11, 8, 5, 3], [10, 10, 5, 2]) == ErrorStats(
        median=pytest.approx(0.15),
        mean=pytest.approx(0.2),
        p90=pytest.approx(0.41),
        bias=pytest.approx(math.log(1.1) / 2),
    )
    assert error_stats([], []) is None
