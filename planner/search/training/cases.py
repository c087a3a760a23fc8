"""What bounds are taken of: pairs of a mesh and a policy, and the parts of their prices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.domain.run import Recompute
from planner.search.training.policies import Policies

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

ALL_RECOMPUTES = tuple(Recompute)
FULL = ALL_RECOMPUTES.index(Recompute.FULL)
SELECTIVE = ALL_RECOMPUTES.index(Recompute.SELECTIVE)
REVERSIBLE = ALL_RECOMPUTES.index(Recompute.REVERSIBLE)


def least_layers(num_layers: int, chunks: IntArray) -> IntArray:
    """Layers that every chunk but the first and the last holds at least, in the space."""
    return np.maximum(1, num_layers // chunks - 1)


def most_layers(num_layers: int, chunks: IntArray) -> IntArray:
    """Layers that a chunk, or all chunks of a device together, hold at most, in the space."""
    return np.minimum(num_layers, -(-num_layers // chunks) + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cases:
    """Pairs of a mesh (a row of the space) and a policy."""

    rows: IntArray
    policies: Policies

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """Seconds of one layer of every kind in the three passes, arrays ``[n, layers]``."""

    forward: FloatArray
    input_grad: FloatArray
    weight_grad: FloatArray

    @property
    def total(self) -> FloatArray:
        """All three."""
        return self.forward + self.input_grad + self.weight_grad


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a step is put together from, for some cases.

    Parameters
    ----------
    whole : array, shape ``[3, n]``
        Seconds of one microbatch on all devices; ``mean`` of one device.
    fixed : array, shape ``[n]``
        Hops and optimizer.
    """

    cases: Cases
    passes: Passes
    whole: FloatArray
    mean: FloatArray
    fixed: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Hiding:
    """What messages of gradients run behind: a microbatch of a device, and its layers.

    Prediction layers are not counted in ``layers``.
    """

    forward_s: FloatArray
    backward_s: FloatArray
    layers: IntArray
