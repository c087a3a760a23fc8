"""What a certificate is re-checked for, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from planner.cost.routing import FloatArray
from planner.cost.step import Setting
from planner.domain.degrees import Degrees
from planner.domain.workload import Objective
from planner.search.recheck_space import Limits
from planner.topology.graph import Topology
from planner.units import MILLION, usd_per_second


@dataclass(frozen=True, kw_only=True, slots=True)
class RecheckCase:
    """A certified answer and the question that it answers.

    Parameters
    ----------
    loads : array, shape ``[num MoE layers, num_experts]``
    limits : mapping
        What the user allowed of each degree; see :class:`planner.search.recheck_space.Space`.
    step_limit_s : float, optional
        Longest step; see :class:`planner.search.request.PlanRequest`.
    objective_value : float
        Objective of the layout, recomputed from its decisions.
    stated_bound : float
        What the certificate says that nothing is better than.
    stated_count : int
        Strategies that the certificate counts.
    contexts, sharing : frozenset of int
        Values of ``cp`` that the certificate lists, and of ``attn_tp`` with more than one.
    named : tuple of Degrees
        The layout's own strategy and those of the runners-up.
    counts_used : bool
        Whether throughput is that of a chip in use; see
        :class:`planner.search.request.PlanRequest`.
    """

    setting: Setting
    topology: Topology
    loads: FloatArray
    objective: Objective
    limits: Limits
    step_limit_s: float | None
    batch: int | None
    price_usd_per_hour: float | None
    objective_value: float
    stated_bound: float
    stated_count: int
    contexts: frozenset[int]
    sharing: frozenset[int]
    named: tuple[Degrees, ...]
    counts_used: bool = False

    def value(self, step_s: float, tokens_per_s: float, chips_rented: float) -> float:
        """Objective, smaller is better."""
        if self.objective is Objective.LATENCY:
            return step_s
        if self.objective is Objective.THROUGHPUT:
            chips = chips_rented if self.counts_used else float(self.topology.num_chips)
            return chips / tokens_per_s
        price = 1.0 if self.price_usd_per_hour is None else self.price_usd_per_hour
        return usd_per_second(price) * chips_rented / tokens_per_s * MILLION

    def rented_floor(self, used: int) -> float:
        """Fewest chips that are rented when ``used`` are used: whole domains of equal size."""
        sizes = {len(domain) for domain in self.topology.domains}
        if len(sizes) > 1 or self.counts_used:
            return float(used)
        size = max(sizes)
        return float(-(-used // size) * size)


class Recheck(msgspec.Struct, frozen=True, kw_only=True):
    """What the re-check of a certificate found.

    Parameters
    ----------
    rederived_bound : float
        No strategy that was checked is better than this; never above ``objective``.
    strategies, checked : int
        Strategies of the space, and those that ``rederived_bound`` speaks for.
    compared : int
        Strategies that could not be dismissed together with others like them.
    built : int
        Simple layouts that were priced in the hope to beat the bound.
    best_built : float, optional
        Objective of the best of them; absent when none meets the limits.
    violations : tuple of str
        What is wrong; empty when the certificate is confirmed.
    """

    objective: float
    stated_bound: float
    rederived_bound: float
    strategies: int
    checked: int
    compared: int
    built: int
    best_built: float | None
    violations: tuple[str, ...]
