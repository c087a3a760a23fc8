"""Printing shared by commands: data to stdout, talk to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import click

from planner.domain.layout import Certificate, Layout
from planner.domain.outcome import Infeasible
from planner.domain.question import Question
from planner.domain.serve import ServeQuestion
from planner.domain.serve_layout import ServeLayout
from planner.domain.train_layout import TrainLayout
from planner.domain.training import TrainQuestion
from planner.export.layout_file import (
    check_writable,
    infeasible_json,
    layout_json,
    write_text_atomic,
)
from planner.units import format_percent

INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended

L = TypeVar("L", Layout, TrainLayout, ServeLayout)

Answer = Callable[[Question], Layout | Infeasible]
ServeAnswer = Callable[[ServeQuestion], ServeLayout | Infeasible]
TrainAnswer = Callable[[TrainQuestion], TrainLayout | Infeasible]


def print_bytes(content: bytes) -> None:
    """Write JSON to stdout."""
    click.echo(content.decode("utf-8"), nl=False)


def _print_and_write(
    content: bytes, show: Callable[[], None], out: str | None, as_json: bool
) -> int:
    if out is not None:
        write_text_atomic(out, content)
    if as_json:
        print_bytes(content)
    else:
        show()
    if out is not None:
        click.echo(f"wrote {out}", err=True)
    return 0


def print_layout(layout: Layout, out: str | None, as_json: bool) -> int:
    """Print an answer and write its file."""

    def show() -> None:
        from planner.report.plan_text import show_layout

        show_layout(layout, sys.stdout)

    return _print_and_write(layout_json(layout), show, out, as_json)


def answer_question(question: Question, answer: Answer, out: str | None, as_json: bool) -> int:
    """Ask the library and print what it says.

    Exit code 3 when nothing fits; 130 when Ctrl-C ended the search, whose best layout so far
    is printed and written all the same.
    """
    return _answer(lambda: answer(question), print_layout, out, as_json)


def _answer(
    ask: Callable[[], L | Infeasible],
    show: Callable[[L, str | None, bool], int],
    out: str | None,
    as_json: bool,
) -> int:
    if out is not None:
        check_writable(out)
    found = ask()
    if isinstance(found, Infeasible):
        return print_infeasible(found, as_json)
    show(found, out, as_json)
    return _end_of_search(found.certificate)


def answer_training(
    question: TrainQuestion, answer: TrainAnswer, out: str | None, as_json: bool
) -> int:
    """:func:`answer_question` for training."""
    return _answer(lambda: answer(question), print_training, out, as_json)


def print_training(layout: TrainLayout, out: str | None, as_json: bool) -> int:
    """Print a training layout and write its file."""
    from planner.export.train_file import train_layout_json

    def show() -> None:
        from planner.report.train_text import show_train_layout

        show_train_layout(layout, sys.stdout)

    return _print_and_write(train_layout_json(layout), show, out, as_json)


def answer_pools(
    question: ServeQuestion, answer: ServeAnswer, out: str | None, as_json: bool
) -> int:
    """:func:`answer_question` for two pools."""
    return _answer(lambda: answer(question), print_pools, out, as_json)


def print_pools(layout: ServeLayout, out: str | None, as_json: bool) -> int:
    """Print a layout of two pools and write its file."""
    from planner.export.serve_file import serve_layout_json

    def show() -> None:
        from planner.report.serve_text import show_serve_layout

        show_serve_layout(layout, sys.stdout)

    return _print_and_write(serve_layout_json(layout), show, out, as_json)


def print_infeasible(found: Infeasible, as_json: bool) -> int:
    """Print why nothing fits; returns the exit code."""
    if as_json:
        print_bytes(infeasible_json(found))
    click.echo(f"infeasible: {found.message}", err=True)
    for remedy in found.remedies:
        click.echo(f"  would help: {remedy}", err=True)
    return 3


def _end_of_search(proof: Certificate | None) -> int:
    if proof is None or proof.stopped != "interrupted":
        return 0
    gap = format_percent(proof.gap)
    click.echo(f"interrupted: the best layout so far, at most {gap} from the best", err=True)
    return INTERRUPTED
