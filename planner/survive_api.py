"""Library of ``plan --survive``: a layout that survives, and what that costs."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from planner.api import plan
from planner.domain.layout import Layout
from planner.domain.outcome import Infeasible
from planner.domain.question import Question
from planner.search.control import Progress
from planner.units import format_percent

__all__ = ["plan_surviving"]

_PARTS = {"any": "chip, tray or node"}


def plan_surviving(
    question: Question, progress: Progress | None = None, *, interruptible: bool = False
) -> Layout | Infeasible:
    """Plan with and without ``question.survive``, and say in ``why`` what surviving costs.

    Raises
    ------
    SpecError, CatalogError
        As :func:`planner.api.plan`; the machine has no such parts.
    """
    found = plan(question, progress, interruptible=interruptible)
    if isinstance(found, Infeasible):
        return found
    free = plan(replace(question, survive=None), progress, interruptible=interruptible)
    if isinstance(free, Infeasible):
        return found
    return structs.replace(found, why=f"{cost_text(found, free)} {found.why}")


def cost_text(found: Layout, free: Layout) -> str:
    """How much worse a surviving layout is than one that need not survive."""
    survive = found.inputs.survive or ""
    part = _PARTS.get(survive, survive)
    with_it, without = (
        float("nan") if one.certificate is None else one.certificate.objective
        for one in (found, free)
    )
    more = format_percent(with_it / without - 1)
    degrees = free.degrees
    return (
        f"Any one {part} may die: no expert is lost, and what is left has room for all sequences. "
        f"That costs {more} in the objective against the layout that need not survive "
        f"(TP{degrees.attn_tp} x DP{degrees.attn_dp}, EP{degrees.ep}, {degrees.num_slots} slots, "
        f"PP{degrees.pp}, replicas {degrees.replicas}, batch {free.prediction.batch:,})."
    )
