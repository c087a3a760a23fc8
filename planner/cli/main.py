"""Entry point: finds the command, turns errors into messages and exit codes.

Exit codes: 0 done, 1 a verified file has violations, 2 the question cannot be understood,
3 nothing fits, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from planner.errors import PlannerError
from planner.version import VERSION

COMMANDS = {
    "plan": "Find the best layout and prove how good it is.",
    "evaluate": "Price a given layout without searching.",
    "verify": "Check a layout file and name each violation.",
    "schema": "Print the JSON Schema of layout files.",
    "models": "List the models that ship.",
    "topologies": "List the machines that ship.",
    "topology": "Look at a machine.",
}
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LazyGroup(click.Group):
    """Loads a command's module when it is called: help must not wait for NumPy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        found = getattr(import_module(f"planner.cli.{cmd_name}"), "command")  # noqa: B009
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

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

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; end quietly when the reader has gone (``| head``)."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # click would exit with 1, which here means that a file has violations.
            # Python flushes stdout once more on exit: give it nothing to complain about.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@click.group(cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(VERSION, prog_name="planner")
def cli() -> None:
    """Certified layouts of large language models on real machines.

    Example: planner plan deepseek-v3 --on gb200-nvl72 --context 8k --tpot 20ms
    """


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        code = cli.main(args=arguments, prog_name="planner", standalone_mode=False)
        return int(code or 0)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except PlannerError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return 130
