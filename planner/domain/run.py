"""One given run of a model on a machine: degrees and workload, nothing left to choose.

What :func:`planner.cost.runs.predict.predict_run` prices without any search: a training
step, a prefill pass, a decode step, or a whole request.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from planner.domain.dtypes import DType


class RunKind(StrEnum):
    """What is timed."""

    TRAIN = "train"  # one optimizer step
    PREFILL = "prefill"  # one pass over the new tokens of a batch
    DECODE = "decode"  # one token of every sequence
    REQUEST = "request"  # prefill and all output tokens of a static batch


class ScheduleKind(StrEnum):
    """Pipeline schedules; see :mod:`planner.cost.schedules`."""

    NONE = "none"
    GPIPE = "gpipe"
    ONE_F_ONE_B = "1f1b"
    INTERLEAVED = "interleaved"
    ZB_H1 = "zb-h1"
    ZB_H2 = "zb-h2"
    ZB_V = "zb-v"
    DUALPIPE = "dualpipe"


class Recompute(StrEnum):
    """Which activations the backward pass computes again."""

    NONE = "none"
    SELECTIVE = "selective"  # the attention core
    FULL = "full"  # every layer, from its input
    REVERSIBLE = "reversible"  # every layer, from its output


class Optimizer(StrEnum):
    """What turns gradients into weights."""

    ADAM = "adam"
    MUON = "muon"


class Overlap(StrEnum):
    """Communication that runs behind computation."""

    TP = "tp"
    DP = "dp"
    EP = "ep"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mesh:
    """Parallel degrees in chips: ``attn_tp * cp * attn_dp * pp`` of them.

    ``attn_tp`` runs fastest over the chips of a machine, then ``cp``, ``attn_dp`` and
    ``pp``. Expert groups of ``ep * expert_tp`` chips lie inside ``attn_tp * cp * attn_dp``.
    ``virtual_stages`` are model chunks per pipeline rank.
    """

    attn_tp: int = 1
    cp: int = 1
    attn_dp: int = 1
    pp: int = 1
    virtual_stages: int = 1
    ep: int = 1
    expert_tp: int = 1

    @property
    def stage_chips(self) -> int:
        """Chips of one pipeline stage."""
        return self.attn_tp * self.cp * self.attn_dp

    @property
    def num_chips(self) -> int:
        """Chips of the run."""
        return self.stage_chips * self.pp


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as it was, or will be, made.

    Parameters
    ----------
    global_batch : int
        Sequences per step; for inference all concurrent sequences.
    seq_len : int
        Tokens per sequence (training), new tokens per sequence (prefill).
    context_len : float
        Cached tokens: mean during decode, already there before a prefill.
    context_spread : float
        Standard deviation of the cached tokens over the sequences
        (:mod:`planner.cost.runs.inference_contexts`).
    input_len, output_len : int
        Of a request.
    microbatch : int
        Sequences per microbatch of one data-parallel rank; 0 where it does not apply.
    zero_stage : int
        0 none, 1 optimizer states sharded over ``attn_dp``, 2 gradients too, 3 weights too.
    overlap : frozenset of Overlap, optional
        None where the source does not say: the usual habit of the phase.
    engine : str
        Generation of the inference engine: ``2022``, ``2023``, ``2024``, ``eager``,
        ``current`` or ``ideal`` (:mod:`planner.cost.runs.inference_engine`).
    optimizer : Optimizer
        Of a training step.
    optimizer_state, gradients : DType
        Formats of the optimizer's moments, and of kept gradients.
    chunk_tokens : int
        Most tokens of one prefill pass; 0 for the engine's habit.
    """

    kind: RunKind
    mesh: Mesh
    global_batch: int
    seq_len: int = 0
    context_len: float = 0.0
    context_spread: float = 0.0
    input_len: int = 0
    output_len: int = 0
    microbatch: int = 0
    schedule: ScheduleKind = ScheduleKind.NONE
    recompute: Recompute = Recompute.NONE
    zero_stage: int = 0
    sequence_parallel: bool = False
    overlap: frozenset[Overlap] | None = None
    engine: str = "current"
    chunk_tokens: int = 0
    optimizer: Optimizer = Optimizer.ADAM
    optimizer_state: DType = DType.FP32
    gradients: DType = DType.BF16

    @property
    def num_microbatches(self) -> int:
        """Microbatches of one data-parallel rank in a step."""
        if not self.microbatch:
            return 1
        return max(1, round(self.global_batch / (self.microbatch * self.mesh.attn_dp)))
