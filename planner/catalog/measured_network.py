"""Machines of the catalogue on another fabric: a variant changes what its file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.catalog.machine_file import split_sources
from planner.catalog.machines import machine_facts, machine_from_facts
from planner.catalog.toml_text import parse_toml, read_text
from planner.domain.hardware import MachineSpec


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        tables = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge(dict(below or {}), value) if tables else value
    return merged


def load_variant(machine: str, variant: Path) -> MachineSpec:
    """A machine with the numbers that the file of a variant changes.

    Parameters
    ----------
    machine : str
        Name of the catalogue or path of a machine file.
    variant : Path
        TOML file of some of a machine's tables, with their sources.

    Raises
    ------
    SpecError, CatalogError
        As :func:`planner.catalog.machines.load_machine`.
    """
    facts: dict[str, Any] = machine_facts(machine)
    label = variant.name
    over = parse_toml(read_text(variant, label, ""), label)
    plain, sources = split_sources(over, str(over.pop("as_of")))
    listed = {item.field: {"text": item.text, "as_of": item.as_of} for item in sources}
    merged = _merge(facts, plain) | {"sources": facts["sources"] | listed}
    return machine_from_facts(merged, f"{machine} with {label}")
