"""Families of training strategies: names that people use, as limits on degrees and policy.

A name joins parts by ``+``:

    gpipe 1f1b interleaved zb-h1 zb-h2 zb-v dualpipe    the schedule, of two stages or more
    zero0 zero1 zero2 zero3                             what is sharded over data parallelism
    tp cp pp ep etp dp                                  degrees, ``ep8`` pins one

Where a degree is named, degrees that are not are 1; data parallelism is always free. Where none is
named, all are free. ``any`` is the whole space.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

from planner.cost.routing import moe_shape
from planner.domain.model import ModelSpec
from planner.domain.run import ScheduleKind
from planner.domain.training import FREE_LIMITS, TrainLimits
from planner.errors import SpecError
from planner.studies.families import ANY

SCHEDULES = {kind.value: kind for kind in ScheduleKind if kind is not ScheduleKind.NONE}
DEGREES = {
    "tp": "tensor parallel",
    "cp": "context parallel",
    "pp": "pipeline",
    "ep": "experts spread",
    "etp": "split experts",
    "dp": "data parallel",
}
_DEGREE = re.compile(r"(tp|cp|pp|ep|etp|dp)([0-9]{1,5})?")
_ZERO = re.compile(r"zero([0-3])")
_MOST = {"tp": 1024, "cp": 1024, "pp": 256, "ep": 4096, "etp": 64}
_DEFAULT = ("1f1b", "interleaved", "zb-h1", "dualpipe")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainFamily:
    """A set of training strategies."""

    name: str
    text: str
    limits: TrainLimits


@dataclass(kw_only=True, slots=True)
class _Parts:
    schedule: ScheduleKind | None = None
    zero: int | None = None
    degrees: dict[str, int | None]


def _parse(name: str) -> _Parts:
    """Parts of a name.

    Raises
    ------
    SpecError
        One is unknown, or named twice.
    """
    found = _Parts(degrees={})
    for part in (piece.strip() for piece in name.split("+")):
        zero, degree = _ZERO.fullmatch(part), _DEGREE.fullmatch(part)
        again = False
        if part in SCHEDULES:
            again, found.schedule = found.schedule is not None, SCHEDULES[part]
        elif zero is not None:
            again, found.zero = found.zero is not None, int(zero.group(1))
        elif degree is not None:
            axis, pinned = degree.group(1), degree.group(2)
            again = axis in found.degrees
            found.degrees[axis] = None if pinned is None else int(pinned)
            if found.degrees[axis] == 0:
                raise SpecError(
                    f"--strategies: '{name}' has a degree of 0", "write for example tp8"
                )
        else:
            known = (*SCHEDULES, "zero0..zero3", *DEGREES, ANY)
            raise SpecError(
                f"--strategies: '{part}' in '{name}' is not one of {', '.join(known)}",
                "write for example --strategies 1f1b,interleaved,zero3,ep+pp",
            )
        if again:
            raise SpecError(f"--strategies: '{name}' names {part} twice", "leave one out")
    return found


def train_family(name: str, model: ModelSpec) -> TrainFamily:
    """Read the name of a family.

    Raises
    ------
    SpecError
        The name cannot be understood, or the model has no experts to spread.
    """
    name = name.strip()
    if name == ANY:
        return TrainFamily(name=name, text="the whole space", limits=FREE_LIMITS)
    parts = _parse(name)
    degrees = dict(parts.degrees)
    if moe_shape(model) is None and {"ep", "etp"} & set(degrees):
        raise SpecError(
            f"--strategies: '{name}' spreads experts, {model.name} has none", "leave ep out"
        )
    if parts.schedule is not None:
        degrees.setdefault("pp", None)
    limits = FREE_LIMITS
    if parts.degrees:
        limits = _limits(degrees)
    elif parts.schedule is not None:
        limits = TrainLimits(pp=frozenset(range(2, _MOST["pp"] + 1)))
    if parts.schedule is not None:
        limits = replace(limits, schedules=frozenset({parts.schedule}))
    if parts.zero is not None:
        limits = replace(limits, zero=frozenset({parts.zero}))
    texts = [DEGREES[axis] for axis in parts.degrees]
    texts += [f"{parts.schedule.value} schedule"] if parts.schedule is not None else []
    texts += [f"ZeRO-{parts.zero}"] if parts.zero is not None else []
    return TrainFamily(name=name, text=", ".join(texts), limits=limits)


def _limits(degrees: dict[str, int | None]) -> TrainLimits:
    def values(axis: str) -> frozenset[int]:
        pinned = degrees.get(axis)
        if pinned is not None:
            return frozenset({pinned})
        return frozenset(range(2, _MOST[axis] + 1) if axis in degrees else (1,))

    dp = degrees.get("dp")
    return TrainLimits(
        tp=values("tp"),
        cp=values("cp"),
        pp=values("pp"),
        ep=values("ep"),
        expert_tp=values("etp"),
        dp=None if dp is None else frozenset({dp}),
    )


def default_train_names() -> tuple[str, ...]:
    """Families to compare where none is named."""
    return _DEFAULT


def train_within(limits: TrainLimits, given: TrainLimits, name: str) -> TrainLimits:
    """The limits of a family within those of the question.

    Raises
    ------
    SpecError
        Nothing is left of a choice.
    """
    found = {}
    for own in fields(TrainLimits):
        mine, theirs = getattr(limits, own.name), getattr(given, own.name)
        both = mine if theirs is None else theirs if mine is None else mine & theirs
        if both is not None and not both:
            option = own.name.replace("_", "-").replace("schedules", "schedule")
            raise SpecError(
                f"--{option} leaves nothing of strategy '{name}'",
                f"leave --{option} out, or the strategy",
            )
        found[own.name] = both
    return replace(limits, **found)
