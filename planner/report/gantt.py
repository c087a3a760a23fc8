"""A pipeline schedule as a chart of one row per device: text, and SVG.

Text: ``F3`` is the forward pass of microbatch 3, ``B3`` its backward pass or, where ``W3``
stands apart, its input gradient; later chunks of a device, and the second direction of
DualPipe, are in lower case; idle time is dots.
"""

from __future__ import annotations

from math import floor, log10
from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING, TextIO

from planner.cost.schedules.chart import ROUNDS, ChartTask, ScheduleChart
from planner.report.tables import print_table
from planner.units import format_percent, format_seconds

if TYPE_CHECKING:
    from planner.report.draw.canvas import Sheet

_LETTERS = {"forward": "F", "backward": "B", "input_gradient": "B", "weight_gradient": "W"}
_IDLE = "."
_FILL = "-"

# Sizes of the SVG in pixels.
_DIGIT_WIDTH, _LEAST_WIDTH = 5.5, 13.0
_ROW, _CELL = 30.0, 22.0
_STRIP = 3.0
_MIN_CHART, _MAX_CHART = 560.0, 12_000.0
_SIDE = 62.0
_MIN_TEXT = 640.0


def show_schedule(chart: ScheduleChart, stream: TextIO, width: int) -> None:
    """Print the figures of a schedule and its chart, ``width`` characters wide at most."""
    rows = [
        ("step" if chart.kind != "decode" else "time between two tokens", _time(chart, chart.step)),
        ("work of the busiest device", _time(chart, chart.work)),
        ("bubble: step less that work", _time(chart, chart.bubble)),
        ("  of the step", format_percent(chart.bubble_fraction)),
        ("  of the work (rate)", format_percent(chart.bubble_rate)),
        ("idle inside a device's own span, at most", _time(chart, chart.own_span_idle)),
        ("closed form", f"{_time(chart, chart.closed_form)}, {_quality(chart)}"),
        ("no order of work is below", _time(chart, chart.lower_bound)),
        ("peak microbatches in flight by device", _peaks(chart)),
    ]
    print_table(_title(chart), ("", ""), rows, stream, words=(0, 1))
    stream.write("\n")
    for line in chart_lines(chart, width):
        stream.write(f"{line}\n")


def chart_lines(chart: ScheduleChart, width: int) -> list[str]:
    """The chart in characters: a legend, a row per device, a scale.

    The shortest task has room for its label where the width allows it, else all of the chart
    fills the width, down to one column for a task of middle length; what does not fit even
    then is cut off, and the last line says so.
    """
    head = [f"device {device}  " for device in range(chart.stages)]
    margin = max(map(len, head))
    room = max(10, width - margin)
    tasks = [task for row in chart.devices for task in row if task.end > task.start]
    per_time = _columns(tasks, room / chart.end)
    lines = wrap(_legend(chart), width)
    lines += [
        (name.ljust(margin) + _row(row, per_time, chart.end)[:room]).rstrip()
        for name, row in zip(head, chart.devices, strict=True)
    ]
    scale = f"one column is {_time(chart, 1.0 / per_time)}"
    if round(chart.end * per_time) <= room:
        scale += f"; {_time(chart, chart.end)} in all"
    else:
        shown = _time(chart, room / per_time)
        scale += f"; the first {shown} of {_time(chart, chart.end)}: -o draws all of it"
    return lines + wrap(scale, width)


def _columns(tasks: list[ChartTask], most: float) -> float:
    """Columns per time, ``most`` where they all fit; whole ones per shortest task if possible."""
    lengths = [task.end - task.start for task in tasks]
    wanted = max((len(_label(task)) + 1) / (task.end - task.start) for task in tasks)
    whole = floor(min(wanted, most) * min(lengths) + 1e-9)
    if whole:
        return whole / min(lengths)
    return max(most, 1.0 / median(lengths))


def _row(row: tuple[ChartTask, ...], per_time: float, end: float) -> str:
    line = ""
    for task in row:
        start, stop = round(task.start * per_time), round(task.end * per_time)
        # The same room for all tasks of a length, wherever their columns begin.
        room = floor((task.end - task.start) * per_time + 1e-9)
        line = line.ljust(start, _IDLE) + _cells(task, stop - start, room)
    return line.ljust(round(end * per_time), _IDLE)


