"""Tables: drawn by rich on a terminal, aligned plain text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

Row = Sequence[str]


def print_table(
    title: str,
    header: Row,
    rows: Sequence[Row],
    stream: TextIO,
    words: Sequence[int] = (0,),
) -> None:
    """Print a table; a header of empty names is left out.

    A row that starts with ``>`` is the one to look at: bold on a terminal.

    Parameters
    ----------
    words : sequence of int
        Columns of words, aligned left; the others hold numbers, aligned right.
    """
    if stream.isatty():
        _print_rich(title, header, rows, stream, words)
        return
    stream.write(f"\n{title}\n")
    cells = [list(header)] if any(header) else []
    cells += [list(row) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        text = [
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        stream.write(("  " + "  ".join(text)).rstrip() + "\n")


def _print_rich(
    title: str, header: Row, rows: Sequence[Row], stream: TextIO, words: Sequence[int]
) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, not str: a name such as "[x]" is no markup.
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        show_header=any(header),
    )
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index in words else "right", overflow="fold")
    for row in rows:
        style = "bold" if row[0].startswith(">") else None
        table.add_row(*(Text(cell) for cell in row), style=style)
    Console(file=stream, highlight=False).print(table)


def print_text(text: str, stream: TextIO) -> None:
    """Print a paragraph, wrapped to the terminal, or to 88 columns elsewhere."""
    if stream.isatty():
        from rich.console import Console

        Console(file=stream, highlight=False, markup=False).print(text)
        return
    from textwrap import fill

    stream.write(fill(text, 88) + "\n")
