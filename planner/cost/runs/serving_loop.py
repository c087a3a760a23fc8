"""A closed loop of requests, event by event.

All slots send their first request at once, as closed-loop benchmarks do, and a finished
request is replaced at once. What follows from that needs no constant:

- An engine that mixes prompts into decode passes staggers the first requests by one pass
  each; equal requests then never queue again. One that prefills first keeps equal requests
  in step: they finish together, and their successors queue behind each other again. Spread
  lengths dissolve both patterns.
- The *mean* time to the first token contains the burst of the start: with ``w`` requests per
  slot a share ``1 / w`` of them waits for half of the burst. Public closed-loop tables called
  medians grow just so with the concurrency, at a tenth of the burst (w = 10) and at any
  load, which a median would not; the mean is therefore what is predicted.

Assumptions
-----------
- Every decoding sequence of a worker advances in every pass; contexts count with their mean.
- A pass takes whole and partial prompts, first come first served, up to its token budget.
- Large loops are simulated with several requests per slot, which start and end together.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

_SEED = 20260425  # any; fixed so that a prediction never changes


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Lengths of the requests of a loop, in the order in which they start.

    Parameters
    ----------
    inputs : sequence of float
        Prompt tokens to compute, of all requests of a slot.
    passes : sequence of int
        Decode passes after the first token.
    """

    inputs: Sequence[float]
    passes: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTimes:
    """Seconds of prompts: ``fixed_s + tokens * token_s`` per pass, at least ``floor_s``.

    ``budget`` is the most tokens of one pass.
    """

    fixed_s: float
    token_s: float
    floor_s: float
    budget: float

    def seconds(self, tokens: float) -> float:
        """One pass with ``tokens`` prompt tokens and nothing else, floor excluded."""
        return self.fixed_s + self.token_s * tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopTimes:
    """What passes of one worker take.

    Parameters
    ----------
    decode_s : sequence of float, shape ``[slots + 1]``
        A pass with so many decoding slots.
    prompts : PromptTimes
        Where ``mixes``, what prompts add to a decode pass, whose whole is at least the
        floor; else passes of their own.
    max_running : int
        Slots whose caches fit at the same time.
    poll_passes : int
        Passes between two looks at new requests.
    """

    decode_s: Sequence[float]
    prompts: PromptTimes
    mixes: bool
    max_running: int
    poll_passes: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolTimes:
    """One decode worker and its share of a prefill pool.

    Parameters
    ----------
    prefill_share : float
        Prefill workers per decode worker.
    transfer_s : float
        From the end of the prefill until the sequence decodes elsewhere.
    """

    decode_s: Sequence[float]
    prompts: PromptTimes
    prefill_share: float
    transfer_s: float
    max_running: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopResult:
    """Means over the requests of a loop.

    ``ttft_s`` from a request's start to its first token, ``pass_s`` per decode pass of a
    request, ``slots_per_s`` requests of a slot per second, ``running`` the slots of a decode pass.
    """

    ttft_s: float
    pass_s: float
    slots_per_s: float
    running: float


def draw(run_lengths: tuple[float, float], spread: float, count: int) -> Drawn:
    """Uniform lengths with the given means, the least ``spread`` times the largest.

    Parameters
    ----------
    run_lengths : (float, float)
        Mean prompt tokens and mean decode passes.
    """
    source = random.Random(_SEED)
    low = 2.0 * spread / (1.0 + spread)
    factors = [[low + 2.0 * (1.0 - low) * source.random() for _ in range(count)] for _ in (0, 1)]
    return Drawn(
        inputs=[run_lengths[0] * factor for factor in factors[0]],
        passes=[max(1, round(run_lengths[1] * factor)) for factor in factors[1]],
    )


@dataclass(slots=True)
class _Slots:
    """Decoding slots of one worker and what is known of finished requests."""

    drawn: Drawn
    slots: int
    now: float = 0.0
    passes: int = 0
    begun: int = 0
    running: list[tuple[int, int, float]] = field(default_factory=list)
    waits: float = 0.0
    rates: float = 0.0
    seats: int = 0
    used: int = 0

    @property
    def total(self) -> int:
        return len(self.drawn.inputs)

    def first(self) -> range:
        """Requests of the burst at the start."""
        self.begun = min(self.slots, self.total)
        return range(self.begun)

    def start(self, index: int, arrived: float) -> None:
        """The first token of a request is there; it decodes from now on."""
        self.waits += self.now - arrived
        heapq.heappush(self.running, (self.passes + self.drawn.passes[index], index, self.now))

    def decode(self, steps: int, seconds: float) -> None:
        """Advance all sequences by ``steps`` passes."""
        self.passes += steps
        self.now += seconds
        self.seats += steps * len(self.running)
        self.used += steps if self.running else 0

    def finish(self) -> list[int]:
        """Drop finished requests; the ones that replace them."""
        fresh = []
        while self.running and self.running[0][0] <= self.passes:
            _, index, began = heapq.heappop(self.running)
            self.rates += (self.now - began) / self.drawn.passes[index]
            if self.begun < self.total:
                fresh.append(self.begun)
                self.begun += 1
        return fresh

    def result(self) -> LoopResult:
        return LoopResult(
            ttft_s=self.waits / self.total,
            pass_s=self.rates / self.total,
            slots_per_s=self.total / self.now,
            running=self.seats / self.used,
        )


