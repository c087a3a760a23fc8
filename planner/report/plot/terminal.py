"""A chart in characters, by plotext."""

from __future__ import annotations

import math
import shutil
from typing import TextIO

from planner.report.plot.chart import Chart, Series, extent, number, ticks, totals

WIDTH, HEIGHT = 88, 22
_DASHED = ("·", "-", "~")
_POINTS = ("o", "x", "+", "*", "#")
_MARKERS = ("braille", "*", "+", "x", "o", "#", "%", "@")


def _scale(log: bool, values: tuple[float, ...]) -> list[float]:
    # plotext takes logarithms in place, which goes wrong where a figure is built twice.
    return [math.log10(value) for value in values] if log else list(values)


def terminal_text(chart: Chart, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Lines of a chart without colours; stacked areas as lines of their running sums.

    Marks are dotted verticals and horizontals, listed below with their values.
    """
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    lines = [*_running(chart.stack), *chart.lines]
    for place, one in enumerate(lines):
        x, y = _scale(chart.log_x, one.x), _scale(chart.log_y, one.y)
        kinds = _DASHED if one.dashed else _MARKERS
        marker = kinds[place % len(kinds)]
        if one.points:
            plotext.scatter(x, y, label=one.name, marker=_POINTS[place % len(_POINTS)])
        else:
            plotext.plot(x, y, label=one.name, marker=marker)
    (left, right), (low, high) = extent(chart)
    inside = [mark for mark in chart.marks if mark.axis == "y" or left <= mark.value <= right]
    for mark in inside:
        value = _scale(chart.log_x if mark.axis == "x" else chart.log_y, (mark.value,))[0]
        (plotext.vline if mark.axis == "x" else plotext.hline)(value)
    for axis, ends, log in (("x", (left, right), chart.log_x), ("y", (low, high), chart.log_y)):
        at = ticks(*ends, log)
        set_ticks = plotext.xticks if axis == "x" else plotext.yticks
        set_ticks(_scale(log, at), [number(value) for value in at])
    plotext.title(chart.title)
    plotext.xlabel(chart.x_label)
    plotext.ylabel(chart.y_label)
    text = plotext.uncolorize(plotext.build())
    plotext.clear_figure()
    drawn = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    return drawn + _legend(chart, (left, right))


def _running(stack: tuple[Series, ...]) -> list[Series]:
    """Running sums of a stack, the total first."""
    found = [
        Series(name=stack[count - 1].name, x=stack[0].x, y=totals(stack[:count]))
        for count in range(len(stack), 0, -1)
    ]
    return found


def _legend(chart: Chart, span: tuple[float, float]) -> str:
    found = []
    for mark in chart.marks:
        outside = mark.axis == "x" and not span[0] <= mark.value <= span[1]
        beyond = " (beyond the chart)" if outside else ""
        found.append(f"  {mark.axis} = {number(mark.value)}: {mark.label}{beyond}\n")
    return "".join(found)


def show_chart(chart: Chart, stream: TextIO) -> None:
    """Print a chart as wide as the terminal, up to ``WIDTH``."""
    width = shutil.get_terminal_size((WIDTH, HEIGHT)).columns if stream.isatty() else WIDTH
    stream.write("\n" + terminal_text(chart, width=min(width, WIDTH)))
