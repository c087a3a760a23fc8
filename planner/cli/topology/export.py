"""``planner topology export``."""

from __future__ import annotations

from typing import Any

import click

from planner.cli.options import size_options, to_sizing


@click.command("export")
@click.argument("machine")
@size_options
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["graphml", "json"]),
    required=True,
    help="GraphML, or NetworkX node-link JSON.",
)
@click.option("-o", "--out", metavar="FILE", help="Write to FILE instead of the terminal.")
def command(machine: str, file_format: str, out: str | None, **values: Any) -> int:
    """Write the graph of MACHINE: every chip, switch, NIC and link by name.

    Example: planner topology export h100-hgx --format graphml -o node.graphml
    """
    from planner.cli.show import print_bytes
    from planner.export.atomic import check_writable, write_text_atomic
    from planner.export.graph_file import graph_bytes
    from planner.machine_api import load_topology

    if out is not None:
        check_writable(out)
    content = graph_bytes(load_topology(machine, to_sizing(values)), file_format)
    if out is None:
        print_bytes(content)
        return 0
    write_text_atomic(out, content)
    click.echo(f"wrote {out}", err=True)
    return 0
