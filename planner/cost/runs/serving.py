"""Serving under load: time to the first token and per output token of a given run.

An engine works in passes. A pass with ``D`` decoding sequences takes ``t(D)``, prompts add to it
or take passes of their own (:mod:`planner.cost.runs.serving_step`); engines differ in habits
and in host work (:mod:`planner.cost.runs.serving_engine`). A closed loop of requests is played
event by event (:mod:`planner.cost.runs.serving_loop`), random arrivals have closed forms
(:mod:`planner.cost.runs.serving_open`). Prefill may have workers of its own
(:mod:`planner.cost.runs.serving_pools`).

In the steady state of a closed loop, ``D / n`` requests finish per pass and bring
``D input_len / n`` prompt tokens with them (``n`` passes per request), so a sequence sees

    seconds per pass = t(D) + D / n * (seconds of one prompt),

which is what the played loop converges to when it is long; the burst of its start and the
queueing of prompts decide the time to the first token.

Decisions
---------
- The mean time to the first token is predicted, see :mod:`planner.cost.runs.serving_loop`.
- A drafting pass costs its verification pass with ``1 + draft_tokens`` queries per sequence,
  and per drafted token one average layer and the output head with one query each, as
  multi-token-prediction layers do.
- A mix of lengths is played as it is drawn: :mod:`planner.cost.runs.serving_mix`.
- Caches do not grow beyond what fits: further requests wait. Sequences are never evicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from planner.cost.runs.serving_check import check_run
from planner.cost.runs.serving_loop import (
    Drawn,
    LoopResult,
    LoopTimes,
    PoolTimes,
    closed_loop,
    draw,
    pooled_loop,
)
from planner.cost.runs.serving_mix import TtftBand, shares, ttft_bands
from planner.cost.runs.serving_open import (
    Arrivals,
    fewest_workers,
    open_loop,
    open_pools,
    prompt_work,
)
from planner.cost.runs.serving_pools import (
    PoolUse,
    Transfers,
    decode_rate,
    transfers,
    whole_workers,
)
from planner.cost.runs.serving_speculative import tokens_per_pass
from planner.cost.runs.serving_worker import (
    Worker,
    capacity_of,
    fresh_tokens,
    make_pricer,
    make_worker,
    max_running,
    mean_passes,
    passes_of,
    prompt_times,
)
from planner.domain.model import ModelSpec
from planner.domain.serving import ServingRun
from planner.topology.graph import Topology

# Longer loops are played shorter.
_MOST_REQUESTS = 960
_LEAST_ROUNDS = 3
_draw = lru_cache(maxsize=256)(draw)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingTerm:
    """One part of the time per output token."""

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TtftParts:
    """Mean seconds to the first token, part by part.

    Parameters
    ----------
    front_s : float
        Transport and tokenizing.
    waiting_s : float
        For a pass, behind other prompts, or for room in the cache.
    prefill_s : float
        Passes that carry the prompt.
    transfer_s : float
        Of the cache to the decode pool, as far as it is not hidden.
    """

    front_s: float
    waiting_s: float
    prefill_s: float
    transfer_s: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.front_s + self.waiting_s + self.prefill_s + self.transfer_s


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingPrediction:
    """Latencies and throughput of a serving run.

    Parameters
    ----------
    ttft_s : float
        Mean time from sending a request to its first token.
    tpot_s : float
        Mean time per further token; ``terms`` add up to it.
    tokens_per_s : float
        Output tokens of all workers per second.
    running : float
        Sequences of one decode pass of one worker, on average.
    capacity : int
        Sequences whose caches fit into one worker.
    ttft : TtftParts
        What ``ttft_s`` is made of.
    bands : tuple of TtftBand
        Of a mix, the time to the first token by quantile of the prompt length.
    pools : PoolUse, optional
        Where prefill has workers of its own.
    """

    ttft_s: float
    tpot_s: float
    tokens_per_s: float
    running: float
    capacity: int
    terms: tuple[ServingTerm, ...]
    ttft: TtftParts
    bands: tuple[TtftBand, ...] = ()
    pools: PoolUse | None = None


def _pools(worker: Worker, topology: Topology, model: ModelSpec) -> tuple[PoolTimes, Transfers]:
    run, habits = worker.run, worker.habits
    assert run.prefill is not None
    first = make_pricer(model, topology, run.prefill)
    capacity_of(run, first, 0.0)
    prompts = prompt_times(worker, first, 0.0)
    chunk = float(run.chunk_tokens or habits.chunk_tokens) if habits.streams_chunks else None
    alone = prompt_work(prompts, fresh_tokens(run), shares(run)).alone_s
    sent = transfers(run, (first, worker.pricer), alone, chunk)
    times = PoolTimes(
        decode_s=worker.decode_table(),
        prompts=prompts,
        prefill_share=run.prefill.num_workers / run.decode.num_workers,
        transfer_s=sent.exposed_s,
        max_running=max_running(worker),
        link_s=tuple(seconds * worker.each for seconds in sent.link_s),
    )
    return times, sent


def _together(worker: Worker) -> LoopTimes:
    own = min(float(worker.capacity), worker.slots * worker.each)
    beside = own / 2.0 if worker.habits.mixes else 0.0
    return LoopTimes(
        decode_s=worker.decode_table(),
        prompts=prompt_times(worker, worker.pricer, beside),
        mixes=worker.habits.mixes,
        max_running=max_running(worker),
        poll_passes=worker.habits.poll_passes,
    )


def _drawn(worker: Worker, gain: float) -> Drawn:
    run, slots = worker.run, worker.slots
    count = min(round(run.requests_per_slot * slots), _MOST_REQUESTS)
    count = max(count, _LEAST_ROUNDS * slots)
    kinds = tuple(
        (tokens * worker.each, passes_of(kind.output_len, gain), share)
        for tokens, kind, share in zip(fresh_tokens(run), run.kinds, shares(run), strict=True)
    )
    return _draw(kinds, run.length_spread, count)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Played:
    """What a load came to, with the mean prompt tokens of each entry of its waits."""

    result: LoopResult
    inputs: tuple[float, ...]
    shares: tuple[float, ...]
    pools: PoolUse | None


def _play(worker: Worker, topology: Topology, model: ModelSpec, gain: float) -> _Played:
    run = worker.run
    times = None if run.prefill is None else _pools(worker, topology, model)
    if run.arrival_per_s is None:
        drawn = _drawn(worker, gain)
        result = (
            closed_loop(_together(worker), worker.slots, drawn)
            if times is None
            else pooled_loop(times[0], worker.slots, drawn)
        )
        fresh = worker.each * (1.0 - run.prefix_hit)
        inputs = tuple(tokens / fresh for tokens in drawn.inputs)
        weights = (1.0,) * len(inputs)
    else:
        arrivals = _arrivals(worker, run.arrival_per_s, gain)
        result = (
            open_loop(_together(worker), arrivals)
            if times is None
            else open_pools(times[0], arrivals)
        )
        inputs, weights = tuple(kind.input_len for kind in run.kinds), shares(run)
    pools = None if times is None else _use(worker, times, result, gain)
    return _Played(result=result, inputs=inputs, shares=weights, pools=pools)


def _arrivals(worker: Worker, per_s: float, gain: float) -> Arrivals:
    return Arrivals(
        per_s=per_s / worker.run.decode.num_workers,
        input_tokens=fresh_tokens(worker.run),
        passes=mean_passes(worker.run, gain),
        shares=shares(worker.run),
        per_slot=worker.each,
    )


def _use(
    worker: Worker, times: tuple[PoolTimes, Transfers], result: LoopResult, gain: float
) -> PoolUse:
    """Utilisation of the pools and their balance."""
    run, pool, sent, each = worker.run, times[0], times[1], worker.each
    assert run.prefill is not None
    work = prompt_work(pool.prompts, fresh_tokens(run), shares(run))
    prompt_s = work.mean(work.full_s)
    per_s = result.slots_per_s * each
    seats = min(float(worker.capacity), worker.slots * each)
    passes = mean_passes(run, gain)
    shown = {
        "prefill": per_s * prompt_s / pool.prefill_share,
        "decode": per_s * passes * result.pass_s / seats,
        "links": per_s * work.mean(sent.link_s),
    }
    if run.arrival_per_s is None:
        before = work.mean(work.alone_s) + work.mean(sent.exposed_s)
        table = pool.decode_s[: pool.max_running + 1]
        most = decode_rate(table, float(worker.slots), passes, before)
        balanced = whole_workers(most * each * prompt_s)
    else:
        balanced = (
            math.floor(run.arrival_per_s * prompt_s) + 1,
            fewest_workers(
                pool, _arrivals(worker, run.arrival_per_s, gain), run.decode.num_workers
            ),
        )
    return PoolUse(
        **shown,
        limits=max(shown, key=lambda name: shown[name]),
        prompt_s=prompt_s,
        kv_bytes=work.mean(sent.num_bytes),
        transfer_s=work.mean(sent.seconds),
        hidden_s=work.mean(sent.seconds) - work.mean(sent.exposed_s),
        balanced=balanced,
    )


def _terms(worker: Worker, running: float, tpot_s: float, gain: float) -> tuple[ServingTerm, ...]:
    """Parts of a pass at the mean batch; the rest is waiting for prompts.

    Where the pass at the mean batch is slower than the mean pass (the curve is concave),
    its parts are scaled down.
    """
    parts = {name: s / gain for name, s in worker.parts(max(1.0, running)).items()}
    own = sum(parts.values())
    scale = min(1.0, tpot_s / own)
    terms = [ServingTerm(name=name, seconds=s * scale) for name, s in parts.items() if s > 0]
    return (*terms, ServingTerm(name="prompts", seconds=tpot_s - own * scale))


def _busy(run: ServingRun) -> ServingRun:
    """The run without decode workers that never have a request."""
    if run.concurrency is None or run.concurrency >= run.decode.num_workers:
        return run
    return replace(run, decode=replace(run.decode, num_workers=run.concurrency))


def _spread_out(use: PoolUse | None, asked: ServingRun, busy: ServingRun) -> PoolUse | None:
    """Use of the decode pool with its idle workers."""
    if use is None or asked is busy:
        return use
    return replace(use, decode=use.decode * busy.decode.num_workers / asked.decode.num_workers)


def predict_serving(model: ModelSpec, topology: Topology, run: ServingRun) -> ServingPrediction:
    """Predict latencies and throughput of a serving run.

    Parameters
    ----------
    model : ModelSpec
        With the precision of the run.
    topology : Topology
        At least as many chips as the run uses.
    run : ServingRun
        Layout, engine and load.

    Returns
    -------
    ServingPrediction

    Raises
    ------
    SpecError
        A number is out of range, the layout does not divide the model, a worker cannot hold
        one request, the machine is too small, or requests arrive faster than they are served.
    """
    check_run(run, topology)
    asked, run = run, _busy(run)
    worker = make_worker(model, topology, run)
    gain = tokens_per_pass(run.draft_tokens, run.acceptance)
    played = _play(worker, topology, model, gain)
    found, habits = played.result, worker.habits
    tpot_s = found.pass_s / gain
    front = habits.first_token_s + habits.prompt_token_s * run.input_len
    running = found.running * worker.each
    bands: tuple[TtftBand, ...] = ()
    if run.mix:
        waits = (
            wait + habits.first_token_s + habits.prompt_token_s * tokens
            for wait, tokens in zip(found.waits, played.inputs, strict=True)
        )
        bands = ttft_bands(list(zip(played.inputs, played.shares, waits, strict=True)))
    return ServingPrediction(
        ttft_s=found.ttft_s + front,
        tpot_s=tpot_s,
        tokens_per_s=found.slots_per_s * worker.each * run.output_len * run.decode.num_workers,
        running=running,
        capacity=worker.capacity,
        terms=_terms(worker, running, tpot_s, gain),
        ttft=TtftParts(
            front_s=front,
            waiting_s=max(0.0, found.ttft_s - found.prefill_s - found.transfer_s),
            prefill_s=found.prefill_s,
            transfer_s=found.transfer_s,
        ),
        bands=bands,
        pools=_spread_out(played.pools, asked, run),
    )
