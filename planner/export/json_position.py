"""Where a field stands in a JSON text, for error messages that name a line."""

from __future__ import annotations

import json
import re

_SPACE = re.compile(r"[ \t\n\r]*")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_DECODER = json.JSONDecoder()


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _child(text: str, at: int, step: str | int) -> int | None:
    """Position of member ``step`` of the object or array that opens at ``at``."""
    opening = "{" if isinstance(step, str) else "["
    if text[at] != opening:
        return None
    at = _skip(text, at + 1)
    index = 0
    while text[at] not in "}]":
        key: str | int = index
        if isinstance(step, str):
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        if key == step:
            return at
        _, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
        index += 1
    return None


def line_of(text: str, field: str) -> int:
    """Line of a dotted field such as ``ranks[3].chip``, counted from 1.

    Parameters
    ----------
    text : str
        Valid JSON.
    field : str
        Dotted path; members that the text lacks are ignored, so that a missing field is
        reported at the record that should have it.
    """
    at = _skip(text, 0)
    for match in _STEP.finditer(field):
        step = match.group(1) if match.group(2) is None else int(match.group(2))
        found = _child(text, at, step)
        if found is None:
            break
        at = found
    return text.count("\n", 0, at) + 1
