"""Curves as people read them: a chart with the ideal lines and marks, and the points."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from planner.report.plot.chart import Chart, Mark, Series, number
from planner.report.plot.terminal import show_chart
from planner.report.tables import print_table, print_text
from planner.studies.curve import Along, Curve, CurvePoint
from planner.units import (
    GB,
    MS,
    format_bytes,
    format_percent,
    format_seconds,
    format_usd,
)

DRAWINGS = ("step", "cost", "mfu", "memory")
# Terms drawn by name; the others are drawn together.
MOST_TERMS = 6
Stack = list[tuple[str, tuple[float, ...]]]


def _terms(found: Curve, scale: Callable[[CurvePoint], float]) -> Stack:
    """Terms of every point, the largest first, times a factor of the point."""
    columns = [{term.name: term.value for term in point.terms} for point in found.points]
    names = list(dict.fromkeys(name for own in columns for name in own))
    names.sort(key=lambda name: -max(own.get(name, 0.0) for own in columns))
    factors = [scale(point) for point in found.points]

    def heights(wanted: list[str]) -> tuple[float, ...]:
        return tuple(
            factor * sum(own.get(name, 0.0) for name in wanted)
            for own, factor in zip(columns, factors, strict=True)
        )

    stack = [(name.replace("_", " "), heights([name])) for name in names[:MOST_TERMS]]
    if names[MOST_TERMS:]:
        stack.append(("rest", heights(names[MOST_TERMS:])))
    return stack


def _memory(found: Curve) -> Stack:
    return [
        ("weights", tuple(point.memory.weights_bytes / GB for point in found.points)),
        ("KV cache", tuple(point.memory.kv_bytes / GB for point in found.points)),
        ("activations", tuple(point.memory.activations_bytes / GB for point in found.points)),
        ("engine reserve", tuple(point.memory.reserve_bytes / GB for point in found.points)),
    ]


def _usd(point: CurvePoint) -> float:
    return point.usd_per_million_tokens or 0.0


def _parts(found: Curve, drawing: str) -> tuple[str, Stack, Stack]:
    """Label of the vertical axis, what is stacked, and the ideal lines."""
    points = found.points
    match drawing:
        case "step":
            ideals = [
                ("ideal compute", tuple(own.ideal.compute_s / MS for own in points)),
                (
                    "ideal memory",
                    tuple((own.ideal.weights_s + own.ideal.cache_s) / MS for own in points),
                ),
            ]
            return "ms per step", _terms(found, lambda own: 1 / MS), ideals
        case "cost":
            cost = tuple(own.ideal.usd_per_million_tokens or 0.0 for own in points)
            stack = _terms(found, lambda own: _usd(own) / own.step_s)
            return "$/M tokens", stack, [("ideal", cost)]
        case "memory":
            capacity = tuple(own.memory.capacity_bytes / GB for own in points)
            return "GB per chip", _memory(found), [("usable", capacity)]
    return "MFU", [], [("ideal", tuple(own.ideal.mfu for own in points))]


def curve_chart(found: Curve, drawing: str) -> Chart:
    """One drawing of a curve; ``drawing`` is of ``DRAWINGS``."""
    x = tuple(point.x for point in found.points)
    label, stack, ideals = _parts(found, drawing)
    lines = [Series(name=name, x=x, y=y, dashed=True) for name, y in ideals]
    if drawing == "mfu":
        lines.insert(0, Series(name="model", x=x, y=tuple(own.mfu for own in found.points)))
    marks = tuple(
        Mark(
            axis=own.axis,
            value=own.value / MS if own.axis == "y" and drawing == "step" else own.value,
            label=own.name,
        )
        for own in found.landmarks
        if drawing in own.of
    )
    return Chart(
        title=f"{found.model} on {found.machine}",
        x_label=found.label,
        y_label=label,
        lines=tuple(lines),
        stack=tuple(Series(name=name, x=x, y=y) for name, y in stack),
        marks=marks,
        log_x=found.along is not Along.STAGES,
    )


def _row(point: CurvePoint) -> tuple[str, ...]:
    largest = max(point.terms, key=lambda term: term.value)
    usd = point.usd_per_million_tokens
    return (
        f"{point.x:,.0f}" if point.x == round(point.x) else number(point.x),
        f"{point.batch:,}",
        format_seconds(point.step_s),
        format_seconds(point.ideal.step_s),
        "-" if usd is None else format_usd(usd),
        format_percent(point.mfu),
        format_percent(point.ideal.mfu),
        format_bytes(point.memory.weights_bytes),
        format_bytes(point.memory.kv_bytes),
        f"{largest.name.replace('_', ' ')} {largest.value / point.step_s:.0%}",
    )


def show_curve(found: Curve, drawing: str, stream: TextIO) -> None:
    """Print a curve: the chart that was asked for, then all figures."""
    show_chart(curve_chart(found, drawing), stream)
    header = (
        *(found.along.value, "batch", "step", "ideal", "$/M", "MFU", "ideal"),
        *("weights", "KV cache", "largest term"),
    )
    rows = [_row(point) for point in found.points]
    print_table(f"Along {found.label}", header, rows, stream, words=(9,))
    if found.left_out:
        values = ", ".join(number(value) for value in found.left_out)
        stream.write("\n")
        print_text(f"Nothing fits at {values}.", stream)
