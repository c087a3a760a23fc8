"""Serving under load: time to the first token and per output token of a given run.

An engine works in passes. A pass with ``D`` decoding sequences takes ``t(D)``, prompts add to it
or take passes of their own (:mod:`planner.cost.runs.serving_step`); engines differ in habits
and in host work (:mod:`planner.cost.runs.serving_engine`). A closed loop of requests is played
event by event (:mod:`planner.cost.runs.serving_loop`), random arrivals have closed forms
(:mod:`planner.cost.runs.serving_open`).

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
- Caches do not grow beyond what fits: further requests wait. Sequences are never evicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from planner.cost.memory import RESERVE_FRACTION
from planner.cost.runs.serving_check import check_run, check_worker
from planner.cost.runs.serving_engine import HABITS, EngineHabits
from planner.cost.runs.serving_loop import (
    Drawn,
    LoopResult,
    LoopTimes,
    PoolTimes,
    PromptTimes,
    closed_loop,
    draw,
    pooled_loop,
)
from planner.cost.runs.serving_open import Arrivals, open_loop, open_pools
from planner.cost.runs.serving_speculative import tokens_per_pass
from planner.cost.runs.serving_step import Batch, StepPricer
from planner.domain.model import ModelSpec
from planner.domain.serving import ServingPool, ServingRun
from planner.errors import SpecError
from planner.topology.collectives import send_recv_rate
from planner.topology.graph import Topology

# Loops with more slots or requests are played with several requests per slot, or shorter.
_MOST_SLOTS = 96
_MOST_ENTRIES = 4096  # of a table of decode passes
_MOST_REQUESTS = 960
_LEAST_ROUNDS = 3
_draw = lru_cache(maxsize=256)(draw)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingTerm:
    """One part of the time per output token."""

    name: str
    seconds: float


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
    """

    ttft_s: float
    tpot_s: float
    tokens_per_s: float
    running: float
    capacity: int
    terms: tuple[ServingTerm, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Worker:
    """One decode worker of a run and all that is constant about it.

    ``each`` requests share a slot of the loop.
    """

    run: ServingRun
    habits: EngineHabits
    pricer: StepPricer
    capacity: int
    slots: int
    each: float

    @property
    def context(self) -> float:
        """Mean cached tokens while decoding."""
        return self.run.input_len + self.run.output_len / 2.0

    def parts(self, sequences: float) -> dict[str, float]:
        """Seconds of one decode pass by name."""
        run, pricer = self.run, self.pricer
        queries = 1 + run.draft_tokens
        found = pricer.seconds(Batch(sequences=sequences, context=self.context, queries=queries))
        parts = {
            "matmuls": found.matmuls,
            "experts": found.experts,
            "attention": found.attention,
            "elementwise": found.elementwise,
            "collectives": found.collectives,
            "head": found.head,
            "host": self.habits.step_s + self.habits.sequence_s * sequences / pricer.pool.attn_dp,
        }
        if run.draft_tokens and sequences:
            one = pricer.seconds(Batch(sequences=sequences, context=self.context))
            layer = (one.total - one.head) / len(pricer.model.layers)
            parts["draft"] = run.draft_tokens * (layer + one.head)
        return parts

    def decode_table(self) -> tuple[float, ...]:
        """Seconds of a pass over decoding slots, shape ``[slots + 1]``.

        Priced at powers of four and at half and all of the slots, linear between them. No
        pass costs less than that of one sequence: it reads the weights.
        """
        points = {0, 1, -(-self.slots // 2), self.slots}
        points |= {4**power for power in range(1, 20) if 4**power < self.slots}
        ordered = sorted(points)
        priced = [sum(self.parts(max(1.0, point * self.each)).values()) for point in ordered]
        table = [priced[0]]
        for low, high, a, b in zip(ordered, ordered[1:], priced, priced[1:], strict=False):
            table += [a + (b - a) * step / (high - low) for step in range(1, high - low + 1)]
        return tuple(table)


def _pricer(model: ModelSpec, topology: Topology, pool: ServingPool) -> StepPricer:
    layout = (pool.attn_tp, pool.attn_dp, pool.expert_tp, pool.ep)
    key = ("serving", model, layout)
    found = topology.memo.get(key)
    if not isinstance(found, StepPricer):
        check_worker(model, pool)
        found = StepPricer(model, topology, pool)
        topology.memo[key] = found
    return found


def _capacity(run: ServingRun, pricer: StepPricer, habits: EngineHabits) -> int:
    """Sequences whose caches fit beside the weights of one worker."""
    chip = pricer.topology.chip
    free = chip.hbm_usable_bytes * (1.0 - RESERVE_FRACTION) - pricer.weights_bytes
    tokens = run.input_len + habits.reserved_output * run.output_len
    fits = math.floor(free / pricer.cache_bytes(tokens) * pricer.pool.attn_dp)
    if fits < 1:
        raise SpecError(
            f"a worker of {pricer.pool.worker_chips} chips cannot hold one request: "
            f"{pricer.weights_bytes / 1e9:.0f} GB of weights per chip, "
            f"{chip.hbm_usable_bytes / 1e9:.0f} GB of memory less the engine's reserve",
            "use more chips per worker, or narrower formats",
        )
    return fits


def _worker(model: ModelSpec, topology: Topology, run: ServingRun) -> _Worker:
    habits = HABITS[run.engine]
    pricer = _pricer(model, topology, run.decode)
    capacity = _capacity(run, pricer, habits)
    if run.concurrency is None:
        own, most = float(capacity), _MOST_ENTRIES
    else:
        own, most = run.concurrency / run.decode.num_workers, _MOST_SLOTS
    slots = max(1, round(own / math.ceil(own / most)))
    return _Worker(
        run=run,
        habits=habits,
        pricer=pricer,
        capacity=capacity,
        slots=slots,
        each=own / slots,
    )


def _prompts(worker: _Worker, pricer: StepPricer, beside: float) -> PromptTimes:
    """Prompt passes beside so many decoding sequences, as a line through two sizes."""
    run, habits, pool = worker.run, worker.habits, pricer.pool
    chunk = float(run.chunk_tokens or habits.chunk_tokens)

    def seconds(tokens: float) -> float:
        batch = Batch(
            sequences=beside,
            context=worker.context,
            prompt_tokens=tokens,
            prompt_len=run.input_len,
            cached_len=run.input_len - run.new_tokens,
            prompt_ranks=max(1, min(pool.attn_dp, round(tokens / run.new_tokens))),
        )
        return pricer.seconds(batch).total

    few, many = min(run.new_tokens, chunk), chunk * pool.attn_dp
    none = pricer.seconds(Batch(sequences=beside, context=worker.context)).total
    low, high = seconds(few) - none, seconds(many) - none
    slope = (high - low) / (many - few) if many > few else low / few
    fixed = max(0.0, low - slope * few)
    return PromptTimes(
        fixed_s=fixed if beside else fixed + habits.step_s,
        token_s=(low - fixed) / few,
        floor_s=pricer.num_operations * habits.launch_s,
        budget=many,
    )


def _transfer_s(run: ServingRun, pricer: StepPricer, topology: Topology) -> float:
    """One prompt's cache from a prefill to a decode worker, all chips of a rank at once."""
    assert run.prefill is not None
    rate = send_recv_rate(topology, 0, run.prefill.num_chips)
    return rate.seconds(pricer.cache_bytes(run.input_len))


def _pools(worker: _Worker, topology: Topology, model: ModelSpec) -> PoolTimes:
    run = worker.run
    assert run.prefill is not None
    first = _pricer(model, topology, run.prefill)
    _capacity(run, first, worker.habits)
    return PoolTimes(
        decode_s=worker.decode_table(),
        prompts=_prompts(worker, first, 0.0),
        prefill_share=run.prefill.num_workers / run.decode.num_workers,
        transfer_s=_transfer_s(run, first, topology),
        max_running=_max_running(worker),
    )


def _together(worker: _Worker) -> LoopTimes:
    own = min(float(worker.capacity), worker.slots * worker.each)
    beside = own / 2.0 if worker.habits.mixes else 0.0
    return LoopTimes(
        decode_s=worker.decode_table(),
        prompts=_prompts(worker, worker.pricer, beside),
        mixes=worker.habits.mixes,
        max_running=_max_running(worker),
        poll_passes=worker.habits.poll_passes,
    )


def _max_running(worker: _Worker) -> int:
    return max(1, min(worker.slots, int(worker.capacity / worker.each)))


def _drawn(worker: _Worker, passes: float) -> Drawn:
    run, slots = worker.run, worker.slots
    count = min(round(run.requests_per_slot * slots), _MOST_REQUESTS)
    count = max(count, _LEAST_ROUNDS * slots)
    return _draw((run.new_tokens * worker.each, passes), run.length_spread, count)


def _play(worker: _Worker, topology: Topology, model: ModelSpec, passes: float) -> LoopResult:
    run = worker.run
    if run.arrival_per_s is None:
        drawn = _drawn(worker, passes)
        if run.prefill is None:
            return closed_loop(_together(worker), worker.slots, drawn)
        return pooled_loop(_pools(worker, topology, model), worker.slots, drawn)
    arrivals = Arrivals(
        per_s=run.arrival_per_s / run.decode.num_workers,
        input_tokens=run.new_tokens,
        passes=passes,
        per_slot=worker.each,
    )
    if run.prefill is None:
        return open_loop(_together(worker), arrivals)
    return open_pools(_pools(worker, topology, model), arrivals)


def _terms(worker: _Worker, running: float, tpot_s: float, gain: float) -> tuple[ServingTerm, ...]:
    """Parts of a pass at the mean batch; the rest is waiting for prompts.

    Where the pass at the mean batch is slower than the mean pass (the curve is concave),
    its parts are scaled down.
    """
    parts = {name: s / gain for name, s in worker.parts(max(1.0, running)).items()}
    own = sum(parts.values())
    scale = min(1.0, tpot_s / own)
    terms = [ServingTerm(name=name, seconds=s * scale) for name, s in parts.items() if s > 0]
    return (*terms, ServingTerm(name="prompts", seconds=tpot_s - own * scale))


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
    worker = _worker(model, topology, run)
    gain = tokens_per_pass(run.draft_tokens, run.acceptance)
    passes = max(1.0, (run.output_len - 1) / gain)
    found = _play(worker, topology, model, passes)
    tpot_s = found.pass_s / gain
    front = worker.habits.first_token_s + worker.habits.prompt_token_s * run.input_len
    running = found.running * worker.each
    return ServingPrediction(
        ttft_s=found.ttft_s + front,
        tpot_s=tpot_s,
        tokens_per_s=found.slots_per_s * worker.each * run.output_len * run.decode.num_workers,
        running=running,
        capacity=worker.capacity,
        terms=_terms(worker, running, tpot_s, gain),
    )
