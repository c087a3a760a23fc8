"""The numbers of a calibration's fit, by hand."""

import math

import numpy as np
import pytest

from planner.validation.calibrate_fit import (
    HUBER,
    MAX_SCATTER,
    MIN_SCATTER,
    Problem,
    confounded,
    covariance,
    estimate_scatter,
    identified,
    left_out_residuals,
    loss,
    minimise,
)


def linear(slopes, start, low=-5.0, high=5.0):
    """Residuals ``start + slopes @ theta``."""
    slopes, start = np.array(slopes, dtype=float), np.array(start, dtype=float)
    columns = slopes.shape[1]
    return Problem(
        residuals=lambda theta: start + slopes @ theta,
        jacobian=lambda theta, here: slopes,
        low=np.full(columns, low),
        high=np.full(columns, high),
    )


def test_least_squares_with_a_prior_by_hand():
    # Four rows 0.5 scatters too slow, J = 1: 4 (0.1 + theta) / 0.04 + theta = 0.
    found = minimise(linear([[1]] * 4, [0.1] * 4), np.zeros(1), np.full(4, 0.2))
    assert found.theta[0] == pytest.approx(-10 / 101, rel=1e-4)
    # 4 (0.1 / 101 / 0.2)^2 / 2 + (10 / 101)^2 / 2
    by_hand = 2 * (0.1 / 101 / 0.2) ** 2 + (10 / 101) ** 2 / 2
    assert found.loss == pytest.approx(by_hand, rel=1e-6)


def test_an_outlier_pulls_with_bounded_force():
    # Nine rows at 0 and one ten scatters off: 9 theta + theta + 1.345 = 0, however far it is.
    for far in (10.0, 1000.0):
        found = minimise(linear([[1]] * 10, [0.0] * 9 + [far]), np.zeros(1), np.ones(10))
        assert found.theta[0] == pytest.approx(-HUBER / 10, rel=1e-3)


def test_loss_is_square_inside_and_linear_outside():
    scatter = np.array([0.5, 0.5])
    # (0.5 / 0.5)^2 / 2 + 1.345 (3 - 1.345 / 2) + 2^2 / 2
    by_hand = 0.5 + HUBER * (3 - HUBER / 2) + 2
    assert loss(np.array([0.5, -1.5]), np.array([2.0]), scatter) == pytest.approx(by_hand)


def test_the_fit_stops_at_a_bound():
    problem = linear([[1, 0], [1, 0], [0, 1]], [3, 3, 0.1], low=-0.5)
    found = minimise(problem, np.zeros(2), np.full(3, 0.1))
    assert found.theta[0] == -0.5
    # The other one is free: (0.1 + theta) / 0.01 + theta = 0.
    assert found.theta[1] == pytest.approx(-10 / 101, rel=1e-3)


def test_a_curved_problem_is_solved():
    problem = Problem(
        residuals=lambda theta: np.exp(theta) - 2.0,
        jacobian=lambda theta, here: np.diag(np.exp(theta)),
        low=np.full(1, -5.0),
        high=np.full(1, 5.0),
    )
    # The prior holds back ln 2 / (2 / 0.01)^2 = 2e-5; steps end at a thousandth.
    found = minimise(problem, np.zeros(1), np.full(1, 0.01))
    assert found.theta[0] == pytest.approx(math.log(2), abs=1e-3)


def test_of_two_constants_that_rows_cannot_tell_apart_the_earlier_is_dropped():
    slopes = np.array([[1.0, 1.0, 0.0]] * 5)
    columns, known = identified(slopes, np.zeros(5), np.full(5, 0.5), (0, 1, 2))
    # The third has no information at all, the first two only their sum.
    assert columns == (1,)
    assert known[2] == known[0] == 0.0
    # Five rows of 1 / 0.5^2.
    assert known[1] == pytest.approx(20.0)


def test_a_row_that_separates_two_constants_keeps_both():
    slopes = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    columns, known = identified(slopes, np.zeros(4), np.full(4, 0.5), (0, 1))
    assert columns == (0, 1)
    # J'J / s^2 = [[16, 8], [8, 8]]; with the prior [[17, 8], [8, 9]], determinant 89:
    # 89 / 9 - 1 and 89 / 17 - 1.
    assert known == pytest.approx({0: 80 / 9, 1: 72 / 17})


def test_less_information_than_the_prior_is_dropped():
    for count, kept in ((24, ()), (26, (0,))):
        # Rows that say (0.1 / 0.5)^2 = 0.04 each; one may be missing.
        found, known = identified(
            np.full((count, 1), 0.1), np.zeros(count), np.full(count, 0.5), (0,)
        )
        assert found == kept
        assert known[0] == pytest.approx(0.04 * count)


def test_a_constant_that_one_row_alone_knows_is_dropped():
    slopes, scatter = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.full(3, 0.1)
    columns, known = identified(slopes, np.zeros(3), scatter, (0, 1))
    # The third row says 1 / 0.1^2 = 100 of the second constant, and nothing else does.
    assert columns == (0,)
    assert known == pytest.approx({0: 200, 1: 0})


def test_an_outlier_says_little():
    slopes, scatter = np.ones((2, 1)), np.full(2, 0.5)
    # Each row says 1 / 0.5^2 = 4; ten scatters off it is 1.345 / 10 of that.
    assert identified(slopes, np.zeros(2), scatter, (0,))[0] == (0,)
    columns, known = identified(slopes, np.array([0.0, 5.0]), scatter, (0,))
    assert columns == ()
    assert known[0] == pytest.approx(4 * HUBER / 10)


def test_confounded_pairs():
    # With N the rows' information on the sum, the correlation is -N / (N + 1).
    for count, pairs in ((18, 0), (20, 1)):
        slopes = np.ones((count, 2))
        found = confounded(covariance(slopes, np.zeros(count), np.ones(count)))
        assert len(found) == pairs
    assert found[0] == pytest.approx((0, 1, -20 / 21))


def test_residuals_of_rows_that_are_left_out():
    # One constant, three rows, no prior to speak of: the fit is the mean, each row pulls a third.
    slopes, scatter = np.full((3, 1), 1e3), np.ones(3)
    found = left_out_residuals(slopes, np.array([0.1, -0.2, 0.1]), scatter)
    assert found == pytest.approx([0.15, -0.3, 0.15], rel=1e-4)
    # A constant for one row alone leaves nothing of it: what was left out is unknown.
    alone = left_out_residuals(np.full((1, 1), 1e6), np.array([1e-6]), np.ones(1))
    assert abs(alone[0]) > 0.5


def test_scatter_by_kind_leans_on_all_rows():
    residuals = np.array([0.1] * 15 + [0.2] * 5)
    found = estimate_scatter(residuals, (range(15), range(15, 20)))
    # Medians of the sizes 0.1, 0.2 and 0.1; five rows of all count beside those of the kind.
    assert found[0] == pytest.approx(1.4826 * 0.1)
    assert found[-1] == pytest.approx(1.4826 * math.sqrt((5 * 0.04 + 5 * 0.01) / 10))
    assert estimate_scatter(np.zeros(4), (range(4),)) == pytest.approx([MIN_SCATTER] * 4)
    assert estimate_scatter(np.full(4, 9.0), (range(4),)) == pytest.approx([MAX_SCATTER] * 4)
