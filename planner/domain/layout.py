"""A layout: every decision, complete enough to be checked and priced alone.

These records are also the schema of ``layout.json``: their field names are its keys.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from planner.domain.cost import Prediction
from planner.domain.degrees import OverlapLabel

SCHEMA_VERSION = 2


class ModelInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model as asked for: catalogue name or the config itself, and its precision."""

    name: str
    config: dict[str, Any]
    weights: str | None = None
    activations: str | None = None
    kv: str | None = None


class MachineInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine as asked for: catalogue name, the facts of its file, and its size."""

    name: str
    facts: dict[str, Any]
    nodes: int | None = None
    racks: int | None = None
    slices: int | None = None
    shape: tuple[int, ...] | None = None


class Inputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the answer depends on.

    ``context_tokens`` are cached of every sequence, ``seq_len`` are the new ones of a prefill.
    ``limits`` are the values that the user allowed of a degree, such as ``{"pp": "1..4"}``; a
    degree that is absent was free. ``gap`` is the gap that was asked for; ``survive`` says which
    part may die: ``chip``, ``tray``, ``node`` or ``any`` of those.
    """

    model: ModelInput
    machine: MachineInput
    phase: str
    context_tokens: int
    objective: str
    time_model: str
    ideal: bool = False
    tpot_s: float | None = None
    batch: int | None = None
    price_usd_per_hour: float | None = None
    routing_loads: tuple[tuple[float, ...], ...] | None = None
    acceptance: float | None = None
    exclude: tuple[str, ...] = ()
    reserve: int = 0
    reserve_per_domain: int = 0
    limits: dict[str, str] = {}
    gap: float | None = None
    seq_len: int | None = None
    ttft_s: float | None = None
    survive: str | None = None


class DegreesRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parallel degrees; see :class:`planner.domain.degrees.Degrees`."""

    attn_tp: int
    attn_dp: int
    pp: int
    ep: int
    expert_tp: int
    num_slots: int
    microbatches: int
    replicas: int
    cp: int = 1
    overlap: OverlapLabel = "none"
    draft: int = 0


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Layers ``first_layer`` up to, not including, ``end_layer`` of the model."""

    first_layer: int
    end_layer: int
    has_embedding: bool
    has_head: bool


class Rank(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rank: the chip it runs on and its place on every axis."""

    rank: int
    chip: str
    replica: int
    stage: int
    attn_dp_rank: int
    attn_tp_rank: int
    ep_rank: int
    expert_tp_rank: int
    cp_rank: int = 0


class ExpertMap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Expert copies of the MoE layers ``layers``: ``slots[ep_rank]`` lists expert numbers."""

    layers: tuple[int, ...]
    slots: tuple[tuple[int, ...], ...]


class BatchSplit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sequences of one replica: ``sequences[microbatch][attn_dp_rank]``."""

    replica: int
    sequences: tuple[tuple[int, ...], ...]


Stopped = Literal["gap", "time limit", "interrupted", "exhausted", "own bounds"]


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was proved: no strategy of the searched space has an objective below ``bound``.

    ``objective`` and ``bound`` are in ``unit``, smaller is better; ``gap`` is
    ``(objective - bound) / objective``. Counts say what happened to the strategies:
    ``enumerated`` are those that did not fit, were pruned by their bound or were solved, the
    last with or without a placement; ``infeasible_tpot`` miss the limit on the step, TPOT or
    TTFT; ``dominated`` are others that one of them is as good as.
    ``stopped`` is what ended the search: the gap was proven, the time limit, Ctrl-C, or nothing
    was left. ``own bounds``: all strategies that may be better by more than the gap that was
    asked for are solved, but some of them are not proven to be as good as they can be.
    """

    objective: float
    bound: float
    gap: float
    unit: str
    enumerated: int
    infeasible_memory: int
    infeasible_tpot: int
    infeasible_placement: int
    pruned: int
    solved: int
    dominated: int
    stopped: Stopped
    space: dict[str, str]


class RunnerUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The best layout of another family of degrees, for comparison."""

    degrees: DegreesRecord
    batch: int
    step_s: float
    tokens_per_s_per_chip: float
    bound_only: bool


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A complete answer, as written to ``layout.json``."""

    schema_version: int
    planner_version: str
    inputs: Inputs
    degrees: DegreesRecord
    stages: tuple[Stage, ...]
    ranks: tuple[Rank, ...]
    idle_chips: tuple[str, ...]
    reserved_chips: tuple[str, ...] = ()
    experts: tuple[ExpertMap, ...]
    batches: tuple[BatchSplit, ...]
    prediction: Prediction
    certificate: Certificate | None = None
    runners_up: tuple[RunnerUp, ...] = ()
    why: str = ""
