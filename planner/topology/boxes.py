"""Sub-boxes of a torus and how well they are connected.

For a box of axis lengths ``X_i`` with links of ``w_i`` bytes/s along axis i, per byte:

    all_to_all   max_i  h_i / w_i,   h_i = floor(X_i^2 / 4) / (2 X_i)          with wrap
                                     h_i = floor(X_i / 2) ceil(X_i / 2) / X_i  without
    all_gather   (N - 1) / N / sum_i b_i w_i, b_i = 2 with wrap, 1 without

``h_i`` is the load of the busiest link of axis ``i`` when each of the N chips spreads one
byte evenly over the box and routes one axis after the other: in a ring the mean distance
``floor(X^2/4)/X`` shared by two directions, in a line the middle link, which carries what
half of the chips send to the other half. For one wrapped axis of even length this is the
quarter of the all-gather of the theory, ``V / 4W`` with ``W = 2w`` and ``V = N`` buffers.

The chip with the fewest links receives ``N - 1`` of ``N`` shards; that time is reached by
gathering shares of the array along the axes in different orders. It is the theory's
``(X - 1) V / (X w)`` over one line, and tends to its ``V / (n W)`` over n wrapped axes, where
the theory leaves the share that a chip holds already out of account.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence

Box = tuple[int, ...]


def axis_load(length: int, wrap: bool) -> float:
    """``h_i``: bytes over the busiest link of one axis, per byte that each chip sends."""
    if wrap:
        return (length * length // 4) / (2 * length)
    return (length // 2) * ((length + 1) // 2) / length


def worst_axis_load(
    box: Sequence[int], wraps: Sequence[bool], rates: Sequence[float] | None = None
) -> float:
    """Largest ``h_i / w_i`` over the axes of a box; links of rate 1 without ``rates``."""
    speeds = (1.0,) * len(box) if rates is None else rates
    return max(
        axis_load(length, wrap) / rate
        for length, wrap, rate in zip(box, wraps, speeds, strict=True)
    )


def inbound_rate(
    box: Sequence[int], wraps: Sequence[bool], rates: Sequence[float] | None = None
) -> float:
    """``sum_i b_i w_i``: bandwidth into the chip that has the fewest links.

    Axes of length 1 are left out.
    """
    speeds = (1.0,) * len(box) if rates is None else rates
    return sum(
        (2 if wrap else 1) * rate
        for length, wrap, rate in zip(box, wraps, speeds, strict=True)
        if length > 1
    )


def gather_load(
    box: Sequence[int], wraps: Sequence[bool], rates: Sequence[float] | None = None
) -> float:
    """Time to receive one byte of the gathered array: ``(N - 1) / N / sum_i b_i w_i``."""
    chips = math.prod(box)
    return (chips - 1) / chips / inbound_rate(box, wraps, rates)


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
    shape: Box,
    wraps: Sequence[bool],
    size: int,
    unit: int,
    dead: Collection[Box] = (),
    rates: Sequence[float] | None = None,
) -> tuple[int, Box, Box] | None:
    """Cell and unit boxes that tile most of a torus slice.

    Parameters
    ----------
    dead : collection of box
        Coordinates that no cell may hold.
    rates : sequence of float, optional
        Bandwidth of a link by axis; all alike when absent.

    Returns
    -------
    (int, box, box) or None
        Number of cells, box of a cell, box of a unit. Most cells first; among those the
        smallest all-to-all of a cell (expert parallelism), then the smallest all-gather of a
        unit (tensor parallelism), then the smallest all-to-all among chips that have the same
        place in their units (experts that are split): a unit that lies across an axis leaves
        those chips the whole ring.
    """
    if size < 1 or unit < 1 or size % unit:
        return None

    def exchange(box: Box) -> float:
        return worst_axis_load(box, box_wraps(box, shape, wraps), rates)

    def gather(box: Box) -> float:
        own = box_wraps(box, shape, wraps)
        return gather_load(box, own, rates) if inbound_rate(box, own, rates) else 0.0

    def strided(box: Box, inner: Box) -> float:
        return exchange(tuple(o - i + 1 for o, i in zip(box, inner, strict=True)))

    found = []
    for box in factor_boxes(size, shape):
        grid = [full // length for full, length in zip(shape, box, strict=True)]
        spoilt = {tuple(at // length for at, length in zip(d, box, strict=True)) for d in dead}
        # Coordinates beyond the last whole cell spoil nothing.
        lost = sum(all(at < cells for at, cells in zip(c, grid, strict=True)) for c in spoilt)
        count = math.prod(grid) - lost
        own = exchange(box), gather(box)
        for inner in _unit_boxes(box, unit):
            prices = (own[0], gather(inner), strided(box, inner), exchange(inner))
            found.append((-count, prices, own[1], box, inner))
    if not found or min(found)[0] == 0:
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
