"""``planner topology``: one command per module, loaded when it is called."""

from __future__ import annotations

import click

from planner.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("list_machines", "List the machines that ship."),
    "show": ("show", "Count and measure a machine, healthy or wounded."),
    "validate": ("validate", "Check a machine file and name what looks wrong."),
    "collective": ("collective", "Price one collective on a group of chips."),
    "draw": ("draw", "Draw a machine as SVG."),
    "export": ("export", "Write a machine's graph as GraphML or JSON."),
    "import": ("import_file", "Turn a discovered or exported graph into a machine file."),
}


@click.group("topology", cls=LazyGroup, package=__name__, lazy=COMMANDS)
def command() -> None:
    """Look at a machine: what it is made of, what is left of it, what a collective costs.

    Example: planner topology show gb200-nvl72 --racks 2
    """
