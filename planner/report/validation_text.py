"""Predicted against measured, as text, Markdown and a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from planner.report.tables import print_table, print_text
from planner.units import format_bytes, format_count, format_integer, format_seconds
from planner.validation.calibration import is_calibration_id
from planner.validation.grouping import (
    Group,
    Grouping,
    MemoryScore,
    Sweep,
    make_group,
    memory_score,
    sweeps,
)
from planner.validation.outcome import Outcome, RowClass
from planner.validation.statistics import ErrorStats
from planner.validation.validate import ValidationReport

MAX_REASONS = 30
_NONE = "-"
SCORED = ("A", "B")  # qualities of the accuracy table


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTable:
    """A table that can be printed or written as Markdown; ``words`` are its text columns."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)


def _percent(fraction: float) -> str:
    return f"{100.0 * fraction:.1f} %"


def _errors(errors: ErrorStats | None) -> tuple[str, ...]:
    """Median, mean, 90th percentile and bias."""
    if errors is None:
        return (_NONE,) * 4
    percents = (_percent(errors.median), _percent(errors.mean), _percent(errors.p90))
    return (*percents, f"{errors.bias:+.3f}")


def _rank(rank: float | None) -> str:
    return _NONE if rank is None else f"{rank:.3f}"


def _group_table(grouping: Grouping) -> TextTable:
    """One line per group; the last two columns only where there are sweeps."""
    keys = tuple(grouping.by.split("+"))
    ranked = any(group.num_sweeps for group in grouping.groups)
    rows = []
    for group in grouping.groups:
        counts = (format_integer(group.num_rows), _percent(group.share))
        row = (*group.name, *counts, *_errors(group.errors))
        rows.append((*row, _rank(group.rank), str(group.num_sweeps)) if ranked else row)
    header = (*keys, "rows", "represented", "median", "mean", "90th", "bias")
    return TextTable(
        title=f"Error by {' and '.join(keys)}",
        header=(*header, "rank", "sweeps") if ranked else header,
        rows=tuple(rows),
        words=tuple(range(len(keys))),
    )


def _sweep_table(found: Iterable[Sweep]) -> TextTable:
    rows = tuple(
        (
            sweep.name,
            format_integer(sweep.num_rows),
            format_integer(sweep.num_layouts),
            _rank(sweep.rank),
        )
        for sweep in found
    )
    header = ("sweep", "rows", "layouts", "rank")
    return TextTable(title="Ranking within sweeps", header=header, rows=rows)


def _right(right: int, total: int) -> tuple[str, str, str]:
    share = _percent(right / total) if total else _NONE
    return format_integer(total), format_integer(right), share


def _memory_table(score: MemoryScore) -> TextTable:
    rows = (
        ("ran", *_right(score.ran_right, score.ran_total)),
        ("ran out of memory", *_right(score.oom_right, score.oom_total)),
        ("all", *_right(score.right, score.total)),
    )
    header = ("layouts that", "rows", "right", "share")
    return TextTable(title="Memory model", header=header, rows=rows)


def _worst_table(outcomes: Sequence[Outcome]) -> TextTable:
    return TextTable(
        title="Worst rows",
        header=("id", "class", "measured", "predicted", "ratio", "largest term"),
        rows=tuple(_worst_row(outcome) for outcome in outcomes),
        words=(0, 1, 5),
    )


def _worst_row(outcome: Outcome) -> tuple[str, ...]:
    assert outcome.pair is not None and outcome.ratio is not None
    predicted, measured = outcome.pair
    term = outcome.largest_term
    text = _NONE
    if term is not None:
        text = f"{term.name}, {term.seconds / predicted:.0%}, {term.bound.value}"
    return (
        outcome.id,
        outcome.row_class.value,
        format_seconds(measured),
        format_seconds(predicted),
        format_count(outcome.ratio),
        text,
    )


def _memory_groups(grouping: Grouping) -> TextTable:
    keys = tuple(grouping.by.split("+"))
    rows = tuple(
        (
            *group.name,
            *_right(group.memory.ran_right, group.memory.ran_total),
            *_right(group.memory.oom_right, group.memory.oom_total),
        )
        for group in grouping.groups
        if group.memory.total
    )
    return TextTable(
        title=f"Memory model by {' and '.join(keys)}",
        header=(*keys, "ran", "right", "share", "out of memory", "right", "share"),
        rows=rows,
        words=tuple(range(len(keys))),
    )


def _memory_tables(report: ValidationReport) -> list[TextTable]:
    """The score, and that of each group where some layouts ran out of memory."""
    if not report.memory.total:
        return []
    tables = [_memory_table(report.memory)]
    if report.memory.oom_total:
        tables += [
            _memory_groups(grouping)
            for grouping in report.groupings
            if any(group.memory != report.memory for group in grouping.groups)
        ]
    return [*tables, _misjudged_table(report.misjudged)]


def _misjudged_table(outcomes: Iterable[Outcome]) -> TextTable:
    rows = tuple(
        (
            outcome.id,
            "ran" if outcome.measured_s is not None else "out of memory",
            format_bytes(memory.needed_bytes),
            format_bytes(memory.capacity_bytes),
            f"{memory.ratio:.2f}",
            outcome.layout,
        )
        for outcome in outcomes
        if (memory := outcome.memory) is not None
    )
    header = ("id", "measured", "needs", "has", "ratio", "layout")
    return TextTable(title="Misjudged memory", header=header, rows=rows, words=(0, 1, 5))


