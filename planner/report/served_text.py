"""What a served run has beyond others: the first token by parts, pools, splits."""

from __future__ import annotations

from typing import TextIO

from planner.domain.run_question import RunQuestion
from planner.pricing.served import Served
from planner.report.tables import print_table, print_text
from planner.units import format_bytes, format_count, format_percent, format_seconds


def _first_token(served: Served, stream: TextIO) -> None:
    parts, pools = served.prediction.ttft, served.prediction.pools
    rows = [
        ("waiting", parts.waiting_s),
        ("prefill", parts.prefill_s),
        ("front end", parts.front_s),
    ]
    if pools is not None:
        rows.insert(2, ("KV transfer, not hidden", parts.transfer_s))
    cells = [
        (name, format_seconds(seconds), f"{seconds / parts.total:.1%}") for name, seconds in rows
    ]
    print_table("First token (TTFT), mean", ("", "time", "share"), cells, stream)


def _bands(served: Served, stream: TextIO) -> None:
    rows = [
        (
            f"{band.low:.0%} to {band.high:.0%}",
            f"{band.input_len:,.0f}",
            format_seconds(band.ttft_s),
        )
        for band in served.prediction.bands
    ]
    header = ("requests, shortest first", "tokens in", "TTFT")
    print_table("First token by quantile of the prompt length", header, rows, stream)


def _pools(served: Served, question: RunQuestion, stream: TextIO) -> None:
    use = served.prediction.pools
    if use is None:
        return
    prefill, decode = use.balanced
    rows = [
        ("prefill pool in use", format_percent(use.prefill)),
        ("decode pool in use", format_percent(use.decode)),
        ("links between them in use", format_percent(use.links)),
        ("limits", use.limits),
        ("prefill worker seconds per request", format_seconds(use.prompt_s)),
        ("KV cache sent per request", format_bytes(use.kv_bytes)),
        ("KV transfer per request", format_seconds(use.transfer_s)),
        ("of it hidden behind prefill", format_seconds(use.hidden_s)),
    ]
    print_table("Pools", ("", ""), rows, stream)
    load = "and rate"
    if question.concurrency is not None:
        own = format_count(question.concurrency / question.workers)
        load = f"at {own} in flight per decode worker"
    print_text(
        f"balanced pools: {prefill} prefill and {decode} decode workers for this mix {load}",
        stream,
    )


def _splits(served: Served, stream: TextIO) -> None:
    rows = [
        (
            (">" if index == 0 else " ") + f" {split.prefill_workers} + {split.workers}",
            f"{split.chips:,}",
            format_count(split.tokens_per_s),
            format_count(split.tokens_per_s / split.chips),
            format_seconds(split.ttft_s),
            format_seconds(split.tpot_s),
            format_percent(split.prefill),
            format_percent(split.decode),
            split.limits,
        )
        for index, split in enumerate(served.splits)
    ]
    header = (
        *("prefill + decode", "chips", "tokens/s", "/chip", "TTFT", "TPOT"),
        *("prefill use", "decode use", "limits"),
    )
    print_table("Best splits of the machine (> taken)", header, rows, stream, words=(0, 8))


def show_served(served: Served, question: RunQuestion, stream: TextIO) -> None:
    """Print the parts of the first token, the pools and the splits that were tried."""
    _first_token(served, stream)
    if served.prediction.bands:
        _bands(served, stream)
    _pools(served, question, stream)
    if served.splits:
        _splits(served, stream)
