"""Why no pools do: one of them has no worker at all, or both do not fit side by side."""

from __future__ import annotations

from msgspec import structs

from planner.cost.served import ServeCase
from planner.domain.outcome import Infeasible
from planner.search.infeasible import explain
from planner.search.serve.forms import FormTable
from planner.search.serve.pairs import PairTable
from planner.topology.graph import Topology

# What `explain` says of a block of domains, or of one phase, means nothing of the whole.
_FOREIGN = ("--nodes", "--racks", "--slices", "--batch", "--context", "--seq")


def one_pool(name: str, table: FormTable, topology: Topology) -> Infeasible:
    """Why a pool has no worker."""
    bounds = None
    if table.bound is not None and table.table is not None:
        bounds = (table.bound, table.table)
    found = explain(table.request, table.strategies, bounds)
    kept = tuple(text for text in found.remedies if not text.startswith(_FOREIGN))
    return structs.replace(
        found,
        message=f"the {name} pool has no worker. {found.message}",
        remedies=kept or ("a machine with more memory per chip, or shorter requests",),
    )


def no_pair(pairs: PairTable, case: ServeCase) -> Infeasible:
    """Why no two pools fit, or serve the rate."""
    most = pairs.most_chips
    unit = case.topology.spec.scale_up.unit
    if pairs.rate is None:
        least = min(form.chips for form in pairs.prefill.rate_bounds) + min(
            form.chips for form in pairs.decode.rate_bounds
        )
        return Infeasible(
            resource="chips",
            needed=f"{least} chips",
            available=f"{most} chips",
            message=f"one worker of each pool takes {least} chips at least, and {most} chips in "
            f"domains of up to {max(pairs.domains)} do not hold whole workers of both within the "
            "limits",
            remedies=(f"more {unit}s", "free a pinned degree or number of workers"),
        )
    per_request = min(form.chips / rate for form, rate in pairs.prefill.rate_bounds.items()) + min(
        form.chips / rate for form, rate in pairs.decode.rate_bounds.items()
    )
    needed = per_request * pairs.rate
    return Infeasible(
        resource="rate",
        needed=f"{pairs.rate:g} requests/s",
        available=f"{most} chips",
        message=f"no pools on {most} chips serve {pairs.rate:g} requests/s; the best workers would "
        f"need {needed:,.0f} chips if they filled the machine without a gap",
        remedies=(
            f"--rate {most / per_request:.3g}/s or less",
            f"more {unit}s",
        ),
    )
