"""``planner models``."""

from __future__ import annotations

import sys

import click


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """List the models that ship, with computed parameter counts.

    Example: planner models
    """
    from planner.export.layout_file import ListedModel, record_json
    from planner.model_api import model_rows
    from planner.report.catalog_text import show_models

    rows = model_rows()
    if as_json:
        listed = [ListedModel(*row) for row in rows]
        click.echo(record_json(listed).decode("utf-8"), nl=False)
    else:
        show_models(rows, sys.stdout)
    return 0
