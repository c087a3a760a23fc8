"""``planner plan``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from planner.cli.options import output_options, question_options, to_question
from planner.cli.serve_options import refuse_serve_options, serve_options, to_serve_question
from planner.cli.train_options import refuse_train_options, to_train_question, train_options
from planner.domain.workload import Phase

if TYPE_CHECKING:
    from planner.domain.layout import Layout
    from planner.domain.outcome import Infeasible
    from planner.domain.question import Question
    from planner.domain.serve import ServeQuestion
    from planner.domain.serve_layout import ServeLayout
    from planner.domain.train_layout import TrainLayout
    from planner.domain.training import TrainQuestion


@click.command("plan")
@click.argument("model")
@question_options
@train_options
@serve_options
@output_options
def command(model: str, out: str | None, as_json: bool, **options: Any) -> int:
    """Find the best layout of MODEL on a machine and prove how good it is.

    MODEL is a catalogue name, a Hugging Face config.json, or a directory that holds one.
    Ctrl-C ends the search with the best layout so far and its gap.

    Example: planner plan deepseek-v3 --on gb200-nvl72 --phase decode --context 8192
    --tpot 20ms -o layout.json

    Example: planner plan deepseek-v3 --on gb200-nvl72 --phase prefill --seq 4k --ttft 1s

    Example: planner plan llama-3.1-405b --on h100-hgx --nodes 2048 --phase train
    --batch 2048 --seq 8k --schedule 1f1b,interleaved -o training.json

    Example: planner plan kimi-k2 --on gb200-nvl72 --racks 16 --phase serve --input 4096
    --output 1024 --ttft 2s --tpot 30ms -o pools.json
    """
    phase = options["phase"]
    if phase != Phase.SERVE.value:
        refuse_serve_options(options)
    if phase == Phase.TRAIN.value:
        return _train(model, out, as_json, options)
    refuse_train_options(options)
    if phase == Phase.SERVE.value:
        return _serve(model, out, as_json, options)
    question = to_question(model, options)
    from planner.api import plan
    from planner.cli.show import answer_question
    from planner.report.progress import search_line
    from planner.search.objective import UNITS

    def answer(asked: Question) -> Layout | Infeasible:
        with search_line(sys.stderr, UNITS[asked.objective]) as progress:
            if asked.survive is not None:
                from planner.survive_api import plan_surviving

                return plan_surviving(asked, progress, interruptible=True)
            return plan(asked, progress, interruptible=True)

    return answer_question(question, answer, out, as_json)


def _train(model: str, out: str | None, as_json: bool, options: dict[str, Any]) -> int:
    question = to_train_question(model, options)
    from planner.cli.show import answer_training
    from planner.report.progress import search_line
    from planner.search.objective import UNITS
    from planner.train_api import plan_training

    def answer(asked: TrainQuestion) -> TrainLayout | Infeasible:
        with search_line(sys.stderr, UNITS[asked.objective]) as progress:
            return plan_training(asked, progress, interruptible=True)

    return answer_training(question, answer, out, as_json)


def _serve(model: str, out: str | None, as_json: bool, options: dict[str, Any]) -> int:
    question = to_serve_question(model, options)
    from planner.cli.show import answer_pools
    from planner.report.progress import search_line
    from planner.serve_api import plan_pools

    unit = "chip-seconds per request" if question.demand.rate_per_s is None else "chips"

    def answer(asked: ServeQuestion) -> ServeLayout | Infeasible:
        with search_line(sys.stderr, unit) as progress:
            return plan_pools(asked, progress, interruptible=True)

    return answer_pools(question, answer, out, as_json)
