"""Compares strategies with a certified layout, by floors alone.

With ``F(g)`` the floor of a step when every group decodes ``g`` sequences, and ``a F(g) / g``
that of the objective:

    the objective of any batch up to g' is at least  a F(g) / g'  for g <= g', since F grows;
    so nothing up to  g' = a F(g) / objective  beats the layout; go on from there, until the
    limits of memory or time are passed or the argument no longer moves

A strategy that is left is worth ``a F(g) / g`` at its largest batch ``g`` within the limits:
a step grows no faster than its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from planner.cost.evaluate import Microbatch
from planner.domain.degrees import Degrees
from planner.domain.workload import Objective
from planner.search.recheck_case import RecheckCase
from planner.search.recheck_floor import Floors, degrees_of, grid_below
from planner.search.recheck_space import Row, SplitChoice

ROUNDING = 1e-9
_MOST_SEQUENCES = 1 << 24
Held = tuple[float, Microbatch]


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Strategy:
    """One strategy and the floor of its objective."""

    floor: float
    num_slots: int
    row: Row
    group: int
    split: SplitChoice

    @property
    def degrees(self) -> Degrees:
        """As the layout file has them."""
        pp, microbatches, replicas = self.row
        return replace(
            degrees_of(self.split),
            pp=pp,
            num_slots=self.num_slots,
            microbatches=microbatches,
            replicas=replicas,
        )


class Comparison:
    """Compares strategies with one layout."""

    def __init__(self, case: RecheckCase) -> None:
        self.case = case
        self.floors = Floors(setting=case.setting, topology=case.topology, loads=case.loads)
        self.target = case.objective_value * (1 - ROUNDING)

    def value(self, split: SplitChoice, row: Row, group: float, step_s: float) -> float:
        """Objective when every group of every microbatch decodes ``group`` sequences."""
        rented = self.case.rented_floor(split.size * row[0] * row[2])
        return self.case.value(step_s, self._yield(split, row, group) / step_s, rented)

    def _yield(self, split: SplitChoice, row: Row, group: float) -> float:
        """Tokens of a step."""
        batch = group * split.attn_dp * row[1] * row[2]
        if self.case.batch is not None:
            batch = float(self.case.batch)
        return self.case.setting.sequence_tokens * batch

    def pinned(self, split: SplitChoice, row: Row) -> tuple[tuple[int, Held], ...] | None:
        """Replicas and what each of them holds, where the batch is decided.

        A pinned batch leaves some replicas one sequence more than others; the smallest batch
        is the best one for latency.
        """
        _, microbatches, replicas = row
        batch = self.case.batch
        if batch is None:
            latency = self.case.objective is Objective.LATENCY
            return ((replicas, self.held(split, row, 1)),) if latency else None
        found = []
        base, extra = divmod(batch, replicas)
        for count, share in ((extra, base + 1), (replicas - extra, base)):
            stage = -(-share // microbatches)
            group = -(-stage // split.attn_dp)
            if count:
                microbatch = Microbatch(group=float(group), stage=float(stage))
                found.append((count, (float(-(-share // split.attn_dp)), microbatch)))
        return tuple(found)

    def pinned_value(
        self, split: SplitChoice, row: Row, step: Callable[[Held], float | None]
    ) -> float:
        """Objective where the batch is decided; infinite beyond a limit, ``step`` None then."""
        parts = self.pinned(split, row)
        assert parts is not None
        batch = self.case.batch
        slowest, tokens_per_s = 0.0, 0.0
        share = None if batch is None else -(-batch // row[2])
        for count, held in parts:
            seconds = step(held)
            if seconds is None or self.late(seconds):
                return math.inf
            own = held[1].stage * row[1] if share is None else share
            share = None if share is None else share - 1
            slowest = max(slowest, seconds)
            tokens_per_s += count * float(own) * self.case.setting.sequence_tokens / seconds
        rented = self.case.rented_floor(split.size * row[0] * row[2])
        return self.case.value(slowest, tokens_per_s, rented)

    def held(self, split: SplitChoice, row: Row, group: int) -> Held:
        """Cached sequences and microbatch with ``group`` sequences per group of each."""
        microbatch = Microbatch(group=float(group), stage=float(group * split.attn_dp))
        return float(group * row[1]), microbatch

    def late(self, step_s: float) -> bool:
        """Whether the limit on the step is missed."""
        limit = self.case.step_limit_s
        return limit is not None and step_s > limit * (1 + ROUNDING)

    def step_s(self, split: SplitChoice, num_slots: int, row: Row, microbatch: Microbatch) -> float:
        """Floor of the step of one strategy."""
        pp, microbatches, _ = row
        one = self.floors.one_pass(split, num_slots, microbatch)
        hops = self.floors.hops_s(split, pp, float(microbatch.group))
        circulating = max(one.total_s + hops, microbatches * one.slowest_s(pp))
        return self.floors.token_s(split, circulating)

    def family_loses(self, split: SplitChoice, rows: tuple[Row, ...]) -> bool:
        """Whether no pipeline of ``rows``, all of equally many stages, beats the layout.

        ``m`` microbatches over ``p`` stages take at least ``max(F, m F / p)``, so they decode
        at most ``p / F`` microbatches per second, however many they are.
        """
        pp = rows[0][0]
        if self.case.batch is not None or self.case.objective is Objective.LATENCY:
            return all(self._loses_pinned(split, row) for row in _fullest(rows))
        row = (pp, pp, max(replicas for _, _, replicas in rows))
        # Rented by the chip: whole domains cost more, but not in proportion to the replicas.
        tokens = self._yield(split, row, 1.0)
        unit = self.case.value(1.0, tokens, float(split.size * pp * row[2]))

        def step(group: int) -> float:
            one = self.floors.one_pass(split, 0, self.held(split, row, group)[1])
            return self.floors.token_s(split, one.total_s, whole=False)

        def fits(group: int) -> bool:
            held = (float(group), self.held(split, row, group)[1])
            return self.floors.fits(split, 0, pp, held)

        return self._outgrows(step, fits, unit)

    def _loses_pinned(self, split: SplitChoice, row: Row) -> bool:
        def step(held: Held) -> float:
            one = self.floors.one_pass(split, 0, held[1])
            return self.floors.token_s(split, one.total_s)

        return self.pinned_value(split, row, step) >= self.target

    def _outgrows(
        self, step: Callable[[int], float], fits: Callable[[int], bool], unit: float
    ) -> bool:
        """Whether the argument of the module passes the limits.

        ``unit`` is the objective of a step of one second with one sequence per group.
        """
        group = 1
        while True:
            seconds = step(group)
            if self.late(seconds):
                return True
            following = grid_below(math.floor(unit * seconds / self.target) + 1)
            # A limit on the step ends the loop in any case; memory is asked where it must.
            if (following <= group or self.case.step_limit_s is None) and not fits(group):
                return True
            if following <= group:
                return False
            group = following

    def strategy(self, split: SplitChoice, num_slots: int, row: Row) -> Strategy | None:
        """The strategy with its floor, or None when it does not beat the layout."""
        parts = self.pinned(split, row)
        if parts is not None:

            def exact(held: Held) -> float | None:
                if not self.floors.fits(split, num_slots, row[0], held):
                    return None
                return self.step_s(split, num_slots, row, held[1])

            value = self.pinned_value(split, row, exact)
            if value >= self.target:
                return None
            return Strategy(floor=value, num_slots=num_slots, row=row, group=1, split=split)

        def step(group: int) -> float:
            return self.step_s(split, num_slots, row, self.held(split, row, group)[1])

        def fits(group: int) -> bool:
            return self.floors.fits(split, num_slots, row[0], self.held(split, row, group))

        if self._outgrows(step, fits, self.value(split, row, 1.0, 1.0)):
            return None
        group = largest(lambda tried: not self.late(step(tried)) and fits(tried))
        value = self.value(split, row, float(group), step(group))
        if value >= self.target:
            return None
        return Strategy(floor=value, num_slots=num_slots, row=row, group=group, split=split)


def _fullest(rows: tuple[Row, ...]) -> Iterator[Row]:
    """The pipelines whose microbatches are smallest, one for every number of replicas."""
    best: dict[int, Row] = {}
    for row in rows:
        if row[2] not in best or row[1] > best[row[2]][1]:
            best[row[2]] = row
    yield from best.values()


def largest(works: Callable[[int], bool]) -> int:
    """Largest number that works, when 1 does and numbers that work have no gap."""
    low, high = 1, 2
    while high < _MOST_SEQUENCES and works(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    return low
