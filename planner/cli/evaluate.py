"""``planner evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from planner.cli.options import output_options, question_options, to_question
from planner.domain.workload import Phase
from planner.errors import SpecError


def _is_layout_file(name: str, machine: str | None) -> bool:
    path = Path(name)
    return machine is None and (path.suffix == ".json" or path.is_file())


def _refuse_options_of_questions() -> None:
    """A layout file holds its own question: an option beside it would be ignored."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in ("model_or_layout", "out", "as_json") or option.name is None:
            continue
        if context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise SpecError(
                f"{option.opts[0]} does not apply to a layout file",
                "leave it out, or name a model and --on MACHINE",
            )


@click.command("evaluate")
@click.argument("model_or_layout")
@question_options
@output_options
def command(model_or_layout: str, out: str | None, as_json: bool, **options: Any) -> int:
    """Price a layout file, or MODEL on a machine with given degrees.

    Degrees that are left free, or given as a list, take their best value.

    Example: planner evaluate layout.json

    Example: planner evaluate deepseek-v3 --on h800-hgx --nodes 18 --context 4989 --batch 12672
    --tp 1 --dp 144 --ep 144 --pp 1 --slots 288
    """
    from planner.cli.show import answer_question, print_layout, print_pools, print_training
    from planner.export.layout_file import check_writable, read_layout
    from planner.export.serve_file import is_serve_layout, read_serve_layout
    from planner.export.train_file import is_train_layout, read_train_layout

    if _is_layout_file(model_or_layout, options["machine"]):
        _refuse_options_of_questions()
        if out is not None:
            check_writable(out)
        if is_serve_layout(model_or_layout):
            from planner.serve_api import evaluate_pools

            pools = read_serve_layout(model_or_layout)
            return print_pools(evaluate_pools(pools), out, as_json)
        if is_train_layout(model_or_layout):
            from planner.train_api import evaluate_training

            layout = read_train_layout(model_or_layout)
            return print_training(evaluate_training(layout), out, as_json)
        from planner.api import evaluate_layout

        return print_layout(evaluate_layout(read_layout(model_or_layout)), out, as_json)
    if options["phase"] == Phase.TRAIN.value:
        raise SpecError(
            "evaluate prices decode layouts and layout files",
            "a training step with given degrees: planner estimate MODEL --kind train",
        )
    question = to_question(model_or_layout, options)
    from planner.api import evaluate

    return answer_question(question, evaluate, out, as_json)
