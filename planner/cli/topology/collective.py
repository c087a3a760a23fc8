"""``planner topology collective``."""

from __future__ import annotations

import sys
from typing import Any

import click

from planner.cli.options import size_options, to_sizing
from planner.domain.curves import Op
from planner.errors import SpecError
from planner.units import parse_bytes


@click.command("collective")
@click.argument("machine")
@click.option(
    "--op", type=click.Choice([op.value for op in Op]), required=True, help="The operation."
)
@click.option("--bytes", "num_bytes", metavar="SIZE", help="e.g. 64MB; a table if absent.")
@click.option("--chips", metavar="0-71", help="Chips of the group by number; all if absent.")
@click.option("--group", metavar="r0/*,r1/*", help="Chips of the group by name.")
@click.option(
    "--matrix", metavar="FILE", help="Bytes from chip to chip, JSON or CSV [senders, receivers]."
)
@click.option("--concurrent", is_flag=True, help="The rest of the machine does the same.")
@click.option(
    "--algorithm",
    type=click.Choice(["auto", "library", "flat", "hierarchical", "in_network", "fused"]),
    default="auto",
    show_default=True,
    help="How it is run.",
)
@size_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(machine: str, as_json: bool, **values: Any) -> int:
    """Price one collective on a group of chips of MACHINE.

    SIZE counts as nccl-tests does: the buffer of one chip; of all_gather its result.

    Example: planner topology collective h100-hgx --op all_reduce --bytes 64MB
    """
    from planner.machine_api import Collective, collective_prices

    if values["chips"] is not None and values["group"] is not None:
        raise SpecError("--chips and --group exclude each other", "leave one out")
    size = values["num_bytes"]
    if values["matrix"] is not None and (size is not None or values["concurrent"]):
        raise SpecError("--matrix says who sends what", "leave --bytes and --concurrent out")
    question = Collective(
        op=Op(values["op"]),
        num_bytes=None if size is None else parse_bytes(size, "--bytes"),
        chips=values["chips"],
        group=values["group"],
        concurrent=values["concurrent"],
        algorithm=values["algorithm"],
        matrix=values["matrix"],
    )
    prices = collective_prices(machine, to_sizing(values), question)
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.layout_file import record_json

        print_bytes(record_json(prices))
        return 0
    from planner.report.collective_text import show_collective

    show_collective(prices, sys.stdout)
    return 0
