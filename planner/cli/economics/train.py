"""``planner economics train``."""

from __future__ import annotations

from typing import Any

import click

from planner.cli.economics.amounts import parse_amount, parse_amount_rate, parse_duration
from planner.cli.economics.options import (
    DECODE,
    FORMATS,
    MACHINE,
    POWER,
    PRICE,
    read_tokens,
    to_served,
    with_options,
)
from planner.cli.study_output import Forms, print_study, take_output
from planner.economics.budget import served_tokens
from planner.errors import SpecError


def _amount(values: dict[str, Any], name: str) -> float | None:
    option = "--" + name.replace("_", "-")
    return None if values[name] is None else parse_amount(values[name], option)


def _inference(values: dict[str, Any]) -> float | None:
    """``--inference``, or ``--serving`` for ``--for``."""
    rate, time = values["serving"], values["lifetime"]
    if (rate is None) != (time is None):
        missing, example = ("--for", "60d") if time is None else ("--serving", "50M/s")
        raise SpecError(f"{missing} is missing", f"write for example {missing} {example}")
    if rate is None:
        return _amount(values, "inference")
    if values["inference"] is not None:
        raise SpecError("--inference and --serving exclude each other", "leave one out")
    return served_tokens(parse_amount_rate(rate, "--serving"), parse_duration(time, "--for"))


@click.command("train")
@click.argument("model")
@with_options(
    MACHINE,
    click.option("--pretrain", metavar="TOKENS", help="Tokens of pre-training, e.g. 15T."),
    click.option("--rl", metavar="TOKENS", help="Tokens of rollouts; balanced if absent."),
    click.option("--inference", metavar="TOKENS", help="Tokens that it will serve, e.g. 200T."),
    click.option("--serving", metavar="TOKENS/s", help="Instead: so many a second, e.g. 50M/s,"),
    click.option("--for", "lifetime", metavar="TIME", help="for so long, e.g. 60d."),
    click.option(
        "--rl-coefficient",
        type=float,
        default=3.0,
        show_default=True,
        help="FLOP per parameter and token of a rollout: 2 forward only to 6 all trained on.",
    ),
    click.option(
        "--inefficiency",
        type=float,
        default=3.0,
        show_default=True,
        help="MFU of training over that of decoding, in the balance.",
    ),
    click.option("--mfu", type=float, help="Of training; that of the best layout if absent."),
    click.option(
        "--batch-tokens",
        metavar="TOKENS",
        default="4M",
        show_default=True,
        help="Of an optimizer step.",
    ),
    click.option("--seq", metavar="TOKENS", default="8k", show_default=True, help="Of a sequence."),
    click.option(
        "--context",
        metavar="TOKENS",
        default="8k",
        show_default=True,
        help="Cached tokens of a sequence that is decoded.",
    ),
    click.option("--tpot", metavar="TIME", help="Longest time per decoded token, e.g. 50ms."),
    PRICE,
    POWER,
    *DECODE,
    *FORMATS,
)
def command(model: str, **values: Any) -> int:
    """Balance and price pre-training, reinforcement learning and inference of MODEL.

    Tokens that are left out follow from equal spending on all three. The machine is the one that
    trains; decoding takes the same kind of chips. Exit code 3 when no training layout fits.

    Example: planner economics train llama-3.1-70b --on h100-hgx --nodes 64 --pretrain 15T

    Example: planner economics train deepseek-v3 --on h800-hgx --nodes 256 --serving 50M/s
    --for 60d --mfu 0.35 --price 2
    """
    output = take_output(values)
    context, seq = read_tokens(values, "context"), read_tokens(values, "seq")
    batch = read_tokens(values, "batch_tokens")
    assert context is not None and seq is not None and batch is not None
    from planner.economics.budget import Coefficients
    from planner.economics.question import BudgetQuestion
    from planner.economics_api.budget import train_economics
    from planner.export.economics_record import budget_csv
    from planner.export.layout_file import record_json
    from planner.report.economics_chart import budget_chart
    from planner.report.economics_text import show_budget

    question = BudgetQuestion(
        base=to_served(model, values, context),
        pretrain=_amount(values, "pretrain"),
        rl=_amount(values, "rl"),
        inference=_inference(values),
        coefficients=Coefficients(rl=values["rl_coefficient"], inefficiency=values["inefficiency"]),
        mfu=values["mfu"],
        batch_tokens=float(batch),
        seq=seq,
    )
    forms = Forms(show=show_budget, to_json=record_json, to_csv=budget_csv, chart=budget_chart)
    return print_study(train_economics(question), output, forms)
