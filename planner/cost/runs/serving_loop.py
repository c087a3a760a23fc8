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
from bisect import bisect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

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
    kinds : sequence of int
        Place of each in the tables by kind; empty where all are of the first.
    """

    inputs: Sequence[float]
    passes: Sequence[int]
    kinds: Sequence[int] = ()

    def kind(self, index: int) -> int:
        """Kind of one request."""
        return self.kinds[index] if self.kinds else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTimes:
    """Seconds of prompts: ``fixed_s + tokens * token_s`` per pass, at least ``floor_s``.

    ``budget`` is the most tokens of one pass, ``factors`` are the price of a token by kind of
    request: a token of a long prompt attends to more.
    """

    fixed_s: float
    token_s: float
    floor_s: float
    budget: float
    factors: Sequence[float] = (1.0,)

    def seconds(self, tokens: float) -> float:
        """One pass with ``tokens`` prompt tokens and nothing else, floor excluded."""
        return self.fixed_s + self.token_s * tokens

    def alone(self, tokens: float, factor: float = 1.0) -> float:
        """Passes over ``tokens`` prompt tokens and nothing else, floors included."""
        full = int(tokens / self.budget)
        rest = tokens - full * self.budget
        own = full * max(self.seconds(self.budget * factor), self.floor_s)
        return own + (max(self.seconds(rest * factor), self.floor_s) if rest > 0 else 0.0)


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
    transfer_s : float or sequence of float
        From the end of the prefill until the sequence decodes elsewhere; by kind.
    link_s : float or sequence of float
        For how long a request keeps the busiest links between the pools from sending others';
        by kind.
    """

    decode_s: Sequence[float]
    prompts: PromptTimes
    prefill_share: float
    transfer_s: float | Sequence[float]
    max_running: int
    link_s: float | Sequence[float] = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopResult:
    """Means over the requests of a loop.

    Parameters
    ----------
    ttft_s : float
        From a request's start to its first token: its own ``prefill_s``, ``transfer_s`` to
        another worker, and waiting.
    pass_s : float
        Per decode pass of a request.
    slots_per_s : float
        Requests of a slot per second.
    running : float
        Slots of a decode pass.
    waits : tuple of float
        Time to the first token of each request of a loop; of each kind of random arrivals.
    """

    ttft_s: float
    pass_s: float
    slots_per_s: float
    running: float
    prefill_s: float = 0.0
    transfer_s: float = 0.0
    waits: tuple[float, ...] = ()


def of_kind(table: float | Sequence[float], kind: int) -> float:
    """Entry of a table by kind; a number holds for all."""
    return table if isinstance(table, float | int) else table[kind]


def _drawn_kinds(shares: Sequence[float], count: int) -> tuple[int, ...]:
    """Kinds by their shares, as evenly as whole requests allow, in a fixed random order."""
    ends = list(accumulate(shares))
    kinds = [bisect(ends, (place + 0.5) / count * ends[-1]) for place in range(count)]
    random.Random(_SEED + 1).shuffle(kinds)
    return tuple(kinds)


def draw(kinds: Sequence[tuple[float, float, float]], spread: float, count: int) -> Drawn:
    """Uniform lengths about those of each kind, the least ``spread`` times the largest.

    Parameters
    ----------
    kinds : sequence of (float, float, float)
        Prompt tokens, decode passes, and share of the requests.
    """
    source = random.Random(_SEED)
    low = 2.0 * spread / (1.0 + spread)
    factors = [[low + 2.0 * (1.0 - low) * source.random() for _ in range(count)] for _ in (0, 1)]
    drawn = _drawn_kinds([share for _, _, share in kinds], count)
    return Drawn(
        inputs=[kinds[kind][0] * factor for kind, factor in zip(drawn, factors[0], strict=True)],
        passes=[
            max(1, round(kinds[kind][1] * factor))
            for kind, factor in zip(drawn, factors[1], strict=True)
        ],
        kinds=drawn,
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
    waits: dict[int, float] = field(default_factory=dict)
    prefill: float = 0.0
    transfer: float = 0.0
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

    def start(self, index: int, arrived: float, prefill: float, transfer: float = 0.0) -> None:
        """The first token of a request is there; it decodes from now on."""
        self.waits[index] = self.now - arrived
        self.prefill += prefill
        self.transfer += transfer
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
            ttft_s=sum(self.waits.values()) / self.total,
            prefill_s=self.prefill / self.total,
            transfer_s=self.transfer / self.total,
            waits=tuple(self.waits[index] for index in range(self.total)),
            pass_s=self.rates / self.total,
            slots_per_s=self.total / self.now,
            running=self.seats / self.used,
        )


