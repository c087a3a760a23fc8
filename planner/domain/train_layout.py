"""A training layout: every decision, complete enough to be checked and priced alone.

These records are also the schema of the file that ``planner plan --phase train -o`` writes: their
field names are its keys.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from planner.domain.cost import Bound
from planner.domain.layout import Certificate, MachineInput, ModelInput
from planner.domain.run import Recompute, ScheduleKind

TRAIN_SCHEMA_VERSION = 2
RANK_ORDER = ("tp", "cp", "dp", "pp")


class TrainInputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the answer depends on.

    ``overlap`` is the communication that the engine can hide; ``limits`` the degrees and choices
    that were not free, as they would be written on the command line.
    """

    model: ModelInput
    machine: MachineInput
    phase: Literal["train"]
    global_batch: int
    seq_len: int
    objective: str
    overlap: tuple[str, ...]
    optimizer: str
    optimizer_state: str
    gradients: str
    gap: float
    ideal: bool = False
    price_usd_per_hour: float | None = None
    limits: dict[str, str] = {}
    exclude: tuple[str, ...] = ()
    reserve: int = 0


class TrainDegrees(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parallel degrees, schedule and memory policy of one optimizer step.

    ``tp x cp x dp x pp`` chips; groups of ``ep x expert_tp`` chips lie inside ``tp x cp x dp``.
    ``microbatch`` counts the sequences of one microbatch and data-parallel rank, ``microbatches``
    those of a step; ``overlap`` is the communication that runs behind computation.
    """

    tp: int
    cp: int
    dp: int
    pp: int
    virtual_stages: int
    ep: int
    expert_tp: int
    microbatch: int
    microbatches: int
    schedule: ScheduleKind
    recompute: Recompute
    zero_stage: int
    sequence_parallel: bool
    overlap: tuple[str, ...]


class Chunk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Layers ``first_layer`` up to, not including, ``end_layer`` on pipeline rank ``pp_rank``.

    Layers of multi-token prediction lie with the head. In DualPipe, ``pp_rank`` is that of one
    half of the microbatches; the other half finds the chunk on the mirrored rank.
    """

    pp_rank: int
    first_layer: int
    end_layer: int
    has_embedding: bool
    has_head: bool


class TrainTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of the step; ``seconds`` add up to it."""

    name: str
    seconds: float
    bound: Bound


class TrainMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """HBM bytes of the fullest chip by purpose; ``capacity`` is the usable HBM."""

    weights_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    activations_bytes: float
    reserve_bytes: float
    capacity_bytes: float

    @property
    def used_bytes(self) -> float:
        """Sum of all purposes."""
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.reserve_bytes
        )


class TrainPrediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the cost model predicts.

    ``bubble`` is the idle share of the step; ``mfu`` counts the model's FLOP and the chips that
    are used; ``usd_per_million_tokens`` counts the ``chips_rented`` chips of all nodes in use.
    """

    step_s: float
    tokens_per_s: float
    tokens_per_s_per_chip: float
    mfu: float
    bubble: float
    usd_per_million_tokens: float | None
    chips_rented: int
    terms: tuple[TrainTerm, ...]
    memory: TrainMemory


class TrainRunnerUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The best layout found with another schedule."""

    degrees: TrainDegrees
    step_s: float
    mfu: float


class TrainLayout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A complete answer.

    ``chips`` are the names of the chips by rank; ranks are numbered with ``rank_order[0]``
    fastest. They are ``domain_chips`` of each node, rack or slice.
    """

    schema_version: int
    planner_version: str
    inputs: TrainInputs
    degrees: TrainDegrees
    chunks: tuple[Chunk, ...]
    rank_order: tuple[str, ...]
    domain_chips: int
    chips: tuple[str, ...]
    idle_chips: tuple[str, ...]
    prediction: TrainPrediction
    certificate: Certificate | None = None
    runners_up: tuple[TrainRunnerUp, ...] = ()
    why: str = ""
