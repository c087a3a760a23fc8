"""Re-checks certificates of training layouts, in plain loops.

Three things are done again without the arrays of the search:

* the strategies of the space are counted, in nested loops over what the space is said to hold
  (:mod:`~planner.search.training.space`, :mod:`~planner.search.training.policies`);
* strategies around the layout, and some from all over the space, are priced with the cuts that
  engines use: none may be better than the bound;
* the bound of each of these is derived anew from its proof, one at a time
  (:mod:`~planner.search.training.scalar`): none may lie below the stated bound, that of the layout
  itself least of all.

What the slowest device of a strategy takes at least, over its cuts, is the search's own
(:mod:`~planner.search.training.rooms`).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np

from planner.cost.attention import decode_core
from planner.cost.runs.training import predict_training
from planner.cost.runs.training_pipeline import chunk_layers, chunks_of, prediction_work
from planner.domain.model import MoeFfn
from planner.domain.run import Mesh, Overlap, Recompute, Run, ScheduleKind
from planner.domain.training import TrainLimits
from planner.domain.workload import Objective
from planner.search.recheck_case import Recheck
from planner.search.training.bounds import StepBound
from planner.search.training.policies import MOST_CHUNKS, PAIRING, RECOMPUTES, USUAL_CHUNKS
from planner.search.training.request import TrainRequest
from planner.search.training.rooms import Slowest, slowest_device
from planner.search.training.scalar import ScalarBound
from planner.search.training.search import TrainSearch
from planner.search.training.space import (
    LARGER_SEQUENCES,
    LEAST_TOKENS,
    MOST_CP,
    MOST_EXPERT_TP,
    MOST_SEQUENCES,
    MOST_TP_DOMAINS,
)
from planner.search.training.tables import base_run
from planner.units import MILLION, usd_per_second

# Strategies around the layout and from elsewhere that are bounded and priced one by one.
MOST_NEAR = 160
MOST_FAR = 60
# Two ways to add the same few hundred numbers.
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainRecheckCase:
    """A certificate and what it speaks of.

    Parameters
    ----------
    run, counts : Run, tuple of int
        The layout: degrees, policies, layers of each chunk.
    """

    request: TrainRequest
    run: Run
    counts: tuple[int, ...]
    stated_objective: float
    stated_bound: float
    stated_count: int


# The space, in plain loops.

Block = tuple[int, int, int, int]
Inner = tuple[int, int, int, bool]
Policy = tuple[ScheduleKind, int, Recompute, int]


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _permits(allowed: frozenset[int] | None, value: int) -> bool:
    return allowed is None or value in allowed


def _tensor_degrees(request: TrainRequest) -> Iterator[tuple[int, int]]:
    """``tp`` with the chips that its groups can use."""
    sizes = [len(domain) for domain in request.topology.domains]
    largest = max(sizes)
    heads = math.gcd(
        *(int(decode_core(layer.attention, 1.0).num_heads) for layer in request.model.layers)
    )
    for tp in _divisors(heads):
        if not _permits(request.limits.tp, tp):
            continue
        if tp <= largest and largest % tp == 0:
            yield tp, sum(size // tp * tp for size in sizes)
        elif tp % largest == 0 and tp <= MOST_TP_DOMAINS * largest:
            yield tp, sizes.count(largest) // (tp // largest) * tp


def blocks(request: TrainRequest) -> Iterator[Block]:
    """``(tp, cp, dp, pp)`` of the space."""
    limits, seq = request.limits, request.seq_len
    rows = _divisors(request.global_batch)
    all_sizes = request.objective is Objective.COST or limits.dp is not None
    contexts = [
        cp
        for cp in _divisors(seq)
        if _permits(limits.cp, cp)
        if cp == 1 or (seq % (2 * cp) == 0 and seq >= LEAST_TOKENS * cp and cp <= MOST_CP)
    ]
    for tp, chips in _tensor_degrees(request):
        for cp in contexts:
            for pp in range(1, len(request.model.layers) + 3):
                room = chips // (tp * cp * pp)
                for dp in rows if room and _permits(limits.pp, pp) else ():
                    if dp > room:
                        break
                    if _permits(limits.dp, dp) and (all_sizes or 2 * dp > room):
                        yield tp, cp, dp, pp


def _expert_splits(request: TrainRequest) -> list[tuple[int, int]]:
    limits = request.limits
    experts = {layer.ffn for layer in request.model.layers if isinstance(layer.ffn, MoeFfn)}
    if not experts:
        allowed = _permits(limits.ep, 1) and _permits(limits.expert_tp, 1)
        return [(1, 1)] if allowed else []
    number = math.gcd(*(ffn.num_experts for ffn in experts))
    width = math.gcd(*(int(ffn.expert_width) for ffn in experts))
    largest = max(len(domain) for domain in request.topology.domains)
    return [
        (ep, split)
        for ep in _divisors(number)
        for split in range(1, MOST_EXPERT_TP + 1)
        if width % split == 0 and largest % split == 0
        if _permits(limits.ep, ep) and _permits(limits.expert_tp, split)
    ]


def _sizes(request: TrainRequest, dp: int) -> list[int]:
    asked = request.limits.microbatch
    return [
        size
        for size in _divisors(request.global_batch // dp)
        if (size <= MOST_SEQUENCES or size in LARGER_SEQUENCES if asked is None else size in asked)
    ]


def _sequence_splits(request: TrainRequest, tp: int) -> list[bool]:
    asked = request.limits.sequence_parallel
    if tp == 1 or request.topology.is_torus:
        return [False]
    return [split for split in (False, True) if asked is None or split in asked]


def policies(request: TrainRequest, pp: int, count: int, sharded: bool) -> list[Policy]:
    """Policies of a mesh with ``count`` microbatches; ``sharded`` where ranks share weights."""
    limits, layers = request.limits, len(request.model.layers)
    asked = limits.recompute
    recomputes = [r for r in Recompute if r in (RECOMPUTES if asked is None else asked)]
    stages = [zero for zero in range(4) if _permits(limits.zero, zero) and (sharded or not zero)]
    found: list[Policy] = []
    for kind in ScheduleKind:
        if (pp == 1) != (kind is ScheduleKind.NONE):
            continue
        if pp > 1 and limits.schedules is not None and kind not in limits.schedules:
            continue
        asked_chunks = limits.virtual_stages or frozenset({1, *USUAL_CHUNKS})
        for v in sorted(asked_chunks):
            interleaved = kind is ScheduleKind.INTERLEAVED
            chunks = pp * (2 if kind is ScheduleKind.ZB_V else v)
            if (
                v >= MOST_CHUNKS
                or (v > 1) != interleaved
                or chunks > layers + 2
                or (interleaved and count % pp)
            ):
                continue
            dual = kind is ScheduleKind.DUALPIPE
            if dual and (pp % 2 or count % 2 or count < 2 * pp):
                continue
            own = [zero for zero in stages if zero < 2 or not dual]
            found += [(kind, v, r, zero) for r, zero in itertools.product(recomputes, own)]
    return found


def count_again(request: TrainRequest) -> int:
    """Strategies of the space."""
    splits = _expert_splits(request)

    @cache
    def of_pipeline(pp: int, count: int, sharded: bool) -> int:
        return len(policies(request, pp, count, sharded))

    @cache
    def of_stage(chips: int) -> int:
        return sum(chips % (ep * split) == 0 for ep, split in splits)

    @cache
    def of_rank(dp: int, pp: int, sharded: bool) -> int:
        per_rank = request.global_batch // dp
        return sum(of_pipeline(pp, per_rank // size, sharded) for size in _sizes(request, dp))

    ways = {tp: len(_sequence_splits(request, tp)) for tp, _ in _tensor_degrees(request)}
    return sum(
        of_stage(tp * cp * dp) * ways[tp] * of_rank(dp, pp, cp * dp > 1)
        for tp, cp, dp, pp in blocks(request)
    )


# Strategies one by one.


def _run_of(request: TrainRequest, block: Block, inner: Inner, policy: Policy) -> Run:
    tp, cp, dp, pp = block
    ep, split, size, sequence_parallel = inner
    kind, v, recompute, zero = policy
    hidden = request.overlap if kind in PAIRING else request.overlap - {Overlap.EP}
    base = base_run(request, Mesh(), size, sequence_parallel)
    mesh = replace(
        base.mesh, attn_tp=tp, cp=cp, attn_dp=dp, pp=pp, virtual_stages=v, ep=ep, expert_tp=split
    )
    return replace(
        base,
        mesh=mesh,
        schedule=kind,
        recompute=recompute,
        zero_stage=zero,
        overlap=hidden,
    )


def _choices(request: TrainRequest, block: Block) -> tuple[list[Inner], list[list[Policy]]]:
    """What goes with a block, and the policies of each."""
    tp, cp, dp, pp = block
    inner = [
        (ep, split, size, sequence_parallel)
        for ep, split in _expert_splits(request)
        if tp * cp * dp % (ep * split) == 0
        for size in _sizes(request, dp)
        for sequence_parallel in _sequence_splits(request, tp)
    ]
    per_rank = request.global_batch // dp
    return inner, [policies(request, pp, per_rank // one[2], cp * dp > 1) for one in inner]


def _distance(run: Run, best: Run) -> float:
    """How far a strategy is from the layout, in factors of its degrees and changed choices."""
    own, other = run.mesh, best.mesh
    found = sum(
        abs(math.log2(getattr(own, field.name) / getattr(other, field.name)))
        for field in fields(own)
    )
    found += abs(math.log2(run.microbatch / best.microbatch))
    names = ("schedule", "recompute", "zero_stage", "sequence_parallel")
    changed = sum(getattr(run, name) != getattr(best, name) for name in names)
    return float(found + changed)


def samples(case: TrainRecheckCase) -> list[Run]:
    """Strategies near the layout, nearest first, and some from everywhere; repeatable."""
    request, best = case.request, case.run
    rng = random.Random(case.stated_count)
    every = list(blocks(request))
    mesh = best.mesh
    home = (mesh.attn_tp, mesh.cp, mesh.attn_dp, mesh.pp)

    def apart(block: Block) -> float:
        return sum(abs(math.log2(a / b)) for a, b in zip(block, home, strict=True))

    near: list[Run] = []
    for block in sorted(every, key=apart)[:16]:
        inner, own = _choices(request, block)
        for one, menu in zip(inner, own, strict=True):
            near += [_run_of(request, block, one, policy) for policy in menu]
    near.sort(key=lambda run: (_distance(run, best), str(run)))
    far = []
    for block in rng.sample(every, min(len(every), MOST_FAR)):
        inner, own = _choices(request, block)
        full = [(one, menu) for one, menu in zip(inner, own, strict=True) if menu]
        if full:
            one, menu = rng.choice(full)
            far.append(_run_of(request, block, one, rng.choice(menu)))
    return list(dict.fromkeys((best, *near[:MOST_NEAR], *far)))


def value_of(request: TrainRequest, run: Run, seconds: float) -> float:
    """Objective, smaller is better."""
    if request.objective is Objective.LATENCY:
        return seconds
    largest = max(len(domain) for domain in request.topology.domains)
    rented = math.ceil(run.mesh.num_chips / largest) * largest
    price = 1.0 if request.price_usd_per_hour is None else request.price_usd_per_hour
    tokens = request.global_batch * request.seq_len
    return usd_per_second(price) * rented * seconds / tokens * MILLION


def _slowest(request: TrainRequest, run: Run) -> Slowest:
    """What the slowest device of a strategy is, by the search's own look at its cuts."""
    mesh = run.mesh
    limits = TrainLimits(
        tp=frozenset({mesh.attn_tp}),
        cp=frozenset({mesh.cp}),
        dp=frozenset({mesh.attn_dp}),
        pp=frozenset({mesh.pp}),
        ep=frozenset({mesh.ep}),
        expert_tp=frozenset({mesh.expert_tp}),
        virtual_stages=frozenset({mesh.virtual_stages}),
        microbatch=frozenset({run.microbatch}),
        zero=frozenset({run.zero_stage}),
        schedules=frozenset({run.schedule}),
        recompute=frozenset({run.recompute}),
        sequence_parallel=frozenset({run.sequence_parallel}),
    )
    search = TrainSearch(replace(request, limits=limits))
    assert len(search.meshes) == 1, "one strategy makes one mesh"
    search.bound = StepBound(search.request, search.meshes)
    places = search.menu_places(search.cases(np.array([0])).policies)
    return slowest_device(search.pipeline(0, int(places[0])))


