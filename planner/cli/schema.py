"""``planner schema``."""

from __future__ import annotations

import click


@click.command("schema")
def command() -> int:
    """Print the JSON Schema of layout files.

    Example: planner schema > layout.schema.json
    """
    from planner.export.layout_file import schema_json

    click.echo(schema_json().decode("utf-8"), nl=False)
    return 0
