"""Charts of ``planner economics``: price against context, cost against hold time, a budget."""

from __future__ import annotations

from typing import TextIO

from planner.economics_api.budget import Budget
from planner.economics_api.cache import CacheEconomics
from planner.economics_api.serve import ServeEconomics
from planner.report.economics_text import show_cache, show_serve
from planner.report.plot.chart import Chart, Mark, Series
from planner.report.plot.terminal import show_chart
from planner.units import HOUR_S

# Hold times of the chart, and points of it.
SHORTEST_S, LONGEST_S = 0.1, 1000 * HOUR_S
POINTS = 49


def serve_chart(found: ServeEconomics) -> Chart:
    """Dollars per million generated tokens against the context, with the kink."""
    shown = [(one, one.usd.full, one.usd.napkin) for one in found.curve]
    full = [(float(one.context), usd) for one, usd, _ in shown if usd is not None]
    napkin = [(float(one.context), usd) for one, _, usd in shown if usd is not None]
    floor = [(float(one.context), one.floor_usd) for one in found.curve]
    lines = [
        _line("full model", full, dashed=False),
        _line("napkin", napkin, dashed=True),
        _line("at any batch", floor, dashed=True),
    ]
    kinks = (
        ("cache takes as long as the rest", found.kink.reads_equal_rest.full),
        ("the same on a napkin", found.kink.reads_equal_rest.napkin),
    )
    marks = [
        Mark(axis="x", value=value, label=label) for label, value in kinks if value is not None
    ]
    return Chart(
        title=f"{found.model} on {found.machine}",
        x_label="tokens of context",
        y_label="$/M output tokens",
        lines=tuple(line for line in lines if line.x),
        marks=tuple(marks),
        log_x=True,
        log_y=True,
    )


def _line(name: str, points: list[tuple[float, float]], dashed: bool) -> Series:
    return Series(
        name=name,
        x=tuple(x for x, _ in points),
        y=tuple(y for _, y in points),
        dashed=dashed,
    )


def cache_chart(found: CacheEconomics) -> Chart:
    """Dollars of keeping a cache and having it again, against the hold time."""
    ratio = (LONGEST_S / SHORTEST_S) ** (1.0 / (POINTS - 1))
    x = tuple(SHORTEST_S * ratio**place for place in range(POINTS))
    lines = tuple(
        Series(name=keep.label, x=x, y=tuple(keep.usd(hold) for hold in x)) for keep in found.keeps
    )
    marks = tuple(
        Mark(axis="x", value=span.from_s, label=f"from here on {span.label}")
        for span in found.spans
        if SHORTEST_S < span.from_s < LONGEST_S
    )
    return Chart(
        title=f"{found.model}: {found.question.base.context:,} tokens kept",
        x_label="seconds until it is read",
        y_label="$",
        lines=lines,
        marks=marks,
        log_x=True,
        log_y=True,
    )


def budget_chart(found: Budget) -> Chart:
    """Chip-hours of the three phases; those of the napkin where the model was not asked."""
    hours = tuple(
        phase.napkin_chip_hours if phase.chip_hours is None else phase.chip_hours
        for phase in found.phases
    )
    x = tuple(float(place) for place in range(len(hours)))
    return Chart(
        title=f"{found.model} on {found.machine}",
        x_label="phase",
        y_label="chip-hours",
        stack=(Series(name="chip-hours", x=x, y=hours),),
        bars=tuple(phase.name for phase in found.phases),
    )


def draw_serve(found: ServeEconomics, stream: TextIO) -> None:
    """Print the answer, then its chart."""
    show_serve(found, stream)
    show_chart(serve_chart(found), stream)


def draw_cache(found: CacheEconomics, stream: TextIO) -> None:
    """Print the answer, then its chart."""
    show_cache(found, stream)
    show_chart(cache_chart(found), stream)
