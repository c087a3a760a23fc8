"""``planner topology draw``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from planner.cli.options import size_options, to_sizing
from planner.errors import SpecError


@click.command("draw")
@click.argument("machine")
@size_options
@click.option("-o", "--out", metavar="FILE.svg", required=True, help="The drawing.")
def command(machine: str, out: str, **values: Any) -> int:
    """Draw MACHINE as SVG.

    Example: planner topology draw gb200-nvl72 -o rack.svg
    """
    from planner.export.atomic import check_writable, write_text_atomic
    from planner.machine_api import load_topology

    if Path(out).suffix.lower() != ".svg":
        raise SpecError(f"-o: '{out}' does not end in .svg", "write for example -o rack.svg")
    check_writable(out)
    topology = load_topology(machine, to_sizing(values))
    from planner.report.draw import draw_topology

    write_text_atomic(out, draw_topology(topology).encode())
    click.echo(f"wrote {out}", err=True)
    return 0
