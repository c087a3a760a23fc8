"""Requests that arrive at random: utilisation, queueing, and where it ends.

``X`` requests arrive per second at one worker (Poisson). A prompt takes ``s`` seconds alone; a
pass that is full of prompts, one or several on every attention rank, takes ``s_b`` per prompt.
With ``n`` decode passes per request, of which ``D`` run together:

    prompts between two decode passes    t_p(D) = t(D) + a(X t_p),  a(1) = s
    Little's law                         D = X n t_p(D)

``a(k)`` is ``k s`` up to one prompt per pass and a line to the full pass from there, so that a
worker whose passes hold one prompt has ``t_p = t / (1 - X s)``. A prompt waits, beside half
of the pass that runs when it arrives, for the rest of a running prompt pass and for the queue
behind it:

    min(1, X s) s / 2 + X s_b / (1 - X s_b) X s_b^2 / 2,

which for ``s_b = s`` is the M/D/1 queue, ``rho / (2 (1 - rho)) s``; for a mix, squares are
means of squares (Pollaczek and Khinchine). Prompts with workers of their own do not slow
decoding: ``t_p = t``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.cost.runs.serving_loop import LoopResult, LoopTimes, PoolTimes, PromptTimes, of_kind
from planner.errors import SpecError

_ROUNDS = 200
_CLOSE = 1e-6


class Overload(SpecError):
    """Requests arrive faster than they are served.

    Parameters
    ----------
    resource : str
        ``prefill``, ``decode`` or ``links``.
    needed, available : float
        Share of its time and 1, or sequences in flight and those that fit.
    """

    def __init__(
        self, resource: str, amounts: tuple[float, float], message: str, remedy: str
    ) -> None:
        super().__init__(message, remedy)
        self.resource = resource
        self.needed, self.available = amounts


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrivals:
    """Requests per second of one worker, and the mean request.

    Parameters
    ----------
    input_tokens : float or sequence of float
        Prompt tokens to compute; by kind.
    passes : float
        Decode passes.
    shares : sequence of float
        Fraction of the requests of each kind.
    per_slot : float
        Requests that share an entry of the table of decode passes.
    """

    per_s: float
    input_tokens: float | Sequence[float]
    passes: float
    shares: Sequence[float] = (1.0,)
    per_slot: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptWork:
    """Seconds of the prompts of a mix.

    Parameters
    ----------
    alone_s : tuple of float
        By kind, with nothing else in the pass.
    full_s : tuple of float
        By kind, a prompt's part of a full pass.
    shares : tuple of float
        Fraction of the requests of each kind.
    per_pass : float
        Mean prompts of a full pass, 1 or more.
    """

    alone_s: tuple[float, ...]
    full_s: tuple[float, ...]
    shares: tuple[float, ...]
    per_pass: float

    def mean(self, values: Sequence[float], power: int = 1) -> float:
        """Mean of ``values`` to a power over the requests."""
        return sum(w * value**power for w, value in zip(self.shares, values, strict=True))


def prompt_work(
    prompts: PromptTimes, tokens: float | Sequence[float], shares: Sequence[float] = (1.0,)
) -> PromptWork:
    """Count the seconds of prompts of ``tokens`` tokens, by kind."""
    budget, alone, full, total = prompts.budget, [], [], sum(shares)
    parts = tuple(share / total for share in shares)
    for kind in range(len(parts)):
        own, factor = of_kind(tokens, kind), prompts.factors[kind]
        alone.append(prompts.alone(own, factor))
        most = max(own, budget)
        full.append(min(alone[-1], prompts.alone(most, factor) * own / most))
    mean = sum(part * of_kind(tokens, kind) for kind, part in enumerate(parts))
    return PromptWork(
        alone_s=tuple(alone),
        full_s=tuple(full),
        shares=parts,
        per_pass=max(1.0, budget / mean),
    )


def _waiting(per_s: float, work: PromptWork, resource: str, what: str) -> float:
    """Mean wait of a prompt in the queue of the module's docstring."""
    mean, full = work.mean(work.alone_s), work.mean(work.full_s)
    load = per_s * full
    if load >= 1.0:
        raise Overload(
            resource,
            (load, 1.0),
            f"requests arrive faster than {what} can take: {load:.0%} of its time",
            f"stay below {1.0 / full:.3g} requests per second and worker, or add workers",
        )
    running = min(1.0, per_s * mean) * work.mean(work.alone_s, 2) / (2.0 * mean) if mean else 0.0
    return running + load / (1.0 - load) * per_s * work.mean(work.full_s, 2) / 2.0


