"""Placement of expert copies by packing and local search.

Sets        experts e, chips g with c_g slots (i-th slot of chip g: (g, i))
Data        w_e share of the routed tokens of expert e
Variables   slot (g, i) holds a copy of one expert or is empty; r_e = copies of e
Objective   least load of the hottest chip, where a copy of e carries w_e / r_e

Constraints
    placed     r_e >= 1
    distinct   at most one copy of an expert on a chip
    capacity   chip g holds at most c_g copies

The start is a given placement or longest-processing-time packing of the copies; then the
hottest chip is relieved by the first of three moves that lowers it without making another
chip as hot:

swap         one of its copies against any slot of any chip
repartition  its copies and those of a chip of the same size, split anew in all ways
             (two against two when chips have more than six slots)
replicate    one of its experts gets another copy, in an empty slot or in the slot of an
             expert that keeps at least one

Every move lowers the hottest chip and raises the others only below what it had, so the
loads sorted in descending order fall lexicographically and the search ends. Ties go to the
lowest index.
"""

from __future__ import annotations

import heapq
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from planner.search.expert_bounds import FloatArray, IntArray, fill_copies

BoolArray = NDArray[np.bool_]

_IMPROVES = 1e-9
_MAX_REPARTITION_SLOTS = 6
_MAX_PAIR_TABLE = 300_000


