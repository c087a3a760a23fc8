"""A sensitivity as people read it: bottleneck, slack, offers, elasticities."""

from __future__ import annotations

from typing import TextIO

from planner.report.plot.chart import Chart, Series
from planner.report.tables import print_table, print_text
from planner.studies.sensitivity import Parameter, Sensitivity
from planner.units import (
    format_bytes,
    format_bytes_per_s,
    format_flop_per_s,
    format_percent,
    format_seconds,
)

# What the slope is given per: a change that people can picture.
_PER = {"B/s": (1e9, "GB/s"), "FLOP/s": (1e12, "TFLOP/s"), "B": (1e9, "GB"), "s": (1e-6, "us")}
_TITLES = {"hardware": "Machine", "model": "Model", "workload": "Workload"}


def value_text(value: float, unit: str) -> str:
    """A figure in its unit."""
    match unit:
        case "B/s":
            return format_bytes_per_s(value)
        case "FLOP/s":
            return format_flop_per_s(value)
        case "B":
            return format_bytes(value)
        case "s":
            return format_seconds(value)
    return f"{value:,.0f} {unit}".strip()


def slope_text(own: Parameter) -> str:
    """Seconds per unit."""
    size, unit = _PER.get(own.unit, (1.0, own.unit.removesuffix("s") or "1"))
    seconds = own.s_per_unit * size
    sign = "-" if seconds < 0 else "+"
    return f"{sign}{format_seconds(abs(seconds))} per {unit}" if seconds else "0"


def _hardware_row(own: Parameter, step_s: float) -> tuple[str, ...]:
    assert own.twice_s is not None
    offer = "half" if own.unit == "s" else "twice"
    gain = 1.0 - own.twice_s / step_s
    return (
        own.label,
        value_text(own.value, own.unit),
        f"{own.elasticity:+.3f}",
        slope_text(own),
        f"{offer}: {format_seconds(own.twice_s)}",
        format_percent(gain),
    )


def _plain_row(own: Parameter) -> tuple[str, ...]:
    return (
        own.label,
        value_text(own.value, own.unit),
        f"{own.elasticity:+.3f}",
        slope_text(own),
    )


def bottleneck_sentences(found: Sensitivity) -> list[str]:
    """What the step waits for, what comes next, and what memory is left."""
    own = found.bottleneck
    if own.relief is None:
        until = f"however much there is of it; {own.behind_label} follows"
    else:
        until = f"until {own.relief:.2f} x of it, then for {own.behind_label}"
    lines = [
        f"The step waits most for {own.label}, {until}. Were it free, the step would take "
        f"{format_seconds(own.free_s)} instead of {format_seconds(found.step_s)}."
    ]
    memory = f"{format_percent(found.hbm_free)} of the usable HBM are free"
    if found.largest_batch is not None and found.largest_batch_twice is not None:
        memory += (
            f"; a batch of {found.largest_batch:,} fits, with twice the HBM "
            f"{found.largest_batch_twice:,}"
        )
    return [*lines, memory + "."]


def show_sensitivity(found: Sensitivity, stream: TextIO) -> None:
    """Print a sensitivity."""
    print_text(
        f"{found.model} on {found.machine}: {found.phase}, step {format_seconds(found.step_s)}; "
        "the decisions of the layout stay",
        stream,
    )
    for sentence in bottleneck_sentences(found):
        print_text(sentence, stream)
    rows = [
        (own.label, format_seconds(own.alone_s), format_percent(own.slack))
        for own in found.resources
    ]
    print_table("Resources", ("", "alone", "slack"), rows, stream)
    of = {kind: [own for own in found.parameters if own.kind == kind] for kind in _TITLES}
    machine = [_hardware_row(own, found.step_s) for own in of["hardware"]]
    header = ("", "value", "d ln step / d ln", "d step", "offer", "saves")
    print_table(_TITLES["hardware"], header, machine, stream, words=(0, 4))
    for kind in ("model", "workload"):
        plain = [_plain_row(own) for own in of[kind]]
        print_table(_TITLES[kind], header[:4], plain, stream)


def sensitivity_chart(found: Sensitivity) -> Chart:
    """Elasticities of the machine's figures as bars."""
    shown = [own for own in found.parameters if own.kind == "hardware"]
    return Chart(
        title=f"{found.model} on {found.machine}, {found.phase}",
        x_label="figure of the machine",
        y_label="d ln step / d ln figure",
        stack=(
            Series(
                name="elasticity",
                x=tuple(float(place) for place in range(len(shown))),
                y=tuple(own.elasticity for own in shown),
            ),
        ),
        bars=tuple(own.label for own in shown),
    )
