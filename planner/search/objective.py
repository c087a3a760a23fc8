"""What the search minimises, in one unit per objective."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.domain.work import Real
from planner.domain.workload import Objective
from planner.search.request import PlanRequest
from planner.topology.graph import Topology
from planner.units import MILLION, usd_per_second

UNITS = {
    Objective.THROUGHPUT: "chip-seconds per token",
    Objective.LATENCY: "seconds per step",
    Objective.COST: "USD per million tokens",
}


def objective_value(
    objective: Objective,
    step_s: Real,
    tokens_per_s: Real,
    chips: tuple[Real, Real],
    price_usd_per_hour: float | None,
) -> Real:
    """Value to minimise.

    Parameters
    ----------
    chips : (float, float)
        Chips of the machine, and chips of the nodes or racks that must be rented.
    price_usd_per_hour : float, optional
        Price of a chip-hour; cost without a price is counted in chip-hours, which ranks
        layouts alike.
    """
    if objective is Objective.LATENCY:
        return step_s
    if objective is Objective.THROUGHPUT:
        return chips[0] / np.asarray(tokens_per_s)
    price = 1.0 if price_usd_per_hour is None else price_usd_per_hour
    return usd_per_second(price) * chips[1] / np.asarray(tokens_per_s) * MILLION


def counted_chips(
    request: PlanRequest, used: NDArray[np.int64]
) -> tuple[Real, NDArray[np.float64]]:
    """Chips over which throughput is spread, and those that must be rented at least."""
    rented = rented_bound(request.topology, used)
    whole = used.astype(float) if request.counts_used else float(request.topology.num_chips)
    return whole, rented


def rented_bound(topology: Topology, used: NDArray[np.int64]) -> NDArray[np.float64]:
    """Fewest chips that must be rented to use ``used`` chips: whole scale-up domains.

    Domains of unequal size are bounded by ``used`` itself.
    """
    sizes = {len(domain) for domain in topology.domains}
    if len(sizes) > 1:
        return used.astype(float)
    (size,) = sizes
    return np.ceil(used / size) * float(size)
