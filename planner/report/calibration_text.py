"""A calibration as text, and a line that shows that it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from planner.report.tables import print_table, print_text
from planner.units import format_count, format_integer, format_seconds
from planner.validation.calibrate_report import (
    AT_BOUND,
    FITTED,
    UNUSED,
    Calibration,
    ClassErrors,
    FittedConstant,
)
from planner.validation.statistics import ErrorStats

MAX_PAIRS = 12
_NONE = "-"


def _percent(fraction: float) -> str:
    return f"{100.0 * fraction:.1f} %"


def _constant_row(constant: FittedConstant) -> tuple[str, ...]:
    moved = constant.status in (FITTED, AT_BOUND)
    return (
        constant.name,
        f"{constant.before:g}",
        f"{constant.after:g}",
        f"{constant.after / constant.before - 1.0:+.1%}".replace("%", " %") if moved else _NONE,
        _NONE if constant.error is None else f"{100.0 * constant.error:.1f} %",
        _NONE if constant.information < 0.005 else f"{constant.information:.2f}",
        constant.status,
    )


def _errors(errors: ErrorStats | None) -> str:
    """Median, 90th percentile and bias."""
    if errors is None:
        return _NONE
    return f"{_percent(errors.median)} / {_percent(errors.p90)} / {errors.bias:+.3f}"


def _error_row(item: ClassErrors) -> tuple[str, ...]:
    count = format_integer(item.num_rows)
    scatter = _NONE if item.scatter is None else _percent(item.scatter)
    return (
        item.name,
        count,
        scatter,
        _errors(item.before),
        _errors(item.after),
        _errors(item.held_out),
    )


def _count(number: int, noun: str) -> str:
    return f"{format_integer(number)} {noun}{'' if number == 1 else 's'}"


def summary_text(calibration: Calibration) -> str:
    """How many rows were fitted, and what changed."""
    fitted = format_integer(calibration.num_fitted)
    text = f"{calibration.machine}: {fitted} of {_count(calibration.num_rows, 'row')} of "
    text += f"{calibration.file} fitted"
    if calibration.num_elsewhere:
        text += f", {_count(calibration.num_elsewhere, 'row')} of other machines left out"
    return f"{text}; {_count(len(calibration.changed), 'constant')} changed."


def method_text(calibration: Calibration) -> str:
    """What the columns mean, and how strong the prior is."""
    fraction, time = math.exp(calibration.fraction_prior), math.exp(calibration.time_prior)
    return (
        "Errors are median / 90th percentile of |predicted - measured| / measured, and bias, "
        "the median of ln(predicted / measured); left out: each row predicted by a fit to the "
        "other folds (five; below ten rows, each row alone). Before any row, an achieved "
        f"fraction is held to be right within a factor of {fraction:.2f} and a fixed time within "
        f"{time:.2f} (one standard deviation), and a row to scatter as the table says. "
        "Information is what the rows say in units of that belief; a constant below 1 keeps its "
        "value. Standard errors take rows as independent."
    )


def show_calibration(calibration: Calibration, stream: TextIO) -> None:
    """Print a calibration."""
    # One line: a path that is broken in two cannot be copied.
    stream.write(f"{summary_text(calibration)}\n")
    _show_constants(calibration, stream)
    _show_pairs(calibration, stream)
    header = ("class", "rows", "scatter", "before", "after", "left out")
    print_table("Errors", header, [_error_row(item) for item in calibration.errors], stream)
    _show_rows(calibration, stream)
    stream.write("\n")
    print_text(method_text(calibration), stream)
    for warning in calibration.warnings:
        stream.write("\n")
        print_text(f"warning: {warning}", stream)


def _unused_names(constants: tuple[FittedConstant, ...]) -> list[str]:
    """Constants that no row uses; a table of which no row uses anything by its name."""
    tables: dict[str, list[FittedConstant]] = {}
    for item in constants:
        tables.setdefault(item.name.rpartition(".")[0], []).append(item)
    found: list[str] = []
    for table, members in tables.items():
        unused = [item.name for item in members if item.status == UNUSED]
        found += [table] if len(unused) == len(members) else unused
    return found


def _show_constants(calibration: Calibration, stream: TextIO) -> None:
    used = [item for item in calibration.constants if item.status != UNUSED]
    if used:
        header = ("constant", "before", "after", "change", "std. error", "information", "")
        rows = [_constant_row(item) for item in used]
        print_table("Constants", header, rows, stream, words=(0, 6))
    unused = _unused_names(calibration.constants)
    if unused:
        stream.write("\n")
        print_text(f"No row depends on: {', '.join(unused)}.", stream)


def _show_rows(calibration: Calibration, stream: TextIO) -> None:
    """The worst rows, and those that were left out."""
    worst = [
        (
            item.id,
            item.row_class,
            format_seconds(item.measured_s),
            format_count(item.before_s / item.measured_s),
            format_count(item.after_s / item.measured_s),
        )
        for item in calibration.worst
    ]
    header = ("id", "class", "measured", "ratio before", "ratio after")
    print_table("Worst rows", header, worst, stream, words=(0, 1))
    if calibration.skipped:
        left = [(str(item.num_rows), item.reason, item.example) for item in calibration.skipped]
        names = ("rows", "reason", "for example")
        print_table("Left out", names, left, stream, words=(1, 2))


def _show_pairs(calibration: Calibration, stream: TextIO) -> None:
    pairs = calibration.confounded
    if not pairs:
        return
    rows = [(pair.first, pair.second, f"{pair.correlation:+.3f}") for pair in pairs[:MAX_PAIRS]]
    if len(pairs) > MAX_PAIRS:
        rows.append((f"{len(pairs) - MAX_PAIRS} more pairs", "", ""))
    title = "Confounded: the rows fix a combination of the two"
    print_table(title, ("constant", "constant", "correlation"), rows, stream, words=(0, 1))


@contextmanager
def progress_line(stream: TextIO) -> Iterator[Callable[[int], None]]:
    """A line that counts predictions on a terminal, nothing elsewhere.

    Yields
    ------
    callable
        Called with the number of rows that have just been predicted.
    """
    if not stream.isatty():
        yield lambda done: None
        return
    from rich.console import Console

    console = Console(file=stream)
    total = 0
    with console.status("fitting") as status:

        def advance(done: int) -> None:
            nonlocal total
            total += done
            status.update(f"fitting: {format_integer(total)} predictions")

        yield advance
