"""Cells of a torus: boxes of one form in a grid, those with a dead or spared chip left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.domain.scale_up import Torus
from planner.topology.boxes import Box, choose_boxes, snake, tile
from planner.topology.graph import Topology

Ints = NDArray[np.int64]


def unequal_rates(topology: Topology) -> tuple[float, ...] | None:
    """Bandwidth of a link by axis of a torus, or None where all are alike."""
    torus = topology.spec.scale_up
    assert isinstance(torus, Torus)
    return torus.link_bytes_per_s if len(set(torus.link_bytes_per_s)) > 1 else None


def _alive(topology: Topology) -> list[Ints]:
    """Chip at each coordinate of every slice, -1 where it is dead or excluded."""
    found = topology.memo.get(_alive)
    if isinstance(found, list):
        return found
    halls = sorted({hall for hall, _ in topology.places})
    slices = {hall: np.full(topology.spec.shape, -1, dtype=np.int64) for hall in halls}
    for chip, (hall, _) in enumerate(topology.places):
        if chip not in topology.spared.excluded:
            slices[hall][topology.coordinates[chip]] = chip
    result = list(slices.values())
    topology.memo[_alive] = result
    return result


def _dead(topology: Topology) -> frozenset[Box]:
    """Coordinates that are missing in some slice."""
    found = topology.memo.get(_dead)
    if isinstance(found, frozenset):
        return found
    missing = np.any([chips < 0 for chips in _alive(topology)], axis=0)
    result = frozenset(tuple(place) for place in np.argwhere(missing).tolist())
    topology.memo[_dead] = result
    return result


def _boxes(topology: Topology, size: int, unit: int) -> tuple[int, Box, Box] | None:
    """Cells of one slice, their box and that of their units."""
    key = (_boxes, size, unit)
    if key not in topology.memo:
        topology.memo[key] = choose_boxes(
            topology.spec.shape,
            topology.wraps,
            size,
            unit,
            _dead(topology),
            unequal_rates(topology),
        )
    found = topology.memo[key]
    return found if isinstance(found, tuple) else None


def count_boxes(topology: Topology, size: int, unit: int) -> int:
    """Number of cells that :func:`torus_cells` gives."""
    if topology.wounded is not None or topology.spared:
        return sum(1 for _ in torus_cells(topology, size, unit))
    chosen = _boxes(topology, size, unit)
    return 0 if chosen is None else chosen[0] * len(topology.domains)


def torus_cells(topology: Topology, size: int, unit: int) -> Iterator[tuple[tuple[int, ...], Box]]:
    """Chips and box of every cell of ``size`` chips, along a path of neighbours."""
    chosen = _boxes(topology, size, unit)
    if chosen is None:
        return
    _, box, inner = chosen
    shape = topology.spec.shape
    grid = [full // length for full, length in zip(shape, box, strict=True)]
    order = _rank_order(box, inner)
    free = [len(domain) for domain in topology.open_domains]
    for index in _alive(topology):
        for corner in snake(grid):
            start = [at * length for at, length in zip(corner, box, strict=True)]
            ends = (slice(at, at + length) for at, length in zip(start, box, strict=True))
            chips = tuple(index[tuple(ends)].ravel()[order].tolist())
            if min(chips) < 0:
                continue
            pieces = Counter(topology.domain_of(chip) for chip in chips)
            if all(count <= free[domain] for domain, count in pieces.items()):
                for domain, count in pieces.items():
                    free[domain] -= count
                yield chips, box


@lru_cache(maxsize=1 << 12)
def _rank_order(box: Box, inner: Box) -> Ints:
    """Place of every rank in a box, as an index into its chips with the last axis fastest."""
    places = np.array(list(tile((0,) * len(box), box, inner)), dtype=np.int64)
    order: Ints = np.ravel_multi_index(tuple(places.T), box)
    return order
