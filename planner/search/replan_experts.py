"""Expert copies of one layer, when some are in place already.

Sets        experts e, chips (expert groups) g with c_g slots
Data        w_e    share of the routed tokens of expert e
            h_ge   1 where chip g holds expert e already
Variables   x_ge   1 where chip g holds expert e; r_e = sum_g x_ge
Objective   two of them: least load of the hottest chip, where a copy carries w_e / r_e, and
            fewest copies that are not in place, sum_ge x_ge (1 - h_ge)

Constraints
    placed     r_e >= 1
    capacity   sum_e x_ge = c_g
    distinct   x_ge is 0 or 1
    apart      where failures are to be survived: copies of e in two places or more, as in
               ``expert_apart``

The answer is a list of placements, each hotter and with fewer new copies than the next. Three
starts lead to them:

residents  chips keep what they hold; lost experts take the place of second copies
counts     as many copies of every expert as are best for the new loads; copies that are too
           many leave the hottest chips, those that are missing go to the coldest
fresh      the best placement without regard to what is in place, its chips renumbered so that
           most copies are (an assignment problem)

The first two are improved by the local search of ``expert_moves``, whose every step is a
placement of the list. Balance is certified by ``expert_bounds``, the number of new copies is
not: it is what the search found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.search.assignment import best_assignment
from planner.search.expert_apart import ApartPacking, place_apart
from planner.search.expert_bounds import FloatArray, IntArray, fill_copies
from planner.search.expert_moves import Packing
from planner.search.experts import TOLERANCE, chip_loads, place_experts

BoolArray = NDArray[np.bool_]

_MOVES_PER_CHIP = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """One way to place a layer: ``new_copies`` are not in place, ``max_load`` is the hottest."""

    slots: IntArray
    new_copies: int
    max_load: float

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Experts of each chip, ascending."""
        return tuple(tuple(sorted(int(e) for e in row if e >= 0)) for row in self.slots)


def placements(
    row: FloatArray, caps: IntArray, held: BoolArray, place: IntArray | None = None
) -> tuple[Placement, ...]:
    """Placements of one layer, from fewest new copies to least load.

    Parameters
    ----------
    row : array, shape ``[experts]``
        Share of the routed tokens of each expert.
    caps : int array, shape ``[chips]``
        Slots of each chip; they hold all experts.
    held : bool array, shape ``[chips, experts]``
        What is in place.
    place : int array, shape ``[chips]``, optional
        Chips of one place may die together, and every expert must live on.

    Returns
    -------
    tuple of Placement
        At least one without ``place``; ``new_copies`` rise and ``max_load`` falls strictly.
    """
    own = np.ascontiguousarray(row, dtype=np.float64)
    places = None if place is None else tuple(place.tolist())
    return _placements(own.tobytes(), tuple(caps.tolist()), np.packbits(held).tobytes(), places)


@lru_cache(maxsize=256)
def _placements(
    row_bytes: bytes, sizes: tuple[int, ...], bits: bytes, places: tuple[int, ...] | None
) -> tuple[Placement, ...]:
    row, caps = np.frombuffer(row_bytes, dtype=np.float64), np.array(sizes, dtype=np.int64)
    shape = (len(caps), len(row))
    flat = np.unpackbits(np.frombuffer(bits, dtype=np.uint8))[: shape[0] * shape[1]]
    held = flat.reshape(shape).astype(np.bool_)
    (placed,) = place_experts(row[None], len(caps), caps)
    bound = min(placed.bound, float(placed.max_load))
    if places is not None:
        return tuple(_pareto(_apart(row, caps, held, np.array(places, dtype=np.int64), bound)))
    found = [_relabelled(placed.slots, caps, row, held)]
    for start in (_from_residents(row, caps, held), _from_counts(row, caps, held)):
        if start is not None:
            found += _improved(row, caps, held, start, bound)
    return tuple(_pareto(found))


