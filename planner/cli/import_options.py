"""What all forms of ``planner import`` read from its options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.domain.dtypes import DType
from planner.errors import SpecError

if TYPE_CHECKING:
    from planner.catalog.deployed import Deployed


def dtype(name: str | None) -> DType | None:
    """A format by its name."""
    return None if name is None else DType(name)


def ranks_of(files: tuple[str, ...]) -> tuple[tuple[str, int], ...] | None:
    """Host and device of every rank of the files, one after another."""
    from planner.catalog.hosts import read_rank_hosts

    return tuple(one for file in files for one in read_rank_hosts(file)) if files else None


def model_of(found: Deployed, given: str | None) -> str:
    """The model that was given, or that of the catalogue behind what the engine loads.

    Raises
    ------
    SpecError
        There is none.
    """
    from planner.catalog.model_alias import model_behind

    if given is not None:
        return given
    if found.model is None:
        raise SpecError("the flags name no model", "write for example --model deepseek-v3")
    model = model_behind(found.model)
    if model is None:
        raise SpecError(
            f"'{found.model[:80]}' is no model of the catalogue",
            "write --model with a catalogue name or a config.json",
        )
    return model
