"""``planner topologies``."""

from __future__ import annotations

import sys

import click


@click.command("topologies")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """List the machines that ship.

    Example: planner topologies
    """
    from planner.export.layout_file import ListedMachine, record_json
    from planner.machine_api import machine_rows
    from planner.report.catalog_text import show_machines

    rows = machine_rows()
    if as_json:
        listed = [ListedMachine(*row) for row in rows]
        click.echo(record_json(listed).decode("utf-8"), nl=False)
    else:
        show_machines(rows, sys.stdout)
    return 0
