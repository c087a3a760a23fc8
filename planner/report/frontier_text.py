"""Frontiers as people read them: a chart, the points, fast and slow mode, floors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from planner.domain.workload import Objective
from planner.report.plot.chart import Chart, Mark, Series
from planner.report.plot.terminal import show_chart
from planner.report.tables import print_table, print_text
from planner.studies.frontier import Frontier, FrontierPoint
from planner.studies.words import degrees_text
from planner.units import format_count, format_percent, format_seconds, format_usd

# Speeds that are named: the lecture's fast mode, and its neighbours.
NAMED_SPEEDS = (1.5, 2.5, 5.0)


def frontier_name(found: Frontier) -> str:
    """Model and machine."""
    return f"{found.model} on {found.machine} ({found.num_chips} chips)"


def frontier_chart(found: Sequence[Frontier]) -> Chart:
    """Tokens/s/chip, or dollars, against tokens/s/user; one line per frontier."""
    by_cost = found[0].objective is Objective.COST and all(
        point.usd_per_million_tokens is not None for one in found for point in one.points
    )

    def height(point: FrontierPoint) -> float:
        usd = point.usd_per_million_tokens
        return usd if by_cost and usd is not None else point.tokens_per_s_per_chip

    lines = tuple(
        Series(
            name=frontier_name(one),
            x=tuple(point.tokens_per_s_per_user for point in reversed(one.points)),
            y=tuple(height(point) for point in reversed(one.points)),
            points=True,
        )
        for one in found
    )
    floors = tuple(
        Mark(axis="x", value=1.0 / one.floor_s, label=f"floor of {frontier_name(one)}")
        for one in found
    )
    return Chart(
        title=f"What speed costs, context {found[0].context_tokens:,}",
        x_label="tokens/s/user",
        y_label="$/M tokens" if by_cost else "tokens/s/chip",
        lines=lines,
        marks=floors,
        log_x=True,
        log_y=True,
    )


def _row(point: FrontierPoint) -> tuple[str, ...]:
    usd = point.usd_per_million_tokens
    drafts = f", {point.degrees.draft} drafted" if point.degrees.draft else ""
    return (
        format_seconds(point.step_s),
        format_count(point.tokens_per_s_per_user),
        format_count(point.tokens_per_s_per_chip),
        "-" if usd is None else format_usd(usd),
        f"{point.speed:.2f} x",
        f"{point.price:.2f} x",
        f"{point.batch:,}",
        format_percent(point.gap),
        degrees_text(point.degrees) + drafts,
    )


def mode_sentences(found: Frontier) -> list[str]:
    """Fast modes as multiples of the cheapest price, and what no price buys."""
    named: list[FrontierPoint] = []
    for speed in NAMED_SPEEDS:
        point = found.at_speed(speed)
        if point is not None and point not in (found.cheapest, *named):
            named.append(point)
    if found.fastest is not found.cheapest and found.fastest not in named:
        named.append(found.fastest)
    modes = [f"{point.speed:.1f} x the speed at {point.price:.1f} x the price" for point in named]
    lines = []
    if modes:
        lines.append("Against the cheapest layout: " + ", ".join(modes) + ".")
    lines.append(
        f"No price buys a step below {format_seconds(found.floor_s)}; no patience a token below "
        f"{format_percent(found.cheapest_bound)} of the cheapest price (both proven)."
    )
    return lines


def show_frontiers(found: Sequence[Frontier], stream: TextIO) -> None:
    """Print frontiers: chart first."""
    show_chart(frontier_chart(found), stream)
    header = ("step", "tok/s/user", "tok/s/chip", "$/M", "speed", "price", "batch", "gap", "layout")
    for one in found:
        rows = [_row(point) for point in one.points]
        print_table(frontier_name(one), header, rows, stream, words=(8,))
        stream.write("\n")
        for sentence in mode_sentences(one):
            print_text(sentence, stream)
