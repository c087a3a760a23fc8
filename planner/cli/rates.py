"""Rates that users type: requests per unit of time."""

from __future__ import annotations

import re

from planner.errors import SpecError

_RATE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*/\s*(s|min|h)\s*")
_PER_S = {"s": 1.0, "min": 60.0, "h": 3600.0}


def parse_rate(text: str | None) -> float | None:
    """Read ``4/s``, ``90/min`` or ``3600/h``; returns requests per second.

    Raises
    ------
    SpecError
        It cannot be read, or is zero.
    """
    if text is None:
        return None
    match = _RATE.fullmatch(text)
    if match is None or not float(match.group(1)):
        raise SpecError(f"--rate: cannot read '{text}'", "write for example --rate 4/s")
    return float(match.group(1)) / _PER_S[match.group(2)]
