"""``planner topology list``."""

from __future__ import annotations

import click

from planner.cli.topologies import command as topologies


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> int:
    """List the machines that ship.

    Example: planner topology list
    """
    code = ctx.invoke(topologies, as_json=as_json)
    assert isinstance(code, int)
    return code
