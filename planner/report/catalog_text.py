"""What ships, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from planner.report.tables import print_table
from planner.units import format_params


def show_models(rows: Sequence[tuple[str, int, int, int, str]], stream: TextIO) -> None:
    """Print the model catalogue."""
    cells = [
        (name, format_params(total), format_params(active), str(layers), architecture)
        for name, total, active, layers, architecture in rows
    ]
    header = ("model", "parameters", "active", "layers", "architecture")
    print_table("Models", header, cells, stream, words=(0, 4))


def show_machines(rows: Sequence[tuple[str, str, str, int]], stream: TextIO) -> None:
    """Print the machine catalogue."""
    cells = [(name, size, str(chips), summary) for name, summary, size, chips in rows]
    header = ("machine", "default", "chips", "summary")
    print_table("Machines", header, cells, stream, words=(0, 3))
