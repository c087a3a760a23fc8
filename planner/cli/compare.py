"""``planner compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.cli.options import question_options, to_question
from planner.cli.study_output import Forms, print_study, study_output_options, take_output
from planner.cli.train_options import refuse_train_options, to_train_question, train_options
from planner.domain.workload import Phase
from planner.errors import SpecError

if TYPE_CHECKING:
    from planner.domain.layout import Layout
    from planner.domain.outcome import Infeasible
    from planner.domain.train_layout import TrainLayout
    from planner.studies.record import Comparison, Tell


def _split(text: str | None) -> tuple[list[str], list[str]]:
    """Names of families, and paths of layout files."""
    names: list[str] = []
    paths: list[str] = []
    for part in [] if text is None else text.split(","):
        word = part.strip()
        if not word:
            raise SpecError(
                f"--strategies: '{text}' has an empty name",
                "write for example --strategies ep,pp,tp,ep+pp",
            )
        is_file = word.endswith(".json") or "/" in word or Path(word).is_file()
        (paths if is_file else names).append(word)
    return names, list(dict.fromkeys(paths))


@click.command("compare")
@click.argument("model")
@click.option(
    "--strategies",
    metavar="NAME,NAME",
    help="Families such as ep,wide-ep,pp,tp,dp,ep+pp,ep72+pp2,any, or layout files; "
    "train: 1f1b, interleaved, zb-h1, dualpipe, zero3, tp+pp+1f1b.",
)
@click.option("--break-evens/--no-break-evens", default=True, help="Where the ranking changes.")
@question_options
@train_options
@study_output_options
def command(model: str, strategies: str | None, break_evens: bool, **options: Any) -> int:
    """Plan the best layout of MODEL in each family of strategies and say why the best one wins.

    A family names what splits the model: ep (experts within a node or rack), wide-ep (across
    them), tp, pp, cp, etp, dp, joined by +. What is not named splits nothing; replicas are free.
    Break-evens are bisected on the model: link speeds, hop latency, HBM size, context, batch,
    stages.

    Example: planner compare deepseek-v3 --on gb200-nvl72 --racks 4 --strategies ep,pp,tp,ep+pp
    --context 8192

    Example: planner compare llama-3.1-70b --on h100-hgx --nodes 16 --phase train --batch 512
    --seq 8k --strategies 1f1b,interleaved,zero3,tp+pp
    """
    output = take_output(options)
    names, paths = _split(strategies)
    from planner.export.study_record import comparison_csv, comparison_json
    from planner.report.compare_chart import comparison_chart
    from planner.report.compare_text import show_comparison
    from planner.report.progress import steps_line

    forms = Forms(
        show=show_comparison,
        to_json=comparison_json,
        to_csv=comparison_csv,
        chart=comparison_chart,
    )
    asked = (names, paths, break_evens)
    with steps_line(sys.stderr) as tell:
        if options["phase"] == Phase.TRAIN.value:
            found = _train(model, options, asked, tell)
        else:
            found = _decode(model, options, asked, tell)
    return print_study(found, output, forms)


def _decode(
    model: str, options: dict[str, Any], asked: tuple[list[str], list[str], bool], tell: Tell
) -> Comparison | Infeasible:
    refuse_train_options(options)
    question = to_question(model, options)
    from planner.export.layout_file import read_layout
    from planner.export.train_file import is_train_layout
    from planner.studies.compare import compare

    names, paths, break_evens = asked
    for path in paths:
        if is_train_layout(path):
            raise SpecError(f"--strategies: {path} is a layout of training", "add --phase train")
    layouts: list[tuple[str, Layout]] = [(path, read_layout(path)) for path in paths]
    return compare(question, names, layouts, break_evens=break_evens, tell=tell)


def _train(
    model: str, options: dict[str, Any], asked: tuple[list[str], list[str], bool], tell: Tell
) -> Comparison | Infeasible:
    question = to_train_question(model, options)
    from planner.export.train_file import is_train_layout, read_train_layout
    from planner.studies.compare_train import compare_training

    names, paths, break_evens = asked
    for path in paths:
        if Path(path).is_file() and not is_train_layout(path):
            raise SpecError(
                f"--strategies: {path} is no layout of training", "leave --phase train out"
            )
    layouts: list[tuple[str, TrainLayout]] = [(path, read_train_layout(path)) for path in paths]
    return compare_training(question, names, layouts, break_evens=break_evens, tell=tell)