def closed_loop(times: LoopTimes, slots: int, drawn: Drawn) -> LoopResult:
    """Run a closed loop of ``slots`` on one worker that prefills and decodes."""
    state = _Slots(drawn=drawn, slots=slots)
    waiting = deque((index, 0.0) for index in state.first())
    # Admitted prompts: request, arrival, tokens left.
    prompts: deque[tuple[int, float, float]] = deque()
    next_poll = 0
    while waiting or prompts or state.running:
        looks = times.poll_passes == 1 or state.passes >= next_poll or not state.running
        if waiting and looks:
            next_poll = state.passes + times.poll_passes
            while waiting and len(state.running) + len(prompts) < times.max_running:
                index, arrived = waiting.popleft()
                prompts.append((index, arrived, drawn.inputs[index]))
        if prompts:
            _prompt_pass(times, state, prompts)
        else:
            steps = state.running[0][0] - state.passes
            if waiting and len(state.running) < times.max_running:
                steps = min(steps, max(1, next_poll - state.passes))
            state.decode(steps, steps * times.decode_s[len(state.running)])
        waiting.extend((index, state.now) for index in state.finish())
    return state.result()


def _prompt_pass(times: LoopTimes, state: _Slots, prompts: deque[tuple[int, float, float]]) -> None:
    """One pass with as many prompt tokens as the budget allows."""
    left = times.prompts.budget
    done: list[tuple[int, float]] = []
    while prompts and left > 0:
        index, arrived, tokens = prompts.popleft()
        taken = min(left, tokens)
        left -= taken
        if taken < tokens:
            prompts.appendleft((index, arrived, tokens - taken))
        else:
            done.append((index, arrived))
    own = times.prompts.seconds(times.prompts.budget - left)
    if times.mixes:
        own += times.decode_s[len(state.running)]
    state.decode(int(times.mixes), max(own, times.prompts.floor_s))
    for index, arrived in done:
        state.start(index, arrived)


def pooled_loop(times: PoolTimes, slots: int, drawn: Drawn) -> LoopResult:
    """Run a closed loop of ``slots`` on one decode worker fed by a prefill pool.

    The pool is one queue: a batch occupies it for its time divided by ``prefill_share`` and
    is ready after its whole time.
    """
    state = _Slots(drawn=drawn, slots=slots)
    queue = deque((0.0, index) for index in state.first())
    ready: list[tuple[float, int, float]] = []
    free_at = 0.0
    while queue or ready or state.running:
        while queue and max(free_at, queue[0][0]) <= state.now:
            free_at = _prefill_batch(times, drawn, queue, ready, max(free_at, queue[0][0]))
        room = times.max_running - len(state.running)
        while ready and ready[0][0] <= state.now and room > 0:
            _, index, arrived = heapq.heappop(ready)
            state.start(index, arrived)
            room -= 1
        ahead = [ready[0][0]] if ready and room > 0 else []
        if queue:
            ahead.append(max(free_at, queue[0][0]))
        if not state.running:
            state.decode(0, max(0.0, min(ahead) - state.now))
            continue
        step = times.decode_s[len(state.running)]
        steps = state.running[0][0] - state.passes
        if ahead:
            steps = min(steps, max(1, int((min(ahead) - state.now) / step) + 1))
        state.decode(steps, steps * step)
        queue.extend((state.now, index) for index in state.finish())
    return state.result()


def _prefill_batch(
    times: PoolTimes,
    drawn: Drawn,
    queue: deque[tuple[float, int]],
    ready: list[tuple[float, int, float]],
    start: float,
) -> float:
    """Prefill what waits at ``start``; when the pool is free again."""
    batch: list[tuple[float, int]] = []
    used = 0.0
    while queue and queue[0][0] <= start:
        tokens = drawn.inputs[queue[0][1]]
        if batch and used + tokens > times.prompts.budget:
            break
        batch.append(queue.popleft())
        used += tokens
    prompts = times.prompts
    full = int(used / prompts.budget)
    own = full * max(prompts.seconds(prompts.budget), prompts.floor_s)
    rest = used - full * prompts.budget
    own += max(prompts.seconds(rest), prompts.floor_s) if rest > 0 else 0.0
    for arrived, index in batch:
        heapq.heappush(ready, (start + own + times.transfer_s, index, arrived))
    return start + own / times.prefill_share
