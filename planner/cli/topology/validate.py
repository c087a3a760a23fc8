"""``planner topology validate``."""

from __future__ import annotations

import click


@click.command("validate")
@click.argument("file")
def command(file: str) -> int:
    """Check a machine FILE: exit code 0 with warnings, 2 when it cannot be used.

    Example: planner topology validate my-rack.toml
    """
    from planner.machine_api import check_machine

    verdict = check_machine(file)
    for fact in verdict.facts:
        click.echo(fact)
    for warning in verdict.warnings:
        click.echo(f"warning: {warning}")
    return 0
