"""``planner plan``."""

from __future__ import annotations

from typing import Any

import click

from planner.cli.options import output_options, question_options, to_question


@click.command("plan")
@click.argument("model")
@question_options
@output_options
def command(model: str, out: str | None, as_json: bool, **options: Any) -> int:
    """Find the best layout of MODEL on a machine and prove how good it is.

    MODEL is a catalogue name, a Hugging Face config.json, or a directory that holds one.

    Example: planner plan deepseek-v3 --on gb200-nvl72 --phase decode --context 8192
    --tpot 20ms -o layout.json
    """
    question = to_question(model, options)
    from planner.api import plan
    from planner.cli.show import answer_question

    return answer_question(question, plan, out, as_json)