def _apart(
    row: FloatArray, caps: IntArray, held: BoolArray, place: IntArray, bound: float
) -> list[Placement]:
    """Placements that keep every expert in two places: the fresh one, and from what is there."""
    found = []
    fresh = place_apart(row, caps, place, bound)
    if fresh is not None:
        slots = np.full((len(caps), int(caps.max())), -1, dtype=np.int64)
        for chip, own in enumerate(fresh):
            slots[chip, : len(own)] = own
        found.append(_finished(slots, row, held))
    start = _from_residents(row, caps, held, place)
    if start is not None:
        packing = ApartPacking(row, caps, place, start=start)
        found += _steps(packing, row, held, bound)
    return found


def _pareto(found: list[Placement]) -> Iterator[Placement]:
    """Those that no other has both fewer new copies and less load than."""
    kept: list[Placement] = []
    best = np.inf
    for one in sorted(found, key=lambda p: (p.new_copies, p.max_load)):
        if one.max_load < best * (1 - 1e-12):
            kept.append(one)
            best = one.max_load
    yield from kept


def _finished(slots: IntArray, row: FloatArray, held: BoolArray) -> Placement:
    """Count a packing whose empty slots hold ``len(row)``."""
    clean = np.where(slots == len(row), -1, slots)
    placed = _table(clean, held.shape)
    return Placement(
        slots=clean,
        new_copies=int((placed & ~held).sum()),
        max_load=float(chip_loads(clean, row).max()),
    )


def _table(slots: IntArray, shape: tuple[int, ...]) -> BoolArray:
    placed = np.zeros((shape[0], shape[1] + 1), dtype=np.bool_)
    placed[np.arange(len(slots))[:, None], slots] = True
    return placed[:, :-1]


def _improved(
    row: FloatArray, caps: IntArray, held: BoolArray, start: IntArray, bound: float
) -> Iterator[Placement]:
    """The start, and the placement after every step of the local search."""
    yield from _steps(Packing(row, caps, start), row, held, bound)


def _steps(packing: Packing, row: FloatArray, held: BoolArray, bound: float) -> Iterator[Placement]:
    for _ in range(_MOVES_PER_CHIP * len(packing.caps)):
        yield _finished(packing.slots, row, held)
        before = packing.slots.copy()
        packing.improve(bound * (1 + TOLERANCE), 1)
        if np.array_equal(before, packing.slots):
            return


