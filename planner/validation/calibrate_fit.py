"""Fitting a few positive constants to measured times: numbers only, no machine.

Each constant ``c`` is ``c0 exp(prior theta)``, with ``prior`` the standard deviation of
``ln(c / c0)`` before any measurement. With ``r = ln(predicted / measured)`` of each row the fit
minimises

    sum_i huber(r_i / scatter_i) + sum_j theta_j^2 / 2

by damped Gauss-Newton steps with reweighting (Huber 1964; Levenberg 1944) from the given
values: the same rows give the same constants, and the loss never rises. The second sum is the
belief that the given values are about right; what the rows say nothing about stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Huber's constant: 95 % as efficient as least squares where errors are normal.
HUBER = 1.345
# Scatter of ln(predicted / measured) of one row: measurements of runs repeat to no better
# than some per cent, and above the other end a model explains nothing.
MIN_SCATTER, MAX_SCATTER = 0.05, 0.5
CONFOUNDED = 0.95
_MAD_TO_SIGMA = 1.4826
_BORROWED = 5
_MAX_PASSES = 15
_MAX_TRIALS = 8
_STEP_TOLERANCE = 1e-3  # in standard deviations of the prior
_LOSS_TOLERANCE = 1e-4
# Of the curvature's diagonal: none at first, then as much as it takes.
_LEAST_DAMPING = 1e-3
# Parts in a direction that count as about the same.
_SHARED = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is fitted.

    Parameters
    ----------
    residuals : callable
        From ``theta``, shape ``[constants]``, to ``r``, shape ``[rows]``.
    jacobian : callable
        From ``theta`` and its residuals to the derivatives, shape ``[rows, constants]``.
    low, high : array
        Bounds of ``theta``, shape ``[constants]``; 0 lies between.
    """

    residuals: Callable[[Floats], Floats]
    jacobian: Callable[[Floats, Floats], Floats]
    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Where the loss is least, with residuals and derivatives there."""

    theta: Floats
    residuals: Floats
    jacobian: Floats
    loss: float


def huber_weights(residuals: Floats, scatter: Floats) -> Floats:
    """Weight of each row in a least-squares step: 1, less for outliers. Shape ``[rows]``."""
    size = np.abs(residuals) / scatter
    found: Floats = np.minimum(1.0, HUBER / np.maximum(size, HUBER))
    return found


def loss(residuals: Floats, theta: Floats, scatter: Floats) -> float:
    """Huber's loss of the rows and the square loss of the constants' moves."""
    size = np.abs(residuals) / scatter
    rows = np.where(size <= HUBER, size**2 / 2.0, HUBER * (size - HUBER / 2.0))
    return float(rows.sum() + (theta**2).sum() / 2.0)


def _curvature(jacobian: Floats, weights: Floats, scatter: Floats) -> Floats:
    """Second derivatives of the loss, shape ``[constants, constants]``."""
    found: Floats = (jacobian.T * (weights / scatter**2)) @ jacobian
    found[np.diag_indices_from(found)] += 1.0
    return found


def covariance(jacobian: Floats, residuals: Floats, scatter: Floats) -> Floats:
    """Covariance of ``theta`` given rows and prior, shape ``[constants, constants]``."""
    weights = huber_weights(residuals, scatter)
    return np.asarray(np.linalg.inv(_curvature(jacobian, weights, scatter)))


def _step(curvature: Floats, gradient: Floats, theta: Floats, problem: Problem) -> Floats:
    """Newton's step within the bounds: what pushes against its bound stays out of it."""
    pushed = ((theta <= problem.low) & (gradient > 0)) | ((theta >= problem.high) & (gradient < 0))
    free = np.flatnonzero(~pushed)
    step = np.zeros_like(theta)
    step[free] = -np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
    clipped: Floats = np.clip(theta + step, problem.low, problem.high) - theta
    return clipped


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A point of the search, its damping with it."""

    theta: Floats
    residuals: Floats
    loss: float
    damping: float


def _downhill(problem: Problem, here: _Place, jacobian: Floats, scatter: Floats) -> _Place | None:
    """The end of one step, damped until the loss is less; None where there is none."""
    weights = huber_weights(here.residuals, scatter)
    curvature = _curvature(jacobian, weights, scatter)
    gradient = jacobian.T @ (weights * here.residuals / scatter**2) + here.theta
    damping = here.damping
    for _ in range(_MAX_TRIALS):
        damped = curvature + damping * np.diag(np.diag(curvature))
        step = _step(damped, gradient, here.theta, problem)
        if not step.size or float(np.abs(step).max()) < _STEP_TOLERANCE:
            return None
        theta = here.theta + step
        residuals = problem.residuals(theta)
        found = loss(residuals, theta, scatter)
        if found < here.loss:
            damping = damping / 10.0 if damping > _LEAST_DAMPING else 0.0
            return _Place(theta=theta, residuals=residuals, loss=found, damping=damping)
        damping = max(10.0 * damping, _LEAST_DAMPING)
    return None


def minimise(problem: Problem, start: Floats, scatter: Floats) -> Fit:
    """Go downhill from ``start``; its loss is an upper bound of the result's."""
    residuals = problem.residuals(start)
    here = _Place(
        theta=start,
        residuals=residuals,
        loss=loss(residuals, start, scatter),
        damping=0.0,
    )
    jacobian = problem.jacobian(here.theta, here.residuals)
    for _ in range(_MAX_PASSES):
        found = _downhill(problem, here, jacobian, scatter)
        if found is None:
            break
        gain, here = here.loss - found.loss, found
        jacobian = problem.jacobian(here.theta, here.residuals)
        if gain < _LOSS_TOLERANCE * here.loss:
            break
    return Fit(theta=here.theta, residuals=here.residuals, jacobian=jacobian, loss=here.loss)


