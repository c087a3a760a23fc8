"""``planner experts``."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click

from planner.errors import SpecError
from planner.units import parse_seconds

_DOMAINS = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")
_MAX_COUNT = 10_000_000
_MAX_JOBS = 256


def parse_domains(text: str | None) -> tuple[int, int] | None:
    """Read ``9x8``: domains, and chips of each."""
    if text is None:
        return None
    match = _DOMAINS.fullmatch(text)
    if match is None:
        raise SpecError(
            f"--domains: cannot read '{text}'", "write domains x chips, for example --domains 9x8"
        )
    return int(match.group(1)), int(match.group(2))


@click.command("experts")
@click.option(
    "--loads",
    metavar="FILE",
    required=True,
    help="Tokens of each expert [layers, experts]: JSON, CSV, .npy, .npz, or what SGLang, vLLM "
    "or TensorRT-LLM recorded.",
)
@click.option(
    "--chips",
    type=click.IntRange(1, _MAX_COUNT),
    required=True,
    help="Chips of the expert-parallel group.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, _MAX_COUNT),
    required=True,
    help="Copies of experts on all chips together.",
)
@click.option("--domains", metavar="NxM", help="N nodes or racks of M chips: spread copies.")
@click.option(
    "--groups",
    type=click.IntRange(1, _MAX_COUNT),
    help="Groups of experts that stay whole in a domain, instead of spreading copies.",
)
@click.option(
    "--split",
    type=click.Choice(["even", "weighted"]),
    default="even",
    show_default=True,
    help="How copies share an expert's tokens.",
)
@click.option(
    "--co-activation",
    metavar="FILE",
    help="Tokens of each pair of experts [experts, experts], .npz or CSV: bring pairs together.",
)
@click.option("--experts", type=click.IntRange(1, _MAX_COUNT), help="Experts of a layer.")
@click.option("--gap", type=float, default=0.005, show_default=True, help="Gap to prove.")
@click.option("--time-limit", metavar="TIME", help="Stop early with an honest gap, e.g. 2s.")
@click.option("--jobs", type=click.IntRange(1, _MAX_JOBS), help="Processes; all cores if absent.")
@click.option("-o", "--out", metavar="FILE", help="Write the placement to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(out: str | None, as_json: bool, **values: Any) -> int:
    """Place expert copies on chips for measured loads.

    Each layer gets a placement, its balance (mean over hottest chip) and a bound that no
    placement beats, beside the greedy rule that engines ship. No chip holds an expert twice.

    Example: planner experts --loads loads.json --chips 72 --slots 288 -o placement.json
    """
    from planner.export.atomic import check_writable, write_text_atomic

    domains = parse_domains(values["domains"])
    limit = values["time_limit"]
    seconds = None if limit is None else parse_seconds(limit, "--time-limit")
    if out is not None:
        check_writable(out)
    from planner.expert_api import ExpertQuestion, Split, place

    answer = place(
        ExpertQuestion(
            loads=values["loads"],
            num_chips=values["chips"],
            num_slots=values["slots"],
            domains=domains,
            num_groups=values["groups"],
            split=Split(values["split"]),
            co_activation=values["co_activation"],
            num_experts=values["experts"],
            gap=values["gap"],
            time_limit_s=seconds,
            jobs=values["jobs"] or os.cpu_count() or 1,
        )
    )
    if out is not None or as_json:
        from planner.export.placement_file import placement_json

        content = placement_json(answer)
    if out is not None:
        write_text_atomic(out, content)
    if as_json:
        from planner.cli.show import print_bytes

        print_bytes(content)
    else:
        from planner.report.experts_text import show_experts

        show_experts(answer, sys.stdout)
    if out is not None:
        click.echo(f"wrote {out}", err=True)
    return 0
