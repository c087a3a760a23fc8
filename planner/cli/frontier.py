"""``planner frontier``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from planner.cli.options import question_options, to_question
from planner.cli.study_output import Forms, print_study, study_output_options, take_output
from planner.domain.outcome import Infeasible
from planner.errors import SpecError

if TYPE_CHECKING:
    from planner.domain.question import Question
    from planner.studies.frontier import Frontier
    from planner.studies.record import Tell


def _machines(text: str | None) -> list[str]:
    """Names of a list such as ``gb200-nvl72,h200-hgx``."""
    names = [name.strip() for name in (text or "").split(",")]
    if not all(names):
        raise SpecError("--on is missing", "write for example --on gb200-nvl72,h200-hgx")
    return list(dict.fromkeys(names))


@click.command("frontier")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--points", type=int, default=16, show_default=True, help="Points of each frontier.")
@question_options
@study_output_options
def command(models: tuple[str, ...], points: int, **options: Any) -> int:
    """What speed costs: the certified front of tokens/s/user against tokens/s/chip.

    Every point is what plan answers under its limit on the time per token: layout, batch and
    drafts (with --acceptance). Several models, and machines in --on, share one plot. With
    --objective cost, dollars per token are set against speed.

    Example: planner frontier deepseek-v3 --on gb200-nvl72 --context 8k -o front.svg

    Example: planner frontier llama-3.1-70b --on h100-hgx,h200-hgx --context 8k --acceptance 0.8
    """
    output = take_output(options)
    machines = _machines(options["machine"])
    questions = [
        to_question(model, {**options, "machine": machine})
        for model in dict.fromkeys(models)
        for machine in machines
    ]
    from planner.export.study_record import frontiers_csv, frontiers_json
    from planner.report.frontier_text import frontier_chart, show_frontiers

    forms: Forms[Sequence[Frontier]] = Forms(
        show=show_frontiers,
        to_json=frontiers_json,
        to_csv=frontiers_csv,
        chart=frontier_chart,
    )
    return print_study(_walk(questions, points), output, forms)


def _walk(questions: Sequence[Question], points: int) -> Sequence[Frontier] | Infeasible:
    """All frontiers; the first that has no layout ends the study with its reason."""
    from planner.report.progress import steps_line
    from planner.studies.frontier import frontier

    found = []
    with steps_line(sys.stderr) as tell:
        for place, question in enumerate(questions):
            one = frontier(question, points, _telling(tell, place, questions))
            if isinstance(one, Infeasible):
                return _of(question, one)
            found.append(one)
    return found


def _telling(tell: Tell, place: int, questions: Sequence[Question]) -> Tell:
    """Tells of one of several questions."""
    name = f"{questions[place].model} on {questions[place].machine}"

    def told(what: str, share: float) -> None:
        tell(f"{name}: {what}", (place + share) / len(questions))

    return told


def _of(question: Question, reason: Infeasible) -> Infeasible:
    """The reason, with whose it is."""
    import msgspec

    message = f"{question.model} on {question.machine}: {reason.message}"
    return msgspec.structs.replace(reason, message=message)
