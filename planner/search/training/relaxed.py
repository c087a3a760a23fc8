"""Bounds of a mesh over all of its policies.

The step takes, for every recomputation and ZeRO stage that memory may allow, the best schedule
with as many chunks as it can have, nothing lost by an uneven cut:

    step >= m T / p + bubble + hops + gradients + optimizer + what hidden messages hold

``T`` depends on few degrees at once: it is computed once for every distinct pair of a block and
an expert split (:mod:`~planner.search.training.tables`). Messages of sharded weights are counted
as one of all layers' bytes, which is never dearer than one per layer. The bubble is that of
no recomputation: bubbles do not shrink when the backward pass grows, but for ZB-V's while the
backward pass of the inputs is the shorter one, which is then counted as long as the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cost.overlap import exposed_seconds
from planner.cost.schedules.forms import Work, bubble_seconds
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.question import permits
from planner.domain.run import Recompute, ScheduleKind
from planner.search.training.bounds import StepBound, least_idle_s
from planner.search.training.cases import Cases
from planner.search.training.policies import (
    KINDS,
    ZERO_STAGES,
    Policies,
    hides_experts,
    interleaved_chunks,
    recompute_choices,
)
from planner.search.training.tables import Index

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CHUNK = 1 << 14
NONE = KINDS.index(ScheduleKind.NONE)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshTable:
    """Bounds of all meshes: seconds (infinite where nothing fits) and least bytes."""

    step_s: FloatArray
    memory_bytes: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pairs:
    """Seconds of one microbatch through the whole model, by pair of block and expert split.

    Parameters
    ----------
    index : Index
        Pair of each mesh.
    whole : array, shape ``[2, recomputes, 3, pairs]``
        Without a pipeline, and with one whose schedules may hide expert messages.
    idle : array, shape ``[pairs]``
        Least share ``(F + B - 2 W) / (F + B + W)`` of a layer without recomputation.
    """

    index: Index
    whole: FloatArray
    idle: FloatArray


def permitted_kinds(bound: StepBound) -> list[ScheduleKind]:
    """Schedules of pipelines in the request's space."""
    allowed = bound.request.limits.schedules
    every = [kind for kind in ScheduleKind if kind is not ScheduleKind.NONE]
    return [kind for kind in every if allowed is None or kind in allowed]


def uniform_cases(rows: IntArray, kind: int, recompute: int, zero: int | IntArray) -> Cases:
    """The same policy for every row."""
    n = len(rows)
    return Cases(
        rows=rows,
        policies=Policies(
            kind=np.full(n, kind, dtype=np.int64),
            virtual_stages=np.ones(n, dtype=np.int64),
            recompute=np.full(n, recompute, dtype=np.int64),
            zero=np.broadcast_to(np.asarray(zero, dtype=np.int64), (n,)),
        ),
    )


def _price_pairs(bound: StepBound) -> _Pairs:
    tables = bound.tables
    index = Index.of(tables.block.inverse, tables.expert.inverse)
    codes = np.array([KINDS.index(k) for k in permitted_kinds(bound)], dtype=np.int64)
    pairing = bool(hides_experts(bound.request, codes).any())
    found, idle = [], np.zeros(len(index.first))
    for hides in (False, pairing):
        own = []
        for recompute in recompute_choices(bound.request):
            cases = uniform_cases(index.first, NONE, list(Recompute).index(recompute), 0)
            passes = bound.layer_passes(cases, np.full(len(cases), hides))
            own.append(bound.whole_model(cases, passes))
            if len(own) == 1:
                work = passes.forward + passes.input_grad - 2.0 * passes.weight_grad
                idle = (work / passes.total).min(axis=1)
        found.append(own)
    return _Pairs(index=index, whole=np.array(found), idle=idle)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weights:
    """Seconds that depend on the share of the weights alone, by distinct share.

    Parameters
    ----------
    index : Index
        Share of each mesh.
    fixed : array, shape ``[zero stages, shares]``
        Update, and messages of a step.
    messages : array, shape ``[zero stages, shares]``
        Messages of one microbatch, not hidden.
    """

    index: Index
    fixed: FloatArray
    messages: FloatArray


def _price_weights(bound: StepBound) -> _Weights:
    meshes = bound.meshes
    index = Index.of(meshes.tp, meshes.cp * meshes.dp, meshes.pp, meshes.ep * meshes.expert_tp)
    fixed, messages = [], []
    for zero in zero_choices(bound):
        found = np.empty((2, len(index.first)))
        for start in range(0, len(index.first), CHUNK):
            rows = index.first[start : start + CHUNK]
            # One data-parallel rank shards nothing, whatever is asked for.
            own = uniform_cases(rows, NONE, 0, np.where(bound.ranks(rows)[0] <= 1, 0, zero))
            found[0, start : start + CHUNK] = bound.optimizer_s(own)
            found[0, start : start + CHUNK] += _least_gradients_s(bound, own)
            found[1, start : start + CHUNK] = _sharding_s(bound, own)
        fixed.append(found[0])
        messages.append(found[1])
    return _Weights(index=index, fixed=np.array(fixed), messages=np.array(messages))


def mesh_table(bound: StepBound) -> MeshTable:
    """Bounds of every mesh of the request, in chunks that stay in the cache."""
    n = len(bound.meshes)
    step, memory = np.full(n, np.inf), np.full(n, np.inf)
    pairs, weights = _price_pairs(bound), _price_weights(bound)
    for start in range(0, n, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n))
        step[rows], memory[rows] = _bound_rows(bound, pairs, weights, rows)
    return MeshTable(step_s=step, memory_bytes=memory)


