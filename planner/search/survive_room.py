"""What the attention groups cache when the worst unit has died, at least.

All sequences find room in the groups that are left (:mod:`planner.search.survival`). Some unit
takes an attention group with it. Where a replica does not hold two copies of every expert, some
unit takes the whole replica; so it does where a replica is one attention group.
"""

from __future__ import annotations

import numpy as np

from planner.cost.routing import moe_shape
from planner.domain.work import Real
from planner.search.request import PlanRequest


def cached_after(
    request: PlanRequest, degrees: tuple[Real, Real, Real], batch: Real, cached: Real
) -> Real:
    """Sequences that the fullest attention group caches, after the worst failure at least.

    Parameters
    ----------
    degrees : (float, float, float) or arrays
        ``attn_dp``, ``replicas`` and ``num_slots``.
    batch : float or array
        Sequences of the fullest replica; others have one fewer at least.
    cached : float or array
        Sequences of its fullest group before a failure.
    """
    if not request.units:
        return cached
    shape = moe_shape(request.setting.model)
    attn_dp, replicas, num_slots = degrees
    is_short = np.less(num_slots, 2 * (shape[0] if shape else 1))
    left = np.maximum(attn_dp * replicas - np.where(is_short, attn_dp, 1), 1)
    return np.maximum(cached, np.floor((replicas * (batch - 1) + 1) / left))


def even_twice_touched(shape: tuple[int, int], slots: tuple[Real, Real], tokens: Real) -> Real:
    """Touched copies of the busiest group where all experts are alike and have two copies or more.

    The touched copies of an expert grow concavely with their number, which is at most that of the
    groups: copies beyond two add the chord's slope at least. Without any the fullest group holds
    ``ceil(slots / groups)`` copies.

    Parameters
    ----------
    shape : (int, int)
        Experts, and how many a token picks.
    slots : (float, float) or arrays
        Slots of a layer, at least two per expert, and groups.
    """
    num_experts, top_k = shape
    num_slots, groups = slots
    p = top_k / num_experts
    one = 1.0 - (1.0 - p / 2) ** tokens
    most = np.maximum(groups, 3.0)
    slope = (most * (1.0 - (1.0 - p / most) ** tokens) - 2 * one) / (most - 2)
    extra = np.maximum(num_slots - 2 * num_experts, 0.0)
    mean = (2 * num_experts * one + extra * slope) / groups
    fullest = np.ceil(num_slots / groups) * one
    return np.asarray(np.where(extra > 0, mean, np.maximum(mean, fullest)))
