"""What is predicted of a run."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.cost import Bound


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTerm:
    """One part of a run's time; ``bound`` is what it waits for."""

    name: str
    seconds: float
    bound: Bound


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMemory:
    """Bytes on the fullest chip, and what it has."""

    weights_bytes: float
    activations_bytes: float
    reserve_bytes: float
    capacity_bytes: float
    gradients_bytes: float = 0.0
    optimizer_bytes: float = 0.0
    kv_bytes: float = 0.0

    @property
    def needed_bytes(self) -> float:
        """Everything that must be held at once."""
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.kv_bytes
            + self.reserve_bytes
        )

    @property
    def fits(self) -> bool:
        """Whether it is enough."""
        return self.needed_bytes <= self.capacity_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPrediction:
    """Seconds of a run; ``terms`` add up to them."""

    seconds: float
    terms: tuple[RunTerm, ...]
    memory: RunMemory
