"""Bound, solve, prune over pairs of worker forms; see the package."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from planner.cost.served import ServeCase, Served, price_pools
from planner.cost.transfer import chip_bytes, path_seconds
from planner.domain.layout import Certificate
from planner.domain.outcome import Infeasible
from planner.errors import DisconnectedError
from planner.search.control import SearchControl, UnfinishedError
from planner.search.request import PlanRequest
from planner.search.serve.forms import Form, FormBest, FormTable
from planner.search.serve.infeasible import no_pair, one_pool
from planner.search.serve.pairs import PairTable
from planner.search.serve.place import place_pools, repeated
from planner.search.solve import Solved
from planner.search.validate import RELATIVE_TOLERANCE
from planner.topology.groups import cell_room

Forms = tuple[Form, Form]
UNIT_OF_THROUGHPUT = "chip-seconds per request"
UNIT_OF_RATE = "chips"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeRequest:
    """A question about two pools, complete and solver-free.

    Parameters
    ----------
    prefill, decode : PlanRequest
        Of one worker each, on a block of sound domains.
    case : ServeCase
        The machine that the pools share, and what is asked of them.
    workers : (int or None, int or None)
        Numbers of prefill and decode workers that are pinned.
    """

    prefill: PlanRequest
    decode: PlanRequest
    case: ServeCase
    workers: tuple[int | None, int | None] = (None, None)

    @property
    def unit(self) -> str:
        """Of the objective."""
        return UNIT_OF_THROUGHPUT if self.case.demand.rate_per_s is None else UNIT_OF_RATE


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeResult:
    """The best pools that were found, and what was proved."""

    best: Served
    certificate: Certificate


class _Stream:
    """Pairs in order of their bound, some of them known better than at first."""

    def __init__(self, bounds: NDArray[np.float64]) -> None:
        flat = bounds.ravel()
        order = np.argsort(flat, kind="stable")
        self._order = order[: np.count_nonzero(np.isfinite(flat))]
        self._bounds = np.append(flat[self._order], math.inf)
        self._next = 0
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._order)

    def least(self) -> float:
        """The least bound of all that are left."""
        ahead = float(self._bounds[self._next])
        return min(ahead, self._heap[0][0]) if self._heap else ahead

    def pop(self) -> int:
        """The pair with the least bound, by its place in the table."""
        if self._heap and self._heap[0][0] <= float(self._bounds[self._next]):
            return heapq.heappop(self._heap)[1]
        self._next += 1
        return int(self._order[self._next - 1])

    def push(self, bound: float, pair: int) -> None:
        """Put a pair back."""
        heapq.heappush(self._heap, (bound, pair))


class ServeSearch:
    """State of one search: forms, the incumbent, and what was proved of settled pairs."""

    def __init__(self, request: ServeRequest, control: SearchControl) -> None:
        self.request = request
        self.control = control
        case = request.case
        self.domains = cell_room(case.topology)
        self.prefill = FormTable.of(request.prefill, case.demand.new_tokens)
        self.decode = FormTable.of(request.decode, case.demand.decoded_tokens)
        self.pairs = PairTable(
            domains=tuple(map(len, self.domains)),
            most_chips=case.topology.max_used,
            num_chips=case.topology.num_chips,
            rate=case.demand.rate_per_s,
            workers=request.workers,
            prefill=self.prefill,
            decode=self.decode,
        )
        open_domains = [domain for domain in self.domains if domain]
        ends = ([open_domains[0][0]], [open_domains[-1][-1]]) if open_domains else ([0], [0])
        self._path = path_seconds(case.topology, *ends)
        self.best: Served | None = None
        self.best_value = math.inf
        self.settled = math.inf
        self.unplaced = 0

    def run(self) -> ServeResult | Infeasible:
        """Solve pairs in order of bound."""
        for name, table in (("prefill", self.prefill), ("decode", self.decode)):
            if not table.rate_bounds:
                return one_pool(name, table, self.request.case.topology)
        mine, theirs, bounds = self.pairs.bounds()
        stream = _Stream(bounds)
        self.control.begin(len(stream), stream.least())
        while not (self.control.enough(stream.least()) or self.control.stopped()):
            bound = stream.least()
            pair = stream.pop()
            row, column = divmod(pair, len(theirs))
            forms = (mine[row], theirs[column])
            try:
                fresh = self.control.attempt(partial(self._advance, forms, stream.least()))
            except UnfinishedError:
                stream.push(bound, pair)
                break
            if fresh is not None:
                stream.push(fresh, pair)
            self.control.report(stream.least())
        if self.best is None:
            return no_pair(self.pairs, self.request.case)
        return ServeResult(best=self.best, certificate=self._certificate(stream.least()))

    def _bound(self, forms: Forms) -> float | None:
        rates = (self.prefill.rate_bounds[forms[0]], self.decode.rate_bounds[forms[1]])
        found = self.pairs.counts(forms, rates)
        return None if found is None else found.value

    def _advance(self, forms: Forms, others: float) -> float | None:
        """Take a pair one step on; its bound while something is left to do.

        It is bounded, then its forms are solved, then it is placed.
        """
        fresh = self._bound(forms)
        if fresh is None or fresh > others:
            return fresh
        decoded = self._decode(forms)
        if decoded.solved is not None:
            prefilled = self._prefill(forms, decoded.solved)
            if prefilled.solved is not None:
                self._place(forms, (prefilled, decoded))
        tightened = self._bound(forms)
        if tightened is None or tightened > others:
            return tightened
        self.settled = min(self.settled, tightened)
        return None

    def _decode(self, forms: Forms) -> FormBest:
        """The best decode worker, if it is of use beside any prefill worker of the pair."""
        other = self.prefill.rate_bounds[forms[0]]
        needed = self.pairs.needed(forms, (None, other), self._target())
        return self.decode.best(forms[1], lambda _: None, needed)

    def _prefill(self, forms: Forms, decoded: Solved) -> FormBest:
        """The best prefill worker whose cache reaches a decode worker in time."""
        case = self.request.case
        tokens = float(case.demand.input_len)
        received = chip_bytes(case.decode, decoded.assignment, tokens)

        def limit_of(solved: Solved) -> float | None:
            if case.demand.ttft_s is None:
                return None
            sent = chip_bytes(case.decode, solved.assignment, tokens)
            return case.demand.ttft_s - self._path(max(sent, received))

        other = self.decode.rate_bounds[forms[1]]
        needed = self.pairs.needed(forms, (other, None), self._target())
        return self.prefill.best(forms[0], limit_of, needed, received)

    def _target(self) -> float:
        """Objective that would improve the incumbent by more than the gap."""
        return self.best_value * (1.0 - self.control.gap)

    def _place(self, forms: Forms, found: tuple[FormBest, FormBest]) -> None:
        """Put workers on chips and price them there."""
        counts = self.pairs.counts(forms, (found[0].rate, found[1].rate))
        if counts is None or counts.value >= self.best_value:
            return
        cells = place_pools(self.domains, forms, counts)
        if cells is None:
            self.unplaced += 1
            return
        first, second = (own.solved for own in found)
        assert first is not None and second is not None
        pools = (repeated(first.assignment, cells[0]), repeated(second.assignment, cells[1]))
        try:
            served = price_pools(self.request.case, *pools)
        except DisconnectedError:
            self.unplaced += 1
            return
        value = self._value(served)
        if value < self.best_value:
            self.best, self.best_value = served, value
            self.control.offer(value)

    def _value(self, served: Served) -> float:
        """Objective; infinite beyond a limit that wounds made the pools miss."""
        demand, together = self.request.case.demand, served.together
        loose = 1 + RELATIVE_TOLERANCE
        for limit, value in ((demand.ttft_s, together.ttft_s), (demand.tpot_s, together.tpot_s)):
            if limit is not None and value > limit * loose:
                return math.inf
        if demand.rate_per_s is None:
            return self.pairs.num_chips / together.requests_per_s
        enough = together.requests_per_s * loose >= demand.rate_per_s
        return float(together.chips_used) if enough else math.inf

    def _certificate(self, left: float) -> Certificate:
        tables = (self.prefill, self.decode)
        memory = sum(own.infeasible[0] for own in tables)
        late = sum(own.infeasible[1] for own in tables)
        enumerated = len(self.prefill.space) + len(self.decode.space)
        solved = self.prefill.num_solved + self.decode.num_solved
        bound = min(self.best_value, left, self.settled)
        space = {
            f"{name} {axis}": values
            for name, own in (("prefill", self.prefill), ("decode", self.decode))
            for axis, values in own.space.description().items()
        }
        return Certificate(
            objective=self.best_value,
            bound=bound,
            gap=(self.best_value - bound) / self.best_value,
            unit=self.request.unit,
            enumerated=enumerated,
            infeasible_memory=memory,
            infeasible_tpot=late,
            infeasible_placement=0,
            pruned=enumerated - memory - late - solved,
            solved=solved,
            dominated=0,
            stopped=self.control.why,
            space=space,
        )


def search_pools(request: ServeRequest, *, interruptible: bool = False) -> ServeResult | Infeasible:
    """Find the best pools and prove how good they are.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, when there is no layout yet.
    """
    plan = request.decode
    control = SearchControl(plan.gap, plan.time_limit_s, plan.progress)
    with control.listening(interruptible):
        return ServeSearch(request, control).run()
