"""Sequences to replicas whose links differ: wounded machines, cells of several shapes.

All replicas have the same stages. A free batch is chosen for each: their rates add up, so each
takes what serves itself best. Of a pinned batch whose slowest step counts, the slow ones get
less (:func:`planner.search.batches.split_by_speed`, exact).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from planner.cost.price import FabricRates
from planner.search.batches import Replica, split_by_speed
from planner.search.best_batch import BatchRange, best_batch
from planner.search.cuts import Cut, Cutter, ReplicaCase
from planner.search.stages import Ends


@dataclass(frozen=True, kw_only=True, slots=True)
class Dealt:
    """Stages, and sequences of every replica."""

    ends: Ends
    replicas: tuple[int, ...]


def shared_equals(fabrics: Sequence[FabricRates]) -> list[FabricRates]:
    """The same prices, where equal ones are one object."""
    known: list[FabricRates] = []
    by_id: dict[int, FabricRates] = {}
    for own in fabrics:
        if id(own) not in by_id:
            by_id[id(own)] = next((other for other in known if other == own), own)
            if by_id[id(own)] is own:
                known.append(own)
    return [by_id[id(own)] for own in fabrics]


def each_best(
    cutter: Cutter, cases: Sequence[ReplicaCase], stages: Iterable[Ends], batches: BatchRange
) -> tuple[float, Dealt] | None:
    """The best free batch of every replica in the best of some stages, and their rate.

    Parameters
    ----------
    cases : sequence of ReplicaCase
        One per replica; equal ones are one object.
    """
    kinds = {id(case): case for case in cases}
    best: tuple[float, Dealt] | None = None
    for ends in dict.fromkeys(stages):
        found: dict[int, Cut] = {}
        for key, case in kinds.items():

            @cache
            def cut(
                batch: int, room: int, case: ReplicaCase = case, ends: Ends = ends
            ) -> Cut | None:
                return cutter.priced(case, batch, ends)

            own = best_batch(cut, batches, is_staged=False)
            if own is not None:
                found[key] = own.cut
        if len(found) < len(kinds):
            continue
        rate = sum(found[id(case)].rate for case in cases)
        if best is None or rate > best[0]:
            replicas = tuple(found[id(case)].batch for case in cases)
            best = rate, Dealt(ends=ends, replicas=replicas)
    return best


def slowest_step_s(cutter: Cutter, cases: Sequence[ReplicaCase], dealt: Dealt) -> float:
    """Seconds of the slowest replica; infinite beyond the limits."""
    steps = {}
    for case, batch in zip(cases, dealt.replicas, strict=True):
        if (id(case), batch) not in steps:
            cut = cutter.priced(case, batch, dealt.ends)
            steps[id(case), batch] = float("inf") if cut is None else cut.step_s
    return max(steps.values())


def by_speed(cutter: Cutter, cases: Sequence[ReplicaCase], ends: Ends, batch: int) -> Dealt | None:
    """Deal a pinned batch so that the slowest replica is as fast as it can be."""
    least = cases[0].degrees.microbatches
    most = batch - (len(cases) - 1) * least
    kinds: dict[int, Replica] = {}
    for case in cases:
        if id(case) in kinds:
            continue

        @cache
        def step_s(sequences: int, case: ReplicaCase = case) -> float:
            cut = cutter.priced(case, sequences, ends)
            return float("inf") if cut is None else cut.step_s

        kinds[id(case)] = Replica(step_s=step_s, least=least, most=most)
    counts = split_by_speed(batch, [kinds[id(case)] for case in cases])
    return None if counts is None else Dealt(ends=ends, replicas=counts)
