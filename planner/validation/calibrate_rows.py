"""Rows that a machine is calibrated with: which ones, and how they are predicted."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.catalog.machines import load_machine
from planner.catalog.measured_rows import CollectiveRow, MeasuredRow, RunRow, ServingRow
from planner.errors import ModelBugError, SpecError
from planner.validation.calibrate_constants import FittedBench
from planner.validation.calibrate_fit import Floats
from planner.validation.grouping import Refusal
from planner.validation.outcome import Outcome
from planner.validation.predict_rows import predict_row

FittedRow = RunRow | CollectiveRow
Progress = Callable[[int], None]
OUT_OF_MEMORY = "has no time: the layout ran out of memory"
SERVING = "serving under load is not fitted: its latencies depend on the engine's queue"
UNWANTED = "depends on no constant that --only names"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Rows of one machine.

    Parameters
    ----------
    rows, outcomes : tuple
        Those that can be predicted and have a time, in the order of the file, and their
        predictions as the machine stands.
    skipped : tuple of Refusal
        The others, by reason.
    """

    rows: tuple[FittedRow, ...]
    outcomes: tuple[Outcome, ...]
    skipped: tuple[Refusal, ...]


def rows_machine(rows: Iterable[MeasuredRow], file: str) -> str:
    """The one machine of a file's rows.

    Raises
    ------
    SpecError
        There are several.
    """
    found = Counter(row.machine.topology for row in rows).most_common()
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise SpecError(
            f"{file} has rows of {len(found)} machines: {names}",
            f"name one, for example --on {found[0][0]}",
        )
    return found[0][0]


def _same_machine(name: str, machine: str, own_name: str) -> bool:
    if name in (machine, own_name):
        return True
    both_files = os.path.isfile(name) and os.path.isfile(machine)
    return both_files and os.path.samefile(name, machine)


def own_rows(rows: Sequence[MeasuredRow], machine: str, file: str) -> tuple[MeasuredRow, ...]:
    """Rows that were taken on a machine: they name it as the user does, or as its file does.

    Raises
    ------
    SpecError, CatalogError
        The machine is unknown or malformed, or there are no such rows.
    """
    own_name = load_machine(machine).name
    found = [row for row in rows if _same_machine(row.machine.topology, machine, own_name)]
    if not found:
        others = dict.fromkeys(row.machine.topology for row in rows)
        raise SpecError(
            f"no row of {file} was taken on {machine}",
            f"its rows name {', '.join(others)}: give one of them with --on, or write "
            f"{machine} into the column 'topology'",
        )
    return tuple(replace(row, machine=replace(row.machine, topology=machine)) for row in found)


def choose_rows(
    rows: Sequence[MeasuredRow], bench: FittedBench, wanted: tuple[type[FittedRow], ...]
) -> Chosen:
    """Sort out the rows of one machine.

    Parameters
    ----------
    rows : sequence of MeasuredRow
        From :func:`own_rows`.
    wanted : tuple of type
        Kinds of row that depend on what is fitted.
    """
    kept: list[tuple[FittedRow, Outcome]] = []
    left: dict[str, list[str]] = {}
    for row in rows:
        if isinstance(row, ServingRow):
            reason = SERVING
        elif row.time_s is None:
            reason = OUT_OF_MEMORY
        elif not isinstance(row, wanted):
            reason = UNWANTED
        else:
            (outcome,) = predict_row(row, bench)
            reason = outcome.reason
            if outcome.represented:
                kept.append((row, outcome))
                continue
        left.setdefault(reason, []).append(row.origin.id)
    skipped = [
        Refusal(reason=reason, num_rows=len(ids), example=ids[0]) for reason, ids in left.items()
    ]
    return Chosen(
        rows=tuple(row for row, _ in kept),
        outcomes=tuple(outcome for _, outcome in kept),
        skipped=tuple(sorted(skipped, key=lambda item: (-item.num_rows, item.reason))),
    )


class Predictor:
    """Predicts rows of one machine with any values of its constants.

    Parameters
    ----------
    progress : callable
        Called with the number of rows just predicted.
    """

    def __init__(self, bench: FittedBench, rows: Sequence[FittedRow], progress: Progress) -> None:
        self._bench = bench
        self._rows = rows
        self._progress = progress

    def outcomes(
        self, values: Mapping[tuple[str, ...], float], places: Sequence[int]
    ) -> tuple[Outcome, ...]:
        """Predictions of the rows at ``places``.

        Raises
        ------
        ModelBugError
            A row can no longer be predicted: constants decide how long, not whether.
        """
        self._bench.set_values(values)
        found = []
        for place in places:
            (outcome,) = predict_row(self._rows[place], self._bench)
            if outcome.ratio is None:
                raise ModelBugError(f"row '{outcome.id}' cannot be predicted: {outcome.reason}")
            found.append(outcome)
        self._progress(len(found))
        return tuple(found)

    def residuals(self, values: Mapping[tuple[str, ...], float], places: Sequence[int]) -> Floats:
        """``ln(predicted / measured)`` of the rows at ``places``, in their order."""
        return log_ratios(self.outcomes(values, places))


def log_ratios(outcomes: Iterable[Outcome]) -> Floats:
    """``ln(predicted / measured)`` of each outcome, shape ``[rows]``."""
    return np.array([math.log(outcome.ratio) for outcome in outcomes if outcome.ratio is not None])
