"""Compares strategies with a certified layout, by floors alone.

With ``F(b)`` the floor of a step when every replica decodes ``b`` sequences, dealt evenly, and
``a F(b) / b`` that of the objective:

    the objective of any batch up to b' is at least  a F(b) / b'  for b <= b', since F grows;
    so nothing up to  b' = a F(b) / objective  beats the layout; go on from there, until the
    limits of memory or time are passed or the argument no longer moves

A strategy that is left is worth ``a F(b) / b`` at the best of three batches: the largest within
the limits, the largest that fills its microbatches, the largest that fills their groups. A step
grows no faster than its batch, and steps up where a microbatch or a group gets one more.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Microbatches of a replica, and groups of each."""

    microbatches: int
    groups: int

    def best(self, most: int) -> list[int]:
        """The batches up to ``most`` that may be best: see the module."""
        full = self.microbatches * self.groups
        tried = (most, most // self.microbatches * self.microbatches, most // full * full)
        return sorted({batch for batch in tried if batch >= self.microbatches})

    def after(self, batch: int, following: int) -> int:
        """A batch of a coarse grid up to ``following``, beyond ``batch`` if there is one.

        Full groups come first: many strategies have them in common.
        """
        full = self.microbatches * self.groups
        even = grid_below(following / full) * full
        return even if even > batch else grid_below(float(following))


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Strategy:
    """One strategy, the floor of its objective, and about the most sequences of a replica."""

    floor: float
    num_slots: int
    row: Row
    most: int
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

    def value(self, split: SplitChoice, row: Row, batch: float, step_s: float) -> float:
        """Objective when every replica decodes ``batch`` sequences."""
        rented = self.case.rented_floor(split.size * row[0] * row[2])
        tokens = self.case.setting.sequence_tokens * batch * row[2]
        return self.case.value(step_s, tokens / step_s, rented)

    def pinned(self, row: Row) -> tuple[tuple[int, int], ...] | None:
        """Numbers of replicas and the sequences of each, where the batch is decided.

        A pinned batch leaves some replicas one sequence more than others; the smallest batch
        is the best one for latency.
        """
        _, microbatches, replicas = row
        batch = self.case.batch
        if batch is None:
            latency = self.case.objective is Objective.LATENCY
            return ((replicas, microbatches),) if latency else None
        base, extra = divmod(batch, replicas)
        parts = ((extra, base + 1), (replicas - extra, base))
        return tuple((count, share) for count, share in parts if count)

    def pinned_value(
        self, split: SplitChoice, row: Row, step: Callable[[int], float | None]
    ) -> float:
        """Objective where the batch is decided; infinite beyond a limit, ``step`` None then."""
        parts = self.pinned(row)
        assert parts is not None
        slowest, tokens_per_s = 0.0, 0.0
        for count, share in parts:
            seconds = step(share)
            if seconds is None or self.late(seconds):
                return math.inf
            slowest = max(slowest, seconds)
            tokens_per_s += count * share * self.case.setting.sequence_tokens / seconds
        rented = self.case.rented_floor(split.size * row[0] * row[2])
        return self.case.value(slowest, tokens_per_s, rented)

    def held(self, split: SplitChoice, row: Row, batch: int) -> Held:
        """What a group caches of ``batch`` sequences of a replica, and the fullest microbatch."""
        stage = -(-batch // row[1])
        group = -(-stage // split.attn_dp)
        microbatch = Microbatch(group=float(group), stage=float(stage))
        return float(-(-batch // split.attn_dp)), microbatch

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
        # One microbatch of each of so many stages, in units of the sequences of a microbatch.
        row = (pp, 1, max(replicas for _, _, replicas in rows))
        # Rented by the chip: whole domains cost more, but not in proportion to the replicas.
        tokens = self.case.setting.sequence_tokens * pp * row[2]
        unit = self.case.value(1.0, tokens, float(split.size * pp * row[2]))

        def step(stage: int) -> float:
            one = self.floors.one_pass(split, 0, self.held(split, row, stage)[1])
            return self.floors.token_s(split, one.total_s, whole=False)

        def fits(stage: int) -> bool:
            return self.floors.fits(split, 0, pp, self.held(split, row, stage))

        return self._outgrows(step, fits, unit, Sizes(microbatches=1, groups=split.attn_dp))

    def _loses_pinned(self, split: SplitChoice, row: Row) -> bool:
        def step(batch: int) -> float:
            one = self.floors.one_pass(split, 0, self.held(split, row, batch)[1])
            return self.floors.token_s(split, one.total_s)

        return self.pinned_value(split, row, step) >= self.target

    def _outgrows(
        self,
        step: Callable[[int], float],
        fits: Callable[[int], bool],
        unit: float,
        sizes: Sizes,
    ) -> bool:
        """Whether the argument of the module passes the limits.

        ``unit`` is the objective of a step of one second with one sequence.
        """
        batch = sizes.microbatches
        while True:
            seconds = step(batch)
            if self.late(seconds):
                return True
            following = sizes.after(batch, math.floor(unit * seconds / self.target) + 1)
            # A limit on the step ends the loop in any case; memory is asked where it must.
            if (following <= batch or self.case.step_limit_s is None) and not fits(batch):
                return True
            if following <= batch:
                return False
            batch = following

    def strategy(self, split: SplitChoice, num_slots: int, row: Row) -> Strategy | None:
        """The strategy with its floor, or None when it does not beat the layout."""

        def step(batch: int) -> float:
            return self.step_s(split, num_slots, row, self.held(split, row, batch)[1])

        def fits(batch: int) -> bool:
            return self.floors.fits(split, num_slots, row[0], self.held(split, row, batch))

        sizes = Sizes(microbatches=row[1], groups=split.attn_dp)
        parts = self.pinned(row)
        if parts is not None:
            value = self.pinned_value(split, row, lambda b: step(b) if fits(b) else None)
            most = max(share for _, share in parts)
        else:
            if self._outgrows(step, fits, self.value(split, row, 1.0, 1.0), sizes):
                return None
            reached = largest(lambda b: not self.late(step(b)) and fits(b), sizes.microbatches)
            if reached is None:
                return None
            most = reached
            value = min(self.value(split, row, b, step(b)) for b in sizes.best(most))
        if value >= self.target:
            return None
        return Strategy(floor=value, num_slots=num_slots, row=row, most=most, split=split)


def _fullest(rows: tuple[Row, ...]) -> Iterator[Row]:
    """The pipelines whose microbatches are smallest, one for every number of replicas."""
    best: dict[int, Row] = {}
    for row in rows:
        if row[2] not in best or row[1] > best[row[2]][1]:
            best[row[2]] = row
    yield from best.values()


def largest(works: Callable[[int], bool], least: int = 1) -> int | None:
    """Largest number from ``least`` on that works, when numbers that work have no gap."""
    if not works(least):
        return None
    low, high = least, 2 * least
    while high < _MOST_SEQUENCES and works(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    return low