def closed_loop(times: LoopTimes, slots: int, drawn: Drawn) -> LoopResult:
    """Run a closed loop of ``slots`` on one worker that prefills and decodes."""
    state = _Slots(drawn=drawn, slots=slots)
    waiting = deque((index, 0.0) for index in state.first())
    prompts: deque[_Prompt] = deque()
    next_poll = 0
    while waiting or prompts or state.running:
        looks = times.poll_passes == 1 or state.passes >= next_poll or not state.running
        if waiting and looks:
            next_poll = state.passes + times.poll_passes
            while waiting and len(state.running) + len(prompts) < times.max_running:
                index, arrived = waiting.popleft()
                prompts.append(_Prompt(index=index, arrived=arrived, left=drawn.inputs[index]))
        if prompts:
            _prompt_pass(times, state, prompts)
        else:
            steps = state.running[0][0] - state.passes
            if waiting and len(state.running) < times.max_running:
                steps = min(steps, max(1, next_poll - state.passes))
            state.decode(steps, steps * times.decode_s[len(state.running)])
        waiting.extend((index, state.now) for index in state.finish())
    return state.result()


@dataclass(slots=True)
class _Prompt:
    """An admitted prompt: tokens left, and when its first pass began."""

    index: int
    arrived: float
    left: float
    began: float | None = None


def _prompt_pass(times: LoopTimes, state: _Slots, prompts: deque[_Prompt]) -> None:
    """One pass with as many prompt tokens as the budget allows."""
    left, work = times.prompts.budget, 0.0
    done: list[_Prompt] = []
    while prompts and left > 0:
        prompt = prompts[0]
        taken = min(left, prompt.left)
        if prompt.began is None:
            prompt.began = state.now
        left -= taken
        prompt.left -= taken
        work += taken * times.prompts.factors[state.drawn.kind(prompt.index)]
        if not prompt.left:
            done.append(prompts.popleft())
    own = times.prompts.seconds(work)
    if times.mixes:
        own += times.decode_s[len(state.running)]
    state.decode(int(times.mixes), max(own, times.prompts.floor_s))
    for prompt in done:
        assert prompt.began is not None
        state.start(prompt.index, prompt.arrived, state.now - prompt.began)


def pooled_loop(times: PoolTimes, slots: int, drawn: Drawn) -> LoopResult:
    """Run a closed loop of ``slots`` on one decode worker fed by a prefill pool.

    The pool is one queue: a batch occupies it for its time divided by ``prefill_share``, or
    for as long as its caches keep the links busy, and is ready after its whole time.
    """
    state = _Slots(drawn=drawn, slots=slots)
    queue = deque((0.0, index) for index in state.first())
    # When it may decode, request, arrival, seconds of its prefill.
    ready: list[tuple[float, int, float, float]] = []
    free_at = 0.0
    while queue or ready or state.running:
        while queue and max(free_at, queue[0][0]) <= state.now:
            free_at = _prefill_batch(times, drawn, queue, ready, max(free_at, queue[0][0]))
        room = times.max_running - len(state.running)
        while ready and ready[0][0] <= state.now and room > 0:
            _, index, arrived, prefill = heapq.heappop(ready)
            state.start(index, arrived, prefill, of_kind(times.transfer_s, drawn.kind(index)))
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
    ready: list[tuple[float, int, float, float]],
    start: float,
) -> float:
    """Prefill what waits at ``start``; when the pool is free again."""
    batch: list[tuple[float, int]] = []
    used, work, link = 0.0, 0.0, 0.0
    while queue and queue[0][0] <= start:
        index = queue[0][1]
        tokens, kind = drawn.inputs[index], drawn.kind(index)
        if batch and used + tokens > times.prompts.budget:
            break
        batch.append(queue.popleft())
        used += tokens
        work += tokens * times.prompts.factors[kind]
        link += of_kind(times.link_s, kind)
    own = times.prompts.alone(used, work / used)
    for arrived, index in batch:
        sent = start + own + of_kind(times.transfer_s, drawn.kind(index))
        heapq.heappush(ready, (sent, index, arrived, own))
    busy = own
    if queue and queue[0][0] <= start:
        # What waits behind fills up the last pass.
        full = max(times.prompts.seconds(times.prompts.budget * work / used), times.prompts.floor_s)
        busy = min(own, used / times.prompts.budget * full)
    return start + max(busy / times.prefill_share, link)