def _refusal_table(report: ValidationReport) -> TextTable:
    shown = report.refusals[:MAX_REASONS]
    rows = [(format_integer(item.num_rows), item.reason, item.example) for item in shown]
    rest = report.refusals[MAX_REASONS:]
    if rest:
        count = format_integer(sum(item.num_rows for item in rest))
        rows.append((count, f"{len(rest)} more reasons", rest[0].example))
    header = ("rows", "reason", "for example")
    return TextTable(title="Not representable", header=header, rows=tuple(rows), words=(1, 2))


def has_errors(report: ValidationReport) -> bool:
    """Whether any row has both a measured and a predicted time."""
    return any(group.errors for grouping in report.groupings for group in grouping.groups)


def report_tables(report: ValidationReport) -> tuple[TextTable, ...]:
    """Every table of a report that has something to say."""
    tables = [_group_table(grouping) for grouping in report.groupings if has_errors(report)]
    tables += [_sweep_table(report.sweeps), *_memory_tables(report)]
    tables += [_worst_table(report.worst), _refusal_table(report)]
    return tuple(table for table in tables if table.rows)


def summary_text(report: ValidationReport) -> str:
    """How many rows were compared, and what is missing."""
    done, able = report.num_compared, report.num_represented
    text = (
        f"{format_integer(done)} rows of {', '.join(report.files)}: "
        f"{format_integer(able)} represented, "
        f"{format_integer(done - able)} not."
    )
    if report.interrupted:
        finished = f"{format_integer(report.num_done)} of {format_integer(report.num_rows)}"
        text += f" Interrupted after {finished} rows: the tables are partial."
    return text


TITLE = "Predicted against measured"
NOTE = (
    "Errors are absolute and relative to the measurement; bias is the median of "
    "ln(predicted / measured); rank is Spearman's correlation within a sweep of ten or more "
    "layouts of one run (the median over the sweeps of a group)."
)


def show_validation(report: ValidationReport, stream: TextIO) -> None:
    """Print a report."""
    # One line: a path that is broken in two cannot be copied.
    stream.write(f"{summary_text(report)}\n")
    for table in report_tables(report):
        print_table(table.title, table.header, table.rows, stream, words=table.words)
    if has_errors(report):
        stream.write("\n")
        print_text(NOTE, stream)


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def markdown_table(table: TextTable) -> str:
    """A table as Markdown, without its title."""
    sides = ["---" if column in table.words else "---:" for column in range(len(table.header))]
    lines = [table.header, sides, *([_cell(cell) for cell in row] for row in table.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def validation_markdown(report: ValidationReport, extra: Iterable[TextTable] = ()) -> str:
    """A report, and tables to follow its own, as a Markdown document."""
    parts = [f"# {TITLE}\n\n{summary_text(report)}\n"]
    tables = (*report_tables(report), *extra)
    parts += [f"## {table.title}\n\n{markdown_table(table)}" for table in tables]
    if has_errors(report):
        parts.append(f"{NOTE}\n")
    return "\n".join(parts)


def accuracy_table(
    outcomes: Iterable[Outcome], leave_out: Callable[[str], bool] = is_calibration_id
) -> str:
    """The project's accuracy as a Markdown table.

    Parameters
    ----------
    outcomes : iterable of Outcome
        Of runs, collectives, and layouts that ran out of memory.
    leave_out : callable
        Tells from its id whether a row was used for calibration, and so is not scored.

    Returns
    -------
    str
        One line per class of measurement, over rows of quality A and B (serving has no
        quality); then the ranking within sweeps, and the memory model.
    """
    scored = [
        outcome
        for outcome in outcomes
        if outcome.quality in (*SCORED, "") and not leave_out(outcome.id)
    ]
    rows = []
    for row_class in RowClass:
        members = [
            outcome
            for outcome in scored
            if outcome.row_class is row_class and outcome.measured_s is not None
        ]
        if members:
            rows.append(_accuracy_row(make_group((row_class.value,), members)))
    text = markdown_table(
        TextTable(
            title="",
            header=("kind", "rows", "represented", "median", "90th", "bias"),
            rows=tuple(rows),
        )
    )
    ranking = _sweep_table(sweeps(scored))
    if ranking.rows:
        text += "\nRank correlation within sweeps of ten or more layouts:\n\n"
        text += markdown_table(ranking)
    score = memory_score(scored)
    if score.total:
        text += (
            f"\nMemory: {score.ran_right} of {score.ran_total} layouts that ran are said to "
            f"fit, {score.oom_right} of {score.oom_total} that ran out of memory are said not "
            f"to ({_percent(score.right / score.total)} right).\n"
        )
    return text


def _accuracy_row(group: Group) -> tuple[str, ...]:
    middle, _, p90, bias = _errors(group.errors)
    share = _percent(group.share)
    return (*group.name, format_integer(group.num_rows), share, middle, p90, bias)


@contextmanager
def progress_bar(stream: TextIO) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A bar on a terminal, nothing elsewhere.

    Yields
    ------
    callable
        Given the number of rows, returns what is called with each number of rows done.
    """
    if not stream.isatty():
        yield lambda total: lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:

        def start(total: int) -> Callable[[int], None]:
            task = bar.add_task("rows", total=total)
            return lambda done: bar.advance(task, done)

        yield start
