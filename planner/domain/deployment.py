"""What an engine is told: a deployment in words that all engines share.

Flags of an engine are read into these records and written from them; what the flags do not say
is None. Which versions of an engine an artifact was checked against stands here, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from planner.domain.dtypes import DType
from planner.domain.train_layout import TrainDegrees


class Engine(StrEnum):
    """Whose configuration is written or read."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TRTLLM = "trtllm"
    MEGATRON = "megatron"
    TORCHTITAN = "torchtitan"
    MAXTEXT = "maxtext"


class PoolRole(StrEnum):
    """What the workers of separate pools do."""

    PREFILL = "prefill"
    DECODE = "decode"


SERVING_ENGINES = (Engine.VLLM, Engine.SGLANG, Engine.TRTLLM)
TRAINING_ENGINES = (Engine.MEGATRON, Engine.TORCHTITAN, Engine.MAXTEXT)


class ExpertFormat(StrEnum):
    """Whose file of expert copies is written."""

    SGLANG = "experts-sglang"
    TRTLLM = "experts-trtllm"
    VLLM = "experts-vllm"
    ASCEND = "experts-ascend"


# Versions whose own sources were read for every flag, the newest last; it is the default.
CHECKED_VERSIONS: dict[str, tuple[str, ...]] = {
    Engine.VLLM: ("0.33.0",),
    Engine.SGLANG: (
        *("0.5.10.post1", "0.5.16", "0.5.18", "0.5.19", "0.5.20"),
        *("0.5.21", "0.5.22", "0.5.23"),
    ),
    Engine.TRTLLM: ("1.3.0rc18", "1.3"),
    Engine.MEGATRON: ("0.20.0",),
    Engine.TORCHTITAN: ("0.2.2", "2026.8"),
    Engine.MAXTEXT: ("2026.8",),
    ExpertFormat.SGLANG: ("0.5.10.post1", "0.5.23"),
    ExpertFormat.TRTLLM: ("1.3",),
    ExpertFormat.VLLM: ("0.33.0",),
    ExpertFormat.ASCEND: ("0.23.0",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingDeployment:
    """One engine's flags, resolved.

    Parameters
    ----------
    tp, dp, cp, pp : int
        Tensor parallelism of attention, ranks that attend to their own sequences, ranks that
        share each context's cache, pipeline stages. One instance has their product of chips.
    ep : int
        Groups over which experts are spread; the other chips of a stage split each expert.
    instances : int
        Independent copies of the engine.
    stage_layers : tuple of int, optional
        Layers of each stage; the engine's own split when absent.
    max_sequences : int, optional
        Running sequences of one ``dp`` rank at most.
    token_budget : int, optional
        Tokens of one pass of one ``dp`` rank at most.
    max_context : int, optional
        Tokens of the longest sequence.
    kv : DType, optional
        Format of the cache; that of the model when absent.
    draft : int
        Tokens drafted per pass.
    draft_model : str, optional
        What drafts, where the model does not do it itself.
    overlap_ep : bool
        Whether dispatch and combine run behind the other half of a batch.
    extra_slots, total_slots : int, optional
        Expert copies beyond one of each, or altogether; whichever the engine asks for.
    placement : tuple of (int, tuple of int), optional
        Model layer and its expert of every slot, for a fixed placement.
    rebalances : bool
        Whether the engine moves experts by itself.
    role : PoolRole, optional
        What the workers do where prefill and decode have pools of their own.
    """

    engine: Engine
    tp: int = 1
    dp: int = 1
    cp: int = 1
    pp: int = 1
    ep: int = 1
    instances: int = 1
    stage_layers: tuple[int, ...] | None = None
    max_sequences: int | None = None
    token_budget: int | None = None
    max_context: int | None = None
    kv: DType | None = None
    draft: int = 0
    draft_model: str | None = None
    overlap_ep: bool = False
    extra_slots: int | None = None
    total_slots: int | None = None
    placement: tuple[tuple[int, tuple[int, ...]], ...] | None = None
    rebalances: bool = False
    role: PoolRole | None = None

    @property
    def chips(self) -> int:
        """Chips of all instances."""
        return self.instances * self.tp * self.dp * self.cp * self.pp


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingDeployment:
    """One training engine's flags, resolved.

    Parameters
    ----------
    degrees : TrainDegrees
        With ``dp`` and ``microbatches`` worked out from the number of chips and the batch.
    chunk_layers : tuple of int, optional
        Layers of each pipeline chunk in the order of the model; an even split when absent.
    activations : DType, optional
        Format of matmul inputs; that of the model when absent.
    """

    engine: Engine
    degrees: TrainDegrees
    global_batch: int
    seq_len: int
    chunk_layers: tuple[int, ...] | None = None
    optimizer: str = "adam"
    optimizer_state: str = "fp32"
    gradients: str = "fp32"
    activations: DType | None = None

    @property
    def chips(self) -> int:
        """Chips of the run."""
        d = self.degrees
        return d.tp * d.cp * d.dp * d.pp
