"""``planner estimate``."""

from __future__ import annotations

import sys
from typing import Any

import click

from planner.cli.options import size_options, to_sizing
from planner.cli.rates import parse_rate
from planner.cli.trace_options import TRACE_OPTION, apply_trace, serving_of
from planner.domain.dtypes import DType
from planner.domain.outcome import Infeasible
from planner.domain.run import Optimizer, Overlap, Recompute, ScheduleKind
from planner.domain.run_question import EstimateKind, RunQuestion
from planner.domain.serving import RequestKind
from planner.errors import SpecError
from planner.units import parse_seconds, parse_tokens, parse_usd

_TOKENS = ("seq", "context", "context_spread", "input", "output", "chunk")
# Options that are taken as they are.
_KEPT = (
    *("machine", "tp", "pp", "cp", "dp", "ep", "expert_tp", "workers", "batch", "microbatch"),
    *("virtual_stages", "zero", "sequence_parallel", "engine", "concurrency", "prefix_hit"),
    *("draft", "acceptance", "ideal", "prefill_tp", "prefill_dp", "prefill_ep"),
    *("prefill_expert_tp", "prefill_workers", "balance"),
)
_DTYPES = click.Choice([dtype.value for dtype in DType])

_RUN_OPTIONS = (
    click.option("--on", "machine", metavar="MACHINE", help="Catalogue name or TOML file."),
    click.option(
        "--kind",
        type=click.Choice([kind.value for kind in EstimateKind]),
        required=True,
        help="A training step, a prefill pass, a decode step, a static batch of requests, or an "
        "engine under load.",
    ),
    click.option("--batch", type=int, help="Sequences per step, or concurrent ones, in total."),
    click.option("--seq", metavar="TOKENS", help="train: of a sequence; prefill: new ones."),
    click.option("--context", metavar="TOKENS", help="Cached tokens: mean, or before a prefill."),
    click.option("--context-spread", metavar="TOKENS", help="Standard deviation of --context."),
    click.option("--input", metavar="TOKENS", help="request, serve: tokens of a prompt."),
    click.option("--output", metavar="TOKENS", help="request, serve: tokens of an answer."),
    click.option(
        "--mix",
        metavar="FILE",
        help="serve: lengths that occur together, a CSV file of input,output and perhaps weight.",
    ),
    TRACE_OPTION,
    click.option("--concurrency", type=int, help="serve: requests in flight."),
    click.option("--rate", metavar="N/s", help="serve: arriving requests, e.g. 4/s."),
)
_DEGREES = (
    click.option("--tp", type=int, default=1, show_default=True, help="Tensor parallelism."),
    click.option("--pp", type=int, default=1, show_default=True, help="Pipeline stages."),
    click.option("--cp", type=int, default=1, show_default=True, help="Context parallelism."),
    click.option("--dp", type=int, help="Data parallelism; the chips that are left if absent."),
    click.option("--ep", type=int, help="Groups over which experts are spread."),
    click.option(
        "--expert-tp",
        type=int,
        help="Split inside an expert; without --ep that of attention, with it 1, when served "
        "the rest of the worker.",
    ),
    click.option("--workers", type=int, default=1, show_default=True, help="serve: copies."),
)
_POOLS = (
    click.option(
        "--prefill-workers",
        type=int,
        help="serve: workers on chips of their own that only prefill; the others decode.",
    ),
    click.option("--prefill-tp", type=int, help="Their degrees; those of the others if absent."),
    click.option("--prefill-dp", type=int, help="Likewise."),
    click.option("--prefill-ep", type=int, help="Likewise."),
    click.option("--prefill-expert-tp", type=int, help="Likewise."),
    click.option(
        "--balance",
        is_flag=True,
        help="serve: find the prefill and decode workers that yield most tokens/s on the machine.",
    ),
    click.option("--ttft", metavar="TIME", help="Limit of --balance, e.g. 2s."),
    click.option("--tpot", metavar="TIME", help="Limit of --balance, e.g. 20ms."),
)
_TRAINING = (
    click.option("--microbatch", type=int, help="Sequences per microbatch and rank."),
    click.option(
        "--schedule",
        type=click.Choice([kind.value for kind in ScheduleKind]),
        help="train: of the pipeline; 1f1b, or interleaved with chunks, if absent.",
    ),
    click.option(
        "--virtual-stages", type=int, default=1, show_default=True, help="train: chunks per rank."
    ),
    click.option(
        "--recompute",
        type=click.Choice([item.value for item in Recompute]),
        default="none",
        show_default=True,
        help="train: activations that are computed again.",
    ),
    click.option(
        "--zero",
        type=click.IntRange(0, 3),
        default=0,
        show_default=True,
        help="train: shard optimizer states (1), gradients (2), weights (3).",
    ),
    click.option(
        "--optimizer",
        type=click.Choice([item.value for item in Optimizer]),
        default="adam",
        show_default=True,
        help="train: what turns gradients into weights.",
    ),
    click.option(
        "--optimizer-state",
        type=click.Choice(["fp32", "bf16", "fp8"]),
        default="fp32",
        show_default=True,
        help="train: format of its moments.",
    ),
    click.option(
        "--gradients",
        type=click.Choice(["fp32", "bf16"]),
        default="bf16",
        show_default=True,
        help="train: format of kept gradients.",
    ),
    click.option("--sequence-parallel", is_flag=True, help="train: split norms over --tp."),
    click.option(
        "--overlap",
        metavar="tp,dp,ep",
        help="Communication behind computation, or none; the habit of the phase if absent.",
    ),
)
_ENGINE = (
    click.option(
        "--engine",
        metavar="NAME",
        help="Inference: 2022, 2023, 2024, eager or current; serve: vllm, sglang or trtllm.",
    ),
    click.option("--chunk", metavar="TOKENS", help="Most prompt tokens of one pass."),
    click.option("--prefix-hit", type=float, default=0.0, help="serve: cached share of prompts."),
    click.option("--draft", type=int, default=0, help="serve: drafted tokens per pass."),
    click.option("--acceptance", type=float, default=0.0, help="serve: of a drafted token."),
)
_FORMATS = (
    click.option("--weights", type=_DTYPES, help="Format of the matmul weights."),
    click.option("--activations", type=_DTYPES, help="Format of matmul inputs."),
    click.option("--kv", type=_DTYPES, help="Format of the KV cache."),
    click.option("--price", metavar="USD", help="Dollars per chip-hour."),
    click.option(
        "--ideal",
        is_flag=True,
        help="Pure roofline: no derates, no latencies. What host work a training step or a "
        "served engine has is kept.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


def _run_options(command: Any) -> Any:
    command = _apply(command, (*_TRAINING, *_ENGINE, *_FORMATS))
    return _apply(size_options(command), (*_RUN_OPTIONS, *_DEGREES, *_POOLS))


def _apply(command: Any, options: tuple[Any, ...]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


def parse_overlap(text: str | None) -> frozenset[Overlap] | None:
    """Read ``dp,tp``, or ``none``.

    Raises
    ------
    SpecError
        A part is no axis.
    """
    if text is None:
        return None
    if text.strip() == "none":
        return frozenset()
    known = [item.value for item in Overlap]
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in known:
            raise SpecError(f"--overlap: '{part}' is not one of {', '.join(known)}", "or none")
    return frozenset(Overlap(part) for part in parts)


def _read_mix(path: str | None) -> tuple[RequestKind, ...]:
    if path is None:
        return ()
    from planner.catalog.mix_file import read_mix

    return read_mix(path)


def to_run_question(model: str, values: dict[str, Any]) -> RunQuestion:
    """Translate parsed options.

    Raises
    ------
    SpecError, CatalogError
        Naming the option, or the file, that cannot be read.
    """
    if values["machine"] is None:
        raise SpecError("--on is missing", "write for example --on h100-hgx")
    values, trace = apply_trace(values["kind"], values)
    mix: tuple[RequestKind, ...] = ()
    rate: float | None = None
    if values["kind"] == EstimateKind.SERVE.value:
        mix, rate = serving_of(trace, values)
    read: dict[str, Any] = {
        name: None if values[name] is None else parse_tokens(values[name], _option(name))
        for name in _TOKENS
    }
    read["context_spread"] = read["context_spread"] or 0
    for name in ("weights", "activations", "kv"):
        read[name] = None if values[name] is None else DType(values[name])
    for name in ("ttft", "tpot"):
        text = values[name]
        read[name] = None if text is None else parse_seconds(text, _option(name))
    schedule, price = values["schedule"], values["price"]
    return RunQuestion(
        model=model,
        kind=EstimateKind(values["kind"]),
        sizing=to_sizing(values),
        schedule=None if schedule is None else ScheduleKind(schedule),
        recompute=Recompute(values["recompute"]),
        optimizer=Optimizer(values["optimizer"]),
        optimizer_state=DType(values["optimizer_state"]),
        gradients=DType(values["gradients"]),
        overlap=parse_overlap(values["overlap"]),
        rate=rate or parse_rate(values["rate"]),
        mix=mix or _read_mix(values["mix"]),
        price=None if price is None else parse_usd(price, "--price"),
        **{name: values[name] for name in _KEPT},
        **read,
    )


def _print_infeasible(found: Infeasible, as_json: bool) -> int:
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.layout_file import infeasible_json

        print_bytes(infeasible_json(found))
    click.echo(f"infeasible: {found.message}", err=True)
    for remedy in found.remedies:
        click.echo(f"  would help: {remedy}", err=True)
    return 3


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


@click.command("estimate")
@click.argument("model")
@_run_options
def command(model: str, as_json: bool, **options: Any) -> int:
    """Price a run of MODEL as given: nothing is searched, but by --balance.

    Exit code 3 when it does not fit in memory, its price is printed all the same; or when
    requests arrive faster than they are served, or no split meets the limits.

    Example: planner estimate llama-3.1-405b --on h100-hgx --nodes 128 --kind train --tp 8
    --pp 8 --cp 2 --batch 512 --seq 8192 --virtual-stages 4 --recompute selective --zero 1
    --sequence-parallel --overlap dp,tp --activations fp8

    Example: planner estimate deepseek-v3 --on h200-hgx --nodes 4 --kind prefill --dp 32
    --ep 32 --batch 64 --seq 4096

    Example: planner estimate llama-3.1-70b --on h100-hgx --kind decode --tp 8 --batch 64
    --context 4096 --context-spread 1000

    Example: planner estimate llama-3.1-70b --on h100-hgx --kind request --tp 8 --batch 16
    --input 2048 --output 256

    Example: planner estimate deepseek-r1 --on b200-hgx --kind serve --dp 8 --ep 8
    --input 1024 --output 1024 --concurrency 512

    Example: planner estimate deepseek-r1 --on gb200-nvl72 --kind serve --dp 16 --ep 16
    --workers 2 --prefill-dp 8 --prefill-ep 8 --prefill-workers 3 --input 8192 --output 1024
    --concurrency 2048

    Example: planner estimate deepseek-r1 --on gb200-nvl72 --kind serve --dp 8 --ep 8
    --prefill-dp 8 --prefill-ep 8 --balance --tpot 30ms --input 8192 --output 1024
    --concurrency 2048
    """
    question = to_run_question(model, options)
    from planner.run_api import estimate

    found = estimate(question)
    if isinstance(found, Infeasible):
        return _print_infeasible(found, as_json)
    from planner.report.run_text import show_run, verdict

    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.layout_file import record_json
        from planner.export.run_record import run_record

        print_bytes(record_json(run_record(found)))
    else:
        show_run(found, sys.stdout)
    if found.memory.fits:
        return 0
    if as_json:
        click.echo(verdict(found), err=True)
    return 3
