"""A deployment of two pools beside the best one, as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from planner.deployment.pools import describe_pools
from planner.deployment.pools_compare import PoolsComparison, PoolsDeployed
from planner.domain.serve_layout import ServeLayout
from planner.report.tables import print_table, print_text
from planner.report.verdict_text import show_verdict
from planner.units import format_seconds


def show_pools(file: str, current: PoolsDeployed, unread: Sequence[str], stream: TextIO) -> None:
    """What was read and what it is worth."""
    inputs, engine = current.layout.inputs, current.pools[0].told.engine.value
    chips = sum(own.told.chips for own in current.pools)
    print_text(
        f"{inputs.model.name} on {inputs.machine.name} with {engine}, as {file} says: "
        f"{chips} chips",
        stream,
    )
    print_text(describe_pools(current.layout), stream)
    for own in current.pools:
        if own.running < own.allowed:
            print_text(
                f"{own.told.role}: of {own.allowed:,} sequences per attention rank that it "
                f"allows, {own.running:,} fit.",
                stream,
            )
        for refusal in own.refusals:
            print_text(f"{own.told.role}: {refusal}.", stream)
    if unread:
        print_text(f"Not read, and not priced: {' '.join(unread)}", stream)


def _row(name: str, layout: ServeLayout) -> tuple[str, ...]:
    found = layout.prediction
    return (
        name,
        f"{found.requests_per_s:.3g}",
        format_seconds(found.ttft_s),
        format_seconds(found.tpot_s),
        f"{found.tokens_per_s_per_chip:,.0f}",
        found.limited_by,
    )


def show_pools_price(layout: ServeLayout, stream: TextIO) -> None:
    """The deployment alone."""
    _table([_row("deployed", layout)], stream)


def _table(rows: Sequence[tuple[str, ...]], stream: TextIO) -> None:
    header = ("layout", "requests/s", "TTFT", "TPOT", "tokens/s/chip", "limited by")
    print_table("Comparison", header, rows, stream, words=(0, 5))


def show_pools_comparison(found: PoolsComparison, engine: str, stream: TextIO) -> None:
    """The deployment, the best pools, and the flags that differ."""
    rows = [
        _row("deployed", found.current),
        _row(f"best that {engine} can express", found.told),
        _row("best", found.best),
    ]
    _table(rows, stream)
    stream.write("\n")
    proof = found.best.certificate
    if not show_verdict(found.ratio, None if proof is None else proof.gap, stream):
        return
    print_text(f"These flags differ, for {found.told_ratio:.2f} x:", stream)
    width = max((len(name) for _, name, _, _ in found.changes), default=0)
    for pool, name, old, new in found.changes:
        stream.write(f"  {pool.ljust(7)}  {name.ljust(width)}  {old} -> {new}\n")
