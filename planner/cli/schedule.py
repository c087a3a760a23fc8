"""``planner schedule``."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.domain.run import ScheduleKind
from planner.errors import SpecError
from planner.units import parse_seconds

if TYPE_CHECKING:
    from planner.cost.schedules.kinds import PipelineKind, StageTimes

FLOWS = ("forward", "decode")
KINDS = (*(kind.value for kind in ScheduleKind if kind is not ScheduleKind.NONE), *FLOWS)
TIMES = ("forward", "backward_input", "backward_weight")
MAX_COUNT = 100_000
_PLAIN = re.compile(r"\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?")


@click.command("schedule")
@click.option(
    "--stages", type=click.IntRange(1, MAX_COUNT), required=True, help="Devices in a row."
)
@click.option(
    "--microbatches",
    type=click.IntRange(1, MAX_COUNT),
    required=True,
    help="Of one step; of decode in flight.",
)
@click.option(
    "--kind", type=click.Choice(KINDS), default="1f1b", show_default=True, help="The schedule."
)
@click.option(
    "--virtual-stages",
    type=click.IntRange(1, MAX_COUNT),
    default=1,
    help="Chunks per stage (interleaved).",
)
@click.option("--forward", metavar="TIME|T,T", help="Of one microbatch on a stage; 1 if absent.")
@click.option("--backward-input", metavar="TIME|T,T", help="Gradient of the input; 1 if absent.")
@click.option("--backward-weight", metavar="TIME|T,T", help="Of the weights; 1 if absent.")
@click.option("--hop", metavar="TIME", help="From one stage to the next; 0 if absent.")
@click.option(
    "--overlap",
    type=click.FloatRange(0.0, 1.0),
    help="Share of the shorter pass that a pair hides (dualpipe); 0 if absent.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-o", "--out", metavar="FILE.svg", help="Draw the schedule to FILE.svg.")
def command(as_json: bool, out: str | None, **values: Any) -> int:
    """Draw a pipeline schedule and its bubble.

    Times are plain numbers or carry a unit (2ms), all of them alike; a list gives one per
    stage, or one per chunk in the order of the model.

    Example: planner schedule --stages 4 --microbatches 8 --kind 1f1b --backward-weight 0.8
    """
    if out is not None:
        from planner.export.atomic import check_writable

        if Path(out).suffix.lower() != ".svg":
            raise SpecError(f"-o: '{out}' does not end in .svg", "write for example -o gantt.svg")
        check_writable(out)
    from planner.cost.schedules.chart import chart_schedule

    kind = _kind(values["kind"])
    unit, times, hop = _read_times(kind, values)
    chart = chart_schedule(
        kind, times, values["microbatches"], values["virtual_stages"], hop, time_unit=unit
    )
    if out is not None:
        from planner.export.atomic import write_text_atomic
        from planner.report.gantt import draw_schedule

        write_text_atomic(out, draw_schedule(chart).encode())
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.layout_file import record_json

        print_bytes(record_json(chart))
    else:
        from planner.report.gantt import show_schedule

        show_schedule(chart, sys.stdout, shutil.get_terminal_size((100, 24)).columns)
    if out is not None:
        click.echo(f"wrote {out}", err=True)
    return 0


def _kind(name: str) -> PipelineKind:
    from planner.cost.schedules.kinds import Flow

    return Flow(name) if name in FLOWS else ScheduleKind(name)


def _read_times(kind: PipelineKind, values: dict[str, Any]) -> tuple[str, StageTimes, float]:
    """Unit, stage times and hop."""
    from planner.cost.schedules.kinds import StageTimes, check_pipeline, chunks_per_device

    stages, virtual_stages = values["stages"], values["virtual_stages"]
    check_pipeline(kind, stages, values["microbatches"], virtual_stages)
    if values["overlap"] is not None and kind is not ScheduleKind.DUALPIPE:
        raise SpecError(f"--overlap: {kind} pairs no passes", "leave it out")
    given = {name: values[name] for name in (*TIMES, "hop") if values[name] is not None}
    unit = _unit(given)
    parts = {name: _numbers(text, name) for name, text in given.items()}
    hop = parts.pop("hop", [0.0])
    if len(hop) > 1:
        raise SpecError(f"--hop has {len(hop)} times", "give one for all hops")
    for name in TIMES[1:] if kind.value in FLOWS else ():
        if name in parts:
            raise SpecError(f"{_option(name)}: {kind} has no backward pass", "leave it out")
    for name in TIMES[:1] if kind.value in FLOWS else TIMES:
        if name not in parts and unit == "s":
            raise SpecError(f"{_option(name)} is missing", f"write for example {_option(name)} 2ms")
        parts.setdefault(name, [1.0])
    v = chunks_per_device(kind, virtual_stages)
    chunks = v if any(len(part) == stages * v for part in parts.values()) else 1
    size = (kind, stages, v, chunks)
    times = StageTimes(
        **{name: _spread(part, size, name) for name, part in parts.items()},
        chunks=chunks,
        overlap=values["overlap"] or 0.0,
    )
    return unit, times, hop[0]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _unit(given: dict[str, str]) -> str:
    """``s`` or ``units``, plain numbers: all times alike, zero is both."""
    unit = ""
    for name, text in given.items():
        for one, seconds in zip(text.split(","), _numbers(text, name), strict=True):
            found = "units" if _PLAIN.fullmatch(one.strip()) else "s"
            if unit and seconds and found != unit:
                raise SpecError(
                    f"{_option(name)} {text}: some times have a unit and others have none",
                    "give all times a unit, for example 2ms, or none",
                )
            unit = found if seconds else unit
    return unit or "units"


def _numbers(text: str, name: str) -> list[float]:
    return [
        float(one) if _PLAIN.fullmatch(one.strip()) else parse_seconds(one, _option(name))
        for one in text.split(",")
    ]


def _spread(
    part: list[float], size: tuple[PipelineKind, int, int, int], name: str
) -> tuple[float, ...]:
    """One number for all stages, or a list, as numbers per stage or per chunk."""
    from planner.cost.schedules.kinds import chunk_devices

    kind, stages, v, chunks = size
    if len(part) == 1:
        part = part * stages
    if len(part) not in (stages, stages * v):
        per_chunk = f", or {stages * v}, one per chunk" if v > 1 else ""
        raise SpecError(
            f"{_option(name)} has {len(part)} times",
            f"give one for all stages, or {stages}, one per stage{per_chunk}",
        )
    if chunks > 1 and len(part) == stages:
        return tuple(part[device] / v for device in chunk_devices(kind, stages, v))
    return tuple(part)
