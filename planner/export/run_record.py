"""What ``planner estimate --json`` prints.

The keys are the field names of these records; seconds, bytes, FLOP and dollars are plain
numbers, times without a meaning for the kind of run are null.
"""

from __future__ import annotations

import msgspec

from planner.domain.cost import Bound
from planner.domain.dtypes import Precision
from planner.domain.run import Mesh
from planner.run_api import RunEstimate


class RunTermRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the time; ``share`` of it, and what it waits for."""

    name: str
    seconds: float
    share: float
    bound: Bound


class RunMemoryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the fullest chip."""

    weights_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    activations_bytes: float
    kv_bytes: float
    reserve_bytes: float
    needed_bytes: float
    capacity_bytes: float
    fits: bool


class RunFlopRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Model FLOP: ``passes x multiplying_params`` per token, and attention.

    ``total_flop`` is of ``tokens`` tokens: a step, a pass, a batch of requests, one request
    when served.
    """

    passes: int
    multiplying_params: float
    tokens: float
    attention_flop: float
    total_flop: float
    rate: str
    peak_flop_per_s: float


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run and its price.

    Parameters
    ----------
    seconds : float
        Of the step, pass or request; per output token when served. ``terms`` add up to it.
    bubble : float, optional
        Share of the time in which a pipeline stage waits.
    changes : tuple of str
        Options after which a run that does not fit does.
    """

    kind: str
    model: str
    machine: str
    size: str
    precision: Precision
    mesh: Mesh
    workers: int
    chips: int
    machine_chips: int
    rented_chips: int
    workload: dict[str, float]
    seconds: float
    ttft_s: float | None
    tpot_s: float | None
    tokens_per_s: float
    tokens_per_s_per_chip: float
    tokens_per_s_per_user: float | None
    model_flop_per_s_per_chip: float
    mfu: float
    bubble: float | None
    running: float | None
    usd_per_million_tokens: float | None
    flop: RunFlopRecord
    terms: tuple[RunTermRecord, ...]
    memory: RunMemoryRecord
    changes: tuple[str, ...]


_WORKLOAD = (
    *("batch", "seq", "context", "context_spread", "input", "output"),
    *("concurrency", "rate", "prefix_hit", "draft", "acceptance"),
)


def run_record(estimate: RunEstimate) -> RunRecord:
    """The record of an estimate; ``workload`` has what the question gave."""
    question, memory, flop = estimate.question, estimate.memory, estimate.flop
    given = {name: getattr(question, name) for name in _WORKLOAD}
    return RunRecord(
        kind=question.kind.value,
        model=estimate.model,
        machine=estimate.machine,
        size=estimate.size,
        precision=estimate.precision,
        mesh=estimate.mesh,
        workers=question.workers,
        chips=estimate.chips,
        machine_chips=estimate.machine_chips,
        rented_chips=estimate.rented_chips,
        workload={name: value for name, value in given.items() if value},
        seconds=estimate.seconds,
        ttft_s=estimate.ttft_s,
        tpot_s=estimate.tpot_s,
        tokens_per_s=estimate.tokens_per_s,
        tokens_per_s_per_chip=estimate.tokens_per_s_per_chip,
        tokens_per_s_per_user=estimate.tokens_per_s_per_user,
        model_flop_per_s_per_chip=estimate.model_flop_per_s_per_chip,
        mfu=estimate.mfu,
        bubble=estimate.bubble,
        running=estimate.running,
        usd_per_million_tokens=estimate.usd_per_million_tokens,
        flop=RunFlopRecord(
            passes=flop.passes,
            multiplying_params=flop.multiplying_params,
            tokens=flop.tokens,
            attention_flop=flop.attention_flop,
            total_flop=flop.total,
            rate=estimate.rate,
            peak_flop_per_s=estimate.peak_flop_per_s,
        ),
        terms=tuple(
            RunTermRecord(
                name=term.name,
                seconds=term.seconds,
                share=term.seconds / estimate.seconds,
                bound=term.bound,
            )
            for term in estimate.terms
        ),
        memory=RunMemoryRecord(
            weights_bytes=memory.weights_bytes,
            gradients_bytes=memory.gradients_bytes,
            optimizer_bytes=memory.optimizer_bytes,
            activations_bytes=memory.activations_bytes,
            kv_bytes=memory.kv_bytes,
            reserve_bytes=memory.reserve_bytes,
            needed_bytes=memory.needed_bytes,
            capacity_bytes=memory.capacity_bytes,
            fits=bool(memory.fits),
        ),
        changes=estimate.changes,
    )
