"""Re-derives the bound of a certificate of decode or prefill.

Every split of a stage is visited in nested loops. What all its pipelines have in common
dismisses most of them at once; the rest are taken one by one by
:mod:`planner.search.recheck_compare`; the least of them are refined, and the least value of
all is the re-derived bound. Simple layouts of the most promising strategies are then priced
in full, in the hope to beat the bound that is stated.

What this proves
----------------
- The stated bound holds for every strategy of the space as far as the cost model's counting
  and pricing rules do: those are shared with the search, the relaxations and the loops are
  not. On machines with more splits of a stage than MOST_SPLITS it holds for the evenly spaced
  ones and for those of the stage sizes that the file names; the result says how many.
- It takes from the search that a step grows no faster than its batch, and that sequences are
  dealt evenly within a replica.
- A stated bound below the re-derived one is weaker than need be, which is no violation.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from planner.domain.degrees import Degrees
from planner.domain.workload import TimeModel
from planner.search.recheck_build import best_simple
from planner.search.recheck_case import Recheck, RecheckCase
from planner.search.recheck_compare import ROUNDING, Comparison, Strategy
from planner.search.recheck_refine import Refinement
from planner.search.recheck_space import Row, Space, SplitChoice

# Splits visited on machines with more of them: evenly spaced ones and those like the winner.
MOST_SPLITS = 16_000
# The same of one worker of a pool, every size of which is a candidate.
MOST_WORKER_SPLITS = 2_000
# Strategies whose stages and experts are bounded exactly.
MOST_REFINED = 48
# Simple layouts that are priced.
MOST_BUILT = 16
# A bound further above the re-derived one than this is not confirmed: the floors of expert
# placement and of touched copies may be weaker than the search's by as much.
AGREEMENT = 1e-3


def thinned(splits: list[SplitChoice], named: tuple[Degrees, ...], most: int) -> list[SplitChoice]:
    """Evenly spaced splits, and all of stage sizes that the layout or a runner-up has."""
    if len(splits) <= most:
        return splits
    every = -(-len(splits) // most)
    sizes = {degrees.stage_chips for degrees in named}
    return [s for place, s in enumerate(splits) if place % every == 0 or s.size in sizes]


def undecided(
    comparison: Comparison, space: Space, splits: list[SplitChoice]
) -> Iterator[Strategy]:
    """Strategies that may beat the layout as far as their floors tell."""
    for split in splits:
        by_stages: dict[int, list[Row]] = {}
        for row in space.rows(split):
            by_stages.setdefault(row[0], []).append(row)
        for rows in by_stages.values():
            if comparison.family_loses(split, tuple(rows)):
                continue
            for num_slots in space.slots(split.ep):
                for row in rows:
                    found = comparison.strategy(split, num_slots, row)
                    if found is not None:
                        yield found


def recheck_passes(case: RecheckCase) -> Recheck:
    """Re-derive the bound; see the module."""
    space = Space(
        topology=case.topology,
        model=case.setting.model,
        objective=case.objective,
        limits=case.limits,
        batch=case.batch,
        contexts=case.contexts,
        sharing=case.sharing,
        hides_all=case.setting.time_model is TimeModel.OVERLAP,
        drafts=bool(case.setting.acceptance),
    )
    comparison = Comparison(case)
    splits = list(space.splits())
    most = MOST_WORKER_SPLITS if case.counts_used else MOST_SPLITS
    picked = thinned(splits, case.named, most)
    sizes = [len(space.rows(split)) * len(space.slots(split.ep)) for split in splits]
    strategies = sum(sizes)
    checked = strategies
    if len(picked) < len(splits):
        checked = sum(len(space.rows(s)) * len(space.slots(s.ep)) for s in picked)
    left = sorted(undecided(comparison, space, picked))
    bound = refined_bound(comparison, left)
    tried = _to_build(left, case)
    built = [best_simple(case, degrees, most) for degrees, most in tried]
    reached = [value for value in built if value is not None]
    best = min(reached, default=None)
    return Recheck(
        objective=case.objective_value,
        stated_bound=case.stated_bound,
        rederived_bound=bound,
        strategies=strategies,
        checked=checked,
        compared=len(left),
        built=len(built),
        best_built=best,
        violations=tuple(_violations(case, bound, strategies, best)),
    )


def refined_bound(comparison: Comparison, left: list[Strategy]) -> float:
    """Least floor once the least ones are refined: exact stages, experts by layer, real links."""
    refinement = Refinement(comparison)
    most = comparison.case.objective_value
    heap = [(strategy.floor, place, False) for place, strategy in enumerate(left)]
    heapq.heapify(heap)
    refined = 0
    while heap:
        floor, place, done = heapq.heappop(heap)
        if done or refined >= MOST_REFINED or floor >= most:
            return min(floor, most)
        refined += 1
        value = refinement.floor(left[place])
        heapq.heappush(heap, (max(floor, value), place, True))
    return most


def _to_build(left: list[Strategy], case: RecheckCase) -> list[tuple[Degrees, int]]:
    """The most promising strategies, and those that the file names."""
    tried = {s.degrees: s.most for s in left[: MOST_BUILT - len(case.named)]}
    for degrees in case.named:
        tried.setdefault(degrees, 0)
    return list(tried.items())


def _violations(
    case: RecheckCase, bound: float, strategies: int, best: float | None
) -> Iterator[str]:
    if strategies != case.stated_count:
        yield (f"certificate: {case.stated_count} strategies counted, the space has {strategies}")
    if best is not None and best < case.stated_bound * (1 - ROUNDING):
        yield (
            f"certificate: bound {case.stated_bound!r} is refuted by a simple layout that "
            f"reaches {best!r}"
        )
    if case.stated_bound > bound * (1 + AGREEMENT):
        yield (
            f"certificate: bound {case.stated_bound!r} is not confirmed, the re-check proves "
            f"{bound!r}"
        )
