"""How far a deployment is from the best layout, and which changes make the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from planner.report.tables import print_text
from planner.units import format_percent

_NEAR = 1.005
_COUNTS = ("no", "this", "these two", "these three", "these four", "these five")


def show_verdict(ratio: float, gap: float | None, stream: TextIO) -> bool:
    """Say how far off the best layout, proven within ``gap``, is; returns whether it is far."""
    proof = "" if gap is None else f" (proven within {format_percent(gap)})"
    if ratio <= _NEAR:
        print_text(f"Your current layout is as good as the best one{proof}.", stream)
        return False
    print_text(f"Your current layout is {ratio:.2f} x off the best one{proof}.", stream)
    return True


def show_changes(
    noun: str,
    changes: Sequence[tuple[str, str, str]],
    gains: tuple[float, float],
    stream: TextIO,
) -> None:
    """List changes: name, old and new value.

    Parameters
    ----------
    noun : str
        What is changed: ``"flag"``.
    gains : (float, float)
        What these changes gain, and what is to be gained in all, as ratios.
    """
    count = len(changes)
    which = _COUNTS[count] if count < len(_COUNTS) else f"these {count}"
    verb, plural = ("is", "") if count == 1 else ("are", "s")
    gain, whole = gains
    part = "" if gain >= whole * (1 - 1e-9) else f", {gain:.2f} x of {whole:.2f} x"
    print_text(f"{which.capitalize()} {noun}{plural} {verb} the difference{part}:", stream)
    width = max((len(name) for name, _, _ in changes), default=0)
    for name, old, new in changes:
        stream.write(f"  {name.ljust(width)}  {old} -> {new}\n")
