"""``planner economics serve``."""

from __future__ import annotations

from typing import Any

import click

from planner.cli.economics.amounts import parse_price_step
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
from planner.cli.rates import parse_rate
from planner.cli.study_output import Forms, print_study, take_output
from planner.errors import SpecError


def _context(values: dict[str, Any], lengths: tuple[int | None, int | None]) -> int:
    """As given; else the mean context of a request, its prompt and half of its answer."""
    given = read_tokens(values, "context")
    if given is not None:
        return given
    prompt, answer = lengths
    if prompt is None:
        raise SpecError("--context is missing", "write for example --context 8k")
    return prompt + (answer or 0) // 2


@click.command("serve")
@click.argument("model")
@with_options(
    MACHINE,
    click.option("--context", metavar="TOKENS", help="Cached tokens of a sequence, e.g. 8k."),
    click.option("--input", metavar="TOKENS", help="Tokens of a prompt; --context if absent."),
    click.option("--output", metavar="TOKENS", help="Tokens of an answer."),
    click.option("--tpot", metavar="TIME", help="Longest time per output token, e.g. 30ms."),
    click.option("--ttft", metavar="TIME", help="Longest time to the first token, e.g. 1s."),
    click.option("--batch", type=int, help="Sequences on the machine; the best if absent."),
    click.option("--rate", metavar="N/s", help="Requests to serve: how many chips? e.g. 50/s."),
    click.option(
        "--load",
        type=float,
        default=0.8,
        show_default=True,
        help="Arrivals over what the batch carries, for the mean wait.",
    ),
    click.option(
        "--price-step",
        metavar="2x@200k",
        help="A provider charges so much more above so many tokens: what cache does that imply?",
    ),
    PRICE,
    POWER,
    *DECODE,
    click.option("--prefill-tp", type=int, help="prefill: tensor parallelism; the best if absent."),
    *FORMATS,
)
def command(model: str, **values: Any) -> int:
    """Price input and output tokens of MODEL, their growth with the context, and waits.

    With --rate, --input and --output: the fewest chips that serve the rate within --ttft and
    --tpot. Exit code 3 when nothing fits or a limit cannot be met.

    Example: planner economics serve deepseek-v3 --on gb200-nvl72 --context 8k

    Example: planner economics serve llama-3.1-70b --on h100-hgx --context 8k --tp 8 --batch 64
    --price 2.35 --price-step 2x@200k

    Example: planner economics serve llama-3.1-70b --on h100-hgx --input 2k --output 256
    --rate 50/s --ttft 1s --tpot 30ms
    """
    output = take_output(values)
    lengths = (read_tokens(values, "input"), read_tokens(values, "output"))
    base = to_served(model, values, _context(values, lengths))
    step = values["price_step"]
    from planner.economics.question import ServeQuestion
    from planner.economics_api.serve import serve_economics
    from planner.export.economics_record import serve_csv
    from planner.export.layout_file import record_json
    from planner.report.economics_chart import draw_serve, serve_chart

    question = ServeQuestion(
        base=base,
        input=lengths[0],
        output=lengths[1],
        rate=parse_rate(values["rate"]),
        load=values["load"],
        price_step=None if step is None else parse_price_step(step, "--price-step"),
    )
    forms = Forms(show=draw_serve, to_json=record_json, to_csv=serve_csv, chart=serve_chart)
    return print_study(serve_economics(question), output, forms)
