"""Cuts of models whose layers alternate: one or two borders between chunks move at once.

Where kinds of layers take turns, a layer that goes from one chunk to another shifts all chunks
between, and with them what their devices hold. A border moves a layer to the next chunk alone.
All single moves and all pairs of them are looked at, the best is made, until none helps.
"""

from __future__ import annotations

import numpy as np

from planner.search.training.cases import FloatArray, IntArray
from planner.search.training.rooms import Counts, Limits, Pipeline

MOST_ROUNDS = 60
# Pairs of moves that are looked at together.
MOST_PAIRS = 4_000


def moved_borders(pipeline: Pipeline, start: Counts, limits: Limits, most: int) -> Counts:
    """The best cut that moves of borders lead to from a cut.

    Parameters
    ----------
    most : int
        Layers that a device holds at most.
    """
    borders = np.cumsum(start)[:-1]
    if not len(borders):
        return start
    rank = _ranks(pipeline, borders[None], limits, most)[0]
    for _ in range(MOST_ROUNDS):
        tried = _neighbours(borders)
        ranks = _ranks(pipeline, tried, limits, most)
        best = int(np.lexsort(ranks.T[::-1])[0])
        if tuple(ranks[best]) >= tuple(rank):
            break
        borders, rank = tried[best], ranks[best]
    return tuple(np.diff([0, *borders.tolist(), sum(start)]).tolist())


def _neighbours(borders: IntArray) -> IntArray:
    """Borders after one move, and after two, ``[cuts, borders]``."""
    number = len(borders)
    single = np.concatenate([np.eye(number, dtype=np.int64), -np.eye(number, dtype=np.int64)])
    moves = [single]
    if (2 * number) ** 2 <= MOST_PAIRS:
        moves.append((single[:, None] + single[None]).reshape(-1, number))
    return np.asarray(borders + np.concatenate(moves))


def _ranks(pipeline: Pipeline, borders: IntArray, limits: Limits, most: int) -> FloatArray:
    """Order of cuts, ``[cuts, 3]``: bytes that are missing, slowest device, unevenness."""
    num_layers, p = len(pipeline.layer_s), pipeline.num_devices
    cuts = len(borders)
    ends = np.concatenate(
        [np.zeros((cuts, 1), int), borders, np.full((cuts, 1), num_layers)], axis=1
    )
    counts = np.diff(ends, axis=1)
    low, high = np.array(limits[0]), np.array(limits[1])
    owner = np.eye(p)[pipeline.devices]
    allowed = ((counts >= low) & (counts <= high)).all(axis=1)
    allowed &= (counts @ owner).max(axis=1) <= most
    ends = np.clip(ends, 0, num_layers)
    seconds = np.concatenate([[0.0], np.cumsum(pipeline.layer_s)])
    chunks = seconds[ends[:, 1:]] - seconds[ends[:, :-1]]
    chunks[:, 0] += pipeline.ends_s[0]
    chunks[:, -1] += pipeline.ends_s[1]
    times = chunks @ owner
    if pipeline.mirrored:
        times = (times + times[:, ::-1]) / 2.0
    prefix = np.concatenate([np.zeros((p, 1)), np.cumsum(pipeline.layer_bytes, axis=1)], axis=1)
    own = prefix[pipeline.devices]
    every = np.arange(len(pipeline.devices))
    held = (own[every, ends[:, 1:]] - own[every, ends[:, :-1]]) @ owner
    held += pipeline.fixed_bytes + pipeline.work_bytes * (counts @ owner > 0)
    over = np.maximum(0.0, held - pipeline.budget_bytes).sum(axis=1)
    ranks = np.stack([over, times.max(axis=1), (times**2).sum(axis=1)], axis=1)
    return np.asarray(np.where(allowed[:, None], np.round(ranks, 12), np.inf))