def _between(step_s: float, per_s: float, work: PromptWork) -> float:
    """Seconds between two decode passes of ``step_s`` with the prompts that arrive."""
    alone, full = work.mean(work.alone_s), work.mean(work.full_s)
    if per_s * alone < 1.0:
        found = step_s / (1.0 - per_s * alone)
        if per_s * found <= 1.0 or work.per_pass <= 1.0:
            return found
    slope = full
    if work.per_pass > 1.0:
        slope = (work.per_pass * full - alone) / (work.per_pass - 1.0)
    return (step_s + alone - slope) / (1.0 - per_s * slope)


def _steady(
    decode_s: Sequence[float],
    max_running: int,
    arrivals: Arrivals,
    work: PromptWork | None,
) -> tuple[float, float, float]:
    """Seconds of a pass, between two passes, and slots that decode together.

    ``decode_s`` is a table over slots; ``work`` prompts that delay decoding.

    Raises
    ------
    Overload
        Not even all that fit are enough.
    """
    running = 0.0
    for _ in range(_ROUNDS):
        low = min(int(running), len(decode_s) - 2)
        step = decode_s[low] + (running - low) * (decode_s[low + 1] - decode_s[low])
        tau = step if work is None else _between(step, arrivals.per_s, work)
        found = arrivals.per_s * arrivals.passes * tau / arrivals.per_slot
        if found > max_running:
            fits, flying = max_running * arrivals.per_slot, found * arrivals.per_slot
            raise Overload(
                "decode",
                (flying, fits),
                f"requests arrive faster than decoding takes: {fits:.0f} sequences fit into the "
                f"cache of a worker, {flying:.0f} would be in flight",
                "add workers, or lower the arrival rate",
            )
        if abs(found - running) <= _CLOSE * max(1.0, found):
            return step, tau, found
        running = found
    raise Overload(
        "decode",
        (running * arrivals.per_slot, max_running * arrivals.per_slot),
        "no steady state: decoding slows down faster than requests drain",
        "add workers, or lower the arrival rate",
    )


def open_loop(times: LoopTimes, arrivals: Arrivals) -> LoopResult:
    """Steady state of one worker that prefills and decodes; raises Overload beyond it."""
    work = prompt_work(times.prompts, arrivals.input_tokens, arrivals.shares)
    queue = _waiting(arrivals.per_s, work, "prefill", "prefill")
    step, tau, running = _steady(times.decode_s, times.max_running, arrivals, work)
    beside = step if times.mixes else 0.0
    wait = step / 2.0 + queue + tau * (times.poll_passes - 1) / 2.0
    waits = tuple(wait + alone + beside for alone in work.alone_s)
    return LoopResult(
        ttft_s=work.mean(waits),
        prefill_s=work.mean(work.alone_s) + beside,
        waits=waits,
        pass_s=tau,
        slots_per_s=arrivals.per_s / arrivals.per_slot,
        running=running,
    )


def fewest_workers(times: PoolTimes, arrivals: Arrivals, num_workers: int) -> int:
    """The fewest decode workers that keep up, of requests that ``num_workers`` share so far."""
    total = arrivals.per_s * num_workers

    def serves(count: int) -> bool:
        try:
            _steady(times.decode_s, times.max_running, replace(arrivals, per_s=total / count), None)
        except Overload:
            return False
        return True

    few, many = 0, num_workers
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if serves(middle) else (middle, many)
    return many


def open_pools(times: PoolTimes, arrivals: Arrivals) -> LoopResult:
    """Steady state of one decode worker and its share of a prefill pool."""
    work = prompt_work(times.prompts, arrivals.input_tokens, arrivals.shares)
    kinds = range(len(work.shares))
    sending = tuple(of_kind(times.link_s, kind) for kind in kinds)
    links = PromptWork(alone_s=sending, full_s=sending, shares=work.shares, per_pass=1.0)
    wait = _waiting(arrivals.per_s / times.prefill_share, work, "prefill", "the prefill pool")
    wait += _waiting(arrivals.per_s, links, "links", "the links between the pools")
    step, tau, running = _steady(times.decode_s, times.max_running, arrivals, None)
    transfers = tuple(of_kind(times.transfer_s, kind) for kind in kinds)
    waits = tuple(
        wait + alone + sent + step / 2.0
        for alone, sent in zip(work.alone_s, transfers, strict=True)
    )
    return LoopResult(
        ttft_s=work.mean(waits),
        prefill_s=work.mean(work.alone_s),
        transfer_s=work.mean(transfers),
        waits=waits,
        pass_s=tau,
        slots_per_s=arrivals.per_s / arrivals.per_slot,
        running=running,
    )