def zero_choices(bound: StepBound) -> list[int]:
    """Stages that are bounded apart: 1 stands for 0 too, whose update and memory are no less."""
    allowed = [z for z in ZERO_STAGES if permits(bound.request.limits.zero, z)]
    return [z for z in allowed if not (z == 0 and 1 in allowed)]


def _bound_rows(
    bound: StepBound, pairs: _Pairs, weights: _Weights, rows: IntArray
) -> tuple[FloatArray, FloatArray]:
    step, memory = np.full(len(rows), np.inf), np.full(len(rows), np.inf)
    p = bound.meshes.pp[rows]
    place = pairs.index.inverse[rows]
    whole = np.where(p > 1, pairs.whole[1][:, :, place], pairs.whole[0][:, :, place])
    bubble = _least_bubble_s(bound, rows, whole[0], pairs.idle[place])
    rest = bubble + _least_hops_s(bound, rows)
    share = weights.index.inverse[rows]
    for place_z, zero in enumerate(zero_choices(bound)):
        stages = np.where(bound.ranks(rows)[0] <= 1, 0, zero)
        fixed = rest + weights.fixed[place_z, share]
        messages = weights.messages[place_z, share]
        left = np.arange(len(rows))
        for place_r, recompute in enumerate(recompute_choices(bound.request)):
            # Where it fits with less recomputation, more of it is only slower.
            cases = uniform_cases(rows[left], NONE, list(Recompute).index(recompute), stages[left])
            held = bound.memory_bytes(cases)
            memory[left] = np.minimum(memory[left], held)
            fits = held <= bound.chip.hbm_usable_bytes
            good = left[fits]
            compute = whole[place_r][:, good].sum(axis=0)
            seen = compute + _least_exposed(bound, messages[good], compute)
            m = bound.microbatches[rows[good]]
            step[good] = np.minimum(step[good], fixed[good] + m * seen / p[good])
            left = left[~fits]
            if not len(left):
                break
    return step, memory


def _least_bubble_s(
    bound: StepBound, rows: IntArray, whole: FloatArray, idle: FloatArray
) -> FloatArray:
    """Bubble of the best permitted schedule of even devices."""
    p = bound.meshes.pp[rows].astype(float)
    m = bound.microbatches[rows].astype(float)
    forward, input_grad, weight_grad = whole / p
    best = np.full(len(rows), np.inf)
    for kind in permitted_kinds(bound):
        v = np.ones_like(p)
        back = input_grad
        if kind is ScheduleKind.ZB_H2:
            blocks, entry = bound.tables.blocks, bound.tables.block.inverse[rows]
            tables = blocks.embedding[entry], (1 + bound.num_mtp) * blocks.head[entry]
            own = least_idle_s(p, whole.sum(axis=0) / p, idle, tables)
            best = np.minimum(best, own)
            continue
        if kind is ScheduleKind.INTERLEAVED:
            most = max(interleaved_chunks(bound.request), default=2)
            v = np.clip((bound.num_layers + 2) // p, 2, most)
        if kind is ScheduleKind.ZB_V:
            back = np.maximum(back, forward)
        best = np.minimum(best, bubble_seconds(kind, p, m, v, Work(forward, back, weight_grad)))
    return np.where(p > 1, np.maximum(0.0, best), 0.0)


def _least_hops_s(bound: StepBound, rows: IntArray) -> FloatArray:
    """Hops of an interleaved schedule, which waits least for each."""
    return bound.hops_s(uniform_cases(rows, KINDS.index(ScheduleKind.INTERLEAVED), 0, 0))


def _least_gradients_s(bound: StepBound, cases: Cases) -> FloatArray:
    """Messages of gradients and weights that are wholly hidden, where they may be."""
    reduce, gather = bound.message_s(cases)
    total = reduce + gather
    if permits(bound.request.limits.zero, 0) and (cases.policies.zero == 1).any():
        # Stands for stage 0 too, whose one message may be the cheaper one.
        plain = uniform_cases(cases.rows, NONE, 0, 0)
        total = np.where(
            cases.policies.zero == 1, np.minimum(total, bound.message_s(plain)[0]), total
        )
    return (bound.share if bound.hides_dp else 1.0) * total


def _sharding_s(bound: StepBound, cases: Cases) -> FloatArray:
    """Messages of sharded weights and gradients of one microbatch, not hidden."""
    zero = cases.policies.zero
    if not (zero >= 2).any():
        return np.zeros(len(cases))
    weight = bound.counts + bound.ends
    shard = bound.tables.dense_shard.inverse[cases.rows]
    dense = bound.tables.dense[shard] @ weight
    expert = bound.local_experts(cases.rows) @ weight
    stored = BYTES_PER_ELEMENT[bound.request.model.precision.attention]
    size = BYTES_PER_ELEMENT[bound.request.gradients]
    reduce = bound.weight_links_s(cases.rows, Op.REDUCE_SCATTER, dense * size, expert * size)
    gather = bound.weight_links_s(cases.rows, Op.ALL_GATHER, dense * stored, expert * stored)
    return np.where(zero >= 2, reduce, 0.0) + np.where(zero >= 3, 2.0 * gather, 0.0)


def _least_exposed(bound: StepBound, message: FloatArray, compute: FloatArray) -> FloatArray:
    """What messages add to all passes at least: the sum over layers is no less than this."""
    return exposed_seconds(message, compute, bound.share) if bound.hides_dp else message
