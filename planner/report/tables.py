"""Tables: drawn by rich on a terminal, aligned plain text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

Row = Sequence[str]


def print_table(title: str, header: Row, rows: Sequence[Row], stream: TextIO) -> None:
    """Print a table; the first column is aligned left, the others right.

    A row that starts with ``>`` is the one to look at: bold on a terminal.
    """
    if stream.isatty():
        _print_rich(title, header, rows, stream)
        return
    stream.write(f"\n{title}\n")
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        text = [row[0].ljust(widths[0])]
        text += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        stream.write(("  " + "  ".join(text)).rstrip() + "\n")


def _print_rich(title: str, header: Row, rows: Sequence[Row], stream: TextIO) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row, style="bold" if row[0].startswith(">") else None)
    Console(file=stream).print(table)


def print_text(text: str, stream: TextIO) -> None:
    """Print a paragraph, wrapped to the terminal, or to 88 columns elsewhere."""
    if stream.isatty():
        from rich.console import Console

        Console(file=stream, highlight=False, markup=False).print(text)
        return
    from textwrap import fill

    stream.write(fill(text, 88) + "\n")
