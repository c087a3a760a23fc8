"""``planner topology show``."""

from __future__ import annotations

import sys
from typing import Any

import click

from planner.cli.options import size_options, to_sizing


@click.command("show")
@click.argument("machine")
@size_options
@click.option("--sources", "with_sources", is_flag=True, help="Also where each number is from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(machine: str, with_sources: bool, as_json: bool, **values: Any) -> int:
    """Count and measure MACHINE: chips, links, bandwidths, bisection, drain time, price.

    With dead or slow parts also what the whole machine had, and what was lost.

    Example: planner topology show gb200-nvl72 --racks 2 --without switch:r0/sw5
    """
    from planner.machine_api import machine_sources, machine_state
    from planner.topology.summary import curve_rows

    state = machine_state(machine, to_sizing(values))
    curves = curve_rows(state.topology.spec)
    sources = machine_sources(machine) if with_sources else ()
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.layout_file import record_json
        from planner.export.topology_record import TopologyRecord

        record = TopologyRecord(
            machine=state.now,
            wounds=state.topology.spec.wounds,
            whole=state.before,
            lost=state.lost,
            collectives=curves,
            sources=sources,
        )
        print_bytes(record_json(record))
        return 0
    from planner.report.topology_text import show_losses, show_sources, show_topology

    show_topology(state.now, curves, sys.stdout)
    if state.before is not None and state.lost is not None:
        show_losses(state.before, state.now, state.lost, sys.stdout)
    if with_sources:
        show_sources(sources, sys.stdout)
    return 0
