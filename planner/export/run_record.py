"""What ``planner estimate --json`` prints.

The keys are the field names of these records; seconds, bytes, FLOP and dollars are plain
numbers, times without a meaning for the kind of run are null.
"""

from __future__ import annotations

import msgspec

from planner.cost.runs.record import RunMemory
from planner.domain.cost import Bound
from planner.domain.dtypes import Precision
from planner.domain.run import Mesh
from planner.domain.run_question import RunQuestion
from planner.pricing.served import Served
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


class TtftRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Mean seconds to the first token, part by part; they add up to ``ttft_s``."""

    front_s: float
    waiting_s: float
    prefill_s: float
    transfer_s: float


class TtftBandRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Requests between two quantiles of the prompt length: means over them."""

    low: float
    high: float
    input_len: float
    ttft_s: float


class PoolsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Two pools: their size, use in [0, 1], the one that limits, and what travels.

    ``prompt_s`` are seconds of a prefill worker per request, in full passes; ``hidden_s`` is
    the part of ``transfer_s`` behind the prefill. Balanced numbers of workers are for this load.
    """

    prefill_mesh: Mesh
    prefill_workers: int
    prefill_chips: int
    decode_chips: int
    prefill_use: float
    decode_use: float
    links_use: float
    limits: str
    prompt_s: float
    kv_bytes: float
    transfer_s: float
    hidden_s: float
    balanced_prefill_workers: int
    balanced_decode_workers: int
    prefill_memory: RunMemoryRecord


class SplitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One split of the machine's chips that meets the limits."""

    prefill_workers: int
    decode_workers: int
    chips: int
    tokens_per_s: float
    ttft_s: float
    tpot_s: float
    prefill_use: float
    decode_use: float
    limits: str


class ServedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a served run has beyond others.

    Parameters
    ----------
    capacity : int
        Sequences whose caches fit into one worker.
    bands : tuple of TtftBandRecord
        Of a mix.
    pools : PoolsRecord, optional
        Where prefill has chips of its own.
    splits : tuple of SplitRecord
        The best ones, where a balance was asked for.
    """

    capacity: int
    ttft: TtftRecord
    bands: tuple[TtftBandRecord, ...]
    pools: PoolsRecord | None
    splits: tuple[SplitRecord, ...]


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run and its price.

    Parameters
    ----------
    seconds : float
        Of the step, pass or request; per output token when served. ``terms`` add up to it.
    bubble : float, optional
        Share of the time in which a pipeline stage waits.
    served : ServedRecord, optional
        Of a served run.
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
    served: ServedRecord | None
    changes: tuple[str, ...]


_WORKLOAD = (
    *("batch", "seq", "context", "context_spread", "input", "output"),
    *("concurrency", "rate", "prefix_hit", "draft", "acceptance", "ttft", "tpot"),
)


def _memory_record(memory: RunMemory) -> RunMemoryRecord:
    return RunMemoryRecord(
        weights_bytes=memory.weights_bytes,
        gradients_bytes=memory.gradients_bytes,
        optimizer_bytes=memory.optimizer_bytes,
        activations_bytes=memory.activations_bytes,
        kv_bytes=memory.kv_bytes,
        reserve_bytes=memory.reserve_bytes,
        needed_bytes=memory.needed_bytes,
        capacity_bytes=memory.capacity_bytes,
        fits=bool(memory.fits),
    )


def _pools_record(served: Served) -> PoolsRecord | None:
    use = served.prediction.pools
    if use is None or served.prefill_mesh is None or served.prefill_memory is None:
        return None
    return PoolsRecord(
        prefill_mesh=served.prefill_mesh,
        prefill_workers=served.prefill_workers,
        prefill_chips=served.prefill_chips,
        decode_chips=served.decode_chips,
        prefill_use=use.prefill,
        decode_use=use.decode,
        links_use=use.links,
        limits=use.limits,
        prompt_s=use.prompt_s,
        kv_bytes=use.kv_bytes,
        transfer_s=use.transfer_s,
        hidden_s=use.hidden_s,
        balanced_prefill_workers=use.balanced[0],
        balanced_decode_workers=use.balanced[1],
        prefill_memory=_memory_record(served.prefill_memory),
    )


def _served_record(served: Served) -> ServedRecord:
    found = served.prediction
    return ServedRecord(
        capacity=found.capacity,
        ttft=TtftRecord(
            front_s=found.ttft.front_s,
            waiting_s=found.ttft.waiting_s,
            prefill_s=found.ttft.prefill_s,
            transfer_s=found.ttft.transfer_s,
        ),
        bands=tuple(
            TtftBandRecord(
                low=band.low, high=band.high, input_len=band.input_len, ttft_s=band.ttft_s
            )
            for band in found.bands
        ),
        pools=_pools_record(served),
        splits=tuple(
            SplitRecord(
                prefill_workers=split.prefill_workers,
                decode_workers=split.workers,
                chips=split.chips,
                tokens_per_s=split.tokens_per_s,
                ttft_s=split.ttft_s,
                tpot_s=split.tpot_s,
                prefill_use=split.prefill,
                decode_use=split.decode,
                limits=split.limits,
            )
            for split in served.splits
        ),
    )


def _workload(question: RunQuestion) -> dict[str, float]:
    """What the question gave; of a mix the means and the number of its lines."""
    given = {name: getattr(question, name) for name in _WORKLOAD}
    if question.mix:
        weight = sum(kind.weight for kind in question.mix)
        given["input"] = sum(kind.weight * kind.input_len for kind in question.mix) / weight
        given["output"] = sum(kind.weight * kind.output_len for kind in question.mix) / weight
        given["mix"] = len(question.mix)
    return {name: value for name, value in given.items() if value}


def run_record(estimate: RunEstimate) -> RunRecord:
    """The record of an estimate; ``workload`` has what the question gave."""
    question, flop = estimate.question, estimate.flop
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
        workload=_workload(question),
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
        memory=_memory_record(estimate.memory),
        served=None if estimate.served is None else _served_record(estimate.served),
        changes=estimate.changes,
    )