def _cells(task: ChartTask, width: int, room: int) -> str:
    """A task in so many columns: a blank ends its label where one fits."""
    label = _label(task) if len(_label(task)) <= room else "".join(_letters(task))
    if 1 < len(label) < width:
        return f"{label.ljust(width - 1, _FILL)} "
    return label[:width].ljust(width, _FILL)


def _letters(task: ChartTask) -> list[str]:
    letters = ((_LETTERS[one.phase], one.part) for one in task.passes)
    return [letter.lower() if part else letter for letter, part in letters]


def _label(task: ChartTask) -> str:
    pairs = zip(_letters(task), task.passes, strict=True)
    return "".join(f"{letter}{one.microbatch}" for letter, one in pairs)


def _legend(chart: ScheduleChart) -> str:
    phases = {one.phase for row in chart.devices for task in row for one in task.passes}
    names = {
        "backward": "B backward",
        "input_gradient": "B input gradient",
        "weight_gradient": "W weight gradient",
    }
    if "backward" in phases:
        names["input_gradient"] = "or input gradient with a W later"
    said = ["F forward", *(name for phase, name in names.items() if phase in phases)]
    if chart.kind == "dualpipe":
        said.append("lower case: from the last device to the first")
    elif chart.virtual_stages > 1:
        said.append("lower case: later chunks")
    return ", ".join([*said, f"{_IDLE} idle"]) + _rounds(chart)


def _rounds(chart: ScheduleChart) -> str:
    return f"; {ROUNDS} rounds from an empty pipeline" if chart.kind == "decode" else ""


def _time(chart: ScheduleChart, value: float) -> str:
    if value == 0:
        return "0"
    return format_seconds(value) if chart.time_unit == "s" else f"{value:.5g}"


def _quality(chart: ScheduleChart) -> str:
    return "exact" if chart.closed_form_exact else "an upper bound"


def _peaks(chart: ScheduleChart) -> str:
    return ", ".join(f"{peak:.4g}" for peak in chart.peak_microbatches)


def _title(chart: ScheduleChart) -> str:
    def count(number: int, thing: str) -> str:
        return f"{number} {thing}{'s' if number > 1 else ''}"

    chunks = f" of {chart.virtual_stages} chunks" if chart.virtual_stages > 1 else ""
    stages = f"{count(chart.stages, 'stage')}{chunks}"
    return f"{chart.kind}: {stages}, {count(chart.microbatches, 'microbatch')}".replace(
        "microbatchs", "microbatches"
    )


def draw_schedule(chart: ScheduleChart) -> str:
    """Draw a chart.

    Returns
    -------
    str
        An SVG document with its own white background: one row per device, one box per task
        in the colour of its phase with the microbatch number where it fits, and a tooltip.
        The same chart gives the same text.
    """
    from planner.report.draw.canvas import Sheet

    sheet = Sheet()
    tasks = [task for row in chart.devices for task in row if task.end > task.start]
    label = max(_LEAST_WIDTH, _DIGIT_WIDTH * len(str(chart.microbatches - 1)))
    wanted = max(label * len(task.passes) / (task.end - task.start) for task in tasks)
    per_time = min(max(wanted, _MIN_CHART / chart.end), _MAX_CHART / chart.end)
    for device, row in enumerate(chart.devices):
        _draw_row(sheet, chart, (device, row), per_time)
    _draw_axis(sheet, chart, per_time)
    _draw_key(sheet, chart)
    _draw_head(sheet, chart)
    return sheet.to_svg(_title(chart), _facts(chart))


def _draw_row(
    sheet: Sheet, chart: ScheduleChart, numbered: tuple[int, tuple[ChartTask, ...]], per_time: float
) -> None:
    from planner.report.draw.canvas import BACK, Box, text_width
    from planner.report.draw.style import BODY, SMALL, TINY

    device, row = numbered
    top = device * _ROW
    middle = top + _CELL / 2
    sheet.text((-8.0, middle + 0.34 * BODY), f"device {device}", BODY, anchor="end")
    sheet.box(Box(0.0, top, chart.end * per_time, _CELL), "frame", "idle", layer=BACK)
    for task in row:
        x, width = task.start * per_time, (task.end - task.start) * per_time
        if width <= 0:
            continue
        share = width / len(task.passes)
        for index, one in enumerate(task.passes):
            cell = Box(x + index * share, top, share, _CELL)
            sheet.box(cell, f"chip {_colour(one.phase)}", _tip(chart, task))
            if chart.virtual_stages > 1 or chart.kind == "dualpipe":
                strip = Box(cell.x, cell.bottom - _STRIP, share, _STRIP)
                sheet.box(strip, _part_colour(one.part), _tip(chart, task))
            words = str(one.microbatch)
            size = SMALL if text_width(words, SMALL) <= share - 1 else TINY
            if text_width(words, size) <= share:
                sheet.text((cell.middle[0], middle + 0.3 * size), words, size, anchor="middle")


