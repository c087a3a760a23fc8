"""One planning question, complete and solver-free."""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.routing import FloatArray
from planner.cost.step import Setting
from planner.domain.question import DegreeLimits
from planner.domain.workload import Objective
from planner.search.control import Progress
from planner.topology.graph import Topology


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """Model, machine, workload, limits and how hard to try.

    Parameters
    ----------
    loads : array, shape ``[num MoE layers, num_experts]``
        Share of the routed tokens of each expert, rows add up to 1.
    uniform : bool
        Whether ``loads`` are the uniform default.
    step_limit_s : float, optional
        Longest step: the limit on TPOT, of a prefill that on TTFT.
    gap : float
        Stop once the certificate's gap is at most this, e.g. 0.005.
    time_limit_s : float, optional
        Stop early after this many seconds of search with an honest gap.
    progress : callable, optional
        Told the :class:`planner.search.control.SearchState` after every solved strategy.
    interruptible : bool
        Whether the first Ctrl-C ends the search with the best layout so far.
    counts_used : bool
        Whether throughput is that of a chip in use, not of the machine: of workers that are
        repeated as often as they fit.
    units : tuple of frozenset of int
        Chips that may die together, any one of which the layout must survive.
    """

    setting: Setting
    topology: Topology
    loads: FloatArray
    uniform: bool
    objective: Objective
    limits: DegreeLimits
    step_limit_s: float | None = None
    batch: int | None = None
    price_usd_per_hour: float | None = None
    gap: float = 0.005
    time_limit_s: float | None = None
    seed: int = 0
    progress: Progress | None = None
    interruptible: bool = False
    counts_used: bool = False
    units: tuple[frozenset[int], ...] = ()
