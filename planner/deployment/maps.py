"""Which expert copies an engine holds where, when nobody tells it.

=========================  ==============================================================
no redundancy              experts in order; the first ``E % ep`` ranks hold one more
                           (vLLM ``expert_map_manager.py``)
start of rebalancing       slot ``p`` holds expert ``p % E`` (vLLM ``eplb/``, SGLang
                           ``expert_location.py``)
after rebalancing          the greedy rule of :mod:`planner.search.expert_greedy`; a layer in
                           which it puts an expert twice on one rank is placed by the planner
=========================  ==============================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.domain.assignment import SlotMap
from planner.search.expert_bounds import even_caps
from planner.search.expert_greedy import count_repeats, greedy_slots
from planner.search.expert_layers import place_layers

FloatArray = NDArray[np.float64]
PLACED_GAP = 0.005


def grouped(
    layers: Sequence[int], rows: Sequence[tuple[tuple[int, ...], ...]]
) -> tuple[SlotMap, ...]:
    """One record per distinct map, in the order of its first layer."""
    found: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for layer, row in zip(layers, rows, strict=True):
        found.setdefault(row, []).append(layer)
    return tuple(SlotMap(layers=tuple(own), slots=row) for row, own in found.items())


def linear_slots(num_experts: int, ep: int) -> tuple[tuple[int, ...], ...]:
    """Experts in order, ``[ep rank][slot]``; the first ranks hold one more."""
    base, more = divmod(num_experts, ep)
    starts = [rank * base + min(rank, more) for rank in range(ep + 1)]
    return tuple(tuple(range(starts[r], starts[r + 1])) for r in range(ep))


def start_slots(num_experts: int, ep: int, num_slots: int) -> tuple[tuple[int, ...], ...]:
    """Slot ``p`` holds expert ``p % E``, ``[ep rank][slot]``."""
    if num_slots == num_experts:
        return linear_slots(num_experts, ep)
    size = num_slots // ep
    return tuple(
        tuple(slot % num_experts for slot in range(rank * size, (rank + 1) * size))
        for rank in range(ep)
    )


def rebalanced_slots(
    loads: FloatArray, ep: int, num_slots: int
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Slots that an engine's balancer arrives at, ``[layer][ep rank][slot]``.

    Parameters
    ----------
    loads : array, shape ``[num_layers, num_experts]``
        Shares of the routed tokens.
    """
    caps = even_caps(num_slots, ep)
    known: dict[bytes, tuple[tuple[int, ...], ...]] = {}
    found = []
    for row in loads:
        key = row.tobytes()
        if key not in known:
            known[key] = _rebalanced(row, caps)
        found.append(known[key])
    return tuple(found)


def _rebalanced(row: FloatArray, caps: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    slots = greedy_slots(row, caps)
    if count_repeats(slots):
        slots = place_layers(row[None], caps, gap=PLACED_GAP)[0].slots
    return tuple(tuple(int(e) for e in held if e >= 0) for held in slots)


def rows_of(maps: Sequence[SlotMap]) -> dict[int, tuple[tuple[int, ...], ...]]:
    """Slots of each model layer, ``{layer: [ep rank][slot]}``, in the order of the model."""
    found = {layer: one.slots for one in maps for layer in one.layers}
    return dict(sorted(found.items()))
