"""``planner diff``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from planner.errors import SpecError

if TYPE_CHECKING:
    from planner.domain.differences import LayoutDifferences


@click.command("diff")
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(first: str, second: str, as_json: bool) -> int:
    """Explain what two layout files differ in.

    The questions, degrees, stages, chips and experts; figures and terms of the step; and, for
    decode, what moves from the first to the second and how long that takes.

    Example: planner diff layout.json next.json
    """
    found = _differences(first, second)
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.layout_file import record_json

        print_bytes(record_json(found))
    else:
        from planner.report.diff_text import show_diff

        show_diff(found, (first, second), sys.stdout)
    return 0


def _differences(first: str, second: str) -> LayoutDifferences:
    from planner.diff_api import diff, diff_training
    from planner.export.layout_file import read_layout
    from planner.export.serve_file import is_serve_layout
    from planner.export.train_file import is_train_layout, read_train_layout

    for name in (first, second):
        if is_serve_layout(name):
            raise SpecError(
                f"diff takes layouts of decode, prefill and training, {name} is one of two pools",
                "planner evaluate prints its pools",
            )
    training = [is_train_layout(name) for name in (first, second)]
    if all(training):
        return diff_training(read_train_layout(first), read_train_layout(second))
    if any(training):
        raise SpecError("one layout is of training, the other is not", "compare layouts of a kind")
    return diff(read_layout(first), read_layout(second))
