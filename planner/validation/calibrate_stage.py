"""One stage of a calibration: some constants of the machine against the rows they govern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from planner.catalog.measured_rows import RunRow
from planner.validation.calibrate_constants import Constant
from planner.validation.calibrate_fit import (
    Fit,
    Floats,
    Problem,
    confounded,
    covariance,
    estimate_scatter,
    identified,
    left_out_residuals,
    linear_problem,
    loss,
    minimise,
)
from planner.validation.calibrate_rows import FittedRow, Predictor
from planner.validation.outcome import Outcome

Values = dict[tuple[str, ...], float]
FOLDS = 5
STEP = 0.02  # of a numerical derivative, in ln(constant)
_DIGITS = 4
_SCATTER_PASSES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What became of one constant.

    Parameters
    ----------
    used : bool
        Whether any row depends on it.
    fitted : bool
        Whether the rows say more about it than the prior, so that it was fitted.
    information : float
        What the rows say in units of the prior.
    sigma : float, optional
        Standard error of its logarithm; None where it was not fitted.
    at_bound : bool
        Whether it ended at the end of its range.
    """

    constant: Constant
    value: float
    used: bool
    fitted: bool
    information: float
    sigma: float | None = None
    at_bound: bool = False

    @property
    def changed(self) -> bool:
        """Whether the value is another one than before."""
        return self.value != self.constant.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two constants that the rows cannot tell apart well."""

    first: Constant
    second: Constant
    correlation: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFit:
    """The result of a stage.

    ``scatter`` is that of ``ln(predicted / measured)`` which the fit assumes for each row;
    ``held_out`` are predictions of each row, as ``ln(predicted / measured)``, by constants
    fitted without it; empty where there are fewer than two rows.
    """

    estimates: tuple[Estimate, ...]
    pairs: tuple[Pair, ...]
    scatter: tuple[float, ...]
    loss_before: float
    loss_after: float
    held_out: tuple[float, ...]

    @property
    def values(self) -> Values:
        """Constants that changed, by their paths."""
        return {item.constant.path: item.value for item in self.estimates if item.changed}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def folds(num_rows: int) -> tuple[tuple[int, ...], ...]:
    """Rows to hold out together: every fifth, or each alone where there are few."""
    count = FOLDS if num_rows >= 2 * FOLDS else num_rows
    return tuple(tuple(range(first, num_rows, count)) for first in range(count))


class Stage:
    """Fits constants to rows, everything else as given.

    Parameters
    ----------
    constants : sequence of Constant
        Candidates.
    rows, outcomes : sequence
        Rows that ``predictor`` predicts, and their predictions as the machine stands.
    fixed : mapping
        Values that earlier stages have found.
    """

    def __init__(
        self,
        predictor: Predictor,
        rows: Sequence[FittedRow],
        outcomes: Sequence[Outcome],
        constants: Sequence[Constant],
        fixed: Mapping[tuple[str, ...], float],
    ) -> None:
        self._predictor = predictor
        self._constants = tuple(constants)
        self._fixed = dict(fixed)
        self._all = tuple(range(len(rows)))
        self._kinds = _groups([_kind(row) for row in rows])
        self._classes = _groups([outcome.row_class for outcome in outcomes])

    def _values(self, columns: Sequence[int], theta: Floats) -> Values:
        moved = {
            self._constants[column].path: self._constants[column].moved(step)
            for column, step in zip(columns, theta.tolist(), strict=True)
        }
        return {**self._fixed, **moved}

    def _bounds(self, columns: Sequence[int]) -> tuple[Floats, Floats]:
        chosen = [self._constants[column] for column in columns]
        low = np.array([item.theta(item.low) for item in chosen])
        high = np.array([item.theta(item.high) for item in chosen])
        return low, high

    def _derivatives(
        self, columns: Sequence[int], theta: Floats, start: Floats, rows: Sequence[Sequence[int]]
    ) -> Floats:
        """One-sided differences, of ``rows[j]`` alone for column ``j``."""
        _, high = self._bounds(columns)
        found = np.zeros((len(self._all), len(columns)))
        for place, wanted in enumerate(rows):
            if not wanted:
                continue
            step = STEP / self._constants[columns[place]].prior
            if theta[place] + step > high[place]:
                step = -step
            moved = theta.copy()
            moved[place] += step
            values = self._values(columns, moved)
            found[list(wanted), place] = (
                self._predictor.residuals(values, wanted) - start[list(wanted)]
            ) / step
        return found

    @cached_property
    def _start(self) -> Floats:
        return self._predictor.residuals(self._fixed, self._all)

    @cached_property
    def _slopes(self) -> Floats:
        """Derivatives of all candidates where the machine stands."""
        columns = range(len(self._constants))
        return self._derivatives(
            columns, np.zeros(len(columns)), self._start, [self._all] * len(columns)
        )

    @cached_property
    def _reach(self) -> tuple[tuple[int, ...], ...]:
        """Rows of each constant: of the kinds of which one row at least depends on it."""
        return tuple(
            tuple(sorted(row for kind in self._kinds if slopes[list(kind)].any() for row in kind))
            for slopes in self._slopes.T
        )

    def _problem(self, columns: Sequence[int]) -> Problem:
        low, high = self._bounds(columns)
        rows = [self._reach[column] for column in columns]
        return Problem(
            residuals=lambda theta: self._predictor.residuals(
                self._values(columns, theta), self._all
            ),
            jacobian=lambda theta, start: self._derivatives(columns, theta, start, rows),
            low=low,
            high=high,
        )

    def _linear_fit(self, columns: Sequence[int]) -> tuple[Floats, Floats]:
        """Scatter of each row, and how far fits to the others miss it.

        As if predictions were linear in the constants.
        """
        none = np.zeros(len(columns))
        here = Fit(
            theta=none, residuals=self._start, jacobian=self._slopes[:, list(columns)], loss=0.0
        )
        problem = linear_problem(here, self._all, *self._bounds(columns))
        missed = self._start
        present = estimate_scatter(self._start, self._classes)
        scatter = present
        for _ in range(_SCATTER_PASSES):
            fit = minimise(problem, none, scatter)
            missed = left_out_residuals(fit.jacobian, fit.residuals, scatter)
            # Rows that the machine as it stands predicts well do scatter little.
            scatter = np.minimum(present, estimate_scatter(missed, self._classes))
        return scatter, missed

    def run(self) -> StageFit:
        """Fit.

        Returns
        -------
        StageFit
            Its loss is at most that before, with the values rounded as they are written.
        """
        used = tuple(column for column, rows in enumerate(self._reach) if rows)
        scatter, missed = self._linear_fit(used)
        columns, known = identified(self._slopes, missed, scatter, used)
        matrix = covariance(self._slopes[:, list(used)], missed, scatter)
        columns, fit = self._fitted(columns, scatter, known)
        theta, after = self._written(columns, fit, scatter)
        return StageFit(
            estimates=self._estimates(columns, theta, fit, scatter, known),
            pairs=tuple(
                Pair(
                    first=self._constants[used[a]],
                    second=self._constants[used[b]],
                    correlation=correlation,
                )
                for a, b, correlation in confounded(matrix)
            ),
            scatter=tuple(scatter.tolist()),
            loss_before=loss(self._start, np.zeros(0), scatter),
            loss_after=after,
            held_out=self._held_out(columns, fit, scatter),
        )

    def _fitted(
        self, columns: tuple[int, ...], scatter: Floats, known: dict[int, float]
    ) -> tuple[tuple[int, ...], Fit]:
        """Fit, and fit again without what turns out not to be identified there."""
        start = np.zeros(len(columns))
        while True:
            problem = self._problem(columns)
            fit = minimise(problem, start, scatter)
            missed = left_out_residuals(fit.jacobian, fit.residuals, scatter)
            kept, found = identified(fit.jacobian, missed, scatter, range(len(columns)))
            known.update({columns[place]: value for place, value in found.items()})
            if len(kept) == len(columns):
                return columns, fit
            # Again from where the machine stands: its loss is the one not to exceed.
            columns = tuple(columns[place] for place in kept)
            start = np.zeros(len(columns))

    def _written(self, columns: Sequence[int], fit: Fit, scatter: Floats) -> tuple[Floats, float]:
        """The fit in values of a few digits, and the loss with them."""
        moved = zip(columns, fit.theta.tolist(), strict=True)
        chosen = [(self._constants[column], step) for column, step in moved]
        theta = np.array([item.theta(_rounded(item.moved(step))) for item, step in chosen])
        residuals = self._predictor.residuals(self._values(columns, theta), self._all)
        after = loss(residuals, theta, scatter)
        before = loss(self._start, np.zeros(0), scatter)
        return (theta, after) if after < before else (np.zeros(len(columns)), before)

    def _estimates(
        self,
        columns: Sequence[int],
        theta: Floats,
        fit: Fit,
        scatter: Floats,
        known: Mapping[int, float],
    ) -> tuple[Estimate, ...]:
        sigma = np.sqrt(np.diag(covariance(fit.jacobian, fit.residuals, scatter)))
        low, high = self._bounds(columns)
        places = {column: place for place, column in enumerate(columns)}
        found = []
        for column, constant in enumerate(self._constants):
            place = places.get(column)
            if place is None:
                found.append(
                    Estimate(
                        constant=constant,
                        value=constant.value,
                        used=bool(self._reach[column]),
                        fitted=False,
                        information=known.get(column, 0.0),
                    )
                )
                continue
            value = _rounded(constant.moved(float(theta[place])))
            near = 1e-3
            found.append(
                Estimate(
                    constant=constant,
                    value=value,
                    used=True,
                    fitted=True,
                    information=known[column],
                    sigma=constant.prior * float(sigma[place]),
                    at_bound=not low[place] + near < theta[place] < high[place] - near,
                )
            )
        return tuple(found)

    def _held_out(self, columns: Sequence[int], fit: Fit, scatter: Floats) -> tuple[float, ...]:
        """Cross-validation: refit to the other rows with the derivatives at the fit.

        The held-out rows themselves are predicted by the cost model.
        """
        num_rows = len(self._all)
        if num_rows < 2:
            return ()
        found = np.zeros(num_rows)
        for out in folds(num_rows):
            rest = [row for row in self._all if row not in set(out)]
            problem = linear_problem(fit, rest, *self._bounds(columns))
            theta = minimise(problem, fit.theta, scatter[rest]).theta
            found[list(out)] = self._predictor.residuals(self._values(columns, theta), out)
        return tuple(found.tolist())


def _groups(keys: Sequence[object]) -> tuple[tuple[int, ...], ...]:
    """Places of equal keys."""
    found: dict[object, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return tuple(tuple(places) for places in found.values())


def _kind(row: FittedRow) -> object:
    """Rows that depend on the same constants: of one kind, in one format."""
    if isinstance(row, RunRow):
        return row.run.kind, row.formats.activations, row.run.engine
    return row.op
