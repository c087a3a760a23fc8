"""The text of a machine file: tables, and lists of small tables with one line each.

Written here because the lists of nodes and links have to stay arrays of inline tables,
one line per link; the writers of TOML choose their own form. Keys are those of the schema
of machine files and need no quotes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec


def _string(text: str) -> str:
    # A JSON string is a TOML string, but for one control character.
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], dict):
            return "[\n" + "".join(f"  {_value(item)},\n" for item in value) + "]"
        return "[" + ", ".join(_value(item) for item in value) + "]"
    assert isinstance(value, dict), type(value)
    return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"


def _tables(table: dict[str, Any], name: str) -> Iterator[str]:
    lines = [f"{k} = {_value(v)}\n" for k, v in table.items() if not isinstance(v, dict)]
    if lines:
        yield (f"[{name}]\n" if name else "") + "".join(lines)
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _tables(value, f"{name}.{key}" if name else key)


def to_toml(document: dict[str, Any]) -> str:
    """The document as TOML, values before sub-tables, in the order of the dictionaries."""
    return "\n".join(_tables(document, ""))
