"""The CSV file of ``planner validate -o rows.csv``: one line per measured time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from planner.validation.outcome import Outcome

HEADER = (
    *("id", "kind", "class", "model", "topology", "num_chips", "source_group", "software"),
    *("quality", "layout", "sweep", "measured_s", "predicted_s", "ratio", "error"),
    *("largest_term", "largest_term_s", "largest_term_bound", "terms"),
    *("fits", "needed_bytes", "capacity_bytes", "reason"),
)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"


def _cells(outcome: Outcome) -> tuple[str, ...]:
    term, memory = outcome.largest_term, outcome.memory
    return (
        outcome.id,
        outcome.kind,
        outcome.row_class.value,
        outcome.model,
        outcome.chip,
        str(outcome.num_chips),
        outcome.source,
        outcome.software,
        outcome.quality,
        outcome.layout,
        outcome.sweep,
        _number(outcome.measured_s),
        _number(outcome.predicted_s),
        _number(outcome.ratio),
        _number(outcome.error),
        "" if term is None else term.name,
        "" if term is None else _number(term.seconds),
        "" if term is None else term.bound.value,
        "; ".join(f"{part.name}={_number(part.seconds)}" for part in outcome.terms),
        "" if memory is None else str(int(memory.fits)),
        "" if memory is None else _number(memory.needed_bytes),
        "" if memory is None else _number(memory.capacity_bytes),
        outcome.reason,
    )


def rows_csv(outcomes: Iterable[Outcome]) -> bytes:
    """Write outcomes as CSV with a header, in their order; unknown numbers are empty."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    table.writerows(_cells(outcome) for outcome in outcomes)
    return text.getvalue().encode("utf-8")
