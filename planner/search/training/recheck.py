"""Re-checks certificates of training layouts, in plain loops.

Three things are done again without the arrays of the search:

* the strategies of the space are counted, in nested loops over what the space is said to hold
  (:mod:`~planner.search.training.recheck_space`);
* strategies around the layout, and some from all over the space, are priced with the cuts that
  engines use: none may be better than the bound;
* the bound of each of these is derived anew from its proof, one at a time
  (:mod:`~planner.search.training.scalar`): none may lie below the stated bound, that of the layout
  itself least of all.

A bound of all cuts is that of the mean device, then that of the cheapest filling
(:mod:`~planner.search.training.scalar_fillings`). Only where fillings are too many, and for
DualPipe, what the slowest device takes at least is the search's own
(:mod:`~planner.search.training.rooms`).
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from planner.cost.runs.training import predict_training
from planner.cost.runs.training_pipeline import chunk_layers, chunks_of, prediction_work
from planner.domain.run import Mesh, Overlap, Run
from planner.domain.training import TrainLimits
from planner.domain.workload import Objective
from planner.search.recheck_case import Recheck
from planner.search.training.bounds import StepBound
from planner.search.training.policies import PAIRING
from planner.search.training.recheck_space import (
    Block,
    Inner,
    Policy,
    blocks,
    count_again,
    expert_splits,
    microbatch_sizes,
    policies,
    sequence_splits,
    spreads,
)
from planner.search.training.request import TrainRequest
from planner.search.training.rooms import Slowest, slowest_device
from planner.search.training.scalar import ScalarBound
from planner.search.training.scalar_fillings import filled_s
from planner.search.training.search import TrainSearch
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
    requests : tuple of TrainRequest
        One for each part of the machine that may train, that of the layout first.
    run, counts : Run, tuple of int
        The layout: degrees, policies, layers of each chunk.
    """

    requests: tuple[TrainRequest, ...]
    run: Run
    counts: tuple[int, ...]
    stated_objective: float
    stated_bound: float
    stated_count: int


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
        for ep, split in expert_splits(request)
        if spreads(request, tp * cp * dp, pp, ep * split)
        for size in microbatch_sizes(request, dp)
        for sequence_parallel in sequence_splits(request, tp)
    ]
    per_rank = request.global_batch // dp
    return inner, [policies(request, pp, per_rank // one[2], cp * dp > 1) for one in inner]


Strategy = tuple[Block, Inner, Policy]


def _strategy_of(run: Run) -> Strategy:
    mesh = run.mesh
    return (
        (mesh.attn_tp, mesh.cp, mesh.attn_dp, mesh.pp),
        (mesh.ep, mesh.expert_tp, run.microbatch, run.sequence_parallel),
        (run.schedule, mesh.virtual_stages, run.recompute, run.zero_stage),
    )


def _distance(own: Strategy, best: Strategy) -> float:
    """How far two strategies are apart, in factors of their degrees and changed choices."""
    (block, inner, policy), (home, at_home, habit) = own, best
    pairs = [*zip(block, home, strict=True), *zip(inner[:3], at_home[:3], strict=True)]
    found = sum(abs(math.log2(a / b)) for a, b in (*pairs, (policy[1], habit[1])))
    changed = [a != b for a, b in zip(policy, habit, strict=True)]
    return found + changed[0] + changed[2] + changed[3] + (inner[3] != at_home[3])


def samples(case: TrainRecheckCase) -> list[tuple[TrainRequest, Run]]:
    """Strategies near the layout, nearest first, and some from everywhere; repeatable."""
    home = _strategy_of(case.run)
    rng = random.Random(case.stated_count)

    def apart(block: Block) -> float:
        return sum(abs(math.log2(a / b)) for a, b in zip(block, home[0], strict=True))

    def around(request: TrainRequest, block: Block) -> Iterator[Strategy]:
        inner, own = _choices(request, block)
        for one, menu in zip(inner, own, strict=True):
            yield from ((block, one, policy) for policy in menu)

    found = [(case.requests[0], case.run)]
    for request in case.requests:
        every = list(blocks(request))
        nearest = sorted(every, key=apart)[:16]
        near = heapq.nsmallest(
            MOST_NEAR,
            (one for block in nearest for one in around(request, block)),
            key=lambda one: (_distance(one, home), str(one)),
        )
        far = []
        for block in rng.sample(every, min(len(every), MOST_FAR)):
            strategies = list(around(request, block))
            far += [rng.choice(strategies)] if strategies else []
        found += [(request, _run_of(request, *one)) for one in (*near, *far)]
    return list({(id(request), run): (request, run) for request, run in found}.values())


def value_of(request: TrainRequest, run: Run, seconds: float) -> float:
    """Objective, smaller is better."""
    if request.objective is Objective.LATENCY:
        return seconds
    largest = max(len(domain) for domain in request.topology.domains)
    rented = math.ceil(run.mesh.num_chips / largest) * largest * request.rented_share
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


def _bound(request: TrainRequest, run: Run, enough: float) -> float:
    """Objective that no cut of a strategy beats, derived no further than ``enough``."""
    scale = value_of(request, run, 1.0)
    scalar = ScalarBound(model=request.model, topology=request.topology, run=run)
    found = scalar.seconds(Slowest(seconds=0.0)) * scale
    if found < enough:
        filled = filled_s(scalar, enough / scale)
        found = max(found, 0.0 if filled is None else filled * scale)
    if found < enough:
        slowest = _slowest(request, run)
        tight = math.inf if math.isinf(slowest.seconds) else scalar.seconds(slowest) * scale
        found = max(found, tight)
    return found


def _simple_cuts(case: TrainRecheckCase, run: Run) -> list[tuple[int, ...]]:
    """Cuts that engines use, and the layout's own."""
    model = case.requests[0].model
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
    home, model = case.requests[0], case.requests[0].model
    count = sum(count_again(request) for request in case.requests)
    broken = []
    if count != case.stated_count:
        broken.append(f"certificate: {case.stated_count} strategies stated, {count} counted")
    own = predict_training(model, home.topology, case.run, case.counts)
    objective = value_of(home, case.run, own.seconds)
    if not math.isclose(objective, case.stated_objective, rel_tol=1e-9):
        broken.append(
            f"certificate: objective {case.stated_objective!r} does not follow from the "
            f"decisions, which give {objective!r}"
        )
    runs, built, best = samples(case), 0, math.inf
    floor, lowest = objective, case.stated_bound * (1.0 - TOLERANCE)
    for request, run in runs:
        value = _bound(request, run, objective if run == case.run else lowest)
        floor = min(floor, value)
        if value < lowest:
            broken.append(f"{_name(run)} is bounded by {value:.9g}, below the stated bound")
        for counts in _simple_cuts(case, run):
            priced = predict_training(model, request.topology, run, counts)
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
