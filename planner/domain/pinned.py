"""Exactly the degrees of a layout, as limits of a question."""

from __future__ import annotations

from planner.domain.degrees import OVERLAP_LABELS, Degrees, OverlapMode
from planner.domain.layout import DegreesRecord
from planner.domain.question import DegreeLimits
from planner.domain.run import Run
from planner.domain.training import TrainLimits


def _one(value: int) -> frozenset[int]:
    return frozenset({value})


def pinned(degrees: Degrees | DegreesRecord) -> DegreeLimits:
    """Degrees of a decode or prefill layout; batch, stages and placement stay open.

    Where nothing is drafted, drafts stay open too: a question without them refuses their limit.
    """
    overlap = degrees.overlap
    mode = overlap if isinstance(overlap, OverlapMode) else OVERLAP_LABELS[overlap]
    return DegreeLimits(
        tp=_one(degrees.attn_tp),
        pp=_one(degrees.pp),
        cp=_one(degrees.cp),
        dp=_one(degrees.attn_dp * degrees.replicas),
        ep=_one(degrees.ep),
        expert_tp=_one(degrees.expert_tp),
        slots=_one(degrees.num_slots) if degrees.num_slots else None,
        microbatches=_one(degrees.microbatches),
        replicas=_one(degrees.replicas),
        overlap=_one(int(mode)),
        draft=_one(degrees.draft) if degrees.draft else None,
    )


def pinned_training(run: Run) -> TrainLimits:
    """Degrees, schedule and policy of a training run; the cut into chunks stays open."""
    mesh = run.mesh
    return TrainLimits(
        tp=_one(mesh.attn_tp),
        cp=_one(mesh.cp),
        dp=_one(mesh.attn_dp),
        pp=_one(mesh.pp),
        virtual_stages=_one(mesh.virtual_stages),
        ep=_one(mesh.ep),
        expert_tp=_one(mesh.expert_tp),
        microbatch=_one(run.microbatch),
        zero=_one(run.zero_stage),
        schedules=frozenset({run.schedule}),
        recompute=frozenset({run.recompute}),
        sequence_parallel=frozenset({run.sequence_parallel}),
    )
