"""``planner schema``."""

from __future__ import annotations

import click


@click.command("schema")
@click.option(
    "--phase",
    type=click.Choice(["decode", "prefill", "train", "serve"]),
    default="decode",
    show_default=True,
    help="Whose layout files.",
)
def command(phase: str) -> int:
    """Print the JSON Schema of layout files.

    Example: planner schema > layout.schema.json
    """
    from planner.export.layout_file import schema_json
    from planner.export.serve_file import serve_schema_json
    from planner.export.train_file import train_schema_json

    schemas = {"train": train_schema_json, "serve": serve_schema_json}
    click.echo(schemas.get(phase, schema_json)().decode("utf-8"), nl=False)
    return 0
