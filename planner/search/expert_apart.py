"""Placement whose experts survive: each has copies in two places that do not die together.

As ``expert_moves``, with a place (tray, node) of every chip, and one more constraint:

    apart      the copies of an expert lie in two places or more

so that every expert has two copies at least. The bounds of ``expert_bounds`` hold as they are:
the constraint only removes placements.

Copies are dealt in descending order of load, each to the coldest chip that may take it, the
second copy of an expert to another place than the first. The local search swaps copies where
both experts stay in two places, and splits the copies of two chips of one place anew. Numbers
of copies stay as they are.
"""

from __future__ import annotations

import heapq
from functools import lru_cache

import numpy as np

from planner.search.expert_bounds import FloatArray, IntArray
from planner.search.expert_moves import BoolArray, Packing
from planner.search.experts import TOLERANCE

_MOVES_PER_CHIP = 40


def two_copies(loads_row: FloatArray, num_slots: int, num_chips: int) -> IntArray | None:
    """Two copies of every expert, then the next one where copies are heaviest.

    None where they do not fit.
    """
    experts = len(loads_row)
    if num_slots < 2 * experts or num_chips < 2:
        return None
    copies = np.full(experts, 2, dtype=np.int64)
    heap = [(-float(load) / 2, expert) for expert, load in enumerate(loads_row)]
    heapq.heapify(heap)
    for _ in range(num_slots - 2 * experts):
        if not heap:
            break
        _, expert = heapq.heappop(heap)
        copies[expert] += 1
        if copies[expert] < num_chips:
            heapq.heappush(heap, (-float(loads_row[expert]) / int(copies[expert]), expert))
    return copies


class ApartPacking(Packing):
    """A packing that keeps every expert in two places.

    Attributes
    ----------
    place : int array, shape ``[num_chips]``
        Place of each chip, from 0.
    failed : bool
        Whether no start was found: then nothing else is right.
    """

    def __init__(
        self,
        loads_row: FloatArray,
        caps: IntArray,
        place: IntArray,
        copies: IntArray | None = None,
        start: IntArray | None = None,
    ) -> None:
        self.place = place
        self.num_places = int(place.max()) + 1
        self.failed = False
        super().__init__(loads_row, caps, start, copies)

    def _pack(self, wanted: IntArray) -> None:
        """First the two copies that must lie apart, most constrained places first."""
        piece = self.loads / wanted
        used = np.zeros(len(self.caps), dtype=np.int64)
        load = np.zeros(len(self.caps))
        order = np.lexsort((np.arange(len(piece)), -piece)).tolist()

        def put(expert: int, allowed: BoolArray) -> bool:
            chips = np.flatnonzero((used < self.caps) & ~self.holds[expert] & allowed)
            if not len(chips):
                return False
            chip = int(chips[load[chips].argmin()])
            self.slots[chip, used[chip]] = expert
            self.holds[expert, chip] = True
            load[chip] += piece[expert]
            used[chip] += 1
            return True

        anywhere = np.ones(len(self.caps), dtype=np.bool_)
        for expert in order:
            # The place with most free slots first: no place may be left with more than others.
            free = np.bincount(self.place, weights=self.caps - used, minlength=self.num_places)
            first = np.argsort(-free, kind="stable")[:2]
            for place in first.tolist():
                if not put(expert, self.place == place):
                    self.failed = True
                    return
        for expert in order:
            for _ in range(int(wanted[expert]) - 2):
                if not put(expert, anywhere):
                    self.failed = True
                    return
        self.copies = self.holds[: self.empty].sum(axis=1)
        self._reload()

    def _forbidden(self, hot: int) -> BoolArray:
        """Swaps after which an expert lies in one place alone, shape of :meth:`swap`."""
        counts = np.zeros((self.empty + 1, self.num_places), dtype=np.int64)
        for place in range(self.num_places):
            counts[:, place] = self.holds[:, self.place == place].sum(axis=1)
        spread = (counts > 0).sum(axis=1)
        here = int(self.place[hot])
        outside = self.place != here
        # One place is lost where the copy was the only one there, one is won where there is none.
        own = self.slots[hot]
        mine = spread[own] - (counts[own, here] == 1)
        after = mine[:, None] + (counts[own][:, self.place] == 0)
        leaves = (after < 2) & outside & (own != self.empty)[:, None]
        theirs = self.slots
        there = np.broadcast_to(self.place[:, None], theirs.shape)
        back = spread[theirs] - (counts[theirs, there] == 1) + (counts[theirs, here] == 0)
        enters = (back < 2) & outside[:, None] & (theirs != self.empty)
        forbidden: BoolArray = leaves[:, :, None] | enters[None]
        return forbidden

    def _partners(self, hot: int) -> BoolArray:
        """Chips whose copies may be split anew with those of ``hot``."""
        own: BoolArray = self.place == self.place[hot]
        return own

    def replicate(self, hot: int) -> bool:
        """Numbers of copies stay as they are."""
        return False


def place_apart(
    loads_row: FloatArray, caps: IntArray, place: IntArray, bound: float
) -> tuple[tuple[int, ...], ...] | None:
    """Experts of each chip, each in two places; None where no such placement was found.

    Parameters
    ----------
    loads_row : array, shape ``[experts]``
    caps : int array, shape ``[chips]``
        Slots of each chip.
    place : int array, shape ``[chips]``
        Chips of one place die together.
    bound : float
        Load of the hottest chip at which the search ends.
    """
    row = np.ascontiguousarray(loads_row, dtype=np.float64)
    return _place_apart(row.tobytes(), tuple(caps.tolist()), tuple(place.tolist()), bound)


@lru_cache(maxsize=512)
def _place_apart(
    row_bytes: bytes, sizes: tuple[int, ...], places: tuple[int, ...], bound: float
) -> tuple[tuple[int, ...], ...] | None:
    row, caps = np.frombuffer(row_bytes, dtype=np.float64), np.array(sizes, dtype=np.int64)
    place = np.array(places, dtype=np.int64)
    copies = two_copies(row, int(caps.sum()), len(caps))
    if copies is None or len(set(places)) < 2:
        return None
    packing = ApartPacking(row, caps, place, copies)
    if packing.failed:
        return None
    packing.improve(bound * (1 + TOLERANCE), _MOVES_PER_CHIP * len(caps))
    return tuple(
        tuple(sorted(int(e) for e in own if e < len(row))) for own in packing.slots.tolist()
    )
