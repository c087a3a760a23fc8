"""Where routing puts tokens, given which expert copy sits where."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.cost.block import RoutedLoad
from planner.domain.assignment import SlotMap
from planner.domain.model import ModelSpec, MoeFfn

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def moe_layer_indices(model: ModelSpec) -> tuple[int, ...]:
    """Indices of the layers that route tokens to experts."""
    return tuple(i for i, layer in enumerate(model.layers) if isinstance(layer.ffn, MoeFfn))


def moe_shape(model: ModelSpec) -> tuple[int, int] | None:
    """``(num_experts, top_k)``, or None for a dense model.

    Raises
    ------
    ValueError
        If MoE layers differ in their number of experts or in ``top_k``.
    """
    shapes = {
        (layer.ffn.num_experts, layer.ffn.top_k)
        for layer in model.layers
        if isinstance(layer.ffn, MoeFfn)
    }
    if len(shapes) > 1:
        raise ValueError(f"MoE layers of {model.name} differ in experts or top_k: {shapes}")
    return next(iter(shapes), None)


def uniform_loads(num_layers: int, num_experts: int) -> FloatArray:
    """Every expert receives the same share: shape ``[num_layers, num_experts]``."""
    return np.full((num_layers, num_experts), 1.0 / num_experts)


@lru_cache(maxsize=1024)
def slot_table(slots: tuple[tuple[int, ...], ...]) -> IntArray:
    """Slots of one map as an array ``[ep, most slots]``, -1 where a group has fewer."""
    widest = max((len(group) for group in slots), default=0)
    table = np.full((len(slots), max(widest, 1)), -1, dtype=np.int64)
    for rank, group in enumerate(slots):
        table[rank, : len(group)] = group
    table.flags.writeable = False
    return table


def copy_shares(table: IntArray, loads: FloatArray) -> FloatArray:
    """Share of the routed tokens that each slot receives when copies split evenly.

    Parameters
    ----------
    table : int array, shape ``[ep, slots]``
        Expert of each slot, -1 for an empty slot.
    loads : array, shape ``[num_layers, num_experts]``
        Share of the routed tokens of each expert; rows add up to 1.

    Returns
    -------
    array, shape ``[num_layers, ep, slots]``
    """
    num_experts = loads.shape[1]
    copies = np.bincount(table[table >= 0], minlength=num_experts)
    per_copy = loads / np.maximum(copies, 1)
    padded = np.concatenate([per_copy, np.zeros((loads.shape[0], 1))], axis=1)
    return padded[:, table]


def map_load(
    slot_map: SlotMap, loads: FloatArray, top_k: int, tokens: float
) -> tuple[FloatArray, FloatArray]:
    """Hot share and touched slots of the layers of one map.

    Parameters
    ----------
    loads : array, shape ``[len(slot_map.layers), num_experts]``
    tokens : float
        Tokens of the stage in one microbatch; each picks ``top_k`` distinct experts, a
        copy is missed by all with probability ``(1 - top_k share)^tokens``.

    Returns
    -------
    (array, array)
        Each of shape ``[len(slot_map.layers)]``.
    """
    shares = copy_shares(slot_table(slot_map.slots), loads)
    hot = shares.sum(axis=2).max(axis=1)
    touched = 1.0 - (1.0 - np.minimum(top_k * shares, 1.0)) ** tokens
    return hot, touched.sum(axis=2).max(axis=1)


def routed_load(
    slot_maps: Sequence[SlotMap], loads: FloatArray, model: ModelSpec, tokens: float
) -> dict[int, RoutedLoad]:
    """Load of every MoE layer, keyed by layer index; values are floats."""
    shape = moe_shape(model)
    if shape is None:
        return {}
    rows = {layer: row for row, layer in enumerate(moe_layer_indices(model))}
    found = {}
    for slot_map in slot_maps:
        picked = loads[[rows[layer] for layer in slot_map.layers]]
        # Layers that route alike, as without measured loads, are counted once.
        alike = bool((picked == picked[0]).all())
        hot, touched = map_load(slot_map, picked[:1] if alike else picked, shape[1], tokens)
        if alike:
            hot, touched = np.repeat(hot, len(picked)), np.repeat(touched, len(picked))
        for position, layer in enumerate(slot_map.layers):
            found[layer] = RoutedLoad(
                hot_share=float(hot[position]), touched_slots=float(touched[position])
            )
    return found


def busiest_touched(chances: FloatArray, spare: int, groups: int, tokens: float) -> FloatArray:
    """Touched copies of the busiest group that no placement goes below, from whole copies.

    Parameters
    ----------
    chances : array, shape ``[num_layers, num_experts]``
        Chance of one token to pick each expert, ascending in every row.
    spare : int
        Copies beyond one of every expert.

    Returns
    -------
    array, shape ``[num_layers]``

    Notes
    -----
    Let ``k = ceil(E / G)`` and ``q`` the chance of the ``j``-th coldest expert, ``v`` that some
    token of the step hits a copy with ``q``. Either some group has ``k`` copies with ``q`` or
    more, and ``k v`` of them are touched. Or at most ``(k - 1) G`` copies have that: then of all
    but ``j - 1`` experts at least ``m = E - (j - 1) - (k - 1) G`` have so many copies,
    ``r = floor(p / q) + 1``, that each has less. These take ``r - 1`` spare copies each, and add
    ``r (1 - (1 - p / r)^tokens) - (1 - (1 - p)^tokens)`` to what is touched: both grow with
    ``p``, so the ``m`` coldest add least. What is touched in all, over ``G``, is then a bound.
    """
    num_experts = chances.shape[1]
    most = -(-num_experts // groups)
    once = 1.0 - (1.0 - chances) ** tokens
    best = np.zeros(len(chances))
    above = num_experts - (most - 1) * groups
    for first in sorted({0, *(1 << power for power in range(num_experts.bit_length()))}):
        if first >= above:
            break
        converted = slice(first, above)
        p, least = chances[:, converted], chances[:, first : first + 1]
        extra = np.floor(p / np.maximum(least, 1e-300))
        each = (extra + 1.0) * (1.0 - (1.0 - p / (extra + 1.0)) ** tokens)
        mean = (once.sum(axis=1) + (each - once[:, converted]).sum(axis=1)) / groups
        mean = np.where(extra.sum(axis=1) > spare, np.inf, mean)
        best = np.maximum(best, np.minimum(most * once[:, first], mean))
    return best


def touched_bound(
    loads: FloatArray, top_k: int, slots: tuple[int, int], tokens: float
) -> FloatArray:
    """Touched copies that the busiest group cannot go below, for any placement of copies.

    Parameters
    ----------
    loads : array, shape ``[num_layers, num_experts]``
    slots : (int, int)
        ``(num_slots, ep)``.

    Returns
    -------
    array, shape ``[num_layers]``

    Notes
    -----
    The touched copies of an expert with ``r`` copies grow concavely in ``r``: each copy
    beyond the first adds at least the chord's slope up to the largest ``r``. Without
    copies the fullest group holds ``ceil(E / ep)`` experts, at least the coldest ones. That
    bounds the mean over groups; :func:`busiest_touched` sees that copies are whole.
    """
    num_slots, ep = slots
    num_experts = loads.shape[1]
    p = np.minimum(top_k * loads, 1.0)
    once = 1.0 - (1.0 - p) ** tokens
    extra = num_slots - num_experts
    total = once.sum(axis=1)
    if extra > 0:
        most = extra + 1
        chord = (most * (1.0 - (1.0 - p / most) ** tokens) - once) / extra
        mean = (total + extra * chord.min(axis=1)) / ep
        return np.asarray(np.maximum(mean, busiest_touched(np.sort(p, axis=1), extra, ep, tokens)))
    fullest = -(-num_experts // ep)
    coldest = np.sort(once, axis=1)[:, :fullest].sum(axis=1)
    return np.asarray(np.maximum(total / ep, coldest))
