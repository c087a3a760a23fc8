"""The greedy rule that serving engines ship, to compare with.

Written from the published description of DeepSeek's expert-parallel load balancer (EPLB,
https://github.com/deepseek-ai/EPLB, ``rebalance_experts``):

replicate   every expert gets one copy; each further slot goes to the expert with the most
            load per copy
pack        pieces in descending order, each on the least loaded chip that has a free slot
hierarchy   with domains: groups of experts are packed on domains (equally many on each),
            experts are replicated inside a domain, pieces packed on its chips

The rule may put two copies of an expert on one chip. Where the slots do not divide by the
chips the published code stops; here chips then have floor and ceil slots.
"""

from __future__ import annotations

import heapq

import numpy as np

from planner.search.expert_bounds import FloatArray, IntArray, fill_copies


def pack_greedily(sizes: FloatArray, caps: IntArray) -> IntArray:
    """Bin of each item: longest processing time first, ``caps[b]`` items in bin b at most.

    Returns
    -------
    int array, shape ``[num_items]``
    """
    free = caps.tolist()
    heap = [(0.0, place) for place, count in enumerate(free) if count]
    bins = np.zeros(len(sizes), dtype=np.int64)
    values = sizes.tolist()
    for item in np.argsort(-sizes, kind="stable").tolist():
        load, place = heap[0]
        bins[item] = place
        free[place] -= 1
        if free[place]:
            heapq.heapreplace(heap, (load + values[item], place))
        else:
            heapq.heappop(heap)
    return bins


def _pack_copies(loads: FloatArray, experts: IntArray, caps: IntArray) -> IntArray:
    """Slots of some chips for some experts, -1 beyond a chip's slots."""
    num_slots = int(caps.sum())
    # No limit of copies per expert: the rule does not look at chips when it replicates.
    copies = fill_copies(loads, num_slots, num_slots + 1)
    # First copies before further ones, as the rule numbers them: ties are broken by this.
    numbers = np.arange(len(loads))
    pieces = np.concatenate([numbers, np.repeat(numbers, copies - 1)])
    bins = pack_greedily(loads[pieces] / copies[pieces], caps)
    slots = np.full((len(caps), int(caps.max())), -1, dtype=np.int64)
    used = np.zeros(len(caps), dtype=np.int64)
    for piece, place in zip(pieces.tolist(), bins.tolist(), strict=True):
        slots[place, used[place]] = experts[piece]
        used[place] += 1
    return slots


def greedy_slots(loads_row: FloatArray, caps: IntArray) -> IntArray:
    """Place one layer by the global rule.

    Parameters
    ----------
    loads_row : array, shape ``[num_experts]``
    caps : int array, shape ``[num_chips]``

    Returns
    -------
    int array, shape ``[num_chips, c_max]``
        Expert of each slot, -1 for none; experts may repeat on a chip.
    """
    return _pack_copies(loads_row, np.arange(len(loads_row)), caps)


def greedy_slots_by_domain(
    loads_row: FloatArray, caps: IntArray, num_domains: int, num_groups: int
) -> IntArray:
    """Place one layer by the hierarchical rule.

    Parameters
    ----------
    loads_row : array, shape ``[num_experts]``
    caps : int array, shape ``[num_chips]``
        Domain d owns the d-th part of the chips.
    num_domains, num_groups : int
        ``num_domains`` divides ``num_groups`` and the chips, ``num_groups`` the experts;
        group i owns the i-th part of the experts.
    """
    size = len(loads_row) // num_groups
    group_loads = loads_row.reshape(num_groups, size).sum(axis=1)
    per_domain = np.full(num_domains, num_groups // num_domains)
    home = pack_greedily(group_loads, per_domain)
    own_caps = caps.reshape(num_domains, -1)
    slots = np.full((len(caps), int(caps.max())), -1, dtype=np.int64)
    chips = own_caps.shape[1]
    for domain in range(num_domains):
        groups = np.flatnonzero(home == domain)
        experts = (groups[:, None] * size + np.arange(size)).ravel()
        part = _pack_copies(loads_row[experts], experts, own_caps[domain])
        slots[domain * chips : (domain + 1) * chips, : part.shape[1]] = part
    return slots


def count_repeats(slots: IntArray) -> int:
    """Copies that share a chip with another copy of their expert."""
    ordered = np.sort(slots, axis=1)
    return int(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).sum())
