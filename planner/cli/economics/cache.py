"""``planner economics cache``."""

from __future__ import annotations

from typing import Any

import click

from planner.cli.economics.amounts import parse_duration
from planner.cli.economics.options import (
    FORMATS,
    MACHINE,
    PRICE,
    read_tokens,
    to_served,
    with_options,
)
from planner.cli.study_output import Forms, print_study, take_output
from planner.errors import SpecError


@click.command("cache")
@click.argument("model")
@with_options(
    MACHINE,
    click.option("--context", metavar="TOKENS", help="Cached tokens, e.g. 100k."),
    click.option("--hold", metavar="TIME", help="Time until the next request, e.g. 5min, 1h, 2d."),
    click.option("--tiers", "tiers_file", metavar="FILE", help="TOML file of tiers of your own."),
    click.option(
        "--tier",
        "only",
        metavar="NAME,NAME",
        help="Tiers to consider: hbm, dram, flash, disk, recompute, yours; all if absent.",
    ),
    PRICE,
    click.option("--prefill-tp", type=int, help="Of a recomputation; the cheapest if absent."),
    *FORMATS,
)
def command(model: str, **values: Any) -> int:
    """Find where the cache of a context of MODEL waits most cheaply for its next request.

    Tiers are bought whole: their price, capacity and bandwidth come from a table with sources
    that ships (--tiers has its way over it), those of HBM from the machine.

    Example: planner economics cache deepseek-v3 --on gb200-nvl72 --context 100k

    Example: planner economics cache llama-3.1-70b --on h100-hgx --context 32k --hold 5min
    --tier dram,flash,recompute
    """
    output = take_output(values)
    context = read_tokens(values, "context")
    if context is None:
        raise SpecError("--context is missing", "write for example --context 100k")
    hold, only = values["hold"], values["only"]
    from planner.economics.question import CacheQuestion
    from planner.economics_api.cache import cache_economics
    from planner.export.economics_record import cache_csv
    from planner.export.layout_file import record_json
    from planner.report.economics_chart import cache_chart, draw_cache

    question = CacheQuestion(
        base=to_served(model, values, context),
        tiers_file=values["tiers_file"],
        only=() if only is None else tuple(part.strip() for part in only.split(",")),
        hold=None if hold is None else parse_duration(hold, "--hold"),
    )
    forms = Forms(show=draw_cache, to_json=record_json, to_csv=cache_csv, chart=cache_chart)
    return print_study(cache_economics(question), output, forms)
