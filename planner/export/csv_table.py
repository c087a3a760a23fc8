"""Tables as CSV: a header, unknown cells empty, numbers with nine significant digits."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

Cell = str | int | float | None


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.9g}" if isinstance(cell, float) else str(cell)


def csv_table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> bytes:
    """One table."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows([_text(cell) for cell in row] for row in rows)
    return text.getvalue().encode("utf-8")
