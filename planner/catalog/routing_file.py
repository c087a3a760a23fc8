"""Routing loads of a model from a plain table or from what serving engines record."""

from __future__ import annotations

import math
from pathlib import Path

from planner.catalog.loads import MAX_BYTES, read_table
from planner.catalog.recorders import read_loads
from planner.errors import CatalogError, SpecError

Rows = tuple[tuple[float, ...], ...]
_EXAMPLE = "write [[count of expert 0, expert 1, ...], one row per MoE layer]"
_RECORDED = (".npy", ".npz", ".pt", ".pth")


def _is_recorded(path: str) -> bool:
    """Whether a file or folder is what an engine recorded, rather than a plain table."""
    place = Path(path)
    if place.is_dir() or place.suffix in _RECORDED:
        return True
    try:
        with place.open("rb") as file:
            return file.read(256).lstrip().startswith(b"{")
    except (OSError, ValueError):
        return False


def load_routing(path: str | None, shape: tuple[int, int] | None, num_layers: int) -> Rows | None:
    """Read loads ``[MoE layers, experts]`` and scale their rows to shares.

    A JSON or CSV table, or anything that :func:`planner.catalog.recorders.read_loads` reads.

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
    if _is_recorded(path):
        table: list[list[float]] = read_loads(path, num_experts).rows.tolist()
    else:
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
