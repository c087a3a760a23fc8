"""The machine file that a calibration writes: what it changes, and why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from planner.catalog.imports.write_toml import to_toml
from planner.catalog.machines import machine_names
from planner.errors import SpecError
from planner.validation.calibrate_report import AT_BOUND, Calibration, FittedConstant


def check_target(machine: str | None, out: str) -> None:
    """Refuse a file that could not be a machine of its own.

    Raises
    ------
    SpecError
        It is not a ``.toml``, or the machine that it would start from.
    """
    if not out.endswith(".toml"):
        raise SpecError(f"-o: '{out}' is not a .toml", "write for example -o my-machine.toml")
    catalogued = machine is None or machine in machine_names()
    if not catalogued and os.path.realpath(str(machine)) == os.path.realpath(out):
        raise SpecError(f"-o: '{out}' is the machine itself", "write the fit to another file")


def _extends(machine: str, out: str) -> str:
    """How the file at ``out`` names its machine: paths are relative to it."""
    if machine in machine_names():
        return machine
    folder = Path(os.path.realpath(out)).parent
    return Path(os.path.relpath(os.path.realpath(machine), folder)).as_posix()


def _source(constant: FittedConstant, calibration: Calibration) -> str:
    rows = "1 row" if calibration.num_fitted == 1 else f"{calibration.num_fitted} rows"
    text = f"fit to {rows} of {os.path.basename(calibration.file)}: was {constant.before:g}"
    if constant.error is not None:
        text += f", standard error {100.0 * constant.error:.2g} %"
    return f"{text}, {AT_BOUND}" if constant.status == AT_BOUND else text


def calibration_toml(calibration: Calibration, out: str) -> str:
    """Write the changed constants as a machine file.

    Parameters
    ----------
    out : str
        Where the file will be: the machine it extends is named from there.

    Returns
    -------
    str
        A file for :func:`planner.catalog.machines.load_machine`.
    """
    document: dict[str, Any] = {
        "extends": _extends(calibration.machine, out),
        "as_of": calibration.as_of,
    }
    for constant in calibration.changed:
        *tables, key = constant.name.split(".")
        table = document
        for name in tables:
            table = table.setdefault(name, {})
        table[key] = constant.after
        table.setdefault("source", {})[key] = _source(constant, calibration)
    return to_toml(document)
