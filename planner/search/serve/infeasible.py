"""Why no pools do: one of them has no worker at all, or both do not fit side by side."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from msgspec import structs

from planner.cost.served import ServeCase
from planner.domain.outcome import Infeasible
from planner.search.infeasible import explain
from planner.search.serve.forms import FormTable
from planner.search.serve.pairs import PairTable
from planner.topology.graph import Topology

# What `explain` says of a block of domains, or of one phase, means nothing of the whole.
# Nodes or racks that are added at most, and the smallest forms that are tried on them.
_MOST_ADDED = 32
_TRIED = 12
_FOREIGN = ("--nodes", "--racks", "--slices", "--batch", "--context", "--seq")


def one_pool(name: str, table: FormTable, topology: Topology) -> Infeasible:
    """Why a pool has no worker."""
    found = explain(table.request, table.space, table.infeasible)
    kept = tuple(text for text in found.remedies if not text.startswith(_FOREIGN))
    return structs.replace(
        found,
        message=f"the {name} pool has no worker. {found.message}",
        remedies=kept or ("a machine with more memory per chip, or shorter requests",),
    )


def no_pair(pairs: PairTable, case: ServeCase) -> Infeasible:
    """Why no two pools fit, or serve the rate."""
    most = pairs.most_chips
    if pairs.rate is None:
        least = sum(
            min(form.chips for form in table.rate_bounds) for table in (pairs.prefill, pairs.decode)
        )
        pinned = any(count is not None for count in pairs.workers)
        return Infeasible(
            resource="chips",
            needed=f"{least} chips",
            available=f"{most} chips",
            message=f"one worker of each pool takes {least} chips at least, and {most} chips in "
            f"domains of up to {max(pairs.domains)} do not hold whole workers of both within the "
            "limits",
            remedies=tuple(_more_domains(pairs, case.topology))
            or (("fewer workers",) if pinned else ("a larger machine",)),
        )
    per_request = sum(
        min(form.chips / rate for form, rate in table.rate_bounds.items())
        for table in (pairs.prefill, pairs.decode)
    )
    return Infeasible(
        resource="rate",
        needed=f"{pairs.rate:g} requests/s",
        available=f"{most} chips",
        message=f"no pools on {most} chips serve {pairs.rate:g} requests/s; the best workers would "
        f"need {per_request * pairs.rate:,.0f} chips if they filled domains without a gap",
        remedies=("a larger machine",),
    )


def _more_domains(pairs: PairTable, topology: Topology) -> Iterator[str]:
    """Fewest nodes or racks that hold both pools."""
    spec = topology.spec
    if spec.scale_out is None:
        return
    mine, theirs = (
        heapq.nsmallest(_TRIED, table.rate_bounds, key=lambda form: (form.chips, form))
        for table in (pairs.prefill, pairs.decode)
    )
    most = min(spec.scale_out.max_domains, spec.num_domains + _MOST_ADDED)
    for count in range(spec.num_domains + 1, most + 1):
        added = count - spec.num_domains
        grown = replace(
            pairs,
            domains=pairs.domains + (spec.domain_chips,) * added,
            most_chips=pairs.most_chips + spec.domain_chips * added,
            _beside={},
        )
        if any(grown.counts(forms, (1.0, 1.0)) for forms in product(mine, theirs)):
            yield f"--{spec.scale_up.unit}s {count} instead of {spec.num_domains}"
            return
