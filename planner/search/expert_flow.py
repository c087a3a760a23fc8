"""Token split of a fixed placement by maximum flow.

Sets        experts e, chips g, placed pairs (e, g)
Data        w_e share of the routed tokens of expert e
Variables   y_eg >= 0  tokens of e that go to its copy on g; T load of the hottest chip
Objective   minimise T

Constraints
    conservation   sum_g y_eg = w_e
    capacity       sum_e y_eg <= T

For a given T this is a flow source -> e -> g -> sink. When the flow falls short, the minimum
cut names experts A whose copies all lie on the chips N(A); they need at least w(A) / |N(A)|,
which is the next T. Every T tried is therefore a lower bound, T rises strictly, and the first
one that carries all tokens is the optimum (discrete Newton; a few steps where bisection
needs forty).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.errors import ModelBugError, SpecError
from planner.search.expert_bounds import FloatArray, IntArray

if TYPE_CHECKING:
    from planner.search.experts import ExpertPlacement

# Tokens are counted in units of 2**-40 of the total: sums stay far below 2**63.
_UNITS = 1 << 40


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenSplit:
    """Uneven split of the tokens of a fixed placement.

    Attributes
    ----------
    weights : array, shape ``[num_chips, c_max]``
        Fraction of its expert's tokens that each slot receives; adds up to 1 per expert.
    max_load : float
        Share of the routed tokens on the hottest chip, the least for this placement
        (up to 2**-40 per copy).
    """

    weights: FloatArray
    max_load: float


def split_tokens(placement: ExpertPlacement, loads_row: FloatArray) -> TokenSplit:
    """Split tokens between copies so that the hottest chip has the least load.

    Parameters
    ----------
    placement : ExpertPlacement
    loads_row : array, shape ``[num_experts]``
        Share of the routed tokens of each expert, not necessarily those that the placement
        was made for.

    Raises
    ------
    SpecError
        If the loads are not those of the placed experts.
    """
    slots = placement.slots
    row = np.asarray(loads_row, dtype=np.float64)
    if row.shape != placement.num_copies.shape:
        raise SpecError(f"loads have shape {row.shape}, expected {placement.num_copies.shape}")
    copies = placement.num_copies
    weights = np.where(slots >= 0, 1.0 / np.append(copies, 1)[slots], 0.0)
    total = float(row.sum())
    if total > 0:
        counts = np.rint(row / total * _UNITS).astype(np.int64)
        chips, places = np.nonzero(slots >= 0)
        experts = slots[chips, places]
        flow = _balance(experts, chips, counts, len(slots))
        carried = counts[experts]
        # Experts without tokens keep the even split.
        used = carried > 0
        weights[chips[used], places[used]] = flow[used] / carried[used]
    share = weights * np.append(row, 0.0)[slots]
    return TokenSplit(weights=weights, max_load=float(share.sum(axis=1).max()))


def _balance(experts: IntArray, chips: IntArray, counts: IntArray, num_chips: int) -> IntArray:
    """Tokens of each placed pair in the best split, shape ``[num_pairs]``."""
    # This import takes 0.04 s: only who splits tokens pays for it.
    from ortools.graph.python import max_flow

    num_experts = len(counts)
    source, sink = num_experts + num_chips, num_experts + num_chips + 1
    graph = max_flow.SimpleMaxFlow()
    expert_nodes = np.arange(num_experts, dtype=np.int64)
    chip_nodes = np.arange(num_chips, dtype=np.int64) + num_experts
    supply = graph.add_arcs_with_capacity(np.full(num_experts, source), expert_nodes, counts)
    pairs = graph.add_arcs_with_capacity(experts, chips + num_experts, counts[experts])
    total = int(counts.sum())
    limit = -(-total // num_chips)
    sinks = graph.add_arcs_with_capacity(
        chip_nodes, np.full(num_chips, sink), np.full(num_chips, limit)
    )
    assert len(supply) == num_experts
    while True:
        if graph.solve(source, sink) != graph.OPTIMAL:
            raise ModelBugError("maximum flow of a token split was not solved")
        if graph.optimal_flow() == total:
            flows: IntArray = np.asarray(graph.flows(pairs), dtype=np.int64)
            return flows
        limit = max(limit + 1, _cut_limit(graph, experts, chips, counts))
        graph.set_arcs_capacity(sinks, np.full(num_chips, limit))


def _cut_limit(graph: Any, experts: IntArray, chips: IntArray, counts: IntArray) -> int:
    """``ceil(w(A) / |N(A)|)`` for the experts A on the source side of the minimum cut."""
    reached = np.zeros(len(counts), dtype=bool)
    side = np.asarray(graph.get_source_side_min_cut(), dtype=np.int64)
    reached[side[side < len(counts)]] = True
    neighbours = len(np.unique(chips[reached[experts]]))
    return -(-int(counts[reached].sum()) // max(neighbours, 1))
