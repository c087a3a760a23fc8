"""The constants of a machine file that measurements may move, and the machine with them moved."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from planner.catalog.machines import machine_facts, machine_from_facts
from planner.catalog.measured_rows import MachineUse
from planner.domain.curves import Curve, Curves
from planner.domain.hardware import MachineSpec
from planner.domain.scale_up import GraphDomain
from planner.topology.build import build_topology
from planner.topology.graph import Topology
from planner.validation.bench import Bench

COLLECTIVES = "collectives"
GROUPS = ("matmul", "hbm", "attention", "kernel", COLLECTIVES)
# How far a value may move from where it stands: wide enough for any real part, and narrow
# enough that a table of wrong measurements ends at a bound, which is reported.
FRACTION_FACTOR = 5.0
TIME_FACTOR = 10.0
# Standard deviation of ln(value) before any row. Fractions of a nameplate are known to some 20 %,
# fixed costs of kernels and messages to a factor of 1.65.
FRACTION_PRIOR = 0.2
TIME_PRIOR = 0.5
_CHIP = ("chip", "derate")
_CURVES = (("scale_up", "achieved"), ("scale_up", "fabric_achieved"), ("scale_out", "achieved"))
_STREAMS = ("hbm", "elementwise")


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """One number of a machine file, in the file's unit.

    Parameters
    ----------
    path : tuple of str
        Keys from the top of the file.
    group : str
        One of ``GROUPS``.
    value : float
        As it stands; positive.
    low, high : float
        Bounds: achieved fractions lie in (0, 1].
    prior : float
        Standard deviation of ln(value) before any row.
    """

    path: tuple[str, ...]
    group: str
    value: float
    low: float
    high: float
    prior: float

    def moved(self, theta: float) -> float:
        """The value that lies ``theta`` standard deviations of the prior from the present one.

        Within the bounds: rounding must not carry a fraction beyond 1.
        """
        return min(max(self.value * math.exp(self.prior * theta), self.low), self.high)

    def theta(self, value: float) -> float:
        """How far a value lies from the present one, in standard deviations of the prior."""
        return math.log(value / self.value) / self.prior

    @property
    def name(self) -> str:
        """Dotted name in the file."""
        return ".".join(self.path)


def _constant(path: tuple[str, ...], group: str, value: float) -> Constant:
    if path[-1].endswith("_us"):
        low, high, prior = value / TIME_FACTOR, value * TIME_FACTOR, TIME_PRIOR
    else:
        low, high = value / FRACTION_FACTOR, min(1.0, value * FRACTION_FACTOR)
        prior = FRACTION_PRIOR
    return Constant(path=path, group=group, value=value, low=low, high=high, prior=prior)


def _chip_group(key: str) -> str:
    if key.startswith("attention"):
        return "attention"
    if key in _STREAMS:
        return "hbm"
    return "kernel" if key.endswith("_us") else "matmul"


def _table(facts: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    found: Any = facts
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def machine_constants(facts: Mapping[str, Any]) -> tuple[Constant, ...]:
    """Constants that a machine's file states.

    Of two that rows cannot tell apart the earlier one keeps its value: achieved fractions of
    single kernels come first, which kernel measurements know better than whole runs do.

    Parameters
    ----------
    facts : mapping
        From :func:`planner.catalog.machines.machine_facts`.

    Returns
    -------
    tuple of Constant
        Without times of zero: they say that something does not exist.
    """
    derate = _table(facts, _CHIP)
    matmul = derate.pop("matmul", {})
    found = [_constant((*_CHIP, "matmul", key), "matmul", value) for key, value in matmul.items()]
    found += [_constant((*_CHIP, key), _chip_group(key), value) for key, value in derate.items()]
    for tier in _CURVES:
        for kernel, curve in _table(facts, tier).items():
            found += [
                _constant((*tier, kernel, key), COLLECTIVES, value) for key, value in curve.items()
            ]
    return tuple(constant for constant in found if constant.value > 0)


def _facts_with(
    facts: Mapping[str, Any], values: Mapping[tuple[str, ...], float]
) -> dict[str, Any]:
    """Facts with other values."""
    changed = copy.deepcopy(dict(facts))
    for path, value in values.items():
        table = changed
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = value
    return changed


def _fitted_curve(sized: Curve, given: Curve, fitted: Curve) -> Curve:
    if sized == given:
        return fitted
    # A variant of the machine (another fabric) keeps what it states itself.
    names = ("base_s", "step_s", "fill_s", "derate")
    kept = [name for name in names if getattr(sized, name) != getattr(given, name)]
    return replace(fitted, **{name: getattr(sized, name) for name in kept})


def _fitted_curves(sized: Curves, given: Curves, fitted: Curves) -> Curves:
    if sized == given:
        return fitted
    before, after = dict(given.listed), dict(fitted.listed)
    return Curves(
        default=_fitted_curve(sized.default, given.default, fitted.default),
        listed=tuple(
            (name, _fitted_curve(curve, before[name], after[name]) if name in before else curve)
            for name, curve in sized.listed
        ),
    )


def _graft(sized: MachineSpec, given: MachineSpec, fitted: MachineSpec) -> MachineSpec:
    """A machine in the size of a measurement with the constants of ``fitted``."""
    scale_up = replace(
        sized.scale_up,
        curves=_fitted_curves(sized.scale_up.curves, given.scale_up.curves, fitted.scale_up.curves),
    )
    if isinstance(scale_up, GraphDomain) and isinstance(fitted.scale_up, GraphDomain):
        scale_up = replace(scale_up, fabric_curves=fitted.scale_up.fabric_curves)
    fabric = sized.scale_out
    if fabric is not None and given.scale_out is not None and fitted.scale_out is not None:
        curves = _fitted_curves(fabric.curves, given.scale_out.curves, fitted.scale_out.curves)
        fabric = replace(fabric, curves=curves)
    chip = replace(sized.chip, efficiency=fitted.chip.efficiency)
    return replace(sized, chip=chip, scale_up=scale_up, scale_out=fabric)


class FittedBench(Bench):
    """A bench whose machine has other constants than its file states.

    Parameters
    ----------
    machine : str
        Name or path of the machine of every row.

    Raises
    ------
    SpecError, CatalogError
        As :func:`planner.catalog.machines.load_machine`.
    """

    def __init__(self, machine: str) -> None:
        super().__init__()
        self.facts: dict[str, Any] = machine_facts(machine)
        self._given = machine_from_facts(self.facts, machine)
        self._fitted = self._given
        self._sizes: dict[MachineUse, MachineSpec] = {}
        self._built: dict[MachineUse, Topology] = {}

    def set_values(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Give constants other values, by their paths; the others are as in the file."""
        self._fitted = machine_from_facts(_facts_with(self.facts, values))
        self._built = {}

    def topology(self, use: MachineUse) -> Topology:
        """The machine of a row with the values set; raises as :meth:`Bench.topology`."""
        found = self._built.get(use)
        if found is None:
            sized = self._sizes.get(use)
            if sized is None:
                # The plain bench refuses machines with the right kind of error.
                sized = self._sizes[use] = super().topology(use).spec
            found = self._built[use] = build_topology(_graft(sized, self._given, self._fitted))
        return found
