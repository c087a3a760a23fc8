"""The space of training strategies again, in plain loops, for the re-check of certificates.

Written from what the space is said to hold (:mod:`~planner.search.training.space`,
:mod:`~planner.search.training.policies`, :mod:`~planner.search.training.placement`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache

from planner.cost.attention import decode_core
from planner.domain.model import MoeFfn
from planner.domain.run import Recompute, ScheduleKind
from planner.domain.scale_up import SwitchDomain, Torus
from planner.domain.workload import Objective
from planner.search.training.policies import MOST_CHUNKS, RECOMPUTES, USUAL_CHUNKS
from planner.search.training.request import TrainRequest
from planner.search.training.space import (
    LARGER_SEQUENCES,
    LEAST_TOKENS,
    MOST_CP,
    MOST_EXPERT_TP,
    MOST_SEQUENCES,
    MOST_TP_DOMAINS,
)
from planner.topology.graph import Topology

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


def _pieces(start: int, span: int, size: int, in_order: bool) -> tuple[int, ...]:
    """Ranks of a block in each part of ``size`` that it touches."""
    found, end = [], start + span
    while start < end:
        border = min(end, (start // size + 1) * size)
        found.append(border - start)
        start = border
    return tuple(found) if in_order else tuple(sorted(found))


def _alike(topology: Topology, span: int, used: int) -> bool:
    """Whether all blocks of ``span`` ranks among ``used`` lie like the first."""
    domain = max(len(own) for own in topology.domains)
    scale_up, fabric = topology.spec.scale_up, topology.spec.scale_out
    sizes = [domain]
    if isinstance(scale_up, Torus):
        shape = topology.spec.shape
        sizes = [math.prod(shape[axis:]) for axis in range(len(shape))]
    if isinstance(scale_up, SwitchDomain):
        sizes += [level.span for level in scale_up.levels[:-1]]
    if fabric is not None and topology.contention > 1:
        sizes.append(domain * fabric.domains_per_unit)
    # Starts repeat after ``size`` blocks at most.
    return all(
        _pieces(block * span, span, size, topology.is_torus)
        == _pieces(0, span, size, topology.is_torus)
        for size in sizes
        if size < used
        for block in range(min(used // span, size // math.gcd(size, span)))
    )


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
    alike = cache(lambda span, used: _alike(request.topology, span, used))
    for tp, chips in _tensor_degrees(request):
        for cp in contexts:
            for pp in range(1, len(request.model.layers) + 3):
                room = chips // (tp * cp * pp)
                able = set()
                for dp in rows if room and _permits(limits.pp, pp) else ():
                    if dp > room:
                        break
                    stage = tp * cp * dp
                    if _permits(limits.dp, dp) and alike(tp * cp, stage * pp):
                        able |= {dp} if alike(stage, stage * pp) else set()
                for dp in sorted(able):
                    if all_sizes or 2 * dp not in able:
                        yield tp, cp, dp, pp


def expert_splits(request: TrainRequest) -> list[tuple[int, int]]:
    """``(ep, expert_tp)`` that divide the experts and a domain."""
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


def spreads(request: TrainRequest, stage: int, pp: int, ways: int) -> bool:
    """Whether groups of ``ways`` experts' shares fill a stage, each like the first."""
    return stage % ways == 0 and _alike(request.topology, ways, stage * pp)


def microbatch_sizes(request: TrainRequest, dp: int) -> list[int]:
    """Sequences of a microbatch."""
    asked = request.limits.microbatch
    return [
        size
        for size in _divisors(request.global_batch // dp)
        if (size <= MOST_SEQUENCES or size in LARGER_SEQUENCES if asked is None else size in asked)
    ]


def sequence_splits(request: TrainRequest, tp: int) -> list[bool]:
    """Whether norms are split over ``tp``."""
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
    splits = expert_splits(request)

    @cache
    def of_pipeline(pp: int, count: int, sharded: bool) -> int:
        return len(policies(request, pp, count, sharded))

    @cache
    def of_stage(chips: int, pp: int) -> int:
        return sum(spreads(request, chips, pp, ep * split) for ep, split in splits)

    @cache
    def of_rank(dp: int, pp: int, sharded: bool) -> int:
        per_rank = request.global_batch // dp
        sizes = microbatch_sizes(request, dp)
        return sum(of_pipeline(pp, per_rank // size, sharded) for size in sizes)

    ways = {tp: len(sequence_splits(request, tp)) for tp, _ in _tensor_degrees(request)}
    return sum(
        of_stage(tp * cp * dp, pp) * ways[tp] * of_rank(dp, pp, cp * dp > 1)
        for tp, cp, dp, pp in blocks(request)
    )
