"""Request traces from files.

===============  ==========================================================================
Mooncake JSONL   ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``: ids of
                 blocks of 512 tokens, equal for equal prefixes
Azure LLM CSV    ``TIMESTAMP,ContextTokens,GeneratedTokens``; 7 fractional digits of a second
BurstGPT CSV     ``Timestamp`` (s), ``Request tokens``, ``Response tokens``; no answer: failed
Vidur CSV        ``arrived_at`` (s), ``num_prefill_tokens``, ``num_decode_tokens``
plain            ``input,output`` or ``input,output,weight`` with a header, or two numbers per
                 line without
===============  ==========================================================================

Columns are found by name; rows without prompt or answer failed and are counted apart.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from planner.catalog.toml_text import read_text
from planner.domain.trace import Request, Trace
from planner.errors import CatalogError

BLOCK_TOKENS = 512
MAX_BYTES = 512 * 2**20
MAX_TOKENS = 10**9
_REMEDY = "known: Mooncake JSONL, Azure LLM CSV, BurstGPT, Vidur, or input,output per line"
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_PAIR = re.compile(r"\s*(\d{1,10})[\s,;]+(\d{1,10})\s*", re.ASCII)


def _seconds(text: str) -> float:
    return float(text)


def _date(text: str) -> float:
    """Seconds of ``2023-11-16 18:17:03.9799600``; ``strptime`` refuses the seventh digit."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    whole = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    zone = match.group(8)
    if zone not in (None, "Z"):
        sign = -1 if zone[0] == "-" else 1
        digits = zone[1:].replace(":", "")
        whole -= sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return whole.timestamp() + float(match.group(7) or 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """Columns of one kind of table, in lower case."""

    name: str
    arrival: str | None
    input: str
    output: str
    time: Callable[[str], float] = _seconds


_FORMS = (
    _Form(
        name="Azure LLM trace",
        arrival="timestamp",
        input="contexttokens",
        output="generatedtokens",
        time=_date,
    ),
    _Form(
        name="BurstGPT trace",
        arrival="timestamp",
        input="request tokens",
        output="response tokens",
    ),
    _Form(
        name="Vidur trace",
        arrival="arrived_at",
        input="num_prefill_tokens",
        output="num_decode_tokens",
    ),
    _Form(name="lengths", arrival=None, input="input", output="output"),
    _Form(name="lengths", arrival=None, input="input_length", output="output_length"),
)


class _Row(msgspec.Struct):
    input_length: int
    output_length: int
    timestamp: float | None = None
    hash_ids: list[int] | None = None


def read_trace(path: str) -> Trace:
    """Read the requests of a file, in the order of their arrival.

    Raises
    ------
    CatalogError
        The file cannot be read, is of no known form, has a row that is wrong, or no request
        that was answered; names the line.
    """
    text = read_text(Path(path), path, "name a request trace", MAX_BYTES)
    if "\0" in text:
        raise CatalogError("is a binary file", file=path, remedy=_REMEDY)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise CatalogError("is empty", file=path, remedy=_REMEDY)
    if first.lstrip().startswith("{"):
        found = _mooncake(path, text)
    elif _PAIR.fullmatch(first):
        found = _pairs(path, text)
    else:
        found = _table(path, text)
    if not found.requests:
        raise CatalogError("has no request with prompt and answer", file=path, remedy=_REMEDY)
    return found


def _traced(
    form: str, rows: Sequence[tuple[float | None, int, int, int]], *, has_blocks: bool
) -> Trace:
    """Requests by arrival; times count from the first."""
    kept = [row for row in rows if row[1] > 0 and row[2] > 0]
    timed = bool(kept) and all(row[0] is not None for row in kept)
    if timed:
        kept.sort(key=lambda row: row[0] or 0.0)
    start = (kept[0][0] or 0.0) if timed else 0.0
    return Trace(
        form=form,
        requests=tuple(
            Request(
                arrival_s=(arrival or 0.0) - start if timed else None,
                input_len=inputs,
                output_len=outputs,
                reused=reused,
            )
            for arrival, inputs, outputs, reused in kept
        ),
        failed=len(rows) - len(kept),
        has_blocks=has_blocks,
    )


def _mooncake(path: str, text: str) -> Trace:
    decoder = msgspec.json.Decoder(_Row)
    raw: list[tuple[int, _Row]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            reason = str(error).partition(" - at")[0]
            raise CatalogError(
                f"is no request: {reason}", file=path, line=number, remedy=_REMEDY
            ) from None
        _check(path, number, row.input_length, row.output_length)
        if row.timestamp is not None and not math.isfinite(row.timestamp):
            raise CatalogError("is no time", file=path, line=number, field="timestamp")
        raw.append((number, row))
    if all(row.timestamp is not None for _, row in raw):
        raw.sort(key=lambda pair: pair[1].timestamp or 0.0)
    seen: set[int] = set()
    rows = []
    for _, row in raw:
        ids = row.hash_ids or []
        known = next((at for at, block in enumerate(ids) if block not in seen), len(ids))
        seen.update(ids)
        reused = min(known * BLOCK_TOKENS, row.input_length)
        arrival = None if row.timestamp is None else row.timestamp / 1000.0
        rows.append((arrival, row.input_length, row.output_length, reused))
    blocks = any(row.hash_ids for _, row in raw)
    return _traced("Mooncake trace", rows, has_blocks=blocks)


def _check(path: str, line: int, *tokens: int) -> None:
    for count in tokens:
        if not 0 <= count <= MAX_TOKENS:
            raise CatalogError(f"has {count} tokens", file=path, line=line)


def _pairs(path: str, text: str) -> Trace:
    rows: list[tuple[float | None, int, int, int]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _PAIR.fullmatch(line)
        if match is None:
            raise CatalogError(
                f"is {line[:40]!r}; tokens of prompt and answer are expected",
                file=path,
                line=number,
            )
        inputs, outputs = int(match.group(1)), int(match.group(2))
        _check(path, number, inputs, outputs)
        rows.append((None, inputs, outputs, 0))
    return _traced("lengths", rows, has_blocks=False)


def _table(path: str, text: str) -> Trace:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records = _records(path, reader)
    _, header = next(records)
    names = {name.strip().casefold(): at for at, name in enumerate(header)}
    form = next((f for f in _FORMS if f.input in names and f.output in names), None)
    if form is None:
        shown = ", ".join(name.strip()[:20] for name in header[:6])
        raise CatalogError(f"has columns {shown}", file=path, line=1, remedy=_REMEDY)
    rows: list[tuple[float | None, int, int, int]] = []
    for line, cells in records:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise CatalogError(
                f"has {len(cells)} cells, the header {len(header)}", file=path, line=line
            )
        rows += _row(path, line, form, names, cells)
        if len(rows) > MAX_TOKENS:
            raise CatalogError("has too many requests", file=path, line=line)
    return _traced(form.name, rows, has_blocks=False)


def _records(path: str, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            yield number, cells
    except csv.Error as error:
        raise CatalogError(
            f"is not a CSV table: {error}", file=path, line=number + 1, remedy=_REMEDY
        ) from None


def _row(
    path: str, line: int, form: _Form, names: Mapping[str, int], cells: Sequence[str]
) -> list[tuple[float | None, int, int, int]]:
    def fail(column: str, what: str) -> CatalogError:
        cell = cells[names[column]].strip()
        return CatalogError(f"is {cell[:40]!r}, {what}", file=path, line=line, field=column)

    counts = []
    for column in (form.input, form.output):
        try:
            value = float(cells[names[column]])
            counts.append(int(value))
        except (ValueError, OverflowError):
            raise fail(column, "no number of tokens") from None
        if value != counts[-1] or not 0 <= value <= MAX_TOKENS:
            raise fail(column, "no number of tokens")
    arrival = None
    if form.arrival is not None and form.arrival in names:
        try:
            arrival = form.time(cells[names[form.arrival]])
        except (ValueError, OverflowError):
            raise fail(form.arrival, "no time") from None
        if not math.isfinite(arrival):
            raise fail(form.arrival, "no time")
    copies = 1
    if "weight" in names:
        text = cells[names["weight"]].strip() or "1"
        if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 10**6:
            raise fail("weight", "no whole number of requests")
        copies = int(text)
    return [(arrival, counts[0], counts[1], 0)] * copies