def _colour(phase: str) -> str:
    return {"F": "k0", "B": "k1", "W": "k2"}[_LETTERS[phase]]


def _part_colour(part: int) -> str:
    from planner.report.draw.style import rail_class

    # Colours of chunks begin beyond those of the phases.
    return rail_class(part + 4, "p")


def _tip(chart: ScheduleChart, task: ChartTask) -> str:
    words = " with ".join(
        f"{one.phase.replace('_', ' ')} of microbatch {one.microbatch}, chunk {one.chunk}"
        for one in task.passes
    )
    return f"{words}: {_time(chart, task.start)} to {_time(chart, task.end)}"


def _draw_axis(sheet: Sheet, chart: ScheduleChart, per_time: float) -> None:
    from planner.report.draw.style import BODY, SMALL

    y = chart.stages * _ROW + 2.0
    end = chart.end * per_time
    sheet.line(((0.0, y), (end, y)), "rule")
    step = _nice(max(chart.end / 12.0, 48.0 / per_time))
    ticks = floor(chart.end / step + 1e-9)
    for tick in range(ticks + 1):
        x = tick * step * per_time
        sheet.line(((x, y), (x, y + 4.0)), "rule")
        sheet.text((x, y + 15.0), _time(chart, tick * step), SMALL, anchor="middle")
    unit = "time" if chart.time_unit == "s" else "time, in the unit of the given times"
    sheet.text((end / 2, y + 31.0), unit + _rounds(chart), BODY, "muted", "middle")


def _nice(value: float) -> float:
    """The next number of the form 1, 2 or 5 times a power of ten."""
    power = 10.0 ** floor(log10(value))
    return next(k * power for k in (1.0, 2.0, 5.0, 10.0) if k * power >= value * (1.0 - 1e-9))


def _draw_key(sheet: Sheet, chart: ScheduleChart) -> None:
    from planner.report.draw.canvas import Box, text_width
    from planner.report.draw.style import BODY

    phases = {one.phase for row in chart.devices for task in row for one in task.passes}
    names = {
        "forward": "forward",
        "backward": "backward, both gradients",
        "input_gradient": "input gradient",
        "weight_gradient": "weight gradient",
    }
    shown = [(f"chip {_colour(phase)}", name) for phase, name in names.items() if phase in phases]
    if chart.kind == "dualpipe":
        shown += [(_part_colour(0), "from the first device"), (_part_colour(1), "from the last")]
    elif chart.virtual_stages > 1:
        parts = range(chart.virtual_stages)
        shown += [(_part_colour(part), f"chunk {part} of the device") for part in parts]
    x, y = 0.0, chart.stages * _ROW + 52.0
    for look, name in shown:
        width = 22.0 + text_width(name, BODY) + 16.0
        if x and x + width > max(_MIN_TEXT, sheet.right):
            x, y = 0.0, y + 20.0
        flat = not look.startswith("chip")
        sheet.box(Box(x, y + 5.0 if flat else y, 16.0, _STRIP if flat else 12.0), look)
        sheet.text((x + 22.0, y + 10.0), name, BODY)
        x += width


def _draw_head(sheet: Sheet, chart: ScheduleChart) -> None:
    from planner.report.draw.canvas import wrap as wrap_pixels
    from planner.report.draw.style import BODY, TITLE

    left = -_SIDE
    lines = wrap_pixels(_facts(chart), max(_MIN_TEXT, sheet.right) - left, BODY)
    top = -16.0 * len(lines) - 14.0
    sheet.text((left, top - 8.0), _title(chart), TITLE, "bold")
    for index, line in enumerate(lines):
        sheet.text((left, top + 16.0 * (index + 1)), line, BODY, "muted")


def _facts(chart: ScheduleChart) -> str:
    step = "time between two tokens" if chart.kind == "decode" else "step"
    return (
        f"{step} {_time(chart, chart.step)}; bubble {_time(chart, chart.bubble)} beyond the work "
        f"of the busiest device, {format_percent(chart.bubble_fraction)} of the step; "
        f"peak microbatches in flight by device: {_peaks(chart)}"
    )
