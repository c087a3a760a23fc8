"""Library of ``verify --certificate`` for training layouts."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from planner.domain.ranges import read_ranges
from planner.domain.run import Recompute, ScheduleKind
from planner.domain.train_layout import TrainLayout
from planner.domain.training import TrainLimits
from planner.errors import SpecError
from planner.search.recheck_case import Recheck
from planner.search.training.recheck import TrainRecheckCase, recheck_training
from planner.train_api import requests_of_layout, verify_training
from planner.training.compose import counts_of, run_of_layout

__all__ = ["verify_training_certificate"]

Choice = TypeVar("Choice", bound=StrEnum)


def verify_training_certificate(layout: TrainLayout) -> Recheck:
    """Re-derive the certificate of a training layout in plain loops.

    Returns
    -------
    Recheck
        ``violations`` also names everything that :func:`planner.train_api.verify_training` finds.

    Raises
    ------
    SpecError
        If the layout has no certificate, or its decisions cannot be priced.
    """
    certificate = layout.certificate
    if certificate is None:
        raise SpecError(
            "the layout has no certificate", "planner plan ... -o layout.json writes one"
        )
    broken = verify_training(layout)
    found = recheck_training(
        TrainRecheckCase(
            requests=requests_of_layout(layout, _limits(layout.inputs.limits)),
            run=run_of_layout(layout),
            counts=counts_of(layout),
            stated_objective=certificate.objective,
            stated_bound=certificate.bound,
            stated_count=certificate.enumerated,
        )
    )
    return Recheck(
        **{name: getattr(found, name) for name in found.__struct_fields__ if name != "violations"},
        violations=broken + found.violations,
    )


def _limits(texts: dict[str, str]) -> TrainLimits:
    """Read what :meth:`TrainLimits.texts` wrote.

    Raises
    ------
    SpecError
        Naming the limit that cannot be read.
    """
    found: dict[str, object] = {}
    for name, text in texts.items():
        try:
            if name == "schedules":
                found[name] = _members(text, ScheduleKind)
            elif name == "recompute":
                found[name] = _members(text, Recompute)
            elif name == "sequence_parallel":
                found[name] = frozenset(part == "on" for part in text.split(","))
            elif name in TrainLimits.__dataclass_fields__:
                found[name] = read_ranges(text)
            else:
                raise ValueError("there is no such limit")
        except ValueError as error:
            raise SpecError(f"inputs.limits.{name}: {error}", "write for example 1..4,8") from None
    return TrainLimits(**found)  # type: ignore[arg-type]


def _members(text: str, kind: type[Choice]) -> frozenset[Choice]:
    return frozenset(kind(part) for part in text.split(","))
