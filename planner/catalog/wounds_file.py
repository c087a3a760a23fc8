"""Wounds of a machine: the table in its file, a file of their own, command-line texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from planner.catalog.machine_build import wounds_record
from planner.catalog.machine_file import FieldProblem
from planner.catalog.machine_tables import wounds_from
from planner.catalog.toml_text import parse_toml, read_text
from planner.domain.hardware import NO_WOUNDS, MachineSpec, Wounds
from planner.errors import CatalogError, SpecError

# Slower than a millionth is dead.
MIN_FRACTION = 1e-6


def load_wounds(path: str) -> Wounds:
    """Read a TOML file of wounds: ``without = [...]``, ``[degrade]``, ``[usable]``.

    Raises
    ------
    CatalogError
        The file cannot be read, or has an unknown or impossible field.
    """
    data: dict[str, Any] = parse_toml(read_text(Path(path), path, "name a .toml file"), path)
    try:
        return wounds_record(wounds_from(data))
    except msgspec.ValidationError as error:
        what, _, field = str(error).partition(" - at `$.")
        raise CatalogError(
            what[:1].lower() + what[1:],
            file=path,
            field=field.rstrip("`").removesuffix("[...]"),
            remedy="known: without = [...], [degrade], [usable]",
        ) from None
    except FieldProblem as problem:
        raise CatalogError(
            problem.message,
            file=path,
            field=problem.field.removeprefix("wounds."),
            remedy=problem.remedy,
        ) from None


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise SpecError(f"{option}: cannot read '{text}'", f"write for example {option} {example}")
    return name, value


def parse_wounds(
    without: tuple[str, ...], degrade: tuple[str, ...], usable: tuple[str, ...]
) -> Wounds:
    """Read the texts of the options ``--without``, ``--degrade`` and ``--usable``.

    Raises
    ------
    SpecError
        Naming the option that cannot be read.
    """
    fractions: dict[str, float] = {}
    for text in degrade:
        name, value = _pair(text, "--degrade", "link:r0/t3/c2--r0/sw5=0.5")
        try:
            fractions[name] = float(value)
        except ValueError:
            fractions[name] = -1.0
        if not MIN_FRACTION <= fractions[name] <= 1:
            raise SpecError(
                f"--degrade: '{value}' is not a fraction in [{MIN_FRACTION:g}, 1]",
                "leave dead parts --without",
            )
    counts: dict[str, int] = {}
    for text in usable:
        name, value = _pair(text, "--usable", "r0=70")
        if not (value.isascii() and value.isdigit()):
            raise SpecError(f"--usable: '{value}' is not a number of chips", "write r0=70")
        if counts.setdefault(name, int(value)) != int(value):
            raise SpecError(f"--usable: {name} is given twice", "leave one out")
    if not (without or fractions or counts):
        return NO_WOUNDS
    return Wounds(
        without=tuple(dict.fromkeys(without)),
        degrade=tuple(sorted(fractions.items())),
        usable=tuple(sorted(counts.items())),
    )


def with_wounds(facts: dict[str, object], spec: MachineSpec) -> dict[str, object]:
    """Facts of a machine, with all the wounds that ``spec`` has in their table."""
    if not spec.wounds:
        return facts
    wounds = spec.wounds
    table: dict[str, object] = {
        "without": list(wounds.without),
        "degrade": dict(wounds.degrade),
        "usable": dict(wounds.usable),
    }
    return {**facts, "wounds": table}
