"""The price of a collective as a function of its size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Algorithm(StrEnum):
    """Ways to run a collective."""

    LIBRARY = "library"  # rings, trees, direct sends; hierarchical across domains
    IN_NETWORK = "in_network"  # switches add up
    FUSED = "fused"  # one kernel of a serving engine


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectiveRate:
    """Price of a collective of any size; ``link`` is the class of its busiest link.

    ``latency_s`` is paid at zero size, ``s_per_byte`` is that of the busiest link at its
    achieved bandwidth, ``fill_s`` the fixed cost of a chunk.
    """

    latency_s: float
    s_per_byte: float
    fill_s: float = 0.0
    link: str = ""

    def seconds(self, num_bytes: float) -> float:
        """Time of one call."""
        wire = num_bytes * self.s_per_byte
        return self.latency_s + wire + 2 * math.sqrt(self.fill_s * wire)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayRate:
    """Prices of many collectives: the fields of :class:`CollectiveRate` as arrays."""

    latency_s: NDArray[np.float64]
    s_per_byte: NDArray[np.float64]
    fill_s: NDArray[np.float64]


FREE = CollectiveRate(latency_s=0.0, s_per_byte=0.0)
