"""Options that the commands about money share, and how they print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from planner.cli.options import parse_values, size_options, to_sizing
from planner.cli.study_output import OUTPUT
from planner.domain.dtypes import DType
from planner.domain.question import DegreeLimits
from planner.economics.question import Served
from planner.errors import SpecError
from planner.units import parse_seconds, parse_tokens, parse_usd

Command = TypeVar("Command", bound=Callable[..., Any])
_DTYPES = click.Choice([dtype.value for dtype in DType])
_DEGREES = ("tp", "pp", "ep", "dp", "expert_tp")
_VALUES = "N|N,N|N..N"

MACHINE = click.option("--on", "machine", metavar="MACHINE", help="Catalogue name or TOML file.")
PRICE = click.option(
    "--price", metavar="USD", help="Dollars per chip-hour; the machine's if absent."
)
POWER = click.option("--kw", type=float, help="Kilowatts of a chip with everything around it.")
FORMATS = (
    click.option("--weights", type=_DTYPES, help="Format of the matmul weights."),
    click.option("--activations", type=_DTYPES, help="Format of matmul inputs."),
    click.option("--kv", type=_DTYPES, help="Format of the KV cache."),
    click.option("--ideal", is_flag=True, help="Pure roofline: no derates, no latencies."),
)
DECODE = (
    click.option("--tp", metavar=_VALUES, help="decode: tensor parallelism; the best if absent."),
    click.option("--pp", metavar=_VALUES, help="decode: pipeline stages."),
    click.option("--ep", metavar=_VALUES, help="decode: expert parallelism."),
    click.option("--dp", metavar=_VALUES, help="decode: data parallelism, over all replicas."),
    click.option("--expert-tp", metavar=_VALUES, help="decode: split inside an expert."),
)


def with_options(*options: Any) -> Callable[[Command], Command]:
    """Add options in the order in which they are listed, then size and output."""

    def apply(command: Command) -> Command:
        for option in reversed(OUTPUT):
            command = option(command)
        command = size_options(command)
        for option in reversed(options):
            command = option(command)
        return command

    return apply


def read_positive(values: dict[str, Any], name: str) -> float | None:
    """Seconds of an option such as ``--tpot``."""
    text = values.get(name)
    return None if text is None else parse_seconds(text, f"--{name}")


def to_served(model: str, values: dict[str, Any], context: int) -> Served:
    """Translate what all the commands share.

    Raises
    ------
    SpecError, CatalogError
        Naming the option, or the file, that cannot be read.
    """
    if values["machine"] is None:
        raise SpecError("--on is missing", "write for example --on h100-hgx")
    price = values["price"]
    limits = {
        name: parse_values(values[name], "--" + name.replace("_", "-"))
        for name in _DEGREES
        if values.get(name) is not None
    }
    formats = {
        name: DType(values[name])
        for name in ("weights", "activations", "kv")
        if values.get(name) is not None
    }
    return Served(
        model=model,
        machine=values["machine"],
        context=context,
        sizing=to_sizing(values),
        price=None if price is None else parse_usd(price, "--price"),
        kw=values.get("kw"),
        limits=DegreeLimits(**limits),
        prefill_tp=_whole(values.get("prefill_tp"), "--prefill-tp"),
        tpot=read_positive(values, "tpot"),
        ttft=read_positive(values, "ttft"),
        batch=_whole(values.get("batch"), "--batch"),
        ideal=bool(values.get("ideal")),
        **formats,
    )


def _whole(value: int | None, option: str) -> int | None:
    if value is not None and value < 1:
        raise SpecError(f"{option}: {value} is less than 1", f"write for example {option} 8")
    return value


def read_tokens(values: dict[str, Any], name: str) -> int | None:
    """Tokens of an option such as ``--context``."""
    text = values.get(name)
    return None if text is None else parse_tokens(text, "--" + name.replace("_", "-"))
