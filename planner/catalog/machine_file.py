"""The first reading of a machine file: sources split from numbers, numbers checked.

The schema is :mod:`planner.catalog.machine_tables`.
"""

from __future__ import annotations

from typing import Any

from planner.domain.hardware import Source

# Choices and observations of the user, not facts that could have a source.
UNSOURCED = ("size", "wounds", "mix")


class FieldProblem(Exception):
    """A field that cannot be accepted; the reader adds the file and the line."""

    def __init__(self, field: str, message: str, remedy: str = "") -> None:
        """Name the dotted field, what is wrong with it and how to repair it."""
        super().__init__(message)
        self.field = field
        self.message = message
        self.remedy = remedy


def _numbers(value: object) -> list[float]:
    """Every number in a value, however deep in lists and tables."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _dotted(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def split_sources(
    table: dict[str, Any], as_of: str, prefix: str = "", inherited: str = ""
) -> tuple[dict[str, Any], list[Source]]:
    """Separate numbers from where they come from.

    Parameters
    ----------
    table : dict
        One table of a parsed file; its sub-tables are visited too.
    as_of : str
        Month in which the file's sources were read.
    inherited : str
        Source of the numbers for which this table names none: the ``all`` of the table
        around it.

    Returns
    -------
    (dict, list of Source)
        The table without ``source`` entries, and one source per number; a list of tables
        has one source for all of it.

    Raises
    ------
    FieldProblem
        A number without a source, or a source without a number.
    """
    given: Any = table.get("source", {})
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise FieldProblem(_dotted(prefix, "source"), "must be a table of texts")
    default = str(given.get("all", inherited)).strip()
    plain: dict[str, Any] = {}
    sources: list[Source] = []
    for key, value in table.items():
        if key == "source":
            continue
        name = _dotted(prefix, key)
        plain[key] = value
        if name in UNSOURCED:
            continue
        if isinstance(value, dict):
            plain[key], below = split_sources(value, as_of, name, default)
            sources += below
        elif _numbers(value):
            text = str(given.get(key, default)).strip()
            if not text:
                where = f"[{prefix}.source]" if prefix else "[source]"
                raise FieldProblem(name, "has no source", f'add {key} = "..." to {where}')
            sources.append(Source(field=name, text=text, as_of=as_of))
    for key in given:
        if key not in plain and key != "all":
            raise FieldProblem(_dotted(prefix, f"source.{key}"), f"'{key}' is not in this table")
    return plain, sources


MAY_BE_ZERO = ("wrap_multiple", "trunk_links", "rails")


def _limits(path: tuple[str, ...]) -> tuple[float, float, bool]:
    """``(low, high, low itself allowed)`` of a number, from its key and table."""
    key = path[-1]
    if key.endswith("_us") or key in MAY_BE_ZERO:
        return 0.0, 1e6, True
    if "derate" in path:
        return 0.0, 1.0, False
    if key.endswith("GB_per_s") or "peak_TFLOP_per_s" in path:
        return 0.0, 1e6, False
    if key.endswith(("_GB", "_GiB")):
        return 0.0, 1e5, False
    if key.endswith("_usd_per_hour"):
        return 0.0, 1e4, False
    # Indices of a list of pairs, and of domains, start at zero.
    return (0.0, 1e6, True) if key in ("pairs", "domains") else (1.0, 1e6, True)


def check_ranges(table: dict[str, Any], path: tuple[str, ...] = ()) -> None:
    """Refuse numbers that cannot be true.

    Raises
    ------
    FieldProblem
        NaN, infinite, negative, zero where that is impossible, or absurdly large.
    """
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict):
            if here != ("wounds",):
                check_ranges(value, here)
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                check_ranges(item, here)
                continue
            low, high, closed = _limits(here)
            for number in _numbers(item):
                if not (low <= number <= high) or (number == low and not closed):
                    bracket = "[" if closed else "("
                    raise FieldProblem(
                        ".".join(here), f"{number} is outside {bracket}{low:g}, {high:g}]"
                    )
