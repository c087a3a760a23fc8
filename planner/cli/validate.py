"""``planner validate``."""

from __future__ import annotations

import sys
from typing import Any

import click

from planner.errors import SpecError

_MAX_JOBS = 256


def _names(text: str | None, option: str) -> tuple[str, ...]:
    """Read a list of names; an absent option is no list."""
    if text is None:
        return ()
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise SpecError(f"{option}: '{text}' has an empty name", "separate names by one comma")
    return names


@click.command("validate")
@click.argument("file")
@click.option(
    "--by",
    default="kind",
    show_default=True,
    metavar="KEY,KEY",
    help="A table for each key, of kind, class, chip, chips, source, model, quality, software; "
    "kind+chip is one table by both.",
)
@click.option("--kind", metavar="KIND,KIND", help="Rows to compare, e.g. train,prefill.")
@click.option("--quality", metavar="A,B", help="Qualities of rows to compare.")
@click.option("--without-ids", metavar="FILE", help="Ids of rows to leave out, one per line.")
@click.option("--ran", metavar="FILE", help="Layouts that ran, to score the memory model with.")
@click.option("--jobs", type=click.IntRange(1, _MAX_JOBS), default=1, help="Processes.")
@click.option("-o", "--out", metavar="FILE", help="Write rows to a .csv, or the report to a .md.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: str, out: str | None, as_json: bool, **options: Any) -> int:
    """Run the rows of FILE as they were measured and compare.

    FILE is a CSV table of measured training steps, prefill passes, decode steps, requests
    and collectives, or of serving latencies. A row without a time is a layout that ran out of
    memory. Nothing is searched.

    Example: planner validate measured.csv --by kind,chip --quality A,B -o rows.csv
    """
    from planner.export.atomic import check_writable, write_text_atomic
    from planner.validation.validate import ValidationRequest, validate

    if out is not None:
        if not out.endswith((".csv", ".md")):
            raise SpecError(f"-o: '{out}' is neither .csv nor .md", "write rows.csv or report.md")
        check_writable(out)
    request = ValidationRequest(
        file=file,
        by=options["by"],
        kinds=_names(options["kind"], "--kind"),
        qualities=_names(options["quality"], "--quality"),
        without_ids=options["without_ids"],
        ran=options["ran"],
        jobs=options["jobs"],
    )
    from planner.report.validation_text import (
        progress_bar,
        show_validation,
        summary_text,
        validation_markdown,
    )

    with progress_bar(sys.stderr) as shown:
        report = validate(request, shown)
    if out is not None:
        from planner.export.rows_file import rows_csv

        is_table = out.endswith(".csv")
        text = validation_markdown(report).encode("utf-8")
        write_text_atomic(out, rows_csv(report.outcomes) if is_table else text)
        click.echo(f"wrote {out}", err=True)
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.layout_file import record_json

        print_bytes(record_json(report))
    else:
        show_validation(report, sys.stdout)
    if report.interrupted:
        click.echo(summary_text(report), err=True)
        return 130
    return 0
