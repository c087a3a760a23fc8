"""A layout of separate prefill and decode pools: the schema of its file."""

from __future__ import annotations

import msgspec

from planner.domain.cost import Prediction
from planner.domain.layout import (
    BatchSplit,
    Certificate,
    DegreesRecord,
    ExpertMap,
    MachineInput,
    ModelInput,
    Rank,
    Stage,
)

SERVE_SCHEMA_VERSION = 1


class ServeInputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the answer depends on; see :class:`planner.domain.serve.Demand`.

    ``limits`` and ``prefill_limits`` are the values that the user allowed of the degrees of
    decode and prefill workers.
    """

    model: ModelInput
    machine: MachineInput
    phase: str
    input_len: int
    output_len: int
    time_model: str
    prefix_hit: float = 0.0
    ttft_s: float | None = None
    tpot_s: float | None = None
    rate_per_s: float | None = None
    ideal: bool = False
    price_usd_per_hour: float | None = None
    routing_loads: tuple[tuple[float, ...], ...] | None = None
    acceptance: float | None = None
    exclude: tuple[str, ...] = ()
    reserve: int = 0
    reserve_per_domain: int = 0
    limits: dict[str, str] = {}
    prefill_limits: dict[str, str] = {}
    gap: float | None = None


class PoolLayout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pool: ``degrees.replicas`` equal workers, and what a pass of theirs takes."""

    degrees: DegreesRecord
    stages: tuple[Stage, ...]
    ranks: tuple[Rank, ...]
    experts: tuple[ExpertMap, ...]
    batches: tuple[BatchSplit, ...]
    prediction: Prediction


class ServePrediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both pools do together.

    ``requests_per_s`` is the least of what prefill workers, decode workers and the links
    between them can do; ``limited_by`` says which. ``ttft_s`` is ``prefill_s + transfer_s``.
    ``kv_bytes`` are sent of every prompt, ``kv_bytes_per_chip`` by the busiest chip.
    ``tokens_per_s`` are those of answers; per chip of the machine, idle ones too.
    ``usd_per_million_tokens`` counts the ``chips_rented`` chips of all nodes or racks in use.
    """

    requests_per_s: float
    limited_by: str
    prefill_requests_per_s: float
    decode_requests_per_s: float
    link_requests_per_s: float | None
    ttft_s: float
    prefill_s: float
    transfer_s: float
    tpot_s: float
    kv_bytes: float
    kv_bytes_per_chip: float
    tokens_per_s: float
    tokens_per_s_per_chip: float
    chips_used: int
    chips_rented: int
    usd_per_million_tokens: float | None


class ServeLayout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A complete answer: both pools on named chips of one machine."""

    schema_version: int
    planner_version: str
    inputs: ServeInputs
    prefill: PoolLayout
    decode: PoolLayout
    idle_chips: tuple[str, ...]
    reserved_chips: tuple[str, ...] = ()
    prediction: ServePrediction
    certificate: Certificate | None = None
    why: str = ""
