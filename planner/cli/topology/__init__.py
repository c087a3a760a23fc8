"""``planner topology``: one command per module, loaded when it is called."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "list": ("list_machines", "List the machines that ship."),
    "show": ("show", "Count and measure a machine, healthy or wounded."),
    "validate": ("validate", "Check a machine file and name what looks wrong."),
    "collective": ("collective", "Price one collective on a group of chips."),
    "draw": ("draw", "Draw a machine as SVG."),
    "export": ("export", "Write a machine's graph as GraphML or JSON."),
    "import": ("import_file", "Turn a discovered or exported graph into a machine file."),
}


class TopologyGroup(click.Group):
    """Loads a command's module when it is called: help must not wait for NumPy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        found = import_module(f"{__name__}.{COMMANDS[cmd_name][0]}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest near names for an unknown command."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group("topology", cls=TopologyGroup)
def command() -> None:
    """Look at a machine: what it is made of, what is left of it, what a collective costs.

    Example: planner topology show gb200-nvl72 --racks 2
    """
