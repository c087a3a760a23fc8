"""Families of decode strategies: names that people use, as limits on degrees.

A name joins axes by ``+``. Axes that are named must split something (degree 2 or more), axes that
are not named split nothing:

    ep        experts whole on the chips of one scale-up domain, attention data-parallel
    wide-ep   experts over the chips of several domains
    pp        pipeline stages
    tp        tensor parallelism, of attention and of experts
    cp        chips share each context's cache
    etp       tensor parallelism inside experts
    dp        copies that hold the whole model, or at least that many attention groups

``ep72+pp2`` pins the degrees. ``any`` is the whole space. Replicas are free in every family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from planner.cost.routing import moe_shape
from planner.domain.hardware import MachineSpec
from planner.domain.model import ModelSpec
from planner.domain.question import DegreeLimits
from planner.errors import SpecError

ANY = "any"
AXES = ("wide-ep", "ep", "tp", "pp", "cp", "etp", "dp")
_ATOM = re.compile(r"(wide-ep|ep|tp|pp|cp|etp|dp)([0-9]{1,5})?")
_ONE = frozenset({1})
MOST_STAGES = 64
MOST_EXPERT_TP = 16

_TEXTS = {
    "wide-ep": "experts across {unit}s",
    "ep": "experts within a {unit}",
    "tp": "tensor parallel",
    "pp": "pipeline",
    "cp": "shared contexts",
    "etp": "split experts",
    "dp": "data parallel",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A set of strategies.

    Parameters
    ----------
    axes : tuple of str
        What is named, of ``AXES``; empty for the whole space.
    impossible : str
        Why the machine has none of it; empty where it has.
    """

    name: str
    text: str
    limits: DegreeLimits
    axes: tuple[str, ...] = ()
    impossible: str = ""


def _axes(name: str) -> dict[str, int | None]:
    """Axes of a name with the degrees that it pins.

    Raises
    ------
    SpecError
        An axis is unknown, or named twice.
    """
    found: dict[str, int | None] = {}
    for part in name.split("+"):
        match = _ATOM.fullmatch(part.strip())
        if match is None:
            raise SpecError(
                f"--strategies: '{part.strip()}' in '{name}' is not one of {', '.join(AXES)}, any",
                "write for example --strategies ep,pp,tp,ep+pp, ep72+pp2 or a layout file",
            )
        axis, degree = match.group(1), match.group(2)
        if axis in found or (axis == "ep" and "wide-ep" in found):
            raise SpecError(f"--strategies: '{name}' names {axis} twice", "leave one out")
        found[axis] = None if degree is None else int(degree)
        if found[axis] == 0:
            raise SpecError(f"--strategies: '{name}' has a degree of 0", "write for example ep8")
    if "ep" in found and "wide-ep" in found:
        raise SpecError(f"--strategies: '{name}' names ep twice", "leave one out")
    return found


def _values(given: Mapping[str, int | None], axis: str, most: int) -> frozenset[int]:
    """What an axis may be: named, pinned, or nothing."""
    if axis not in given:
        return _ONE
    pinned = given[axis]
    return frozenset(range(2, most + 1)) if pinned is None else frozenset({pinned})


def family(name: str, model: ModelSpec, machine: MachineSpec) -> Family:
    """Read the name of a family.

    Raises
    ------
    SpecError
        The name cannot be understood, or the model has no experts to place.
    """
    name = name.strip()
    if name == ANY:
        return Family(name=name, text="the whole space", limits=DegreeLimits())
    given = _axes(name)
    wide = "wide-ep" in given
    if moe_shape(model) is None and {"ep", "wide-ep", "etp"} & set(given):
        raise SpecError(
            f"--strategies: '{name}' places experts, {model.name} has none",
            "write for example --strategies tp,pp,tp+pp",
        )
    domain, chips = machine.domain_chips, machine.num_chips
    ep = _values(given, "ep", domain)
    if wide:
        pinned = given["wide-ep"]
        ep = frozenset(range(domain + 1, chips + 1)) if pinned is None else frozenset({pinned})
    dense = moe_shape(model) is None
    # Without expert parallelism, tensor parallelism splits the experts too.
    splits = "etp" in given or ("tp" in given and "etp" not in given)
    expert_tp = _values({"etp": given.get("etp")}, "etp", MOST_EXPERT_TP) if splits else _ONE
    if "etp" not in given:
        expert_tp = expert_tp | _ONE
    limits = DegreeLimits(
        tp=_values(given, "tp", chips),
        pp=_values(given, "pp", MOST_STAGES),
        cp=_values(given, "cp", chips),
        ep=None if dense else ep,
        expert_tp=None if dense else expert_tp,
        dp=_values(given, "dp", chips) if "dp" in given else None,
    )
    unit = machine.scale_up.unit
    impossible = ""
    if wide and machine.num_domains == 1:
        impossible = f"the machine is one {unit}: no expert group can leave it"
    return Family(
        name=name,
        text=", ".join(_TEXTS[axis].format(unit=unit) for axis in given),
        limits=limits,
        axes=tuple(given),
        impossible=impossible,
    )


def default_names(model: ModelSpec, machine: MachineSpec) -> tuple[str, ...]:
    """Families to compare where none is named."""
    if moe_shape(model) is None:
        return ("dp", "tp", "pp", "tp+pp")
    if machine.num_domains == 1:
        return ("ep", "tp", "pp", "ep+pp")
    return ("ep", "wide-ep", "tp", "ep+pp")


def within(limits: DegreeLimits, given: DegreeLimits, name: str) -> DegreeLimits:
    """The limits of a family within those of the question.

    Raises
    ------
    SpecError
        Nothing is left of a degree.
    """
    found = {}
    for own in fields(DegreeLimits):
        mine, theirs = getattr(limits, own.name), getattr(given, own.name)
        both = mine if theirs is None else theirs if mine is None else mine & theirs
        if both is not None and not both:
            option = own.name.replace("_", "-")
            raise SpecError(
                f"--{option} leaves nothing of strategy '{name}'",
                f"leave --{option} out, or the strategy",
            )
        found[own.name] = both
    return replace(limits, **found)
