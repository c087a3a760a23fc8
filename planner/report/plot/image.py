"""A chart as PNG or SVG, by matplotlib."""

from __future__ import annotations

import io
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from planner.errors import SpecError
from planner.report.plot.chart import Chart, extent, number, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
SIZE_INCHES = (8.0, 5.0)
DPI = 150
LONG_NAME = 12  # characters of a bar's name that need to be turned


def check_format(path: str) -> str:
    """The format that a file's name asks for.

    Raises
    ------
    SpecError
        It is neither PNG nor SVG.
    """
    found = PurePath(path).suffix.lower().removeprefix(".")
    if found not in FORMATS:
        raise SpecError(
            f"-o: '{path}' ends neither in .png nor in .svg", "write for example -o plot.svg"
        )
    return found


def chart_image(chart: Chart, kind: str) -> bytes:
    """Draw a chart; the same chart gives the same bytes.

    Parameters
    ----------
    kind : str
        Of ``FORMATS``.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "planner", "svg.fonttype": "none"}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        _draw(axes, chart)
        content = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(content, format=kind, dpi=DPI, metadata=metadata)
    return content.getvalue()


def _draw(axes: Axes, chart: Chart) -> None:
    if chart.bars:
        _bars(axes, chart)
    elif chart.stack:
        axes.stackplot(
            chart.stack[0].x,
            [one.y for one in chart.stack],
            labels=[one.name for one in chart.stack],
            alpha=0.85,
        )
    for one in chart.lines:
        style = "--" if one.dashed else "-"
        axes.plot(one.x, one.y, style, label=one.name, marker="o" if one.points else None)
    for mark in chart.marks:
        draw = axes.axvline if mark.axis == "x" else axes.axhline
        label = f"{mark.label}: {number(mark.value)}"
        draw(mark.value, color="0.35", linestyle=":", linewidth=1.2, label=label)
    axes.set_title(chart.title)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if not chart.bars:
        _axis(axes, chart)
    axes.legend(fontsize="small")


def _bars(axes: Axes, chart: Chart) -> None:
    bottom = [0.0] * len(chart.bars)
    for one in chart.stack:
        axes.bar(chart.bars, one.y, bottom=bottom, label=one.name)
        bottom = [base + value for base, value in zip(bottom, one.y, strict=True)]
    if max(map(len, chart.bars)) > LONG_NAME:
        axes.tick_params(axis="x", labelrotation=30, labelsize="small")


def _axis(axes: Axes, chart: Chart) -> None:
    """Scales and plain ticks."""
    (left, right), (low, high) = extent(chart)
    if chart.log_x:
        axes.set_xscale("log")
        at = ticks(left, right, True)
        axes.set_xticks(at, [number(value) for value in at])
        axes.set_xticks([], minor=True)
    if chart.log_y:
        axes.set_yscale("log")
        at = ticks(low, high, True)
        axes.set_yticks(at, [number(value) for value in at])
        axes.set_yticks([], minor=True)
    axes.set_xlim(left, right)
