"""Two layouts side by side as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from planner.domain.differences import Difference, FigureChange, LayoutDifferences
from planner.report.replan_text import lost_lines, show_moves
from planner.report.tables import print_table, print_text
from planner.units import format_bytes, format_count, format_integer, format_seconds

_FORMATS = {"s": format_seconds, "bytes": format_bytes, "": format_count}


def show_diff(found: LayoutDifferences, names: tuple[str, str], stream: TextIO) -> None:
    """Print what differs; ``names`` are the files."""
    if found.same:
        print_text("The two layouts are the same.", stream)
        return
    print_text(f"{names[0]} -> {names[1]}", stream)
    _pairs("Asked", found.question, stream)
    _pairs("Decided", found.decisions, stream)
    if not found.question and not found.decisions:
        print_text("The same was asked, and the same degrees and stages were decided.", stream)
    _chips(found, stream)
    _changes("Figures", found.figures, stream)
    _changes("Terms of the step that differ", found.terms, stream)
    if found.experts is not None:
        experts = found.experts
        print_text(
            f"Experts: maps of {format_integer(experts.layers)} layers differ; "
            f"{format_integer(experts.new_copies)} of {format_integer(experts.copies)} copies are "
            "new to their chips.",
            stream,
        )
    if found.migration is None:
        return
    if not found.migration.moved_bytes:
        print_text("From the first layout to the second nothing moves.", stream)
    show_moves(found.migration, stream)
    stream.write("\n")
    for line in lost_lines(found.migration):
        print_text(line, stream)
    if found.migration.moved_bytes:
        moved = format_bytes(found.migration.moved_bytes)
        print_text(
            f"Changing over moves {moved} and takes {format_seconds(found.migration.seconds)}.",
            stream,
        )


def _pairs(title: str, rows: Sequence[Difference], stream: TextIO) -> None:
    if rows:
        cells = [(row.name, row.first, row.second) for row in rows]
        print_table(title, ("", "first", "second"), cells, stream, words=(0, 1, 2))


def _chips(found: LayoutDifferences, stream: TextIO) -> None:
    for chips, which in ((found.chips_first, "first"), (found.chips_second, "second")):
        if chips:
            more = f" and {len(chips) - 6} more" if len(chips) > 6 else ""
            stream.write("\n")
            print_text(f"Only the {which} uses {', '.join(chips[:6])}{more}.", stream)


def _changes(title: str, rows: Sequence[FigureChange], stream: TextIO) -> None:
    cells = []
    for row in rows:
        shown = _FORMATS[row.unit]
        values = ["-" if value is None else shown(value) for value in (row.first, row.second)]
        change = "-"
        if row.first and row.second is not None:
            change = f"{row.second / row.first - 1:+.1%}"
        cells.append((row.name, *values, change))
    if cells:
        print_table(title, ("", "first", "second", "change"), cells, stream)