class _Draft:
    """Slots under construction: who holds what, and how full and hot every chip is."""

    def __init__(self, row: FloatArray, caps: IntArray, held: BoolArray) -> None:
        self.row, self.caps = row, caps
        self.has = held.copy()

    @property
    def copies(self) -> IntArray:
        found: IntArray = self.has.sum(axis=0)
        return found

    @property
    def free(self) -> IntArray:
        found: IntArray = self.caps - self.has.sum(axis=1)
        return found

    def load(self) -> FloatArray:
        """Load of every chip; experts without a copy count nowhere."""
        found: FloatArray = self.has @ (self.row / np.maximum(self.copies, 1))
        return found

    def trim(self) -> None:
        """Chips that hold more than they may give up second copies first, then light experts."""
        for chip in np.flatnonzero(self.free < 0).tolist():
            while self.free[chip] < 0:
                mine = np.flatnonzero(self.has[chip])
                single = self.copies[mine] == 1
                piece = self.row[mine] / self.copies[mine]
                self.has[chip, mine[np.lexsort((piece, single))[0]]] = False

    def coldest(self, expert: int) -> int | None:
        """The coldest chip with a free slot that does not hold the expert."""
        chips = np.flatnonzero((self.free > 0) & ~self.has[:, expert])
        return int(chips[self.load()[chips].argmin()]) if len(chips) else None

    def give(self, expert: int) -> bool:
        """One more copy, in a free slot or instead of the lightest second copy."""
        chip = self.coldest(expert)
        if chip is None:
            copies = self.copies
            piece = self.row / np.maximum(copies, 1)
            spare = self.has & (copies > 1)[None, :] & ~self.has[:, expert][:, None]
            if not spare.any():
                return False
            # What the chip would carry, and what the other copies of the donor take over.
            rise = self.load()[:, None] - piece[None, :]
            rise = np.where(spare, rise, np.inf)
            chip, donor = (int(k) for k in np.unravel_index(int(rise.argmin()), rise.shape))
            self.has[chip, donor] = False
        self.has[chip, expert] = True
        return True

    def spread(self, place: IntArray) -> bool:
        """Second copies in another place, instead of copies that are not needed there."""
        num_places = int(place.max()) + 1
        at = np.arange(num_places)[:, None] == place[None, :]
        while True:
            # Copies of every expert in every place.
            counts = at.astype(np.int64) @ self.has.astype(np.int64)
            spread = (counts > 0).sum(axis=0)
            alone = np.flatnonzero(spread < 2)
            if not len(alone):
                return True
            expert = int(alone[np.argsort(-self.row[alone], kind="stable")[0]])
            other = ~self.has[:, expert] & (counts[place, expert] == 0)
            load = self.load()
            chips = np.flatnonzero(other & (self.free > 0))
            if len(chips):
                self.has[chips[load[chips].argmin()], expert] = True
                continue
            stays = spread[None, :] - (counts[place] == 1) >= 2
            spare = self.has & stays & other[:, None]
            if not spare.any():
                return False
            piece = self.row / np.maximum(self.copies, 1)
            heat = np.where(spare, load[:, None] - piece[None, :], np.inf)
            chip, donor = (int(k) for k in np.unravel_index(int(heat.argmin()), heat.shape))
            self.has[chip, donor] = False
            self.has[chip, expert] = True

    def fill(self) -> bool:
        """Copies of the heaviest pieces into the slots that are left."""
        while (self.free > 0).any():
            piece = self.row / np.maximum(self.copies, 1)
            for expert in np.argsort(-piece, kind="stable").tolist():
                chip = self.coldest(expert)
                if chip is not None:
                    self.has[chip, expert] = True
                    break
            else:
                return False
        return True

    def slots(self) -> IntArray:
        """As a packing: ``len(row)`` where a slot does not exist."""
        table = np.full((len(self.caps), int(self.caps.max())), len(self.row), dtype=np.int64)
        for chip, own in enumerate(self.has):
            experts = np.flatnonzero(own)
            table[chip, : len(experts)] = experts
        return table


def _from_residents(
    row: FloatArray, caps: IntArray, held: BoolArray, place: IntArray | None = None
) -> IntArray | None:
    """Chips keep what they hold; None where lost experts find no place."""
    draft = _Draft(row, caps, held)
    draft.trim()
    if place is not None:
        return draft.slots() if draft.spread(place) and draft.fill() else None
    missing = np.flatnonzero(draft.copies == 0)
    for expert in missing[np.argsort(-row[missing], kind="stable")].tolist():
        if not draft.give(expert):
            return None
    return draft.slots() if draft.fill() else None


def _from_counts(row: FloatArray, caps: IntArray, held: BoolArray) -> IntArray | None:
    """As many copies as are best for the loads; None where they find no place."""
    wanted = fill_copies(row, int(caps.sum()), len(caps))
    draft = _Draft(row, caps, held)
    for expert in np.flatnonzero(draft.copies > wanted).tolist():
        while draft.copies[expert] > wanted[expert]:
            chips = np.flatnonzero(draft.has[:, expert])
            over = draft.free[chips] >= 0
            heat = draft.load()[chips]
            draft.has[chips[np.lexsort((-heat, over))[0]], expert] = False
    draft.trim()
    short = np.flatnonzero(draft.copies < wanted)
    for expert in short[np.argsort(-(row / wanted)[short], kind="stable")].tolist():
        while draft.copies[expert] < wanted[expert]:
            if not draft.give(expert):
                return None
    return draft.slots() if draft.fill() else None


def _relabelled(slots: IntArray, caps: IntArray, row: FloatArray, held: BoolArray) -> Placement:
    """The fresh placement on the chips where most of it is in place."""
    placed = _table(slots, held.shape)
    kept = placed.astype(np.int64) @ held.T.astype(np.int64)
    allowed = caps[:, None] == caps[None, :]
    target = best_assignment(kept, allowed)
    found = np.full_like(slots, -1)
    found[target] = slots
    return _finished(found, row, held)
