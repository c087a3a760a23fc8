"""Predicted against measured as one HTML page: no scripts, no network."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from planner.report.validation_text import (
    NOTE,
    TITLE,
    TextTable,
    has_errors,
    report_tables,
    summary_text,
)
from planner.validation.validate import ValidationReport

_TEMPLATE = Path(__file__).parent / "validation.html"


def html_table(table: TextTable) -> str:
    """A table with its title; every text is escaped."""

    def line(tag: str, cells: Iterable[str]) -> str:
        parts = [
            f"<{tag}>{escape(cell)}</{tag}>"
            if column in table.words
            else f'<{tag} class="number">{escape(cell)}</{tag}>'
            for column, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(parts)}</tr>\n"

    body = "".join(line("td", row) for row in table.rows)
    return (
        f"<h2>{escape(table.title)}</h2>\n"
        f'<div class="wide"><table>\n<thead>{line("th", table.header)}</thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def validation_html(report: ValidationReport, extra: Iterable[TextTable] = ()) -> str:
    """A report, and tables to follow its own, as a page that needs nothing else."""
    tables = (*report_tables(report), *extra)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(TITLE),
        summary=escape(summary_text(report)),
        tables="".join(html_table(table) for table in tables),
        note=f"<p>{escape(NOTE)}</p>" if has_errors(report) else "",
    )
