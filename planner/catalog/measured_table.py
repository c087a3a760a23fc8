"""Reading a CSV file cell by cell, with messages that name file, line and column."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn, TypeVar

from planner.catalog.toml_text import read_text
from planner.errors import CatalogError

Choice = TypeVar("Choice", bound=StrEnum)

# No count of chips, tokens or sequences comes near; a larger one is a typing error.
MAX_COUNT = 10**12
_SHOWN = 40  # characters of a wrong cell that a message repeats

MAX_BYTES = 64 * 2**20


def shorten(text: str) -> str:
    """A cell as a message quotes it."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """One row: cells by column name; an absent column counts as empty."""

    file: str
    line: int
    values: Mapping[str, str]

    def fail(self, column: str, message: str, remedy: str = "") -> NoReturn:
        """Raise a ``CatalogError`` about one cell."""
        raise CatalogError(message, file=self.file, line=self.line, field=column, remedy=remedy)

    def text(self, column: str) -> str:
        """A cell without surrounding blanks; empty where it is empty."""
        return self.values.get(column, "").strip()

    def required(self, column: str, why: str = "") -> str:
        """A cell that may not be empty; ``why`` completes the message."""
        found = self.text(column)
        if not found:
            self.fail(column, f"is empty{why}", "fill it in, or leave the row out")
        return found

    def number(self, column: str) -> float | None:
        """A finite number of zero or more, or None where the cell is empty."""
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            self.fail(column, f"is {shorten(text)}, not a number", "write for example 0.0153")
        if not math.isfinite(value) or value < 0:
            self.fail(column, f"is {shorten(text)}; a finite number of zero or more is expected")
        return value

    def positive(self, column: str) -> float | None:
        """A finite number above zero, or None where the cell is empty."""
        value = self.number(column)
        if value == 0:
            self.fail(column, "is 0; a number above zero is expected", "leave it empty if unknown")
        return value

    def whole(self, column: str, default: int | None = None, minimum: int = 0) -> int:
        """A whole number of ``minimum`` or more.

        Parameters
        ----------
        default : int, optional
            Of an empty cell; None refuses it.
        """
        if default is None:
            self.required(column)
        value = self.number(column)
        if value is None:
            assert default is not None
            return default
        if not value.is_integer() or not minimum <= value <= MAX_COUNT:
            text = shorten(self.text(column))
            self.fail(column, f"is {text}; a whole number of {minimum} or more is expected")
        return int(value)

    def optional_whole(self, column: str) -> int | None:
        """A whole number of one or more, or None where the cell is empty."""
        return self.whole(column, minimum=1) if self.text(column) else None

    def flag(self, column: str) -> bool:
        """1 or 0; an empty cell is 0."""
        text = self.text(column)
        if text not in ("", "0", "1"):
            self.fail(column, f"is {shorten(text)}", "write 1 or 0")
        return text == "1"

    def choice(self, column: str, kinds: type[Choice], default: Choice | None = None) -> Choice:
        """A member of an enumeration by its value."""
        text = self.required(column) if default is None else self.text(column)
        if not text and default is not None:
            return default
        found = next((kind for kind in kinds if kind.value == text), None)
        if found is None:
            known = [kind.value for kind in kinds]
            self.fail(column, f"is {shorten(text)}", f"one of {', '.join(known)}")
        return found


def read_rows(
    path: str, needed: Sequence[str], known: Sequence[str], example: str
) -> tuple[Cells, ...]:
    """Read every row of a CSV file with a header line.

    Parameters
    ----------
    needed, known : sequence of str
        Columns that must be there, and all that may be.
    example : str
        What to say about the header when it is wrong.

    Raises
    ------
    CatalogError
        The file is missing, too large, binary, empty, has no rows, a wrong header, or a
        row of the wrong length.
    """
    header, records = _split(path, read_header_text(path))
    _check_header(path, header, needed, known, example)
    rows = []
    for line, cells in records:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise CatalogError(
                f"has {len(cells)} cells, the header {len(header)}",
                file=path,
                line=line,
                remedy="put cells that contain commas into double quotes",
            )
        rows.append(Cells(file=path, line=line, values=dict(zip(header, cells, strict=True))))
    if not rows:
        raise CatalogError("has a header but no rows", file=path, remedy=example)
    return tuple(rows)


def read_columns(path: str) -> tuple[str, ...]:
    """Names of the columns of a CSV file.

    Raises
    ------
    CatalogError
        The file is missing, too large, binary or empty.
    """
    return _split(path, read_header_text(path))[0]


def read_header_text(path: str) -> str:
    """The text of a file that is a table, and not something else.

    Raises
    ------
    CatalogError
        The file is missing, too large, binary or empty.
    """
    text = read_text(Path(path), path, "name a CSV file of measured rows", MAX_BYTES)
    if "\0" in text:
        raise CatalogError("is a binary file", file=path, remedy="save the table as CSV")
    if not text.strip():
        raise CatalogError("is empty", file=path, remedy="its first line names the columns")
    return text


def _split(path: str, text: str) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """Header, and the cells of each row with the line where it starts."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for cells in reader:
            records.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise CatalogError(
            f"is not a CSV table: {error}",
            file=path,
            line=start,
            remedy="separate cells by commas; double quotes around text with commas",
        ) from None
    while records and not any(cell.strip() for cell in records[0][1]):
        del records[0]
    return tuple(cell.strip() for cell in records[0][1]), records[1:]


def _check_header(
    path: str, header: Sequence[str], needed: Sequence[str], known: Sequence[str], example: str
) -> None:
    for name in header:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise CatalogError(
                f"unknown column {shorten(name)}",
                file=path,
                line=1,
                field=name[:_SHOWN],
                remedy=f"{hint}{example}",
            )
        if header.count(name) > 1:
            raise CatalogError("column is there twice", file=path, line=1, field=name)
    for name in needed:
        if name not in header:
            raise CatalogError("column is missing", file=path, line=1, field=name, remedy=example)
