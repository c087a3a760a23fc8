"""What is otherwise than a file says, in a what-if question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.domain.hardware import MachineSpec
from planner.domain.model import ModelSpec

Change = Callable[[MachineSpec], MachineSpec]


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """Machine and model to price a layout on.

    Parameters
    ----------
    machine, model : callable
        Given the machine at its size, and the model in the formats of its configuration, return
        those to price.
    """

    machine: Change = lambda spec: spec
    model: Callable[[ModelSpec], ModelSpec] = lambda model: model


UNCHANGED = Changed()
