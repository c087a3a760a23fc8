"""Measured runs side by side with the terms of their predictions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TextIO

from planner.domain.run import ScheduleKind
from planner.report.tables import print_table
from planner.report.validation_text import TextTable
from planner.units import format_integer, format_seconds
from planner.validation.outcome import Outcome, OutcomeTerm

MAX_TERMS = 4  # of one run in a table
_DEGREE = re.compile(r"(tp|dp|cp|pp|ep)(\d+)")
_SCHEDULES = frozenset(kind.value for kind in ScheduleKind) - {ScheduleKind.NONE.value}
_UNKNOWN = "overlap-unknown"


def run_text(outcome: Outcome) -> str:
    """What was run: kind, model, machine, number formats, batch and lengths."""
    if outcome.sweep:
        return outcome.sweep.removeprefix(f"{outcome.source} ")
    chips = f"{outcome.chip} x{format_integer(outcome.num_chips)}"
    return " ".join(word for word in (outcome.kind, outcome.model, chips) if word)


def degrees_text(outcome: Outcome) -> str:
    """Degrees above one, pipeline schedule, overlap: ``DP128 PP16 EP64 dualpipe overlap-ep``."""
    words = outcome.layout.split()
    found = [
        word.upper()
        for word in words
        if (match := _DEGREE.fullmatch(word)) and int(match.group(2)) > 1
    ]
    found += [word for word in words if word in _SCHEDULES]
    found += [word for word in words if word.startswith("overlap-") and word != _UNKNOWN]
    return " ".join(found)


def _by_size(outcome: Outcome) -> list[OutcomeTerm]:
    terms = [term for term in outcome.terms if term.seconds > 0]
    return sorted(terms, key=lambda term: -term.seconds)


def _name(term: OutcomeTerm) -> str:
    return term.name.replace("_", " ")


def _shortened(outcome: Outcome) -> str:
    """The largest terms, and the sum of the others."""
    terms = _by_size(outcome)
    # A rest of one term would be no shorter than the term.
    count = len(terms) if len(terms) <= MAX_TERMS + 1 else MAX_TERMS
    parts = [f"{_name(term)} {format_seconds(term.seconds)}" for term in terms[:count]]
    rest = terms[count:]
    if rest:
        parts.append(f"rest {format_seconds(sum(term.seconds for term in rest))}")
    return ", ".join(parts)


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_seconds(value)


def terms_table(outcomes: Iterable[Outcome]) -> TextTable:
    """One line per run: measured, predicted, and the largest terms of the prediction."""
    rows = []
    for outcome in outcomes:
        error = "-" if outcome.ratio is None else f"{100.0 * (outcome.ratio - 1.0):+.1f} %"
        times = (_seconds(outcome.measured_s), _seconds(outcome.predicted_s), error)
        why = _shortened(outcome) if outcome.represented else outcome.reason
        rows.append((run_text(outcome), degrees_text(outcome), *times, why))
    return TextTable(
        title="Terms",
        header=("run", "layout", "measured", "predicted", "error", "largest terms"),
        rows=tuple(rows),
        words=(0, 1, 5),
    )


def show_terms(outcomes: Iterable[Outcome], stream: TextIO) -> None:
    """Print a block for each run: the measured time, the predicted one, and all its terms."""
    for outcome in outcomes:
        whole = outcome.measured_s or outcome.predicted_s
        if outcome.predicted_s is None or whole is None:
            rows = [("measured", _seconds(outcome.measured_s), "", "")]
            rows.append(("not representable", "", "", outcome.reason))
        else:
            rows = [("measured", _seconds(outcome.measured_s), "", "")]
            rows.append(_line("predicted", outcome.predicted_s, whole, ""))
            rows += [
                _line(f"  {_name(term)}", term.seconds, whole, term.bound.value)
                for term in _by_size(outcome)
            ]
        share = "of predicted" if outcome.measured_s is None else "of measured"
        layout = f" [{outcome.layout}]" if outcome.layout else ""
        title = f"{outcome.id}: {run_text(outcome)}{layout}"
        print_table(title, ("", "time", share, "waits for"), rows, stream, words=(0, 3))


def _line(name: str, seconds: float, whole: float, bound: str) -> tuple[str, str, str, str]:
    return (name, format_seconds(seconds), f"{100.0 * seconds / whole:.1f} %", bound)
