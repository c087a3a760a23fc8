"""JSON files as checked objects: every defect is a ``CatalogError`` with file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from planner.errors import CatalogError

# A configuration is a few kilobytes; a user who names a checkpoint shard by mistake must
# not wait for gigabytes to load.
MAX_FILE_BYTES = 16_000_000

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A parsed JSON object with its text, so that errors can name lines."""

    file: str
    text: str
    root: dict[str, object]

    def fail(self, path: Sequence[str | int], message: str, remedy: str = "") -> NoReturn:
        """Raise a ``CatalogError`` for the field at ``path``."""
        raise CatalogError(
            message,
            file=self.file,
            field=dotted(path),
            line=find_line(self.text, path),
            remedy=remedy,
        )


def dotted(path: Sequence[str | int]) -> str:
    """Write a path as ``text_config.layer_types[3]``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def read_document(path: Path) -> Document:
    """Read the JSON object in ``path``.

    Raises
    ------
    CatalogError
        If the file cannot be read, is not UTF-8, is not one JSON object, repeats a key,
        holds a number that is not finite, or is nested beyond reason.
    """
    file = str(path)
    text = _read_text(path, file)
    try:
        root = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except json.JSONDecodeError as error:
        raise CatalogError(
            f"not valid JSON: {error.msg} (column {error.colno})", file=file, line=error.lineno
        ) from None
    except RecursionError:
        raise CatalogError("nested too deeply for a model configuration", file=file) from None
    except _DefectError as defect:
        line = _line_of(text, defect.needle, defect.occurrence)
        raise CatalogError(str(defect), file=file, line=line) from None
    except ValueError as error:
        # int() refuses literals of thousands of digits.
        raise CatalogError(f"holds a number that cannot be read: {error}", file=file) from None
    if not isinstance(root, dict):
        raise CatalogError(
            f"holds {describe(root)} where a JSON object is expected",
            file=file,
            line=1,
            remedy="give the config.json of a model",
        )
    return Document(file=file, text=text, root=root)


def _read_text(path: Path, file: str) -> str:
    try:
        if not path.is_file():
            raise CatalogError("is not a regular file", file=file)
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise CatalogError(
                f"has {size:,} bytes: too large for a model configuration",
                file=file,
                remedy="give the config.json, not the weights",
            )
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CatalogError(f"cannot be read: {reason}", file=file) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CatalogError(
            f"is not UTF-8 text (byte {error.start})",
            file=file,
            line=line,
            remedy="give the config.json of a model",
        ) from None


class _DefectError(Exception):
    """JSON that Python accepts and we do not; ``needle`` finds its line."""

    def __init__(self, message: str, needle: str, occurrence: int = 1) -> None:
        super().__init__(message)
        self.needle = needle
        self.occurrence = occurrence


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _DefectError(f"repeats the key {key!r}", json.dumps(key), 2)
        found[key] = value
    return found


def _refuse_constant(literal: str) -> NoReturn:
    raise _DefectError(f"holds {literal}, which is not a number JSON allows", literal)


def _finite(literal: str) -> float:
    value = float(literal)
    if value in (float("inf"), float("-inf")):
        raise _DefectError(f"holds {literal}, which is too large for a number", literal)
    return value


def _line_of(text: str, needle: str, occurrence: int) -> int | None:
    position = -1
    for _ in range(occurrence):
        position = text.find(needle, position + 1)
        if position < 0:
            return None
    return text.count("\n", 0, position) + 1


def find_line(text: str, path: Sequence[str | int]) -> int | None:
    """Line, counted from 1, on which the value at ``path`` is named.

    Walks the tokens of valid JSON with a stack of containers: a list keeps the index of
    its next element, an object the key whose value comes next.
    """
    wanted = list(path)
    stack: list[str | int | None] = []
    expects_key = False
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in "}]":
            stack.pop()
            expects_key = False
        elif token == ",":
            last = stack[-1]
            if isinstance(last, int):
                stack[-1] = last + 1
            else:
                expects_key = True
        elif token == ":":
            expects_key = False
        else:
            if expects_key and token != "{":
                stack[-1] = json.loads(token)
            if wanted and stack == wanted and (expects_key or isinstance(wanted[-1], int)):
                return text.count("\n", 0, match.start()) + 1
            if token == "{":
                stack.append(None)
                expects_key = True
            elif token == "[":
                stack.append(0)
                expects_key = False
    return None


def describe(value: object) -> str:
    """Say what a JSON value is, short enough for an error message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
