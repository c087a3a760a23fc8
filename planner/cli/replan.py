"""``planner replan``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from planner.cli.options import (
    output_options,
    parse_reserve,
    parse_survive,
    size_options,
    to_sizing,
)
from planner.errors import SpecError
from planner.units import parse_bytes, parse_seconds, parse_tokens

if TYPE_CHECKING:
    from planner.domain.layout import Layout
    from planner.replan_api import Changes

_OPTIONS = (
    click.option(
        "--repaired",
        multiple=True,
        metavar="KIND:NAME",
        help="Dead or slow part of the layout's file that is well again; repeatable.",
    ),
    click.option("--loads", metavar="FILE", help="New routing loads, JSON or CSV."),
    click.option("--context", metavar="TOKENS", help="New number of cached tokens, e.g. 16k."),
    click.option("--tpot", metavar="TIME", help="New limit on the time per token, e.g. 30ms."),
    click.option("--batch", metavar="N|free", help="New batch on the whole machine."),
    click.option(
        "--reserve", metavar="N|N/domain", help="New number of spares; 0 lets spares be used."
    ),
    click.option(
        "--survive",
        metavar="1|1/PART|none",
        help="Part of which any one may die, as in plan; none drops what the layout's file asks.",
    ),
    click.option("--max-move", metavar="BYTES", help="Most bytes that may move, e.g. 200GB."),
    click.option(
        "--amortise",
        metavar="TIME",
        help="Time over which a migration must pay, e.g. 1h; 10min if --max-move is absent too.",
    ),
    click.option(
        "--drop-caches",
        is_flag=True,
        help="Sequences that change chips lose their caches instead of taking them along.",
    ),
    click.option("--time-limit", metavar="TIME", help="Stop the search early, gap stays honest."),
)


def _options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _batch(text: str | None) -> int | None:
    if text is None:
        return None
    if text == "free":
        return 0
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise SpecError(f"--batch: cannot read '{text}'", "write for example --batch 4096 or free")
    return int(text)


@click.command("replan")
@click.argument("layout_file")
@size_options
@_options
@output_options
def command(layout_file: str, out: str | None, as_json: bool, **values: Any) -> int:
    """Change a layout that runs to what has changed, and move little.

    Dead or slow parts, another size, new routing loads, another workload: the next layout,
    what moves from where to where, how long that takes, what it gains, and a bound that no
    layout of the changed machine beats. With nothing changed nothing moves. Decode layouts only.

    Example: planner replan layout.json --without chip:r0/t3/c2 -o next.json

    Example: planner replan layout.json --loads today.json --max-move 200GB
    """
    from planner.cli.show import print_bytes, print_infeasible
    from planner.export.atomic import check_writable, write_text_atomic
    from planner.export.layout_file import layout_json, record_json

    changes = _changes(values)
    move, amortise, limit = values["max_move"], values["amortise"], values["time_limit"]
    if out is not None:
        check_writable(out)
    from planner.domain.outcome import Infeasible
    from planner.replan_api import ReplanQuestion, replan

    question = ReplanQuestion(
        layout=_read(layout_file),
        changes=changes,
        max_move_bytes=None if move is None else _bytes(move),
        amortise_s=None if amortise is None else parse_seconds(amortise, "--amortise"),
        drop_caches=values["drop_caches"],
        time_limit_s=None if limit is None else parse_seconds(limit, "--time-limit"),
    )
    found = replan(question)
    if isinstance(found, Infeasible):
        return print_infeasible(found, as_json)
    if out is not None:
        write_text_atomic(out, layout_json(found.layout))
    if as_json:
        print_bytes(record_json(found.record))
    else:
        from planner.report.replan_text import show_replan

        show_replan(found.layout, found.record, sys.stdout)
    if out is not None:
        click.echo(f"wrote {out}", err=True)
    return 0


def _read(layout_file: str) -> Layout:
    """A decode layout; one of training is refused by name."""
    from planner.export.layout_file import read_layout
    from planner.export.serve_file import is_serve_layout
    from planner.export.train_file import is_train_layout

    if is_serve_layout(layout_file):
        raise SpecError(
            f"replan takes layouts of decode, {layout_file} is one of two pools",
            "plan it anew for the changed machine: planner plan --phase serve",
        )
    if is_train_layout(layout_file):
        raise SpecError(
            f"replan takes layouts of decode, {layout_file} is one of training",
            "plan it anew without the dead node: planner plan --phase train --without node:...",
        )
    return read_layout(layout_file)


def _bytes(text: str) -> float:
    """``--max-move``; nothing at all is ``0``."""
    return 0.0 if text.strip() in ("0", "0B", "0GB") else parse_bytes(text, "--max-move")


def _changes(values: dict[str, Any]) -> Changes:
    from planner.replan_api import Changes

    reserve, survive = values["reserve"], values["survive"]
    return Changes(
        sizing=to_sizing(values),
        repaired=tuple(dict.fromkeys(values["repaired"])),
        loads=values["loads"],
        context_tokens=(
            None if values["context"] is None else parse_tokens(values["context"], "--context")
        ),
        tpot_s=None if values["tpot"] is None else parse_seconds(values["tpot"], "--tpot"),
        batch=_batch(values["batch"]),
        reserve=None if reserve is None else parse_reserve(reserve),
        survive=survive if survive == "none" else parse_survive(survive),
    )
