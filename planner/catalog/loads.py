"""Tables of numbers from files: bytes between chips, and what other readers share."""

from __future__ import annotations

from pathlib import Path

import msgspec

from planner.errors import CatalogError

MAX_FILE_BYTES = 64 * 2**20
MAX_BYTES = 1e18
_MATRIX = "write [[bytes from chip 0 to chip 0, to chip 1, ...], one row per sender]"


def read_bytes(path: str, limit: int, remedy: str) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises
    ------
    CatalogError
        The file is missing, too large, or not a regular file.
    """
    place = Path(path)
    try:
        if place.exists() and not place.is_file():
            raise CatalogError("is not a regular file", file=path, remedy=remedy)
        if place.is_file() and place.stat().st_size > limit:
            raise CatalogError(f"is larger than {limit >> 20} MiB", file=path)
        return place.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CatalogError(f"cannot be read: {reason}", file=path) from None


def read_table(path: str, example: str) -> list[list[float]]:
    """Read a JSON or CSV table of numbers.

    Raises
    ------
    CatalogError
        The file is missing, too large, or not a table; ``example`` says what to write.
    """
    data = read_bytes(path, MAX_FILE_BYTES, example)
    try:
        if path.endswith(".csv"):
            lines = data.decode("utf-8").split()
            return [[float(cell) for cell in line.split(",")] for line in lines]
        return msgspec.json.decode(data, type=list[list[float]])
    except (msgspec.DecodeError, ValueError) as error:
        raise CatalogError(
            f"is not a table of numbers: {error}", file=path, remedy=example
        ) from None


def load_matrix(path: str) -> list[list[float]]:
    """Read a JSON or CSV table of bytes, one row per sender and one column per receiver.

    Raises
    ------
    CatalogError
        The file is missing, malformed, not square, or has numbers that are not bytes.
    """
    table = read_table(path, _MATRIX)
    for index, row in enumerate(table):
        if len(row) != len(table):
            raise CatalogError(
                f"has {len(table)} rows, this one has {len(row)} numbers",
                file=path,
                field=f"[{index}]",
                remedy=_MATRIX,
            )
        if not all(0 <= value <= MAX_BYTES for value in row):
            raise CatalogError(
                f"needs numbers of bytes from 0 to {MAX_BYTES:g}", file=path, field=f"[{index}]"
            )
    return table
