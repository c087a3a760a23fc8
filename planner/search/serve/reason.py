"""One paragraph of why: what limits the pools, and what each spends its time on."""

from __future__ import annotations

from planner.cost.served import ServeCase, Served
from planner.domain.cost import Prediction
from planner.search.reason import degrees_name
from planner.units import format_count, format_seconds

_OF = {"prefill": "prefill workers", "decode": "decode workers", "links": "links between them"}


def _largest(prediction: Prediction) -> str:
    top = max(prediction.terms, key=lambda term: term.seconds)
    share = top.seconds / prediction.step_s
    return (
        f"{share:.0%} of its {format_seconds(prediction.step_s)} in {top.name.replace('_', ' ')}, "
        f"bound by {top.bound.value}"
    )


def why(served: Served, case: ServeCase) -> str:
    """Explain the pools; every number in it is computed."""
    together = served.together
    rates = {
        "prefill": together.prefill_requests_per_s,
        "decode": together.decode_requests_per_s,
    }
    other = "decode" if together.limited_by == "prefill" else "prefill"
    spare = rates[other] / together.requests_per_s - 1.0
    idle = case.topology.num_chips - together.chips_used
    return (
        f"A prefill worker ({degrees_name(served.prefill.degrees)}) spends "
        f"{_largest(served.prefill_pass)}; a decode worker "
        f"({degrees_name(served.decode.degrees)}) {_largest(served.decode_step)}. "
        f"The {_OF[together.limited_by]} limit the rate to "
        f"{format_count(together.requests_per_s)} requests/s, the {other} pool could do "
        f"{spare:.1%} more; {idle} chips are idle."
    )
