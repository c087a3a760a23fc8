"""Options of ``planner plan --phase serve``: requests, and degrees of the prefill pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from planner.cli.options import parse_values, to_question
from planner.cli.rates import parse_rate
from planner.cli.trace_options import apply_trace
from planner.domain.question import DegreeLimits, Question
from planner.domain.serve import Demand, ServeQuestion
from planner.domain.workload import Objective, Phase
from planner.errors import SpecError
from planner.units import parse_seconds, parse_tokens

Command = TypeVar("Command", bound=Callable[..., Any])

VALUES = "N|N,N|N..N"
POOL_DEGREES = ("tp", "pp", "ep", "dp", "expert_tp", "slots", "microbatches", "cp")
SERVE_ONLY = (
    *("input", "output", "rate", "prefix_hit", "workers", "prefill_workers"),
    *(f"prefill_{name}" for name in POOL_DEGREES),
)
# Options of other phases; they would change nothing here.
FOREIGN = ("context", "seq", "batch", "replicas")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


_OPTIONS = (
    click.option("--input", metavar="TOKENS", help="serve: tokens of a prompt, e.g. 4k."),
    click.option("--output", metavar="TOKENS", help="serve: tokens of an answer, e.g. 1k."),
    click.option("--rate", metavar="N/s", help="serve: requests to serve, on the fewest chips."),
    click.option("--prefix-hit", type=float, help="serve: cached share of prompts, e.g. 0.5."),
    click.option("--workers", type=int, help="serve: decode workers; free if absent."),
    click.option("--prefill-workers", type=int, help="serve: prefill workers; free if absent."),
    *(
        click.option(
            _option(f"prefill_{name}"),
            metavar=VALUES,
            help=f"serve: {_option(name)} of a prefill worker; free if absent.",
        )
        for name in POOL_DEGREES
    ),
)


def serve_options(command: Command) -> Command:
    """What serving has beside the options of every question."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def refuse_serve_options(values: dict[str, Any]) -> None:
    """Take the options of serving away; none may be given for another phase.

    Raises
    ------
    SpecError
        Naming the option.
    """
    for name in SERVE_ONLY:
        if values.pop(name) is not None:
            raise SpecError(f"{_option(name)} belongs to --phase serve", "leave it out")


def _needed(values: dict[str, Any], name: str, example: str) -> int:
    if values[name] is None:
        raise SpecError(
            f"{_option(name)} is missing for --phase serve",
            f"write for example {_option(name)} {example}",
        )
    return parse_tokens(values[name], _option(name))


def _demand(values: dict[str, Any]) -> Demand:
    seconds = {
        name: None if values[name] is None else parse_seconds(values[name], _option(name))
        for name in ("ttft", "tpot")
    }
    return Demand(
        input_len=_needed(values, "input", "4k"),
        output_len=_needed(values, "output", "1k"),
        prefix_hit=values["prefix_hit"] or 0.0,
        ttft_s=seconds["ttft"],
        tpot_s=seconds["tpot"],
        rate_per_s=parse_rate(values["rate"]),
    )


def _workers(values: dict[str, Any], name: str) -> frozenset[int] | None:
    count = values[name]
    if count is not None and count < 1:
        raise SpecError(f"{_option(name)}: {count} is less than 1")
    return None if count is None else frozenset({count})


def to_serve_question(model: str, values: dict[str, Any]) -> ServeQuestion:
    """Translate parsed options into a question about two pools.

    Raises
    ------
    SpecError
        Naming the option that cannot be read, is missing, or does not apply.
    """
    values, _ = apply_trace(Phase.SERVE.value, values)
    for name in FOREIGN:
        if values[name] is not None:
            remedy = "write --workers" if name == "replicas" else "write --input and --output"
            raise SpecError(f"{_option(name)} does not apply to --phase serve", remedy)
    if values["objective"] != Objective.THROUGHPUT.value:
        raise SpecError(
            f"--objective {values['objective']} does not apply to --phase serve",
            "pools are sized for throughput, or with --rate for the fewest chips",
        )
    demand = _demand(values)
    shared = _shared(model, values, demand)
    prefill = DegreeLimits(
        **{
            name: parse_values(values[f"prefill_{name}"], _option(f"prefill_{name}"))
            for name in POOL_DEGREES
        },
        replicas=_workers(values, "prefill_workers"),
        overlap=shared.limits.overlap,
    )
    return ServeQuestion(
        model=model,
        machine=shared.machine,
        demand=demand,
        sizing=shared.sizing,
        weights=shared.weights,
        activations=shared.activations,
        kv=shared.kv,
        price_usd_per_hour=shared.price_usd_per_hour,
        time_model=shared.time_model,
        ideal=shared.ideal,
        loads=shared.loads,
        limits=replace(shared.limits, replicas=_workers(values, "workers")),
        prefill_limits=prefill,
        acceptance=shared.acceptance,
        gap=shared.gap,
        time_limit_s=shared.time_limit_s,
        exclude=shared.exclude,
        reserve=shared.reserve,
        reserve_per_domain=shared.reserve_per_domain,
    )


def _shared(model: str, values: dict[str, Any], demand: Demand) -> Question:
    """What serving has in common with a decode question."""
    plain = {name: value for name, value in values.items() if name not in SERVE_ONLY}
    decode = {"phase": Phase.DECODE.value, "context": str(demand.context_tokens), "ttft": None}
    return to_question(model, {**plain, **decode})