def linear_problem(fit: Fit, rows: Sequence[int], low: Floats, high: Floats) -> Problem:
    """Some of the rows, predicted by the derivatives at a fit."""
    places = list(rows)
    jacobian, residuals = fit.jacobian[places], fit.residuals[places]
    return Problem(
        residuals=lambda theta: residuals + jacobian @ (theta - fit.theta),
        jacobian=lambda theta, _: jacobian,
        low=low,
        high=high,
    )


def _hat(jacobian: Floats, residuals: Floats, scatter: Floats) -> Floats:
    """How far each row pulls its own prediction, in [0, 1). Shape ``[rows]``."""
    weights = huber_weights(residuals, scatter) / scatter**2
    matrix = covariance(jacobian, residuals, scatter)
    found: Floats = weights * np.einsum("ij,jk,ik->i", jacobian, matrix, jacobian)
    return found


def left_out_residuals(jacobian: Floats, residuals: Floats, scatter: Floats) -> Floats:
    """How far linear fits to the other rows miss each row: ``r_i / (1 - h_i)``, ``[rows]``.

    As many constants as rows would leave no residual at all, and yet know nothing.
    """
    missed: Floats = residuals / np.maximum(1.0 - _hat(jacobian, residuals, scatter), 1e-6)
    return missed


def _scatter(residuals: Floats) -> float:
    """Standard deviation from the median size of residuals."""
    return _MAD_TO_SIGMA * float(np.median(np.abs(residuals)))


def estimate_scatter(residuals: Floats, kinds: Sequence[Sequence[int]]) -> Floats:
    """Scatter of each row from the residuals of its kind, shape ``[rows]``.

    A kind of few rows leans on all rows: these count as ``_BORROWED`` rows of the kind.

    Parameters
    ----------
    kinds : sequence of sequence of int
        Rows of each kind: some are modelled, and measured, more closely than others.
    """
    overall = _scatter(residuals)
    found = np.empty(len(residuals))
    for rows in kinds:
        places = list(rows)
        own = len(places) * _scatter(residuals[places]) ** 2
        variance = (own + _BORROWED * overall**2) / (len(places) + _BORROWED)
        found[places] = min(max(math.sqrt(variance), MIN_SCATTER), MAX_SCATTER)
    return found


def _information(jacobian: Floats, weights: Floats) -> Floats:
    """What rows say about each constant, the others unknown, in units of the prior.

    ``1 / variance - 1``; shape ``[constants]``. ``weights`` are over the square of the scatter.
    """
    curvature = (jacobian.T * weights) @ jacobian + np.eye(jacobian.shape[1])
    found: Floats = np.maximum(1.0 / np.diag(np.linalg.inv(curvature)) - 1.0, 0.0)
    return found


def _contradicted(jacobian: Floats, weights: Floats) -> Floats:
    """The same without the row that says most about the constant. Shape ``[constants]``."""
    found = np.empty(jacobian.shape[1])
    for column, slopes in enumerate(jacobian.T):
        rest = weights.copy()
        rest[np.argmax(weights * slopes**2)] = 0.0
        found[column] = _information(jacobian, rest)[column]
    return found


def identified(
    jacobian: Floats, residuals: Floats, scatter: Floats, kept: Sequence[int]
) -> tuple[tuple[int, ...], dict[int, float]]:
    """Drop constants until the rows say more about every direction than the prior does.

    The least known direction is that of the least eigenvalue of the rows' curvature, in units
    of the prior's. While it is below 1, the constant with the largest part in it is dropped;
    of several with about the same part (the rows know their product alone) the earliest.
    Then constants are dropped of which one row alone knows: nothing would tell an error of
    that row from a property of the machine.

    Parameters
    ----------
    residuals : array
        How far fits to the other rows miss each row (:func:`left_out_residuals`): outliers
        say little. Shape ``[rows]``.

    Returns
    -------
    (tuple of int, dict)
        Columns that remain, and for each column of ``kept`` what the rows say of it in units
        of the prior: for a dropped one that eigenvalue, or what is left without the one row;
        else its own part of the curvature with every other remaining constant unknown.
    """
    columns = list(kept)
    weights = huber_weights(residuals, scatter) / scatter**2
    known: dict[int, float] = {}
    while columns:
        chosen = jacobian[:, columns]
        sizes, directions = np.linalg.eigh((chosen.T * weights) @ chosen)
        if sizes[0] < 1.0:
            parts = np.abs(directions[:, 0])
            place = int(np.flatnonzero(parts >= _SHARED * parts.max())[0])
            known[columns.pop(place)] = max(0.0, float(sizes[0]))
            continue
        rest = _contradicted(chosen, weights)
        place = int(np.argmin(rest))
        if rest[place] >= 1.0:
            known.update(zip(columns, _information(chosen, weights).tolist(), strict=True))
            break
        known[columns.pop(place)] = float(rest[place])
    return tuple(columns), known


def confounded(matrix: Floats) -> tuple[tuple[int, int, float], ...]:
    """Pairs of constants whose estimates are correlated beyond ``CONFOUNDED``."""
    sigma = np.sqrt(np.diag(matrix))
    correlation = matrix / np.outer(sigma, sigma)
    rows, columns = np.nonzero(np.triu(np.abs(correlation) > CONFOUNDED, k=1))
    return tuple(
        (int(a), int(b), float(correlation[a, b])) for a, b in zip(rows, columns, strict=True)
    )