class Packing:
    """A placement under construction; experts and chips are indices, empty is ``E``.

    Attributes
    ----------
    slots : int array, shape ``[G, c_max]``
        Expert in each slot, ``num_experts`` when empty.
    pieces : array, shape ``[G, c_max]``
        Load of each slot.
    chip_load : array, shape ``[G]``
    copies : int array, shape ``[num_experts]``
    """

    def __init__(
        self,
        loads_row: FloatArray,
        caps: IntArray,
        start: IntArray | None = None,
        copies: IntArray | None = None,
    ) -> None:
        num_experts, num_chips = len(loads_row), len(caps)
        self.loads = loads_row
        self.caps = caps
        widest = int(caps.max())
        self.exists = np.arange(widest)[None, :] < caps[:, None]
        self.slots = np.full((num_chips, widest), num_experts, dtype=np.int64)
        self.pieces = np.zeros((num_chips, widest))
        self.chip_load = np.zeros(num_chips)
        # The extra row stands for "empty" and is never on any chip.
        self.holds = np.zeros((num_experts + 1, num_chips), dtype=bool)
        self.copies = np.ones(num_experts, dtype=np.int64)
        self._step = _IMPROVES * max(float(loads_row.sum()) / num_chips, 0.0)
        if start is None:
            if copies is None:
                copies = fill_copies(loads_row, int(caps.sum()), num_chips)
            self._pack(copies)
        else:
            self._adopt(start)

    @property
    def empty(self) -> int:
        """Number that marks an empty slot."""
        return len(self.loads)

    def _pack(self, wanted: IntArray) -> None:
        """Put the heaviest copies first, each on the coldest chip that may take it.

        A copy that finds only chips which hold its expert is left out: its slot stays
        empty. The first copy of an expert always finds a slot because slots >= copies.
        """
        free = self.caps.tolist()
        heap = [(0.0, chip) for chip, count in enumerate(free) if count]
        members: list[list[int]] = [[] for _ in free]
        piece = self.loads / wanted
        for expert in np.lexsort((np.arange(len(piece)), -piece)).tolist():
            size = float(piece[expert])
            taken: list[tuple[float, int]] = []
            while heap and len(taken) < wanted[expert]:
                taken.append(heapq.heappop(heap))
            for load, chip in taken:
                members[chip].append(expert)
                free[chip] -= 1
                if free[chip]:
                    heapq.heappush(heap, (load + size, chip))
            self.copies[expert] = len(taken)
        for chip, held in enumerate(members):
            self.slots[chip, : len(held)] = held
            self.holds[held, chip] = True
        self._reload()

    def _adopt(self, start: IntArray) -> None:
        """Begin with the slots of another placement for the same chips and experts."""
        self.slots = start.copy()
        chips = np.repeat(np.arange(len(start)), start.shape[1]).reshape(start.shape)
        self.holds[start, chips] = True
        self.holds[self.empty] = False
        self.copies = self.holds[: self.empty].sum(axis=1)
        self._reload()

    def _reload(self) -> None:
        """Recompute pieces and loads from slots and copies (no drift by differences)."""
        per_copy = np.append(self.loads / self.copies, 0.0)
        self.pieces = per_copy[self.slots]
        self.chip_load = self.pieces.sum(axis=1)

    def _set_chip(self, chip: int, experts: IntArray) -> None:
        """Replace what ``chip`` holds; copies of the experts do not change."""
        self.holds[self.slots[chip], chip] = False
        self.slots[chip] = experts
        self.holds[experts, chip] = True
        self.holds[self.empty, chip] = False
        per_copy = np.append(self.loads / self.copies, 0.0)
        self.pieces[chip] = per_copy[experts]
        self.chip_load[chip] = self.pieces[chip].sum()

    def improve(self, target: float, max_moves: int) -> None:
        """Relieve the hottest chip until its load is at most ``target`` or no move helps."""
        for _ in range(max_moves):
            hottest = int(self.chip_load.argmax())
            if self.chip_load[hottest] <= target:
                return
            moved = self.swap(hottest) or self.repartition(hottest) or self.replicate(hottest)
            if not moved:
                return

    def _forbidden(self, hot: int) -> BoolArray | None:
        """Swaps that further constraints exclude, shape ``[c_max, G, c_max]``."""
        return None

    def _partners(self, hot: int) -> BoolArray | None:
        """Chips that further constraints let trade several copies with ``hot``."""
        return None

    def swap(self, hot: int) -> bool:
        """Exchange one copy of ``hot`` with one slot of another chip, if that helps."""
        own = self.slots[hot]
        moved = self.pieces[hot][:, None, None] - self.pieces[None]
        blocked = self.holds[own][:, :, None] | (self.holds[:, hot][self.slots] | ~self.exists)
        forbidden = self._forbidden(hot)
        if forbidden is not None:
            blocked |= forbidden
        worst = np.maximum(self.chip_load[hot] - moved, self.chip_load[None, :, None] + moved)
        worst[blocked] = np.inf
        best = int(worst.argmin())
        if not worst.flat[best] < self.chip_load[hot] - self._step:
            return False
        mine, chip, theirs = np.unravel_index(best, worst.shape)
        given, received = own.copy(), self.slots[chip].copy()
        given[mine], received[theirs] = received[theirs], given[mine]
        self._set_chip(hot, given)
        self._set_chip(int(chip), received)
        return True

    def repartition(self, hot: int) -> bool:
        """Split the copies of ``hot`` and of another chip of its size anew, if that helps."""
        size = int(self.caps[hot])
        if size > _MAX_REPARTITION_SLOTS:
            return self._swap_pairs(hot)
        if size < 2:
            return False
        halves = _halves(size)
        # Chips that share an expert with ``hot`` could end with both copies on one chip.
        usable = (self.caps == size) & ~self.holds[self.slots[hot]].any(axis=0)
        partners = self._partners(hot)
        if partners is not None:
            usable &= partners
        usable[hot] = False
        chips = np.flatnonzero(usable)
        if not len(chips):
            return False
        own = np.broadcast_to(self.pieces[hot, :size], (len(chips), size))
        pool = np.concatenate([own, self.pieces[chips, :size]], axis=1)
        first = pool @ halves.T
        worst = np.maximum(first, pool.sum(axis=1)[:, None] - first)
        best = int(worst.argmin())
        if not worst.flat[best] < self.chip_load[hot] - self._step:
            return False
        position, half = np.unravel_index(best, worst.shape)
        chip = int(chips[position])
        experts = np.concatenate([self.slots[hot, :size], self.slots[chip, :size]])
        chosen = halves[half] > 0
        for target, held in ((hot, experts[chosen]), (chip, experts[~chosen])):
            row = np.full(self.slots.shape[1], self.empty, dtype=np.int64)
            row[:size] = held
            self._set_chip(target, row)
        return True

    def _swap_pairs(self, hot: int) -> bool:
        """Exchange two copies of ``hot`` with two slots of another chip, if that helps."""
        own_pairs = _pairs(int(self.caps[hot]))
        widest = _pairs(self.slots.shape[1])
        chunk = max(1, _MAX_PAIR_TABLE // (len(own_pairs) * len(widest)))
        chips = np.argsort(self.chip_load, kind="stable")
        chips = chips[chips != hot]
        partners = self._partners(hot)
        if partners is not None:
            chips = chips[partners[chips]]
        given = self.pieces[hot][own_pairs].sum(axis=1)
        leaving = self.holds[self.slots[hot][own_pairs]].any(axis=1)
        stays = self.holds[:, hot]
        for start in range(0, len(chips), chunk):
            part = chips[start : start + chunk]
            theirs = self.slots[part][:, widest]
            refused = stays[theirs].any(axis=2) | ~self.exists[part][:, widest].all(axis=2)
            received = self.pieces[part][:, widest].sum(axis=2)
            moved = given[:, None, None] - received[None]
            worst = np.maximum(
                self.chip_load[hot] - moved, self.chip_load[part][None, :, None] + moved
            )
            worst[leaving[:, part][:, :, None] | refused[None]] = np.inf
            best = int(worst.argmin())
            if worst.flat[best] < self.chip_load[hot] - self._step:
                mine, position, pair = np.unravel_index(best, worst.shape)
                self._exchange(hot, int(part[position]), own_pairs[mine], widest[pair])
                return True
        return False

    def _exchange(self, hot: int, chip: int, mine: IntArray, theirs: IntArray) -> None:
        given, received = self.slots[hot].copy(), self.slots[chip].copy()
        given[mine], received[theirs] = received[theirs], given[mine]
        self._set_chip(hot, given)
        self._set_chip(chip, received)

    def replicate(self, hot: int) -> bool:
        """Give an expert of ``hot`` one more copy, in a slot that can be spared."""
        safe_copies = np.append(self.copies, 2)
        spare = self.exists & (safe_copies[self.slots] >= 2)
        spare[hot] = False
        rows, columns = np.nonzero(spare)
        found: tuple[float, int, int, int] | None = None
        for expert in self.slots[hot].tolist():
            if expert == self.empty:
                continue
            allowed = ~self.holds[expert, rows]
            chips, places = rows[allowed], columns[allowed]
            if not len(chips):
                continue
            worst = self._after_replication(expert, chips, self.slots[chips, places])
            best = int(worst.argmin())
            if found is None or worst[best] < found[0]:
                found = (float(worst[best]), expert, int(chips[best]), int(places[best]))
        if found is None or not found[0] < self.chip_load[hot] - self._step:
            return False
        _, expert, chip, place = found
        self._replace_copy(chip, place, expert)
        return True

    def _replace_copy(self, chip: int, place: int, expert: int) -> None:
        donor = int(self.slots[chip, place])
        if donor != self.empty:
            self.copies[donor] -= 1
            self.holds[donor, chip] = False
        self.slots[chip, place] = expert
        self.copies[expert] += 1
        self.holds[expert, chip] = True
        self._reload()

    def _after_replication(self, expert: int, chips: IntArray, donors: IntArray) -> FloatArray:
        """Hottest of the chips that change when ``expert`` takes a slot, per candidate."""
        load, copies = self.loads[expert], self.copies[expert]
        share = load / (copies + 1)
        donor_load = np.append(self.loads, 0.0)[donors]
        donor_copies = np.append(self.copies, 2)[donors]
        grown = donor_load / (donor_copies - 1)
        rise = grown - donor_load / donor_copies
        on_expert, on_donor = self.holds[expert], self.holds[donors]
        after = self.chip_load + on_expert * (share - load / copies) + on_donor * rise[:, None]
        after[np.arange(len(chips)), chips] += share - grown
        changed = on_expert | on_donor
        changed[np.arange(len(chips)), chips] = True
        worst: FloatArray = np.where(changed, after, 0.0).max(axis=1)
        return worst


@lru_cache(maxsize=16)
def _halves(size: int) -> FloatArray:
    """All ways to keep ``size`` of ``2 size`` items, the first one kept: 0/1 rows."""
    rows = list(combinations(range(1, 2 * size), size - 1))
    halves = np.zeros((len(rows), 2 * size))
    halves[:, 0] = 1.0
    for row, chosen in enumerate(rows):
        halves[row, list(chosen)] = 1.0
    return halves


@lru_cache(maxsize=64)
def _pairs(size: int) -> IntArray:
    """Index pairs ``i < j`` of ``size`` items, shape ``[size (size - 1) / 2, 2]``."""
    return np.stack(np.triu_indices(size, 1), axis=1)
