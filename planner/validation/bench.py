"""Models and machines of measured rows, each read and built once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from planner.catalog.measured_rows import MachineUse, NumberFormats
from planner.catalog.model_config import load_model, override_precision
from planner.domain.model import ModelSpec, MoeFfn
from planner.errors import CatalogError, SpecError
from planner.topology.graph import Topology
from planner.validation.machines import machine_topology

Key = TypeVar("Key")
Made = TypeVar("Made")


def is_moe(model: ModelSpec) -> bool:
    """Whether a layer of the model has routed experts."""
    return any(isinstance(layer.ffn, MoeFfn) for layer in model.layers)


def _remembered(memo: dict[Key, Made | SpecError], key: Key, make: Callable[[], Made]) -> Made:
    """What ``make`` returned or refused the first time."""
    found = memo.get(key)
    if found is None:
        try:
            found = make()
        except SpecError as error:
            found = error
        except CatalogError as error:
            # A user's own model or machine file: its rows cannot be represented.
            found = SpecError(str(error).partition("\n")[0], error.remedy)
        memo[key] = found
    if isinstance(found, SpecError):
        raise SpecError(found.message, found.remedy)
    return found


class Bench:
    """Remembers models, their precision variants, and machines by name and size."""

    def __init__(self) -> None:
        self._models: dict[str, ModelSpec | SpecError] = {}
        self._variants: dict[tuple[str, NumberFormats], ModelSpec | SpecError] = {}
        self._machines: dict[MachineUse, Topology | SpecError] = {}

    def model(self, name: str) -> ModelSpec:
        """A model with the precision of its configuration.

        Raises
        ------
        SpecError
            It is unknown, or its file is malformed.
        """
        return _remembered(self._models, name, lambda: load_model(name))

    def variant(self, name: str, formats: NumberFormats) -> ModelSpec:
        """A model in the precision of a row; raises as :meth:`model`."""
        return _remembered(
            self._variants,
            (name, formats),
            lambda: override_precision(
                self.model(name), formats.weights, formats.activations, formats.kv
            ),
        )

    def topology(self, use: MachineUse) -> Topology:
        """The machine of a row.

        Raises
        ------
        SpecError
            It is unknown, its file is malformed, or it has no such size.
        """
        return _remembered(self._machines, use, lambda: machine_topology(use))
