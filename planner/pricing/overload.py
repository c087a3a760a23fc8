"""Requests that arrive faster than they are served: who cannot keep up, and what would."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from planner.cost.runs.serving import predict_serving
from planner.cost.runs.serving_open import Overload
from planner.domain.outcome import Infeasible
from planner.domain.run_question import RunQuestion
from planner.errors import SpecError
from planner.pricing.case import Case, make_case
from planner.pricing.served import serving_run

_HALVINGS = 12  # of the rate: to a thousandth, and three digits are written


def _serves(case: Case, question: RunQuestion) -> bool:
    """Whether a changed question is served; what cannot be represented is not."""
    try:
        other = make_case(question, case.base, case.topology)
        predict_serving(other.model, other.topology, serving_run(other))
    except SpecError:
        return False
    return True


def largest_rate(rate: float, serves: Callable[[float], bool]) -> str | None:
    """The option with the largest rate below ``rate`` that is served, in three digits."""
    low, high = 0.0, rate
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if serves(middle) else (low, middle)
    if not low:
        return None
    unit = 10.0 ** (math.floor(math.log10(low)) - 2)
    # Fixed-point text, as the option is read.
    digits = max(0, -round(math.log10(unit)))
    found = f"{math.floor(low / unit) * unit:.{digits}f}"
    return f"--rate {found}/s" if serves(float(found)) else None


def _options(before: RunQuestion, after: RunQuestion) -> str:
    """Numbers of workers that differ, as options."""
    parts = []
    if after.workers != before.workers:
        parts.append(f"--workers {after.workers}")
    if after.prefill_workers != before.prefill_workers:
        parts.append(f"--prefill-workers {after.prefill_workers}")
    return " ".join(parts)


def _more_workers(case: Case, error: Overload) -> str | None:
    """The fewest more workers of the pools that cannot keep up; None where they do not fit."""
    q, spare = case.question, case.topology.num_chips - case.chips
    prefill, first = case.prefill_mesh, q
    if prefill is not None and error.resource == "prefill":
        count = math.floor(error.needed * (q.prefill_workers or 1)) + 1
        first = replace(q, prefill_workers=count)
        spare -= (count - (q.prefill_workers or 1)) * prefill.num_chips
        if _serves(case, first):
            return _options(q, first)
    links = prefill is not None and error.resource == "links"

    def wider(more: int) -> RunQuestion:
        other = replace(first, workers=q.workers + more)
        return replace(other, prefill_workers=(q.prefill_workers or 1) + more) if links else other

    each = case.mesh.num_chips + (prefill.num_chips if links and prefill is not None else 0)
    few, many = 0, spare // each
    if many < 1 or not _serves(case, wider(many)):
        return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if _serves(case, wider(middle)) else (middle, many)
    return _options(q, wider(many))


def overloaded(case: Case, error: Overload) -> Infeasible:
    """The answer to a rate that is too high: the pool, what it needs, the smallest changes."""
    q = case.question
    assert q.rate is not None
    has = q.workers if case.prefill_mesh is None else q.prefill_workers or 1
    if error.resource == "prefill":
        needed, available = f"{error.needed * has:.3g} workers", f"{has}"
        message = (
            f"{error.message} ({needed} are needed, there {'is' if has == 1 else 'are'} {has})"
        )
    else:
        needed, available, message = f"{error.needed:.3g}", f"{error.available:.3g}", error.message
    wider = _more_workers(case, error)
    slower = largest_rate(q.rate, lambda rate: _serves(case, replace(q, rate=rate)))
    return Infeasible(
        resource=error.resource,
        needed=needed,
        available=available,
        message=message,
        remedies=tuple(text for text in (wider, slower) if text is not None),
    )
