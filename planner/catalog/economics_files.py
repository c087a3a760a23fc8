"""Files about money that no machine's file holds: tiers of memory, electrical power.

The tables ship in ``catalog/economics``; ``tiers.toml`` says how a file of the user looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.catalog.machine_file import FieldProblem, split_sources
from planner.catalog.toml_text import parse_toml, read_text
from planner.errors import CatalogError
from planner.units import GB, HOUR_S

_FOLDER = Path(__file__).resolve().parent / "economics"
_NUMBERS = ("capacity_GB", "GB_per_s", "usd_per_GB_hour")
_LARGEST = 1e9
HBM = "hbm"


@dataclass(frozen=True, kw_only=True, slots=True)
class TierFigures:
    """What the files say of a tier; of HBM a number may be None, for the machine's own.

    ``source`` names where each figure comes from, one text for all that share it.
    """

    name: str
    label: str
    capacity_bytes: float | None
    bytes_per_s: float | None
    usd_per_byte_s: float | None
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """Watts of a chip with everything around it, and where the number comes from."""

    watts: float
    source: str


def _check_number(value: object, field: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldProblem(field, f"{value!r} is not a number")
    if not math.isfinite(value) or not 0 < value <= _LARGEST:
        raise FieldProblem(field, f"{value} is outside (0, {_LARGEST:g}]")


def _table(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FieldProblem(field, "is not a table")
    return value


def _check_tier(table: dict[str, Any], field: str, inner: bool = False) -> None:
    known = (*_NUMBERS, "source") if inner else (*_NUMBERS, "source", "label", "chip")
    for key, value in table.items():
        here = f"{field}.{key}"
        if key not in known:
            raise FieldProblem(here, "is not a known field", f"known: {', '.join(known)}")
        if key in _NUMBERS:
            _check_number(value, here)
        elif key == "label" and not isinstance(value, str):
            raise FieldProblem(here, "is not a text")
    for chip, own in _table(table.get("chip", {}), f"{field}.chip").items():
        _check_tier(_table(own, f"{field}.chip.{chip}"), f"{field}.chip.{chip}", inner=True)


def _sources(table: dict[str, Any], as_of: str, field: str, file: str | None) -> dict[str, str]:
    """Source of each number; a file of the user may be silent about them."""
    own = {key: value for key, value in table.items() if key != "chip"}
    _, found = split_sources(own, as_of, field, file or "")
    return {source.field.rpartition(".")[2]: source.text for source in found}


def _read(path: Path, label: str) -> dict[str, Any]:
    data = parse_toml(read_text(path, label, "name a .toml file"), label)
    for key in data:
        if key not in ("tier", "as_of"):
            raise FieldProblem(key, "is not a known field", "known: as_of, [tier.NAME]")
    tiers = _table(data.get("tier", {}), "tier")
    if not tiers:
        raise FieldProblem("tier", "is missing", "write for example [tier.flash]")
    for name, table in tiers.items():
        _check_tier(_table(table, f"tier.{name}"), f"tier.{name}")
    return data


def _numbers_of(data: dict[str, Any], name: str, chip: str, file: str | None) -> dict[str, Any]:
    """Numbers, label and sources of one tier for one kind of chip."""
    table = data["tier"].get(name, {})
    own = table.get("chip", {}).get(chip, {})
    as_of, field = str(data.get("as_of", "")), f"tier.{name}"
    sources = _sources(table, as_of, field, file)
    sources |= _sources(own, as_of, f"{field}.chip.{chip}", file)
    numbers = {key: value for key, value in (table | own).items() if key in _NUMBERS}
    label = {"label": table["label"]} if "label" in table else {}
    return {**label, **numbers, "source": sources}


def load_tiers(path: str | None, chip: str) -> tuple[TierFigures, ...]:
    """Tiers beside HBM, fastest first as the files list them, and HBM where a file names it.

    Parameters
    ----------
    path : str, optional
        A file of the user, which has its way over the shipped one.
    chip : str
        Name of the chip, which may have figures of its own.

    Raises
    ------
    CatalogError
        A file cannot be read, or has an unknown, missing or impossible field.
    """
    file = "tiers.toml"
    try:
        shipped = _read(_FOLDER / "tiers.toml", file)
        found = {name: _numbers_of(shipped, name, chip, None) for name in shipped["tier"]}
        if path is not None:
            file = path
            own = _read(Path(path), path)
            for name in own["tier"]:
                base, over = found.get(name, {}), _numbers_of(own, name, chip, path)
                sources = {**base.get("source", {}), **over["source"]}
                found[name] = {**base, **over, "source": sources}
        return tuple(_figures(name, values) for name, values in found.items())
    except FieldProblem as problem:
        raise CatalogError(
            problem.message, file=file, field=problem.field, remedy=problem.remedy
        ) from None


def _figures(name: str, values: dict[str, Any]) -> TierFigures:
    for key in _NUMBERS:
        if key not in values and name != HBM:
            raise FieldProblem(f"tier.{name}.{key}", "is missing")
    capacity, rate, price = (values.get(key) for key in _NUMBERS)
    return TierFigures(
        name=name,
        label=values.get("label", name),
        capacity_bytes=None if capacity is None else capacity * GB,
        bytes_per_s=None if rate is None else rate * GB,
        usd_per_byte_s=None if price is None else price / GB / HOUR_S,
        source="; ".join(dict.fromkeys(values["source"].values())),
    )


def load_power(chip: str) -> Power | None:
    """Power of a kind of chip; None where none is known."""
    data = parse_toml(read_text(_FOLDER / "power.toml", "power.toml", ""), "power.toml")
    plain, sources = split_sources(data, data["as_of"])
    kilowatts = plain["all_in_kW"].get(chip)
    if kilowatts is None:
        return None
    text = next(source.text for source in sources if source.field == f"all_in_kW.{chip}")
    return Power(watts=kilowatts * 1000.0, source=text)
