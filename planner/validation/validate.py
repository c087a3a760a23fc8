"""Files of measured rows against predictions: what ``planner validate`` calls."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from planner.catalog.measured import read_measured
from planner.catalog.measured_ids import read_ids
from planner.catalog.measured_rows import MeasuredRow, RunRow
from planner.domain.run import RunKind
from planner.errors import SpecError
from planner.validation.grouping import (
    Grouping,
    MemoryScore,
    Refusal,
    Sweep,
    group_by,
    memory_score,
    misjudged,
    parse_keys,
    refusals,
    sweeps,
    worst,
)
from planner.validation.outcome import Outcome
from planner.validation.predict_rows import SERVING, row_kind
from planner.validation.run_rows import Part, Progress, run_rows

ROW_KINDS = (*(kind.value for kind in RunKind), "collective", SERVING)
QUALITIES = ("A", "B", "C")
# A context in which rows are predicted, given their number: where progress is shown.
Shown = Callable[[int], Progress]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationRequest:
    """What to compare.

    Parameters
    ----------
    file : str
        Of measured rows.
    also : tuple of str
        Further files; a measurement that several name counts once, as the first has it.
    by : str
        Keys to group by: see :func:`planner.validation.grouping.parse_keys`.
    kinds, qualities : tuple of str
        Rows to keep; all where empty. Rows without a quality are kept only where all are.
    without_ids : str, optional
        File of the ids of rows to leave out.
    ran : str, optional
        File of layouts that ran, to score the memory model with.
    """

    file: str
    by: str = "kind"
    kinds: tuple[str, ...] = ()
    qualities: tuple[str, ...] = ()
    without_ids: str | None = None
    ran: str | None = None
    jobs: int = 1
    also: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All files of measured rows."""
        return (self.file, *self.also)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """Predicted against measured.

    Parameters
    ----------
    num_rows, num_done : int
        Rows of the files and those that ran of another one, and those that were finished;
        fewer after an interrupt.
    num_compared, num_represented : int
        Finished rows of the files, and those of them that the cost model could represent.
    memory, misjudged : MemoryScore, tuple of Outcome
        Over the files, and the layouts that ran of another one.
    outcomes : tuple of Outcome
        Of the files, in their order.
    """

    files: tuple[str, ...]
    num_rows: int
    num_done: int
    num_compared: int
    num_represented: int
    groupings: tuple[Grouping, ...]
    sweeps: tuple[Sweep, ...]
    memory: MemoryScore
    misjudged: tuple[Outcome, ...]
    worst: tuple[Outcome, ...]
    refusals: tuple[Refusal, ...]
    outcomes: tuple[Outcome, ...] = field(repr=False)

    @property
    def interrupted(self) -> bool:
        """Whether some rows were not reached."""
        return self.num_done < self.num_rows


def _check_names(option: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise SpecError(f"{option}: unknown '{name}'", f"{hint}known: {', '.join(known)}")


def select_rows(
    rows: Iterable[MeasuredRow], request: ValidationRequest, without: frozenset[str]
) -> tuple[MeasuredRow, ...]:
    """The rows that a request keeps, in order."""
    return tuple(
        row
        for row in rows
        if (not request.kinds or row_kind(row) in request.kinds)
        and (not request.qualities or row.origin.quality in request.qualities)
        and row.origin.id not in without
    )


def _quiet(num_rows: int) -> Progress:
    """Shows no progress."""
    return lambda done: None


def validate(request: ValidationRequest, shown: Shown = _quiet) -> ValidationReport:
    """Predict every row of one or more files and compare.

    Parameters
    ----------
    shown : callable
        Given the number of rows, returns what is called with each number of rows done.

    Returns
    -------
    ValidationReport
        After Ctrl-C, of the rows that were finished by then.

    Raises
    ------
    SpecError
        An unknown key, kind or quality, or no row is left.
    CatalogError
        A file cannot be read: see :func:`planner.catalog.measured.read_measured`.
    """
    keys = parse_keys(request.by)
    _check_names("--kind", request.kinds, ROW_KINDS)
    _check_names("--quality", request.qualities, QUALITIES)
    without = frozenset() if request.without_ids is None else read_ids(request.without_ids)
    rows = _rows_once(request, without)
    if not rows:
        raise SpecError(
            f"no row of {', '.join(request.files)} is left",
            "widen --kind and --quality, or --without-ids",
        )
    beside = () if request.ran is None else _ran_rows(request, without, rows)
    run = run_rows((*rows, *beside), request.jobs, shown(len(rows) + len(beside)))
    own, other = run.parts[: len(rows)], run.parts[len(rows) :]
    outcomes, beside_outcomes = _flat(own), _flat(other)
    judged = (*outcomes, *beside_outcomes)
    refused = {outcome.id for outcome in outcomes if not outcome.represented}
    reached = sum(part is not None for part in own)
    return ValidationReport(
        files=request.files,
        num_rows=len(rows) + len(beside),
        num_done=run.num_done,
        num_compared=reached,
        num_represented=reached - len(refused),
        groupings=tuple(group_by(outcomes, key, beside_outcomes) for key in keys),
        sweeps=sweeps(outcomes),
        memory=memory_score(judged),
        misjudged=misjudged(judged),
        worst=worst(outcomes),
        refusals=refusals(outcomes),
        outcomes=outcomes,
    )


def _rows_once(request: ValidationRequest, without: frozenset[str]) -> tuple[MeasuredRow, ...]:
    """Rows of all files; a measurement of several counts as the first has it."""
    rows: dict[str, MeasuredRow] = {}
    for file in request.files:
        for row in select_rows(read_measured(file), request, without):
            rows.setdefault(row.origin.id, row)
    return tuple(rows.values())


def _flat(parts: Iterable[Part | None]) -> tuple[Outcome, ...]:
    return tuple(outcome for part in parts if part is not None for outcome in part)


def _ran_rows(
    request: ValidationRequest, without: frozenset[str], rows: Iterable[MeasuredRow]
) -> tuple[MeasuredRow, ...]:
    """Layouts of the other file that ran; those of the first files count once."""
    assert request.ran is not None
    own = frozenset(row.origin.id for row in rows)
    return tuple(
        row
        for row in select_rows(read_measured(request.ran), request, without | own)
        if isinstance(row, RunRow) and row.time_s is not None
    )
