"""``planner validate``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from planner.errors import SpecError

if TYPE_CHECKING:
    from planner.report.validation_text import TextTable
    from planner.validation.validate import ValidationReport

_MAX_JOBS = 256
_ENDINGS = (".csv", ".md", ".html")
# What is printed instead of the report, one at most.
_PRINTED = {"terms": "--terms", "accuracy": "--accuracy", "as_json": "--json"}


def _names(text: str | None, option: str) -> tuple[str, ...]:
    """Read a list of names; an absent option is no list."""
    if text is None:
        return ()
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise SpecError(f"{option}: '{text}' has an empty name", "separate names by one comma")
    return names


def _written(out: str, report: ValidationReport, extra: tuple[TextTable, ...]) -> bytes:
    """What goes into a file, by its ending."""
    if out.endswith(".csv"):
        from planner.export.rows_file import rows_csv

        return rows_csv(report.outcomes)
    if out.endswith(".md"):
        from planner.report.validation_text import validation_markdown

        return validation_markdown(report, extra).encode("utf-8")
    from planner.report.validation_html import validation_html

    return validation_html(report, extra).encode("utf-8")


def _print(report: ValidationReport, printed: str) -> None:
    if printed == "as_json":
        from planner.cli.show import print_bytes
        from planner.export.layout_file import record_json

        print_bytes(record_json(report))
        return
    from planner.report.validation_text import accuracy_table, show_validation, summary_text

    if printed == "accuracy":
        click.echo(accuracy_table(report.outcomes), nl=False)
    elif printed == "terms":
        from planner.report.validation_terms import show_terms

        click.echo(summary_text(report))
        show_terms(report.outcomes, sys.stdout)
    else:
        show_validation(report, sys.stdout)


@click.command("validate")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
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
@click.option(
    "-o", "--out", metavar="FILE", help="Write rows to a .csv, or the report to a .md or .html."
)
@click.option(
    "--terms", is_flag=True, help="Print each row with the terms of its prediction; -o adds them."
)
@click.option(
    "--accuracy",
    is_flag=True,
    help="Print errors by class in Markdown, over rows of quality A and B; those kept for "
    "calibration are left out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(files: tuple[str, ...], out: str | None, **options: Any) -> int:
    """Run the rows of each FILE as they were measured and compare.

    FILE is a CSV table of measured training steps, prefill passes, decode steps, requests
    and collectives, or of serving latencies. A row without a time is a layout that ran out of
    memory. Nothing is searched.

    Example: planner validate measured.csv --by kind,chip --quality A,B -o report.html
    """
    from planner.export.atomic import check_writable, write_text_atomic
    from planner.validation.validate import ValidationRequest, validate

    printed = [name for name in _PRINTED if options[name]]
    if len(printed) > 1:
        names = " and ".join(_PRINTED[name] for name in printed)
        raise SpecError(f"{names} print different things", "keep one of them")
    if out is not None:
        if not out.endswith(_ENDINGS):
            raise SpecError(
                f"-o: '{out}' is none of {', '.join(_ENDINGS)}", "write rows.csv or report.html"
            )
        check_writable(out)
    request = ValidationRequest(
        file=files[0],
        also=files[1:],
        by=options["by"],
        kinds=_names(options["kind"], "--kind"),
        qualities=_names(options["quality"], "--quality"),
        without_ids=options["without_ids"],
        ran=options["ran"],
        jobs=options["jobs"],
    )
    from planner.report.validation_terms import terms_table
    from planner.report.validation_text import progress_bar, summary_text

    with progress_bar(sys.stderr) as shown:
        report = validate(request, shown)
    if out is not None:
        extra = (terms_table(report.outcomes),) if options["terms"] else ()
        write_text_atomic(out, _written(out, report, extra))
        click.echo(f"wrote {out}", err=True)
    _print(report, printed[0] if printed else "")
    if report.interrupted:
        click.echo(summary_text(report), err=True)
        return 130
    return 0