def _simple_cuts(case: TrainRecheckCase, run: Run) -> list[tuple[int, ...]]:
    """Cuts that engines use, and the layout's own."""
    model = case.request.model
    cuts = [
        chunk_layers(len(model.layers), chunks_of(run), extra)
        for extra in (0.0, prediction_work(model))
    ]
    if run == case.run:
        cuts.append(case.counts)
    return list(dict.fromkeys(cuts))


def recheck_training(case: TrainRecheckCase) -> Recheck:
    """Re-derive the bound of a certificate.

    Returns
    -------
    Recheck
        ``checked`` and ``compared`` count the strategies that were bounded one by one.
    """
    request, model, topology = case.request, case.request.model, case.request.topology
    count = count_again(request)
    broken = []
    if count != case.stated_count:
        broken.append(f"certificate: {case.stated_count} strategies stated, {count} counted")
    own = predict_training(model, topology, case.run, case.counts)
    objective = value_of(request, case.run, own.seconds)
    if not math.isclose(objective, case.stated_objective, rel_tol=1e-9):
        broken.append(
            f"certificate: objective {case.stated_objective!r} does not follow from the "
            f"decisions, which give {objective!r}"
        )
    runs, built, best = samples(case), 0, math.inf
    floor, lowest = objective, case.stated_bound * (1.0 - TOLERANCE)
    for run in runs:
        slowest = _slowest(request, run)
        if slowest.seconds < math.inf:
            bound = ScalarBound(model=model, topology=topology, run=run).seconds(slowest)
            value = value_of(request, run, bound)
            floor = min(floor, value)
            if value < lowest:
                broken.append(f"{_name(run)} is bounded by {value:.9g}, below the stated bound")
        for counts in _simple_cuts(case, run):
            priced = predict_training(model, topology, run, counts)
            built += 1
            if priced.memory.fits:
                value = value_of(request, run, priced.seconds)
                best = min(best, value)
                if value < lowest:
                    broken.append(f"{_name(run)} takes {value:.9g}, less than the stated bound")
    return Recheck(
        objective=objective,
        stated_bound=case.stated_bound,
        rederived_bound=floor,
        strategies=count,
        checked=len(runs),
        compared=len(runs),
        built=built,
        best_built=None if best == math.inf else best,
        violations=tuple(broken[:20]),
    )


def _name(run: Run) -> str:
    mesh = run.mesh
    return (
        f"tp {mesh.attn_tp} cp {mesh.cp} dp {mesh.attn_dp} pp {mesh.pp} x {mesh.virtual_stages} "
        f"ep {mesh.ep} x {mesh.expert_tp}, {run.schedule.value}, microbatch {run.microbatch}, "
        f"{run.recompute.value} recompute, ZeRO-{run.zero_stage}"
    )
