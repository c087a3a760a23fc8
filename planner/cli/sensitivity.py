"""``planner sensitivity``."""

from __future__ import annotations

import sys
from typing import Any

import click

from planner.cli.study_output import Forms, print_study, study_output_options, take_output


@click.command("sensitivity")
@click.argument("layout", metavar="LAYOUT.json")
@study_output_options
def command(layout: str, **options: Any) -> int:
    """What moves the step of a layout that plan -o wrote, of decode, prefill or training.

    Every figure of the machine, the model and the workload is turned while the decisions stay:
    d(step) by each of them, the bottleneck and the one behind it, the slack of each resource,
    and what twice as much of it would buy.

    Example: planner sensitivity layout.json

    Example: planner sensitivity training.json --json
    """
    output = take_output(options)
    from planner.export.layout_file import read_layout, record_json
    from planner.export.study_record import sensitivity_csv
    from planner.export.train_file import is_train_layout, read_train_layout
    from planner.report.progress import steps_line
    from planner.report.sensitivity_text import sensitivity_chart, show_sensitivity
    from planner.studies.sensitivity import Sensitivity, sensitivity

    given = read_train_layout(layout) if is_train_layout(layout) else read_layout(layout)
    forms: Forms[Sensitivity] = Forms(
        show=show_sensitivity,
        to_json=record_json,
        to_csv=sensitivity_csv,
        chart=sensitivity_chart,
    )
    with steps_line(sys.stderr) as tell:
        found = sensitivity(given, tell)
    return print_study(found, output, forms)
