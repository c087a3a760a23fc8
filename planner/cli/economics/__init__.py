"""``planner economics``: one command per module, loaded when it is called."""

from __future__ import annotations

import click

from planner.cli.lazy import LazyGroup

COMMANDS = {
    "serve": ("serve", "Price input and output tokens, and count chips for a load."),
    "cache": ("cache", "Find where a context waits most cheaply for its next request."),
    "train": ("train", "Balance and price pre-training, RL and inference."),
}


@click.group("economics", cls=LazyGroup, package=__name__, lazy=COMMANDS)
def command() -> None:
    """What tokens, caches and training cost, the lecture's napkin beside the full model.

    Example: planner economics serve deepseek-v3 --on gb200-nvl72 --context 8k
    """
