"""The layout file: the one module with JSON keys.

The keys are the field names of the records in :mod:`planner.domain.layout`, written in
the order in which they are declared; dictionaries are sorted. The same layout gives the
same bytes.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TypeVar

import msgspec

from planner.domain.layout import SCHEMA_VERSION, Layout
from planner.domain.outcome import Infeasible
from planner.errors import CatalogError, ModelBugError
from planner.export.atomic import check_writable, write_text_atomic
from planner.export.json_position import line_of
from planner.search.recheck_case import Recheck

__all__ = [
    "CertificateVerdict",
    "ListedMachine",
    "ListedModel",
    "Verdict",
    "check_writable",
    "infeasible_json",
    "layout_json",
    "layout_schema",
    "read_layout",
    "record_json",
    "schema_json",
    "write_text_atomic",
]

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# A raw line break cannot occur inside a JSON string, so this matches arrays only.
_NUMBERS = re.compile(r"\[\n\s*(-?\d[^\n\[\]{}\"]*(?:,\n\s*-?\d[^\n\[\]{}\"]*)*)\n\s*\]")
_BETWEEN = re.compile(r",\n\s*")
_PATH = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<field>.*)`)?", re.DOTALL)
_NAMED = re.compile(r"(unknown field|missing required field) `([^`]+)`")
_BYTE = re.compile(r"(?P<what>.*?)(?: \(byte (?P<byte>\d+)\))?", re.DOTALL)
_ANY_MEMBER = "[...]"


Record = TypeVar("Record", bound=msgspec.Struct)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What ``planner verify --json`` prints."""

    valid: bool
    violations: tuple[str, ...]


class CertificateVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What ``planner verify --certificate --json`` prints."""

    valid: bool
    violations: tuple[str, ...]
    recheck: Recheck


class ListedModel(msgspec.Struct, frozen=True):
    """One model of the catalogue, as ``planner models --json`` prints it."""

    name: str
    total_params: float
    active_params: float
    num_layers: int
    architecture: str


class ListedMachine(msgspec.Struct, frozen=True):
    """One machine of the catalogue, as ``planner topologies --json`` prints it."""

    name: str
    description: str
    default_size: str
    chips: int


class _Head(msgspec.Struct):
    """The one field that is read before the rest is understood."""

    schema_version: object = None


class _Inputs(msgspec.Struct):
    phase: object = None


class _Phase(msgspec.Struct):
    """The one field that tells layouts of different records apart."""

    inputs: _Inputs | None = None


def phase_of_file(path: str) -> object:
    """The phase that a layout file names; None for what cannot be read."""
    try:
        with open(path, "rb") as file:
            head = msgspec.json.decode(file.read(), type=_Phase)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if head.inputs is None else head.inputs.phase


def _check_finite(value: object, field: str) -> None:
    # JSON has no NaN: the encoder would write null, a silent wrong answer.
    if isinstance(value, float) and not math.isfinite(value):
        raise ModelBugError(f"{field.lstrip('.')} is {value}: it cannot be written as JSON")
    if isinstance(value, dict):
        for key, member in value.items():
            _check_finite(member, f"{field}.{key}")
    elif isinstance(value, list | tuple):
        for index, member in enumerate(value):
            _check_finite(member, f"{field}[{index}]")


def record_json(record: object) -> bytes:
    """Write records, or a list of them, as indented JSON that ends in a line break.

    Arrays of plain numbers stay on one line: a file of thousands of ranks remains one
    that people can read and compare.

    Raises
    ------
    ModelBugError
        If a number is not finite.
    """
    _check_finite(msgspec.to_builtins(record), "")
    compact = msgspec.json.encode(record, order="deterministic")
    text = msgspec.json.format(compact, indent=2).decode()
    return (_NUMBERS.sub(_on_one_line, text) + "\n").encode()


def _on_one_line(match: re.Match[str]) -> str:
    return f"[{_BETWEEN.sub(', ', match.group(1))}]"


def layout_json(layout: Layout) -> bytes:
    """Write a layout: the content of ``layout.json``, byte for byte the same every time.

    Raises
    ------
    ModelBugError
        If a number of the layout is not finite.
    """
    return record_json(layout)


def infeasible_json(outcome: Infeasible) -> bytes:
    """Write the answer of a search that proved that nothing fits."""
    return record_json(outcome)


def layout_schema() -> dict[str, object]:
    """JSON Schema (draft 2020-12) of a layout file, as plain data."""
    schema = msgspec.json.schema(Layout)
    schema["$defs"]["Layout"]["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    title = f"planner layout, schema version {SCHEMA_VERSION}"
    return {"$schema": SCHEMA_DIALECT, "title": title, **schema}


def schema_json() -> bytes:
    """Write the schema as JSON."""
    return record_json(layout_schema())


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise CatalogError(
            "no such file", file=path, remedy="'planner plan ... -o FILE' writes one"
        ) from None
    except IsADirectoryError:
        raise CatalogError("is a folder", file=path, remedy="name a file in it") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogError(f"cannot be read: {reason}", file=path) from None


def _malformed(error: msgspec.DecodeError, data: bytes, path: str) -> CatalogError:
    match = _BYTE.fullmatch(str(error))
    assert match is not None
    byte = len(data.rstrip()) if match.group("byte") is None else int(match.group("byte"))
    what = match.group("what").removeprefix("JSON is malformed: ")
    return CatalogError(
        f"is not valid JSON: {what[:1].lower()}{what[1:]}",
        file=path,
        line=data.count(b"\n", 0, byte) + 1,
        remedy="correct that line",
    )


def _split(error: msgspec.ValidationError) -> tuple[str, str]:
    """Message and dotted path of a validation error, a named member joined to the path."""
    match = _PATH.fullmatch(str(error))
    assert match is not None
    what, field = match.group("what"), match.group("field") or ""
    named = _NAMED.search(what)
    if named is None:
        return what[:1].lower() + what[1:], field
    problem = "is not a known field" if named.group(1) == "unknown field" else "is missing"
    return problem, f"{field}.{named.group(2)}"


def _invalid(error: msgspec.ValidationError, data: bytes, path: str) -> CatalogError:
    what, field = _split(error)
    # Members of dictionaries are anonymous in the message: name the dictionary.
    field = field.partition(_ANY_MEMBER)[0].lstrip(".")
    return CatalogError(
        what,
        file=path,
        field=field,
        line=line_of(data.decode(), field),
        remedy="'planner schema' prints what a layout file may hold",
    )


def _check_version(data: bytes, path: str, expected: int) -> None:
    version = msgspec.json.decode(data, type=_Head).schema_version
    if type(version) is int and version == expected:
        return
    field = "schema_version"
    if version is None:
        message, remedy = "is missing", "is this a file that 'planner plan -o' wrote?"
    else:
        message = f"is {version!r}, this version of planner reads {expected}"
        remedy = "plan again with this version, or verify with the version that wrote the file"
    line = line_of(data.decode(), field)
    raise CatalogError(message, file=path, field=field, line=line, remedy=remedy)


def read_layout(path: str) -> Layout:
    """Read the file of a decode or prefill layout; see :func:`read_record`.

    Raises
    ------
    CatalogError
        Also when the file holds separate pools.
    """
    if phase_of_file(path) == "serve":
        raise CatalogError(
            "holds separate prefill and decode pools",
            file=path,
            field="inputs.phase",
            remedy="planner verify and planner evaluate read it",
        )
    return read_record(path, Layout, SCHEMA_VERSION)


def read_record(path: str, kind: type[Record], version: int) -> Record:
    """Read a layout file of one kind, edited ones too.

    Only the form is checked here: every field is present, known and of its type. Whether
    the decisions make sense is the validator's question.

    Raises
    ------
    CatalogError
        The file cannot be read, is not JSON, has another schema version, or a field that
        is unknown, missing or of the wrong type; names the field and the line.
    """
    return _decode(path, kind, version)


def read_plain_record(path: str, kind: type[Record]) -> Record:
    """Read a file that has no schema version; errors are those of :func:`read_record`."""
    return _decode(path, kind, None)


def _decode(path: str, kind: type[Record], version: int | None) -> Record:
    data = _read_bytes(path)
    try:
        data.decode()
        if version is not None:
            _check_version(data, path, version)
        return msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CatalogError(
            "is not UTF-8 text", file=path, line=line, remedy="save it as UTF-8"
        ) from None
    except msgspec.ValidationError as error:
        raise _invalid(error, data, path) from None
    except msgspec.DecodeError as error:
        raise _malformed(error, data, path) from None
    except RecursionError:
        raise CatalogError("is nested too deeply", file=path) from None
