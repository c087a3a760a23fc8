"""Why nothing fits: which resource, how much is needed, and what would help.

Every remedy is tried on the same bounds before it is suggested: a sentence printed here
has been computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from planner.cost.memory import budget_bytes
from planner.domain.outcome import Infeasible
from planner.search.bounds import BoundTable, StepBound
from planner.search.request import PlanRequest
from planner.search.strategies import Strategies
from planner.units import format_bytes, format_seconds


def explain(
    request: PlanRequest,
    strategies: Strategies,
    bounds: tuple[StepBound, BoundTable] | None,
) -> Infeasible:
    """Turn an empty search into an answer."""
    if bounds is None or len(strategies) == 0:
        return _no_strategy(request)
    bound, table = bounds
    if not table.fits_memory.any():
        return _memory(request, bound)
    if not (table.fits_memory & table.meets_tpot).any():
        return _tpot(request, bound, table)
    return Infeasible(
        resource="placement",
        needed="one layout",
        available="none",
        message="every strategy that looked feasible failed once layers were cut into whole "
        "stages or ranks were placed on chips",
        remedies=("relax the memory or TPOT limit by a few percent, or free a pinned degree",),
    )


def _no_strategy(request: PlanRequest) -> Infeasible:
    chips = request.topology.num_chips
    pinned = ", ".join(
        f"{name} {sorted(values)}" for name, values in _pinned(request) if len(values) <= 8
    )
    return Infeasible(
        resource="chips",
        needed=f"degrees that satisfy {pinned}" if pinned else "one stage",
        available=f"{chips} chips",
        message=f"no combination of degrees satisfies {pinned or 'the limits'} on {chips} chips: "
        "attn_tp x attn_dp must equal ep x expert_tp, stages must fit on the machine and, when "
        "larger than a scale-up domain, split evenly over domains; a batch needs at least one "
        "sequence per microbatch and replica",
        remedies=("free one of the pinned degrees", "use a larger machine"),
    )


def _pinned(request: PlanRequest) -> Iterator[tuple[str, frozenset[int]]]:
    names = ("tp", "pp", "ep", "dp", "expert_tp", "slots", "microbatches", "replicas")
    for name in names:
        values = getattr(request.limits, name)
        if values is not None:
            yield name, values
    if request.batch is not None:
        yield "batch", frozenset({request.batch})


def _smallest_tokens(request: PlanRequest, bound: StepBound):  # type: ignore[no-untyped-def]
    if request.batch is not None:
        return bound.pinned_tokens(request.batch)
    return bound.tokens(np.ones(len(bound.strategies)))


def _memory(request: PlanRequest, bound: StepBound) -> Infeasible:
    needed = bound.memory_bytes(_smallest_tokens(request, bound))
    index = int(np.argmin(needed))
    budget = budget_bytes(request.setting)
    reserve = request.setting.chip.hbm_usable_bytes - budget
    missing = float(needed[index]) - budget
    degrees = bound.strategies.degrees(index)
    factor = float(needed[index]) / budget
    remedies = [
        f"about {np.ceil(request.topology.num_chips * factor):.0f} chips of this kind "
        f"({factor:.2f} x as many) hold the same bytes at the same usable HBM per chip",
    ]
    return Infeasible(
        resource="memory",
        needed=format_bytes(float(needed[index])),
        available=format_bytes(budget),
        message=f"HBM: the leanest layout (TP{degrees.attn_tp} x DP{degrees.attn_dp}, "
        f"EP{degrees.ep}, PP{degrees.pp}) needs {format_bytes(float(needed[index]))} per chip, "
        f"{format_bytes(budget)} are free ({format_bytes(reserve)} of the usable HBM are "
        f"reserved for the engine): {format_bytes(missing)} are missing",
        remedies=tuple(remedies),
    )


def _tpot(request: PlanRequest, bound: StepBound, table: BoundTable) -> Infeasible:
    assert request.tpot_s is not None
    step = np.where(table.fits_memory, bound.step_s(_smallest_tokens(request, bound)), np.inf)
    index = int(np.argmin(step))
    degrees = bound.strategies.degrees(index)
    floor = float(step[index])
    return Infeasible(
        resource="tpot",
        needed=format_seconds(floor),
        available=format_seconds(request.tpot_s),
        message=f"TPOT: no layout steps faster than {format_seconds(floor)}, the limit is "
        f"{format_seconds(request.tpot_s)}; the fastest is TP{degrees.attn_tp} x "
        f"DP{degrees.attn_dp}, EP{degrees.ep}, PP{degrees.pp}",
        remedies=(f"raise --tpot to at least {format_seconds(floor * 1.01)}",),
    )


