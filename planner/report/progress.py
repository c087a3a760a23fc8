"""How far a search is, in one line of a terminal that is written over and over."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from planner.search.control import Progress, SearchState
from planner.units import format_integer, format_percent, format_precise

# A search that is done sooner shows nothing.
FIRST_S = 0.5
BETWEEN_S = 0.1
BAR = 24  # characters of a bar
_CLEAR = "\r\x1b[2K"


def state_text(state: SearchState, unit: str) -> str:
    """Elapsed time, best layout, bound and gap, and how many strategies are left."""
    elapsed, left = f"{state.elapsed_s:.1f} s", format_integer(state.remaining)
    counts = f"{format_integer(state.solved)} solved, {left} left"
    if not math.isinf(state.incumbent):
        return (
            f"{elapsed}: gap {format_percent(state.gap)}, best {format_precise(state.incumbent)}, "
            f"bound {format_precise(state.bound)} {unit}, {counts}"
        )
    if state.solved:
        return f"{elapsed}: no layout yet, {counts}"
    return f"{elapsed}: {'solving' if state.bound else 'bounding'} {left} strategies"


@contextmanager
def search_line(
    stream: TextIO, unit: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Progress | None]:
    """Show a search on a terminal, nothing elsewhere; the line is wiped at the end.

    Parameters
    ----------
    unit : str
        Of the objective.
    clock : callable
        Seconds, ever growing.

    Yields
    ------
    callable or None
        To be told how far the search is, as often as it likes; None off a terminal.
    """
    if not stream.isatty():
        yield None
        return
    due = clock() + FIRST_S
    shown = False

    def show(state: SearchState) -> None:
        nonlocal due, shown
        now = clock()
        if now < due:
            return
        due, shown = now + BETWEEN_S, True
        width = shutil.get_terminal_size().columns
        stream.write(_CLEAR + state_text(state, unit)[: width - 1])
        stream.flush()

    try:
        yield show
    finally:
        if shown:
            stream.write(_CLEAR)
            stream.flush()


def steps_text(what: str, share: float, width: int = BAR) -> str:
    """What is being done, and a bar of the share that is done."""
    full = round(max(0.0, min(1.0, share)) * width)
    return f"[{'#' * full}{'.' * (width - full)}] {share:4.0%}  {what}"


@contextmanager
def steps_line(
    stream: TextIO, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[str, float], None]]:
    """Show the steps of a study on a terminal, nothing elsewhere; wiped at the end.

    Yields
    ------
    callable
        To be told what is being done, and the share that is done.
    """
    shown = False
    started = clock()

    def show(what: str, share: float) -> None:
        nonlocal shown
        if not stream.isatty() or clock() < started + FIRST_S:
            return
        shown = True
        width = shutil.get_terminal_size().columns
        stream.write(_CLEAR + steps_text(what, share)[: width - 1])
        stream.flush()

    try:
        yield show
    finally:
        if shown:
            stream.write(_CLEAR)
            stream.flush()
