"""Tables of numbers from files: tokens of each expert, bytes between chips."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from planner.errors import CatalogError, SpecError

Rows = tuple[tuple[float, ...], ...]
MAX_FILE_BYTES = 64 * 2**20
MAX_BYTES = 1e18
_MATRIX = "write [[bytes from chip 0 to chip 0, to chip 1, ...], one row per sender]"
_EXAMPLE = "write [[count of expert 0, expert 1, ...], one row per MoE layer]"


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


def load_routing(path: str | None, shape: tuple[int, int] | None, num_layers: int) -> Rows | None:
    """Read a JSON or CSV table ``[MoE layers, experts]`` and scale its rows to shares.

    A share above ``1 / top_k`` cannot occur when a token picks distinct experts and is
    refused.

    Parameters
    ----------
    shape : (int, int) or None
        ``(num_experts, top_k)`` of the model.

    Raises
    ------
    CatalogError
        The file is missing, malformed, of the wrong shape, negative, or impossible.
    SpecError
        The model has no experts.
    """
    if path is None:
        return None
    if shape is None:
        raise SpecError("--loads: this model has no experts", "leave --loads out")
    num_experts, top_k = shape
    table = read_table(path, _EXAMPLE)
    if len(table) != num_layers or any(len(row) != num_experts for row in table):
        widths = sorted({len(row) for row in table})
        raise CatalogError(
            f"has {len(table)} rows of {widths} numbers, expected {num_layers} of {num_experts}",
            file=path,
            remedy=_EXAMPLE,
        )
    return tuple(_shares(row, path, index, top_k) for index, row in enumerate(table))


def _shares(row: list[float], path: str, index: int, top_k: int) -> tuple[float, ...]:
    # Larger numbers, infinity and NaN would overflow the sum.
    total = math.fsum(row) if all(value <= MAX_BYTES for value in row) else math.inf
    if not math.isfinite(total) or total <= 0 or min(row) < 0:
        raise CatalogError(
            "needs finite counts, none negative, not all zero", file=path, field=f"[{index}]"
        )
    shares = tuple(value / total for value in row)
    if max(shares) > (1 + 1e-9) / top_k:
        raise CatalogError(
            f"expert {shares.index(max(shares))} receives {max(shares):.1%} of the routed tokens; "
            f"with top-{top_k} routing no expert can exceed {1 / top_k:.1%}",
            file=path,
            field=f"[{index}]",
        )
    return shares
