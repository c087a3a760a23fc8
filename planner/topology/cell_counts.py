"""How many cells of many sizes a machine holds, without carving any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.topology.graph import Topology
from planner.topology.groups import cell_room, max_cells

Ints = NDArray[np.int64]


def _equal_room(topology: Topology) -> int | None:
    """Chips of a domain where all are equal and may join others, None elsewhere."""
    if topology.is_torus:
        return None
    sizes = {len(domain) for domain in (*topology.open_domains, *cell_room(topology))}
    return sizes.pop() if len(sizes) == 1 else None


def cell_counts(topology: Topology, sizes: Ints, units: Ints) -> Ints:
    """:func:`planner.topology.groups.max_cells` of many sizes and units, shape ``[n]``.

    Equal domains of ``D`` chips hold ``floor(D / u)`` units each: ``floor(D / u) // need``
    whole cells a domain, or one cell over every ``ceil(need / floor(D / u))`` of them.
    """
    room = _equal_room(topology)
    if room is None:
        pairs, alike = np.unique(np.stack([sizes, units]), axis=1, return_inverse=True)
        counts = [max_cells(topology, size, unit) for size, unit in pairs.T.tolist()]
        return np.array(counts, dtype=np.int64)[alike.reshape(-1)]
    possible = (units >= 1) & (units <= sizes) & (sizes <= topology.max_used)
    units = np.maximum(units, 1)
    possible &= sizes % units == 0
    need, capacity = sizes // units, room // units
    possible &= capacity > 0
    capacity = np.maximum(capacity, 1)
    domains = len(topology.open_domains)
    need = np.maximum(need, 1)
    whole = domains * (capacity // need)
    joined = domains // -(-need // capacity)
    found = np.where(need <= capacity, whole, joined)
    return np.where(possible, np.minimum(found, topology.max_used // np.maximum(sizes, 1)), 0)
