"""Sub-boxes of a torus and how well they are connected.

For a box of axis lengths ``X_i`` with links of ``w`` bytes/s in each direction, per byte:

    all_to_all   max_i  h_i / w,     h_i = floor(X_i^2 / 4) / (2 X_i)          with wrap
                                     h_i = floor(X_i / 2) ceil(X_i / 2) / X_i  without
    all_gather   f / (w * sum_i b_i), b_i = 2 with wrap, 1 without;
                 f = 1 if every axis wraps, else (N - 1) / N

``h_i`` is the load of the busiest link of axis ``i`` when each of the N chips spreads one
byte evenly over the box and routes one axis after the other: in a ring the mean distance
``floor(X^2/4)/X`` shared by two directions, in a line the middle link, which carries what
half of the chips send to the other half. For one wrapped axis of even length this is the
quarter of the all-gather of the theory, ``V / 4W`` with ``W = 2w`` and ``V = N`` buffers.

``f / (w sum b_i)`` is the theory's ``V / (n W)`` over n wrapped axes and
``(X - 1) V / (X w)`` over one line; in between it is the time in which the chip with the
fewest links can receive the array, which is reached by gathering shares of it along the
axes in different orders.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

Box = tuple[int, ...]


def axis_load(length: int, wrap: bool) -> float:
    """``h_i``: bytes over the busiest link of one axis, per byte that each chip sends."""
    if wrap:
        return (length * length // 4) / (2 * length)
    return (length // 2) * ((length + 1) // 2) / length


def worst_axis_load(box: Sequence[int], wraps: Sequence[bool]) -> float:
    """Largest ``h_i`` over the axes of a box."""
    return max(axis_load(length, wrap) for length, wrap in zip(box, wraps, strict=True))


def inbound_links(box: Sequence[int], wraps: Sequence[bool]) -> int:
    """``sum_i b_i``: links into the chip that has the fewest, axes of length 1 left out."""
    return sum(2 if wrap else 1 for length, wrap in zip(box, wraps, strict=True) if length > 1)


def gather_load(box: Sequence[int], wraps: Sequence[bool]) -> float:
    """``f / sum_i b_i``: bytes into the worst chip per link, per byte gathered."""
    chips = math.prod(box)
    rings = all(wrap for length, wrap in zip(box, wraps, strict=True) if length > 1)
    received = 1.0 if rings else (chips - 1) / chips
    return received / inbound_links(box, wraps)


def factor_boxes(size: int, limits: Sequence[int]) -> Iterator[Box]:
    """All boxes of ``size`` chips within axis ``limits``."""
    if len(limits) == 1:
        if size <= limits[0]:
            yield (size,)
        return
    for first in range(1, min(size, limits[0]) + 1):
        if size % first == 0:
            for rest in factor_boxes(size // first, limits[1:]):
                yield (first, *rest)


def box_wraps(box: Box, shape: Sequence[int], wraps: Sequence[bool]) -> tuple[bool, ...]:
    """Axes on which a box of a slice of ``shape`` is the whole ring."""
    return tuple(
        wrap and length == full for length, full, wrap in zip(box, shape, wraps, strict=True)
    )


def _unit_boxes(box: Box, unit: int) -> list[Box]:
    """Boxes of ``unit`` chips that tile ``box``."""
    return [
        inner
        for inner in factor_boxes(unit, box)
        if all(outer % length == 0 for outer, length in zip(box, inner, strict=True))
    ]


def choose_boxes(
    shape: Box, wraps: Sequence[bool], size: int, unit: int
) -> tuple[int, Box, Box] | None:
    """Cell and unit boxes that tile most of a torus slice.

    Returns
    -------
    (int, box, box) or None
        Number of cells, box of a cell, box of a unit. Most cells first; among those the
        smallest all-to-all, then the smallest all-gather, of the cell, then of the unit.
    """
    if size < 1 or unit < 1 or size % unit:
        return None

    def price(box: Box) -> tuple[float, float]:
        own = box_wraps(box, shape, wraps)
        links = inbound_links(box, own)
        return worst_axis_load(box, own), gather_load(box, own) if links else 0.0

    found = []
    for box in factor_boxes(size, shape):
        count = math.prod(full // length for full, length in zip(shape, box, strict=True))
        for inner in _unit_boxes(box, unit):
            found.append((-count, price(box), price(inner), box, inner))
    if not found:
        return None
    count, _, _, box, inner = min(found)
    return -count, box, inner


def snake(dims: Sequence[int]) -> list[Box]:
    """Positions of a grid in an order in which neighbours follow each other."""
    path: list[Box] = [()]
    for length in dims:
        path = [
            (*place, step)
            for step in range(length)
            for place in (path if step % 2 == 0 else reversed(path))
        ]
    return path


def tile(corner: Sequence[int], box: Box, inner: Box) -> Iterator[Box]:
    """Chips of a box, inner box after inner box, each with the first axis fastest."""
    grid = [outer // length for outer, length in zip(box, inner, strict=True)]
    for block in snake(grid):
        for offset in itertools.product(*(range(length) for length in reversed(inner))):
            yield tuple(
                start + at * length + step
                for start, at, length, step in zip(
                    corner, block, inner, reversed(offset), strict=True
                )
            )
