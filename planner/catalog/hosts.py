"""Reading lists of hosts: one name per line, host files and rank files."""

from __future__ import annotations

import re
from pathlib import Path

from planner.catalog.toml_text import read_text
from planner.errors import CatalogError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,252}")
_SLOTS = re.compile(r"(\S+)\s+slots=(\d{1,6})")
_RANK = re.compile(r"rank\s+(\d{1,9})\s*=\s*(\S+)\s+slot=(?:\d+:)?(\d{1,6})")
_REMEDY = "write one host per line, 'host slots=8', or 'rank 0=host slot=3'"
MAX_RANKS = 1_000_000


def _lines(path: str) -> list[tuple[int, str]]:
    text = read_text(Path(path), path, "name a file with one host per line")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    found = [(number, line) for number, line in enumerate(lines, start=1) if line]
    if not found:
        raise CatalogError("names no host", file=path, remedy=_REMEDY)
    return found


def read_hosts(path: str) -> tuple[str, ...]:
    """Names of hosts, one per line.

    Raises
    ------
    CatalogError
        The file cannot be read, or a line is no name; names the line.
    """
    found = []
    for number, line in _lines(path):
        if not _NAME.fullmatch(line):
            raise CatalogError(
                f"{line[:40]!r} is no host name", file=path, line=number, remedy=_REMEDY
            )
        found.append(line)
    return tuple(found)


def read_rank_hosts(path: str) -> tuple[tuple[str, int], ...]:
    """Host and device of every rank; device -1 where the file says only the host.

    A host per line is a rank per line, or ``slots`` of them; a rank file numbers its ranks.

    Raises
    ------
    CatalogError
        The file cannot be read, a line is of another form, or ranks are not 0, 1, 2, ...
    """
    found: list[tuple[str, int]] = []
    for number, line in _lines(path):
        rank, slots = _RANK.fullmatch(line), _SLOTS.fullmatch(line)
        if rank is not None:
            if int(rank.group(1)) != len(found):
                raise CatalogError(
                    f"rank {rank.group(1)} is not the next one, {len(found)}",
                    file=path,
                    line=number,
                )
            found.append((rank.group(2), int(rank.group(3))))
        elif slots is not None and len(found) + int(slots.group(2)) <= MAX_RANKS:
            found += [(slots.group(1), -1)] * int(slots.group(2))
        elif slots is None and _NAME.fullmatch(line):
            found.append((line, -1))
        else:
            raise CatalogError(
                f"{line[:40]!r} names no host", file=path, line=number, remedy=_REMEDY
            )
    return tuple(found)
