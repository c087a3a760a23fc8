"""A machine's constants fitted to a user's measurements: what ``planner calibrate`` calls.

Decisions
---------
* Two stages. Collectives are timed alone, so their rows fit the curves; runs then fit the
  constants of the chip with those curves. A run says little about a curve that a timed
  collective does not say better.
* Constants that the rows cannot identify stay as they are: see
  :func:`planner.validation.calibrate_fit.identified`.
* Rows are of one machine, each predicted as ``planner validate`` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from planner.catalog.measured import read_measured
from planner.catalog.measured_rows import CollectiveRow, RunRow
from planner.errors import SpecError
from planner.validation.calibrate_constants import (
    COLLECTIVES,
    FRACTION_PRIOR,
    GROUPS,
    TIME_PRIOR,
    FittedBench,
    machine_constants,
)
from planner.validation.calibrate_report import (
    AT_BOUND,
    FITTED,
    UNIDENTIFIED,
    UNUSED,
    Calibration,
    ClassErrors,
    ConfoundedPair,
    FittedConstant,
    StageSummary,
    WorstRow,
    warnings,
)
from planner.validation.calibrate_rows import (
    Chosen,
    FittedRow,
    Predictor,
    Progress,
    choose_rows,
    own_rows,
    rows_machine,
)
from planner.validation.calibrate_stage import Estimate, Stage, StageFit, Values
from planner.validation.grouping import worst
from planner.validation.outcome import Outcome
from planner.validation.statistics import ErrorStats, error_stats

_AS_OF = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
_RUNS = "runs"


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRequest:
    """What to fit.

    Parameters
    ----------
    file : str
        Of measured rows.
    machine : str, optional
        Name or path of the machine that the rows were taken on; None where all name one.
    only : tuple of str
        Groups of constants (``GROUPS``); all where empty.
    as_of : str, optional
        Month of the fit, as 2026-11; None for this one.
    """

    file: str
    machine: str | None = None
    only: tuple[str, ...] = ()
    as_of: str | None = None


def _quiet(done: int) -> None:
    """Shows no progress."""


def _check(request: CalibrationRequest) -> str:
    """The month of the fit."""
    for name in request.only:
        if name not in GROUPS:
            raise SpecError(f"--only: unknown '{name}'", f"known: {', '.join(GROUPS)}")
    as_of = request.as_of
    if as_of is None:
        return f"{date.today():%Y-%m}"
    if not _AS_OF.fullmatch(as_of):
        raise SpecError(f"--as-of: cannot read '{as_of}'", "write a month, such as 2026-11")
    return as_of


def _rows(request: CalibrationRequest, bench: FittedBench, machine: str) -> tuple[Chosen, int, int]:
    """Rows to fit, the number of the machine's rows, and that of the file's."""
    everything = read_measured(request.file)
    own = own_rows(everything, machine, request.file)
    groups = request.only or GROUPS
    wanted: list[type[FittedRow]] = [CollectiveRow] if COLLECTIVES in groups else []
    wanted += [RunRow] if set(groups) - {COLLECTIVES} else []
    chosen = choose_rows(own, bench, tuple(wanted))
    if not chosen.rows:
        reasons = "; ".join(f"{item.reason} ({item.num_rows})" for item in chosen.skipped[:3])
        count = "the only row" if len(own) == 1 else f"none of the {len(own)} rows"
        cannot = "cannot" if len(own) == 1 else "can"
        raise SpecError(
            f"{count} of {request.file} on {machine} {cannot} be fitted: {reasons}",
            "planner validate names every row and its reason",
        )
    return chosen, len(own), len(everything)


def calibrate(request: CalibrationRequest, progress: Progress = _quiet) -> Calibration:
    """Fit a machine's constants to measured rows.

    Parameters
    ----------
    progress : callable
        Called with the number of rows that have just been predicted.

    Returns
    -------
    Calibration
        The same for the same rows. The loss of a stage never rises.

    Raises
    ------
    SpecError
        An unknown machine or group, or no row can be fitted.
    CatalogError
        A file cannot be read.
    """
    as_of = _check(request)
    machine = request.machine
    if machine is None:
        machine = rows_machine(read_measured(request.file), request.file)
    bench = FittedBench(machine)
    chosen, num_own, num_all = _rows(request, bench, machine)
    groups = request.only or GROUPS
    constants = [item for item in machine_constants(bench.facts) if item.group in groups]
    held_out: dict[str, float] = {}
    scatter: dict[str, float] = {}
    values: Values = {}
    fits: list[tuple[str, int, StageFit]] = []
    for name, kind in ((COLLECTIVES, CollectiveRow), (_RUNS, RunRow)):
        places = [place for place, row in enumerate(chosen.rows) if isinstance(row, kind)]
        rows = tuple(chosen.rows[place] for place in places)
        outcomes = tuple(chosen.outcomes[place] for place in places)
        own = [item for item in constants if (item.group == COLLECTIVES) is (name == COLLECTIVES)]
        if not rows or not own:
            continue
        found = Stage(Predictor(bench, rows, progress), rows, outcomes, own, values).run()
        values |= found.values
        ids = [row.origin.id for row in rows]
        held_out |= dict(zip(ids, found.held_out, strict=False))
        scatter |= {
            outcome.row_class.value: size
            for outcome, size in zip(outcomes, found.scatter, strict=True)
        }
        fits.append((name, len(rows), found))
    everything = Predictor(bench, chosen.rows, progress)
    after = everything.outcomes(values, range(len(chosen.rows)))
    errors = _errors(chosen.outcomes, after, held_out, scatter)
    fitted = tuple(_constant(item) for _, _, fit in fits for item in fit.estimates)
    return Calibration(
        file=request.file,
        machine=machine,
        as_of=as_of,
        num_rows=num_own,
        num_elsewhere=num_all - num_own,
        num_fitted=len(chosen.rows),
        fraction_prior=FRACTION_PRIOR,
        time_prior=TIME_PRIOR,
        constants=fitted,
        confounded=_pairs(fits),
        stages=tuple(
            StageSummary(
                name=name,
                num_rows=num_rows,
                loss_before=fit.loss_before,
                loss_after=fit.loss_after,
            )
            for name, num_rows, fit in fits
        ),
        errors=errors,
        worst=_worst(chosen.outcomes, after),
        skipped=chosen.skipped,
        warnings=warnings(fitted, errors),
    )


def _constant(item: Estimate) -> FittedConstant:
    status = UNUSED
    if item.fitted:
        status = AT_BOUND if item.at_bound else FITTED
    elif item.used:
        status = UNIDENTIFIED
    return FittedConstant(
        name=item.constant.name,
        group=item.constant.group,
        before=float(item.constant.value),
        after=float(item.value),
        status=status,
        information=item.information,
        error=item.sigma,
    )


def _pairs(fits: Sequence[tuple[str, int, StageFit]]) -> tuple[ConfoundedPair, ...]:
    found = [
        ConfoundedPair(first=pair.first.name, second=pair.second.name, correlation=pair.correlation)
        for _, _, fit in fits
        for pair in fit.pairs
    ]
    return tuple(sorted(found, key=lambda pair: (-abs(pair.correlation), pair.first, pair.second)))


def _errors(
    before: Sequence[Outcome],
    after: Sequence[Outcome],
    held_out: dict[str, float],
    scatter: dict[str, float],
) -> tuple[ClassErrors, ...]:
    """Errors of each class in the order of the file, and of all where there are several."""
    groups: dict[str, list[int]] = {}
    for place, outcome in enumerate(before):
        groups.setdefault(outcome.row_class.value, []).append(place)
    if len(groups) > 1:
        groups["all"] = list(range(len(before)))
    found = []
    for name, places in groups.items():
        first = _stats([before[place].pair for place in places])
        last = _stats([after[place].pair for place in places])
        assert first is not None and last is not None
        unseen = [
            (measured * math.exp(held_out[after[place].id]), measured)
            for place in places
            if after[place].id in held_out and (measured := after[place].measured_s) is not None
        ]
        found.append(
            ClassErrors(
                name=name,
                num_rows=len(places),
                scatter=scatter.get(name),
                before=first,
                after=last,
                held_out=_stats(unseen) if len(unseen) == len(places) else None,
            )
        )
    return tuple(found)


def _stats(pairs: Sequence[tuple[float, float] | None]) -> ErrorStats | None:
    known = [pair for pair in pairs if pair is not None]
    return error_stats([pair[0] for pair in known], [pair[1] for pair in known])


def _worst(before: Sequence[Outcome], after: Sequence[Outcome]) -> tuple[WorstRow, ...]:
    first = {outcome.id: outcome.predicted_s for outcome in before}
    found = []
    for outcome in worst(after):
        pair, old = outcome.pair, first[outcome.id]
        assert pair is not None and old is not None
        found.append(
            WorstRow(
                id=outcome.id,
                row_class=outcome.row_class.value,
                measured_s=pair[1],
                before_s=old,
                after_s=pair[0],
            )
        )
    return tuple(found)
