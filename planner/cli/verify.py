"""``planner verify``."""

from __future__ import annotations

import click


@click.command("verify")
@click.argument("layout_file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(layout_file: str, as_json: bool) -> int:
    """Check a layout file, edited ones too, and name each violation.

    Exit code 1 when something is violated.

    Example: planner verify layout.json
    """
    from planner.api import verify
    from planner.export.layout_file import Verdict, read_layout, record_json

    violations = verify(read_layout(layout_file))
    if as_json:
        verdict = Verdict(valid=not violations, violations=violations)
        click.echo(record_json(verdict).decode("utf-8"), nl=False)
    else:
        for violation in violations or ("valid",):
            click.echo(violation)
    return 1 if violations else 0
