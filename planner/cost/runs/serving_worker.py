"""One worker of a serving run: its layout priced, its cache counted, its load as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.cost.runs.inference_engine import RESERVE_FRACTION
from planner.cost.runs.serving_check import check_worker
from planner.cost.runs.serving_engine import HABITS, EngineHabits
from planner.cost.runs.serving_loop import PromptTimes
from planner.cost.runs.serving_mix import prompt_len_of_work, resident, shares
from planner.cost.runs.serving_step import Batch, StepPricer
from planner.domain.model import ModelSpec
from planner.domain.serving import RequestKind, ServingPool, ServingRun
from planner.errors import SpecError
from planner.topology.graph import Topology

# Loops with more slots are played with several requests per slot.
_MOST_SLOTS = 96
_MOST_ENTRIES = 4096  # of a table of decode passes


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
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
        return resident(self.run, lambda kind: kind.input_len + kind.output_len / 2.0)

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


def make_pricer(model: ModelSpec, topology: Topology, pool: ServingPool) -> StepPricer:
    """Pricer of a layout, remembered; raises SpecError where it does not divide the model."""
    layout = (pool.attn_tp, pool.attn_dp, pool.expert_tp, pool.ep)
    key = ("serving", model, layout)
    found = topology.memo.get(key)
    if not isinstance(found, StepPricer):
        check_worker(model, pool)
        found = StepPricer(model, topology, pool)
        topology.memo[key] = found
    return found


def capacity_of(run: ServingRun, pricer: StepPricer, reserved_output: float) -> int:
    """Sequences whose caches fit beside the weights of one worker.

    Parameters
    ----------
    reserved_output : float
        Share of its answer for which a request must find room; none where it only prefills.

    Raises
    ------
    SpecError
        Not even one does.
    """
    chip = pricer.topology.chip
    free = chip.hbm_usable_bytes * (1.0 - RESERVE_FRACTION) - pricer.weights_bytes

    def tokens(kind: RequestKind) -> float:
        return kind.input_len + reserved_output * kind.output_len

    fits = math.floor(free / pricer.cache_bytes(resident(run, tokens)) * pricer.pool.attn_dp)
    largest = pricer.cache_bytes(max(map(tokens, run.kinds)))
    if fits < 1 or (run.mix and largest > free):
        raise SpecError(
            f"a worker of {pricer.pool.worker_chips} chips cannot hold one request: "
            f"{pricer.weights_bytes / 1e9:.0f} GB of weights per chip, "
            f"{chip.hbm_usable_bytes / 1e9:.0f} GB of memory less the engine's reserve",
            "use more chips per worker, or narrower formats",
        )
    return fits


def make_worker(model: ModelSpec, topology: Topology, run: ServingRun) -> Worker:
    """The decode worker of a run and its share of the load.

    Raises
    ------
    SpecError
        The layout does not divide the model, or one request does not fit.
    """
    habits = HABITS[run.engine]
    pricer = make_pricer(model, topology, run.decode)
    capacity = capacity_of(run, pricer, habits.reserved_output)
    if run.concurrency is None:
        own, most = float(capacity), _MOST_ENTRIES
    else:
        own, most = run.concurrency / run.decode.num_workers, _MOST_SLOTS
    slots = max(1, round(own / math.ceil(own / most)))
    return Worker(
        run=run,
        habits=habits,
        pricer=pricer,
        capacity=capacity,
        slots=slots,
        each=own / slots,
    )


def prompt_times(worker: Worker, pricer: StepPricer, beside: float) -> PromptTimes:
    """Prompt passes beside so many decoding sequences, as a line through two sizes."""
    run, habits, pool = worker.run, worker.habits, pricer.pool
    chunk = float(run.chunk_tokens or habits.chunk_tokens)
    usual = prompt_len_of_work(run)
    fresh = usual * (1.0 - run.prefix_hit)

    def seconds(tokens: float, length: float, ranks: int) -> float:
        batch = Batch(
            sequences=beside,
            context=worker.context,
            prompt_tokens=tokens,
            prompt_len=length,
            cached_len=length * run.prefix_hit,
            prompt_ranks=max(1, min(pool.attn_dp, ranks)),
        )
        return pricer.seconds(batch).total

    few, many = min(fresh, chunk), chunk * pool.attn_dp
    none = pricer.seconds(Batch(sequences=beside, context=worker.context)).total
    low, high = (seconds(n, usual, round(n / fresh)) - none for n in (few, many))
    slope = (high - low) / (many - few) if many > few else low / few
    fixed = max(0.0, low - slope * few)
    factors: tuple[float, ...] = (1.0,)
    if run.mix:
        full = [
            seconds(many, length, pool.attn_dp) - none
            for length in (usual, *(kind.input_len for kind in run.mix))
        ]
        factors = tuple(own / full[0] for own in full[1:])
    return PromptTimes(
        fixed_s=fixed if beside else fixed + habits.step_s,
        token_s=(low - fixed) / few,
        floor_s=pricer.num_operations * habits.launch_s,
        budget=many,
        factors=factors,
    )


def fresh_tokens(run: ServingRun) -> tuple[float, ...]:
    """Prompt tokens to compute, by kind."""
    return tuple(kind.input_len * (1.0 - run.prefix_hit) for kind in run.kinds)


def max_running(worker: Worker) -> int:
    """Slots whose caches fit at the same time."""
    return max(1, min(worker.slots, int(worker.capacity / worker.each)))


def passes_of(output_len: float, gain: float) -> float:
    """Decode passes of an answer."""
    return max(1.0, (output_len - 1) / gain)


def mean_passes(run: ServingRun, gain: float) -> float:
    """Decode passes of a request."""
    return sum(
        share * passes_of(kind.output_len, gain)
        for kind, share in zip(run.kinds, shares(run), strict=True)
    )
