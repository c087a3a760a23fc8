"""Entry point: finds the command, turns errors into messages and exit codes.

Exit codes: 0 done, 1 a verified file has violations, 2 the question cannot be understood,
3 nothing fits, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import click

from planner.cli.lazy import LazyGroup
from planner.errors import PlannerError
from planner.version import VERSION

COMMANDS = {
    "plan": "Find the best layout and prove how good it is.",
    "compare": "Set families of strategies side by side, and say why one wins.",
    "frontier": "What speed costs: tokens/s/user against tokens/s/chip.",
    "curve": "Draw step, cost, MFU or memory against batch, context and more.",
    "sensitivity": "What moves the step of a layout: bottleneck, slack, offers.",
    "evaluate": "Price a given layout without searching.",
    "estimate": "Price a training step, prefill, decode or request as given.",
    "verify": "Check a layout file and name each violation.",
    "export": "Write a layout as the launch configuration of an engine.",
    "import": "Read a deployment and compare it with the best layout.",
    "diff": "Explain what two layouts differ in.",
    "replan": "Change a running layout to what has changed, and move little.",
    "validate": "Compare predictions with measured runs.",
    "calibrate": "Fit a machine's constants to your measurements.",
    "schema": "Print the JSON Schema of layout files.",
    "models": "List the models that ship.",
    "topologies": "List the machines that ship.",
    "topology": "Look at a machine.",
    "schedule": "Draw a pipeline schedule and its bubble.",
    "experts": "Place expert copies on chips for measured loads.",
    "workload": "Read a request trace: lengths, contexts, arrivals.",
    "economics": "Price tokens, caches and training budgets.",
}
# Modules that cannot be called as their command.
MODULES = {"import": "import_deployment"}
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class PlannerGroup(LazyGroup):
    """The top of the command line."""

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


@click.group(
    cls=PlannerGroup,
    package="planner.cli",
    lazy={name: (MODULES.get(name, name), text) for name, text in COMMANDS.items()},
    context_settings=CONTEXT,
)
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
    except OSError as error:
        # A full disk, or a standard output that is closed.
        click.echo(f"error: cannot write: {error.strerror or error}", err=True)
        return 2
