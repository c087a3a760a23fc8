"""What a price that depends on the context says about a cache, and the reverse.

    cost(L) = max( compute (flat), weights / B + kv L (rising) )

A provider who charges more above ``L`` tokens marks the context where the second overtakes the
first. At a large batch that is ``kv = 2 N_act W / (C L) = N_act / (r L)`` with ``r = C / (2 W)``
per byte, the lecture's 300 (chapter 6).
"""

from __future__ import annotations

from planner.cost.roofline import balanced_context


def implied_kv_bytes(active_params: float, flop_per_two_bytes: float, context: float) -> float:
    """Cache bytes per token of a model whose price rises from ``context`` tokens on.

    Parameters
    ----------
    flop_per_two_bytes : float
        ``C / (2 W)``; the lecture's round figure is 300.
    """
    return active_params / (flop_per_two_bytes * context)


def implied_context(active_params: float, flop_per_two_bytes: float, kv_bytes: float) -> float:
    """Context from which on a model with ``kv_bytes`` per token costs more: the reverse."""
    return balanced_context(active_params, flop_per_two_bytes, kv_bytes)


def covered_context(step_context: float, factor: float) -> float:
    """Longest context whose cost a price of ``factor`` times the base still covers.

    Past the kink the cost is proportional to the context.
    """
    return step_context * factor


def unique_kv_bytes(
    unique_layers: int, head_dim: int, kv_heads: int, element_bytes: float
) -> float:
    """Cache bytes per token of ``unique_layers`` layers that keep keys and values of their own."""
    return unique_layers * 2 * head_dim * kv_heads * element_bytes
