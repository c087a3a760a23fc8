"""What no placement of expert copies can beat, for many strategies at once."""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.cost.block import uniform_touched
from planner.cost.routing import moe_shape
from planner.domain.work import Real
from planner.search.experts import uniform_imbalance
from planner.search.request import PlanRequest
from planner.search.strategies import Strategies
from planner.search.survive_room import even_twice_touched

FloatArray = NDArray[np.float64]

_imbalance = lru_cache(maxsize=1 << 16)(uniform_imbalance)


def hot_share_bound(request: PlanRequest, strategies: Strategies) -> FloatArray:
    """Lower bound on the hottest group's share of routed tokens, shape ``[n]``."""
    shape = moe_shape(request.setting.model)
    if shape is None:
        return np.zeros(len(strategies))
    mean = 1.0 / strategies.ep
    if not request.uniform:
        return mean
    keys = strategies.ep * (1 << 32) + strategies.num_slots
    unique, inverse = np.unique(keys, return_inverse=True)
    values = [_imbalance(shape[0], int(k >> 32), int(k & 0xFFFFFFFF)) for k in unique]
    return np.array(values)[inverse] * mean


@lru_cache(maxsize=4)
def least_touched(loads: bytes, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Touched experts of the layer that touches fewest, over a grid of tokens of a stage.

    They grow with the tokens, so the value at the grid point below is a bound.
    """
    num_experts, top_k = shape
    table = np.frombuffer(loads).reshape(-1, num_experts)
    grid = np.unique(np.geomspace(1, 1 << 24, 400).astype(np.int64)).astype(float)
    miss = np.log1p(-np.minimum(top_k * table, 1.0 - 1e-12))
    touched = [(1.0 - np.exp(miss * tokens)).sum(axis=1).min() for tokens in grid]
    return grid, np.array(touched)


class Copies(Enum):
    """For which numbers of expert copies a bound speaks."""

    COUNTED = "those of each strategy"
    FEWEST = "all from one of every expert on: no time and no byte is more than theirs"
    MOST = "all up to those of each strategy: no time and no byte is less than theirs"


class TouchedBound:
    """Lower bound on the touched copies of the busiest group, as a function of tokens."""

    def __init__(self, request: PlanRequest, strategies: Strategies, copies: Copies) -> None:
        shape = moe_shape(request.setting.model)
        self._shape = shape
        self._copies = copies
        self._slots = strategies.num_slots.astype(float)
        self._ep = strategies.ep.astype(float)
        self._uniform = request.uniform
        if shape is not None and not request.uniform:
            self._grid, self._touched = least_touched(request.loads.tobytes(), shape)
        # One replica that survives failures holds two copies of every expert.
        self._apart = bool(request.units) and shape is not None and copies is Copies.COUNTED
        if self._apart and shape is not None:
            self._is_apart = strategies.replicas == 1
            self._halves = least_touched((request.loads / 2).tobytes(), shape)

    def __call__(self, tokens: Real) -> Real:
        """Touched copies of the busiest group when a stage decodes ``tokens`` tokens."""
        found = self._any_copies(tokens)
        if not self._apart:
            return found
        grid, halves = self._halves
        position = np.searchsorted(grid, tokens, side="right") - 1
        twice = 2 * halves[np.maximum(position, 0)] / self._ep
        if self._uniform and self._shape is not None:
            twice = even_twice_touched(self._shape, (self._slots, self._ep), tokens)
        return np.where(self._is_apart, np.maximum(found, twice), found)

    def _any_copies(self, tokens: Real) -> Real:
        if self._shape is None:
            return 0.0
        num_experts, top_k = self._shape
        if not self._uniform:
            position = np.searchsorted(self._grid, tokens, side="right") - 1
            return np.asarray(self._touched[np.maximum(position, 0)] / self._ep)
        if self._copies is not Copies.COUNTED:
            once = 1.0 - (1.0 - top_k / num_experts) ** tokens
            most = np.ceil(self._slots / self._ep)
            held = most if self._copies is Copies.MOST else num_experts / self._ep
            return np.asarray(held * once)
        mean = uniform_touched(num_experts, top_k, self._slots, tokens) / self._ep
        mean = np.maximum(mean, self._whole_copies(num_experts, top_k / num_experts, tokens))
        # Without copies the fullest group holds ceil(E / ep) whole experts.
        whole = np.ceil(num_experts / self._ep)
        alone = 1.0 - (1.0 - top_k / num_experts) ** tokens
        return np.where(self._slots == num_experts, whole * alone, mean)

    def _whole_copies(self, num_experts: int, chance: float, tokens: Real) -> Real:
        """:func:`planner.cost.routing.busiest_touched` where all experts are alike."""
        most = np.ceil(num_experts / self._ep)
        once = 1.0 - (1.0 - chance) ** tokens
        twice = 2.0 * (1.0 - (1.0 - chance / 2.0) ** tokens)
        split = num_experts - (most - 1.0) * self._ep
        mean = (num_experts * once + split * (twice - once)) / self._ep
        mean = np.where(split > self._slots - num_experts, np.inf, mean)
        return np.minimum(most * once, mean)
