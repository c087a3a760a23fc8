"""A chart as data: lines, points, stacked areas or bars, and marks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Values of one name; ``points`` draws every point, ``dashed`` is for ideal lines."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dashed: bool = False
    points: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A line across the chart at one value of an axis."""

    axis: str
    value: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Everything that is drawn.

    Parameters
    ----------
    stack : tuple of Series
        Areas above each other, over the same ``x``; bars where ``bars`` names them.
    bars : tuple of str
        Names of stacked bars: ``x`` of the stack is then 0, 1, 2, ...
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Series, ...] = ()
    stack: tuple[Series, ...] = ()
    bars: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    log_x: bool = False
    log_y: bool = False


def number(value: float) -> str:
    """A tick: ``0.5``, ``20``, ``8k``, ``1.5M``."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def ticks(low: float, high: float, log: bool, most: int = 6) -> tuple[float, ...]:
    """Round values between two ends: of a decade, or 1-2-5 steps."""
    if high <= low:
        return (low,)
    if log:
        return _log_ticks(low, high, most)
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(step * index for index in range(first, last + 1))


def _log_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**d for d in decades for m in steps]
        inside = tuple(v for v in found if low * 0.999 <= v <= high * 1.001)
        if len(inside) <= most:
            break
    return inside or (low, high)


def extent(chart: Chart) -> tuple[tuple[float, float], tuple[float, float]]:
    """Smallest and largest ``x`` and ``y``, marks on the vertical axis included."""
    series = [*chart.lines, *chart.stack]
    xs = [value for one in series for value in one.x]
    ys = [value for one in chart.lines for value in one.y]
    ys += list(totals(chart.stack))
    ys += [mark.value for mark in chart.marks if mark.axis == "y"]
    if chart.stack and not chart.log_y:
        ys.append(0.0)
    return (min(xs), max(xs)), (min(ys), max(ys))


def totals(stack: Sequence[Series]) -> tuple[float, ...]:
    """Heights of a stack."""
    return tuple(sum(column) for column in zip(*(one.y for one in stack), strict=True))
