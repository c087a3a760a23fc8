"""``planner topology``."""

from __future__ import annotations

import sys

import click

from planner.cli.options import parse_shape_option, size_options


@click.group("topology")
def command() -> None:
    """Look at a machine.

    Example: planner topology show gb200-nvl72 --racks 2
    """


@command.command("show")
@click.argument("machine")
@size_options
def show(machine: str, nodes: int | None, racks: int | None, shape: str | None) -> int:
    """Print what is built for MACHINE: chips, domains, bandwidths, totals, drain time.

    Example: planner topology show gb200-nvl72 --racks 2
    """
    from planner.api import topology_summary
    from planner.report.catalog_text import show_topology

    summary = topology_summary(machine, nodes, racks, parse_shape_option(shape))
    show_topology(summary, sys.stdout)
    return 0
