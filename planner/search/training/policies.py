"""What is chosen beside the mesh: schedule, chunks per device, recomputation, sharding.

Expert messages hide behind another microbatch, so only schedules that have one at hand hide
them: DualPipe pairs a forward with a backward pass, an interleaved schedule runs two chunks at
once (Megatron-LM ``overlap_moe_expert_parallel_comm``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from planner.domain.question import permits
from planner.domain.run import Overlap, Recompute, ScheduleKind
from planner.search.training.request import TrainRequest

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

KINDS = tuple(ScheduleKind)
RECOMPUTES = (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL)
PAIRING = frozenset({ScheduleKind.DUALPIPE, ScheduleKind.INTERLEAVED})
# Chunks per device of interleaved schedules, unless they are asked for.
USUAL_CHUNKS = (*range(2, 9), 10, 12, 16, 20, 24)
MOST_CHUNKS = 1 << 10
ZERO_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policies:
    """Choices of ``n`` policies, one int array of shape ``[n]`` each.

    ``kind`` and ``recompute`` are positions in ``KINDS`` and ``tuple(Recompute)``.
    """

    kind: IntArray
    virtual_stages: IntArray
    recompute: IntArray
    zero: IntArray

    def __len__(self) -> int:
        return len(self.kind)

    def select(self, picked: IntArray) -> Policies:
        """Keep the policies at ``picked``."""
        return Policies(**{f.name: getattr(self, f.name)[picked] for f in fields(self)})

    def code(self) -> IntArray:
        """One integer per policy, in the order of the menu."""
        code = self.kind * MOST_CHUNKS + self.virtual_stages
        return (code * 8 + self.recompute) * 4 + self.zero


def recompute_choices(request: TrainRequest) -> tuple[Recompute, ...]:
    """Recomputation of the space; reversible layers only where they are asked for."""
    asked = request.limits.recompute
    return RECOMPUTES if asked is None else tuple(r for r in Recompute if r in asked)


def interleaved_chunks(request: TrainRequest) -> tuple[int, ...]:
    """Chunks per device of interleaved schedules of the space, ascending."""
    asked = request.limits.virtual_stages or frozenset(USUAL_CHUNKS)
    return tuple(v for v in sorted(asked) if 1 < v < MOST_CHUNKS)


def menu(request: TrainRequest) -> Policies:
    """Every policy, whatever the mesh."""
    limits = request.limits
    rows = []
    recomputes = [list(Recompute).index(r) for r in recompute_choices(request)]
    for position, kind in enumerate(KINDS):
        if limits.schedules is not None and kind not in limits.schedules | {ScheduleKind.NONE}:
            continue
        chunks: tuple[int, ...] = (1,)
        if kind is ScheduleKind.INTERLEAVED:
            chunks = interleaved_chunks(request)
        elif not permits(limits.virtual_stages, 1):
            continue
        for v in chunks:
            for recompute in recomputes:
                rows += [
                    (position, v, recompute, zero)
                    for zero in ZERO_STAGES
                    if permits(limits.zero, zero)
                ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    names = [f.name for f in fields(Policies)]
    return Policies(**{name: table[:, column] for column, name in enumerate(names)})


def admits(
    policies: Policies, pp: IntArray, microbatches: IntArray, data_ranks: IntArray, layers: int
) -> BoolArray:
    """Which policies a mesh can have; arguments broadcast against the policies.

    A schedule needs stages, and chunks need layers: every chunk holds one, but for those of
    embedding and head. DualPipe needs an even number of stages and of microbatches, two per
    stage; interleaved chunks take their microbatches in groups of one per stage. Sharding needs
    more than one data-parallel rank. Stages that hold the model twice do not shard its weights.
    """
    kind = policies.kind
    none = kind == KINDS.index(ScheduleKind.NONE)
    dual = kind == KINDS.index(ScheduleKind.DUALPIPE)
    interleaved = kind == KINDS.index(ScheduleKind.INTERLEAVED)
    v_shaped = kind == KINDS.index(ScheduleKind.ZB_V)
    chunks = np.where(v_shaped, 2, policies.virtual_stages)
    found = none == (pp == 1)
    found &= pp * chunks <= layers + 2
    even = (pp % 2 == 0) & (microbatches % 2 == 0) & (microbatches >= 2 * pp)
    found &= ~dual | (even & (policies.zero < 2))
    found &= ~interleaved | (microbatches % pp == 0)
    found &= (policies.zero == 0) | (data_ranks > 1)
    return np.asarray(found)


def hides_experts(request: TrainRequest, kind: IntArray) -> BoolArray:
    """Whether messages of experts run behind another microbatch."""
    pairing = [KINDS.index(k) for k in PAIRING]
    return np.isin(kind, pairing) & (Overlap.EP in request.overlap)
