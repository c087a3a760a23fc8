"""Closes what packing and closed-form bounds leave open, one layer at a time.

Between a proven bound and a known placement a load T is tried again and again: either the
prices of ``expert_prices`` refute it, and the bound rises; or they propose numbers of copies,
from which packing and local search make a placement, and the incumbent falls. A T for which
neither works is given up, and the search goes on above it; at the end what was given up is
tried once more with more effort on the proof alone. Trials are counted, not timed: the same
input gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from planner.search.expert_bounds import SLACK, FloatArray, IntArray
from planner.search.expert_copies import search_copies
from planner.search.expert_greedy import greedy_slots
from planner.search.expert_moves import Packing
from planner.search.expert_price_program import PriceAnswer, solve_prices
from planner.search.expert_prices import PriceCertificate, PriceTable, price_table

_TRIALS = 10
_PROOFS = 6
_SEARCH_ROUNDS = 3
_PROOF_ROUNDS = 20
_MOVES_PER_CHIP = 40
_BREAKOUT_MOVES = 200
_FRUITLESS = 3
_ATTEMPTS = 4
_CHANGES = 8
_MORE_MOVES = 600
_NARROW = 0.4
_NARROWER = 0.1
_NEARLY = 1.5
_LITTLE = 1e-3
_LEAST_GAP = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Refined:
    """A placement and a bound.

    Attributes
    ----------
    slots : int array, shape ``[num_chips, c_max]``
        Expert of each slot, ``num_experts`` when empty.
    reached, bound : float
        Load of the hottest chip, and what no placement with even splits gets below.
    certificate : PriceCertificate or None
        Why, where prices gave the bound.
    """

    slots: IntArray
    reached: float
    bound: float
    certificate: PriceCertificate | None = None


def never() -> bool:
    """No time limit."""
    return False


def refine_row(
    loads_row: FloatArray,
    caps: IntArray,
    start: Refined,
    gap: float,
    expired: Callable[[], bool] = never,
) -> Refined:
    """Improve placement and bound until they are within ``gap``.

    Parameters
    ----------
    loads_row : array, shape ``[num_experts]``
        Loads in descending order.
    caps : int array, shape ``[num_chips]``
        Slots in descending order.
    start : Refined
        What is known.
    gap : float
        ``(reached - bound) / reached`` that is good enough.
    expired : callable
        Whether to stop early with what there is.
    """
    state = _Search(loads_row, caps, start, gap)
    if not state.closed:
        state.start_again()
    state.search(expired)
    if state.nearly_closed:
        state.look_closer()
        state.search(expired)
    return replace(state.best, bound=min(state.best.bound, state.best.reached))


class _Search:
    """Bound, incumbent and the loads that were given up on."""

    def __init__(self, row: FloatArray, caps: IntArray, start: Refined, gap: float) -> None:
        self.row = row
        self.caps = caps
        # Loads closer than this cannot be told apart in floating point.
        self.gap = max(gap, _LEAST_GAP)
        self.best = start
        self.given_up = start.bound
        self.unproven = start.reached
        self.margin = _NARROW
        self.moves = _BREAKOUT_MOVES

    def search(self, expired: Callable[[], bool]) -> None:
        """Move incumbent and bound together, then the bound alone."""
        fruitless = 0
        for _ in range(_TRIALS):
            if self.closed or self.narrow or fruitless > _FRUITLESS or expired():
                break
            fruitless = 0 if self.try_between() else fruitless + 1
        for _ in range(_PROOFS):
            if self.closed or expired() or not self.prove():
                break

    def look_closer(self) -> None:
        """Forget what was given up on, and try harder."""
        self.given_up = self.best.bound
        self.unproven = self.best.reached
        self.margin = _NARROWER
        self.moves = _MORE_MOVES

    @property
    def nearly_closed(self) -> bool:
        """Whether the gap is too large, but not by much."""
        enough = _NEARLY * self.gap * self.best.reached
        return not self.closed and self.best.reached - self.best.bound <= enough

    @property
    def closed(self) -> bool:
        """Whether the gap is small enough."""
        return self.best.reached - self.best.bound <= self.gap * self.best.reached

    @property
    def narrow(self) -> bool:
        """Whether too little is left between what was given up on and the incumbent."""
        return self.best.reached - self.given_up <= self.margin * self.gap * self.best.reached

    def start_again(self) -> None:
        """Begin with the other order of chips, and with the greedy rule."""
        target = self.best.bound * (1 + _NARROW * self.gap)
        if self.caps[0] > self.caps[-1]:
            self._pack(None, target)
        slots = greedy_slots(self.row, self.caps)
        empty = len(self.row)
        slots = np.sort(np.where(slots < 0, empty, slots), axis=1)
        # A repeat on a chip is a wasted slot: leave it empty.
        slots[:, 1:][slots[:, 1:] == slots[:, :-1]] = empty
        self._improve(Packing(self.row, self.caps, slots), target)

    def try_between(self) -> bool:
        """Refute a load between the last one given up on and the incumbent, or reach it.

        Returns
        -------
        bool
            Whether bound or incumbent moved.
        """
        limit, reached = float(np.sqrt(self.given_up * self.best.reached)), self.best.reached
        answer = self._answer(limit, _SEARCH_ROUNDS)
        if answer is None or not self._reach(limit, *answer):
            self.given_up = limit
        return answer is None or self.best.reached < reached

    def prove(self) -> bool:
        """Refute the load that closes the gap, or one nearer to the bound; False to stop."""
        # A little above what closes the gap, so that rounding does not leave it open.
        wanted = self.best.reached * (1 - self.gap * (1 - _LITTLE))
        limit = wanted if self.unproven > wanted else (self.best.bound + self.unproven) / 2
        if self._answer(limit, _PROOF_ROUNDS) is not None:
            self.unproven = limit
        return self.unproven - self.best.bound > self.gap / 4 * self.best.bound

    def _answer(self, limit: float, rounds: int) -> tuple[PriceTable, PriceAnswer] | None:
        """Prices of ``limit``; None when they refute it (the bound has risen)."""
        table = price_table(self.row, self.caps, limit)
        if table is None:
            return None
        answer = solve_prices(table, limit, rounds)
        if answer.certificate is None:
            return table, answer
        self.best = replace(self.best, bound=limit, certificate=answer.certificate)
        return None

    def _reach(self, limit: float, table: PriceTable, answer: PriceAnswer) -> bool:
        """Whether copies that satisfy the prices can be packed to ``limit``."""
        for start in (answer.chosen, self._known(table)):
            copies = search_copies(table, start, answer.rows, self.moves)
            # Copies that satisfy the prices may still not fit, two of one expert on a chip
            # for example: others may.
            for attempt in range(_ATTEMPTS):
                if copies is None:
                    break
                if self._pack(copies, limit):
                    return True
                other = _perturbed(table, start, attempt)
                copies = search_copies(table, other, answer.rows, self.moves)
        return False

    def _pack(self, copies: IntArray | None, limit: float) -> bool:
        """Pack the copies and keep a better placement; whether ``limit`` was reached.

        Where chips differ in size the heaviest pieces go to the large or to the small ones.
        """
        if self._improve(Packing(self.row, self.caps, copies=copies), limit):
            return True
        if self.caps[0] == self.caps[-1]:
            return False
        small_first = Packing(self.row, self.caps[::-1].copy(), copies=copies)
        return self._improve(small_first, limit, turned=True)

    def _improve(self, packing: Packing, limit: float, *, turned: bool = False) -> bool:
        """Local search; whether ``limit`` was reached."""
        packing.improve(limit, _MOVES_PER_CHIP * len(self.caps))
        reached = float(packing.chip_load.max())
        if reached < self.best.reached:
            slots = packing.slots[::-1] if turned else packing.slots
            self.best = replace(self.best, slots=slots, reached=reached)
        return reached <= limit * (1 + SLACK)

    def _known(self, table: PriceTable) -> IntArray:
        """Columns of the incumbent's copies, or the nearest ones of the table."""
        slots = self.best.slots
        copies = np.bincount(slots[slots < len(self.row)], minlength=len(self.row))
        last = np.append(table.first[1:], len(table.expert)) - 1
        columns: IntArray = np.clip(table.first + copies - table.fewest, table.first, last)
        return columns


def _perturbed(table: PriceTable, start: IntArray, seed: int) -> IntArray:
    """Some experts of ``start`` with another number of copies, the same for equal seeds."""
    random = np.random.default_rng(seed)
    chosen = start.copy()
    changed = random.choice(len(chosen), min(_CHANGES, len(chosen)), replace=False)
    width = np.diff(np.append(table.first, len(table.expert)))
    chosen[changed] = table.first[changed] + random.integers(0, width[changed])
    return chosen
