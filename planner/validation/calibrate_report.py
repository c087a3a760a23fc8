"""The result of a calibration as records, and what to warn of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.validation.grouping import Refusal
from planner.validation.statistics import ErrorStats

FITTED = "fitted"
AT_BOUND = "at its bound"
UNIDENTIFIED = "not identified"
UNUSED = "not used"


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedConstant:
    """One constant before and after.

    Parameters
    ----------
    name : str
        Dotted name in the machine's file, whose unit the values have.
    status : str
        ``FITTED``, ``AT_BOUND``, ``UNIDENTIFIED`` or ``UNUSED``.
    information : float
        What the rows say, in units of what the prior says.
    error : float, optional
        Relative standard error; None where it was not fitted.
    """

    name: str
    group: str
    before: float
    after: float
    status: str
    information: float
    error: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfoundedPair:
    """Two constants whose estimates are correlated: the rows fix a combination of them."""

    first: str
    second: str
    correlation: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSummary:
    """One stage, and its loss: see :mod:`planner.validation.calibrate_fit`."""

    name: str
    num_rows: int
    loss_before: float
    loss_after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassErrors:
    """Errors of one class of rows; ``held_out`` by cross-validation.

    ``scatter`` is that of ln(predicted / measured) of one row, which the fit assumes; None for
    all rows together.
    """

    name: str
    num_rows: int
    scatter: float | None
    before: ErrorStats
    after: ErrorStats
    held_out: ErrorStats | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstRow:
    """A row that the fit leaves far off."""

    id: str
    row_class: str
    measured_s: float
    before_s: float
    after_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The result.

    Parameters
    ----------
    num_rows, num_fitted : int
        Rows of the file that were taken on the machine, and those that were fitted.
    fraction_prior, time_prior : float
        Standard deviations of the logarithm of a constant before any row.
    skipped : tuple of Refusal
        Rows of the machine that were left out.
    """

    file: str
    machine: str
    as_of: str
    num_rows: int
    num_elsewhere: int
    num_fitted: int
    fraction_prior: float
    time_prior: float
    constants: tuple[FittedConstant, ...]
    confounded: tuple[ConfoundedPair, ...]
    stages: tuple[StageSummary, ...]
    errors: tuple[ClassErrors, ...]
    worst: tuple[WorstRow, ...]
    skipped: tuple[Refusal, ...]
    warnings: tuple[str, ...]

    @property
    def changed(self) -> tuple[FittedConstant, ...]:
        """Constants with another value than before."""
        return tuple(constant for constant in self.constants if constant.after != constant.before)


def _percent(fraction: float) -> str:
    return f"{100.0 * fraction:.1f} %"


def _names(constants: Sequence[FittedConstant], status: str) -> list[str]:
    return [constant.name for constant in constants if constant.status == status]


def warnings(constants: Sequence[FittedConstant], errors: Sequence[ClassErrors]) -> tuple[str, ...]:
    """What a user should know before relying on the fit, a sentence each."""
    found = []
    unknown = _names(constants, UNIDENTIFIED)
    if not any(constant.status in (FITTED, AT_BOUND) for constant in constants):
        found.append("The rows identify no constant: every value stays as it was.")
    elif unknown:
        count = len([item for item in constants if item.status != UNUSED])
        found.append(
            f"{len(unknown)} of the {count} constants that these rows use are not identified by "
            "them and keep their values: measure what the table marks, or do not rely on it."
        )
    found += [
        f"{name} ended at the bound of its range: look at the worst rows."
        for name in _names(constants, AT_BOUND)
    ]
    risen = [
        f"{item.name} ({_percent(item.before.median)} to {_percent(item.after.median)})"
        for item in errors
        if item.after.median > item.before.median
    ]
    if risen:
        found.append(
            f"The median error rises for {', '.join(risen)}: one set of constants has to serve "
            "all rows, and the fit counts the far ones too."
        )
    unseen = [
        f"{item.name} ({_percent(item.before.median)} to {_percent(item.held_out.median)})"
        for item in errors
        if item.held_out is not None and item.held_out.median > item.before.median
    ]
    if unseen:
        found.append(
            f"Rows left out of the fit are predicted worse than before for {', '.join(unseen)}: "
            "measure more, or fit fewer constants with --only."
        )
    return tuple(found)
