"""How the studies print: text, JSON or CSV, and a plot to a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar

import click

from planner.cli.show import print_bytes, print_infeasible
from planner.domain.outcome import Infeasible
from planner.errors import SpecError
from planner.export.atomic import check_writable, write_text_atomic

if TYPE_CHECKING:
    from planner.report.plot.chart import Chart

Answer = TypeVar("Answer")
Command = TypeVar("Command", bound=Callable[..., Any])

OUTPUT = (
    click.option("-o", "--out", metavar="FILE", help="Write a plot to FILE, .png or .svg."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    click.option("--csv", "as_csv", is_flag=True, help="Print the main table as CSV."),
)


def study_output_options(command: Command) -> Command:
    """``-o FILE``, ``--json`` and ``--csv``."""
    for option in reversed(OUTPUT):
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where an answer goes."""

    out: str | None
    as_json: bool
    as_csv: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Forms(Generic[Answer]):
    """The forms of an answer."""

    show: Callable[[Answer, TextIO], None]
    to_json: Callable[[Answer], bytes]
    to_csv: Callable[[Answer], bytes]
    chart: Callable[[Answer], Chart]


def take_output(values: dict[str, Any]) -> Output:
    """Take the options of output away and check them.

    Raises
    ------
    SpecError
        Two forms exclude each other, or the plot's file cannot be written.
    """
    found = Output(
        out=values.pop("out"), as_json=values.pop("as_json"), as_csv=values.pop("as_csv")
    )
    if found.as_json and found.as_csv:
        raise SpecError("--json and --csv exclude each other", "leave one out")
    if found.out is not None:
        from planner.report.plot.image import check_format

        check_format(found.out)
        check_writable(found.out)
    return found


def print_study(answer: Answer | Infeasible, output: Output, forms: Forms[Answer]) -> int:
    """Print an answer and draw its plot; returns the exit code, 3 where nothing fits."""
    if isinstance(answer, Infeasible):
        return print_infeasible(answer, output.as_json)
    if output.as_json:
        print_bytes(forms.to_json(answer))
    elif output.as_csv:
        print_bytes(forms.to_csv(answer))
    else:
        forms.show(answer, sys.stdout)
    if output.out is not None:
        from planner.report.plot.image import chart_image, check_format

        image = chart_image(forms.chart(answer), check_format(output.out))
        write_text_atomic(output.out, image)
        click.echo(f"wrote {output.out}", err=True)
    return 0
