"""``planner curve``."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from planner.cli.options import question_options, to_question
from planner.cli.study_output import Forms, print_study, study_output_options, take_output
from planner.errors import SpecError
from planner.units import parse_tokens

ALONG = ("batch", "context", "chips", "stages", "bandwidth")
DRAWINGS = ("step", "cost", "mfu", "memory")


def _value(text: str | None, option: str, along: str) -> float | None:
    """An end of the range: tokens such as ``8k`` for a context, else a number."""
    if text is None:
        return None
    if along == "context":
        return float(parse_tokens(text, option))
    try:
        return float(text.replace(",", "").replace("_", ""))
    except ValueError:
        raise SpecError(
            f"{option}: cannot read '{text}'", f"write for example {option} 8"
        ) from None


@click.command("curve")
@click.argument("model")
@click.option("--x", "along", type=click.Choice(ALONG), required=True, help="What is varied.")
@click.option(
    "--y",
    "drawing",
    type=click.Choice(DRAWINGS),
    default="step",
    show_default=True,
    help="What is drawn; the figures list all of them.",
)
@click.option("--from", "low", metavar="X", help="Smallest value; the usual range if absent.")
@click.option("--to", "high", metavar="X", help="Largest value; bandwidth is a multiple.")
@click.option("--points", type=int, default=13, show_default=True, help="Points of the curve.")
@question_options
@study_output_options
def command(model: str, along: str, drawing: str, **options: Any) -> int:
    """Draw the step, cost, MFU or memory of MODEL against batch, context, chips and more.

    Batch, context and bandwidth keep the degrees that are best for the question; chips and
    stages are planned anew at every point. Terms are stacked; the lecture's ideal lines, B*,
    the balanced context, floors and the drain time of the HBM are marked.

    Example: planner curve deepseek-v3 --on gb200-nvl72 --context 8k --x batch --y cost
    -o cost.svg

    Example: planner curve llama-3.1-70b --on h100-hgx --context 8k --x context --from 1k --to 64k
    """
    output = take_output(options)
    low = _value(options.pop("low"), "--from", along)
    high = _value(options.pop("high"), "--to", along)
    points = options.pop("points")
    question = to_question(model, options)
    from planner.export.layout_file import record_json
    from planner.export.study_record import curve_csv
    from planner.report.curve_text import curve_chart, show_curve
    from planner.report.progress import steps_line
    from planner.studies.curve import Along, Curve, Span, curve

    def show(found: Curve, stream: Any) -> None:
        show_curve(found, drawing, stream)

    forms: Forms[Curve] = Forms(
        show=show,
        to_json=record_json,
        to_csv=curve_csv,
        chart=partial(curve_chart, drawing=drawing),
    )
    with steps_line(sys.stderr) as tell:
        found = curve(question, Along(along), Span(low=low, high=high, points=points), tell)
    if drawing == "cost" and isinstance(found, Curve) and not found.has_prices:
        raise SpecError(
            f"nobody knows what a chip of {found.machine} costs",
            "write for example --price 2.95, dollars per chip-hour",
        )
    return print_study(found, output, forms)
