"""Measured collectives: what each family of kernels sends, and by which algorithm."""

from __future__ import annotations

from planner.catalog.measured_rows import CollectiveRow
from planner.domain.curves import Op
from planner.topology.collectives import CollectiveCost, collective_cost
from planner.topology.graph import Topology

LIBRARY, FUSED, EXPERTS = "library", "fused", "experts"

# Tokens of a chip from which DeepEP's tests run its high-throughput kernels.
_THROUGHPUT_TOKENS = 4096


def distinct(draws: int, places: int) -> float:
    """Expected number of places that ``draws`` uniform draws hit."""
    return places * (1.0 - (1.0 - 1.0 / places) ** draws)


def family(row: CollectiveRow) -> str:
    """Kernels that ran: of the collective library, fused ones of an engine, or experts'."""
    if row.op in (Op.DISPATCH, Op.COMBINE):
        return EXPERTS
    return FUSED if "all-reduce kernel" in row.origin.software else LIBRARY


def sent_bytes(row: CollectiveRow, domains: int) -> float:
    """Bytes that a chip hands to the collective, by what the family of kernels sends.

    The table counts every copy of a token, one for each of its ``top_k`` experts.

    Parameters
    ----------
    domains : int
        Nodes or racks that the group spans.
    """
    if row.op not in (Op.DISPATCH, Op.COMBINE):
        return row.num_bytes
    chips, software = row.machine.num_chips, row.origin.software
    if software.startswith("TensorRT-LLM"):
        # One copy for each chip that holds an expert of the token; the benchmark spreads a
        # token's experts evenly over the chips.
        return row.num_bytes * min(row.top_k, chips) / row.top_k
    throughput = "DeepEP" in software and row.tokens_per_chip >= _THROUGHPUT_TOKENS
    if "normal" in software or throughput:
        # High-throughput kernels send one copy to each node, whose chips pass it on; inside
        # a node one copy to each chip.
        places = domains if domains > 1 else chips
        return row.num_bytes * distinct(row.top_k, places) / row.top_k
    return row.num_bytes  # low-latency kernels and pplx send a copy to every expert


def algorithm(row: CollectiveRow) -> str:
    """Algorithm of :func:`planner.topology.collectives.collective_cost`."""
    if family(row) == FUSED:
        return "fused"
    # Runs with in-network sums switched off.
    return "hierarchical" if row.origin.note.startswith("ring;") else "auto"


def collective_row_cost(row: CollectiveRow, topology: Topology) -> CollectiveCost:
    """Price of a measured collective over the first chips of its machine.

    Raises
    ------
    SpecError
        The machine has no such algorithm.
    """
    return collective_cost(
        topology,
        row.op,
        range(row.machine.num_chips),
        sent_bytes(row, len(topology.domains)),
        algorithm=algorithm(row),
    )
