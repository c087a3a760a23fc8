"""How many workers prefill and how many decode: every split of the machine's chips tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.cost.runs.serving import predict_serving
from planner.cost.runs.serving_open import Overload
from planner.domain.outcome import Infeasible
from planner.domain.run_question import RunQuestion
from planner.errors import SpecError
from planner.pricing.case import Case
from planner.pricing.overload import largest_rate
from planner.pricing.served import Split, serving_run
from planner.units import format_seconds

# With more splits, those that cannot be the best are left out.
MOST_SPLITS = 1000
SHOWN = 5


def splits_of(case: Case) -> Iterator[tuple[int, int]]:
    """Prefill and decode workers that fit into the machine together."""
    assert case.prefill_mesh is not None
    first, second = case.prefill_mesh.num_chips, case.mesh.num_chips
    chips = case.topology.num_chips
    for workers in range(1, (chips - first) // second + 1):
        for count in range(1, (chips - workers * second) // first + 1):
            yield count, workers


def with_workers(case: Case, prefill_workers: int, workers: int) -> Case:
    """The case with other numbers of workers of the same layouts."""
    question = replace(case.question, prefill_workers=prefill_workers, workers=workers)
    return replace(case, question=question)


def _try(case: Case, prefill_workers: int, workers: int) -> Split | None:
    """Price one split; None where it cannot serve the load."""
    other, q = with_workers(case, prefill_workers, workers), case.question
    try:
        found = predict_serving(case.model, case.topology, serving_run(other))
    except Overload:
        return None
    assert found.pools is not None
    in_time = q.ttft is None or found.ttft_s <= q.ttft
    return Split(
        prefill_workers=prefill_workers,
        workers=workers,
        chips=other.chips,
        tokens_per_s=found.tokens_per_s,
        ttft_s=found.ttft_s,
        tpot_s=found.tpot_s,
        prefill=found.pools.prefill,
        decode=found.pools.decode,
        limits=found.pools.limits,
        meets=in_time and (q.tpot is None or found.tpot_s <= q.tpot),
    )


def _order(split: Split) -> tuple[bool, float, int, float]:
    """Within the limits, most tokens, fewest chips, earliest first token."""
    # Rates that differ by rounding are the same rate.
    return (not split.meets, -float(f"{split.tokens_per_s:.9g}"), split.chips, split.ttft_s)


def _tried(case: Case) -> list[Split]:
    """Prices of all splits, or of those among which the best ones are."""
    assert case.prefill_mesh is not None
    pairs = list(splits_of(case))
    if len(pairs) > MOST_SPLITS and case.question.rate is not None:
        return [split for _, most in _widest(pairs) for split in _fewest_prefill(case, *most)]
    if len(pairs) > MOST_SPLITS:
        first, second = case.prefill_mesh.num_chips, case.mesh.num_chips
        used = case.topology.num_chips - min(first, second)
        pairs = [pair for pair in pairs if pair[0] * first + pair[1] * second > used]
    return [split for pair in pairs if (split := _try(case, *pair)) is not None]


def _widest(pairs: list[tuple[int, int]]) -> list[tuple[int, tuple[int, int]]]:
    """By decode workers, the pair with most prefill workers."""
    found: dict[int, tuple[int, int]] = {}
    for pair in pairs:
        found[pair[1]] = max(pair, found.get(pair[1], pair))
    return sorted(found.items())


def _fewest_prefill(case: Case, most: int, workers: int) -> list[Split]:
    """The fewest prefill workers that meet the limits at a rate; of none, all of them.

    At a rate more prefill workers only hasten the first token.
    """
    best, few, many = _try(case, most, workers), 0, most
    if best is None or not best.meets:
        return [] if best is None else [best]
    while many - few > 1:
        middle = (few + many) // 2
        split = _try(case, middle, workers)
        if split is not None and split.meets:
            best, many = split, middle
        else:
            few = middle
    return [best]


def best_splits(case: Case) -> tuple[Split, ...] | Infeasible:
    """Try every split of the machine; those within the limits, the best first.

    Of more than ``MOST_SPLITS`` those are tried that leave no chips for a further worker, or
    at a rate the fewest prefill workers for every number of decode workers.

    Returns
    -------
    tuple of Split
        At most ``SHOWN``.
    Infeasible
        No split serves the load within the limits.

    Raises
    ------
    SpecError
        The machine has no room for a worker of each kind.
    """
    if next(splits_of(case), None) is None:
        raise SpecError(
            f"{case.topology.num_chips} chips do not hold a prefill and a decode worker",
            "size the machine up, or lower a degree",
        )
    tried = _tried(case)
    if not tried:
        return _too_fast(case)
    tried.sort(key=_order)
    if not tried[0].meets:
        return _too_slow(case, tried)
    return tuple(split for split in tried[:SHOWN] if split.meets)


def _too_fast(case: Case) -> Infeasible:
    q, chips = case.question, case.topology.num_chips
    assert q.rate is not None

    def serves(rate: float) -> bool:
        slower = replace(case, question=replace(q, rate=rate))
        return any(_try(slower, *most) is not None for _, most in _widest(list(splits_of(slower))))

    remedy = largest_rate(q.rate, serves)
    return Infeasible(
        resource="chips",
        needed=f"{q.rate:g} requests per s",
        available=f"{chips} chips",
        message=f"no split of the {chips} chips serves {q.rate:g} requests per s",
        remedies=() if remedy is None else (remedy,),
    )


def _too_slow(case: Case, tried: list[Split]) -> Infeasible:
    """The limit that no split meets, and what the best one has."""
    q = case.question
    broken = [
        (name, limit, best)
        for name, limit, best in (
            ("ttft", q.ttft, min(split.ttft_s for split in tried)),
            ("tpot", q.tpot, min(split.tpot_s for split in tried)),
        )
        if limit is not None and best > limit
    ]
    name, limit, best = broken[0] if broken else _together(q, tried)
    what = f"within --{'tpot' if name == 'ttft' else 'ttft'} " if not broken else ""
    return Infeasible(
        resource=name,
        needed=format_seconds(best),
        available=format_seconds(limit),
        message=(
            f"no split of the {case.topology.num_chips} chips meets --{name} "
            f"{format_seconds(limit)}: the best {what}has {format_seconds(best)}"
        ),
        remedies=_relaxed(q, tried),
    )


def _together(q: RunQuestion, tried: list[Split]) -> tuple[str, float, float]:
    """Of two limits that are met only apart: the best first token within the other."""
    assert q.ttft is not None and q.tpot is not None
    return "ttft", q.ttft, min(split.ttft_s for split in tried if split.tpot_s <= q.tpot)


def _relaxed(q: RunQuestion, tried: list[Split]) -> tuple[str, ...]:
    """Limits that a split meets: each with the other as given, or else both."""
    ttft = [s.ttft_s for s in tried if q.tpot is None or s.tpot_s <= q.tpot]
    tpot = [s.tpot_s for s in tried if q.ttft is None or s.ttft_s <= q.ttft]
    found = []
    if q.ttft is not None and ttft:
        found.append(f"--ttft {_above(min(ttft))}")
    if q.tpot is not None and tpot:
        found.append(f"--tpot {_above(min(tpot))}")
    if not found:
        best = min(tried, key=lambda split: split.tpot_s)
        found.append(f"--ttft {_above(best.ttft_s)} --tpot {_above(best.tpot_s)}")
    return tuple(found)


def _above(seconds: float) -> str:
    """A limit in milliseconds, rounded up to four digits."""
    ms = float(f"{seconds * 1e3:.3e}")
    return f"{ms if ms >= seconds * 1e3 else float(f'{ms * 1.001:.3e}'):g}ms"
