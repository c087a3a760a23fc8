"""Files that name measurements: one id per line, ``#`` starts a comment."""

from __future__ import annotations

from planner.catalog.measured_table import read_header_text
from planner.errors import CatalogError


def read_ids(path: str) -> frozenset[str]:
    """Read the ids that a file names.

    Raises
    ------
    CatalogError
        The file is missing, binary, empty or too large, or a line holds more than an id.
    """
    found: set[str] = set()
    for number, line in enumerate(read_header_text(path).splitlines(), start=1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        if "," in name or len(name.split()) > 1:
            raise CatalogError(
                "holds more than one id", file=path, line=number, remedy="write one id per line"
            )
        found.add(name)
    return frozenset(found)
