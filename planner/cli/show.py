"""Printing shared by commands: data to stdout, talk to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from planner.domain.layout import Layout
from planner.domain.outcome import Infeasible
from planner.domain.question import Question
from planner.export.layout_file import (
    check_writable,
    infeasible_json,
    layout_json,
    write_text_atomic,
)

Answer = Callable[[Question], Layout | Infeasible]


def print_bytes(content: bytes) -> None:
    """Write JSON to stdout."""
    click.echo(content.decode("utf-8"), nl=False)


def print_layout(layout: Layout, out: str | None, as_json: bool) -> int:
    """Print an answer and write its file."""
    if out is not None:
        write_text_atomic(out, layout_json(layout))
    if as_json:
        print_bytes(layout_json(layout))
    else:
        from planner.report.plan_text import show_layout

        show_layout(layout, sys.stdout)
    if out is not None:
        click.echo(f"wrote {out}", err=True)
    return 0


def answer_question(question: Question, answer: Answer, out: str | None, as_json: bool) -> int:
    """Ask the library and print what it says; exit code 3 when nothing fits."""
    if out is not None:
        check_writable(out)
    found = answer(question)
    if isinstance(found, Layout):
        return print_layout(found, out, as_json)
    if as_json:
        print_bytes(infeasible_json(found))
    click.echo(f"infeasible: {found.message}", err=True)
    for remedy in found.remedies:
        click.echo(f"  would help: {remedy}", err=True)
    return 3
