"""Requests that arrive at random: utilisation, queueing, and where it ends.

``X`` requests arrive per second at one worker (Poisson). With ``s`` seconds of prompt work and
``n`` decode passes per request, of which ``D`` run together,

    share of the time spent on prompts   rho = X s
    seconds between two passes           tau(D) = t(D) / (1 - rho)
    Little's law                         D = X n tau(D)

and a prompt waits, beside half of the pass that runs when it arrives, as in an M/D/1 queue,
``rho / (2 (1 - rho)) s``. Prompts with workers of their own do not slow decoding:
``tau(D) = t(D)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.cost.runs.serving_loop import LoopResult, LoopTimes, PoolTimes, PromptTimes
from planner.errors import SpecError

_ROUNDS = 200
_CLOSE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrivals:
    """Requests per second of one worker, and the mean request.

    ``per_slot`` requests share an entry of the table of decode passes.
    """

    per_s: float
    input_tokens: float
    passes: float
    per_slot: float = 1.0


def prompt_seconds(prompts: PromptTimes, tokens: float) -> float:
    """Seconds of one prompt alone, in chunks."""
    full = int(tokens / prompts.budget)
    rest = tokens - full * prompts.budget
    own = full * max(prompts.seconds(prompts.budget), prompts.floor_s)
    return own + (max(prompts.seconds(rest), prompts.floor_s) if rest > 0 else 0.0)


def _waiting(per_s: float, service_s: float, what: str) -> float:
    """Mean wait in an M/D/1 queue."""
    load = per_s * service_s
    if load >= 1.0:
        raise SpecError(
            f"requests arrive faster than {what} can take: {load:.0%} of its time",
            f"stay below {1.0 / service_s:.3g} requests per second and worker, or add workers",
        )
    return load / (2.0 * (1.0 - load)) * service_s


def _steady(
    decode_s: Sequence[float], max_running: int, arrivals: Arrivals, idle: float
) -> tuple[float, float]:
    """Seconds between passes and slots that decode together.

    ``decode_s`` is a table over slots; ``idle`` the share of the time that is left for
    decoding.

    Raises
    ------
    SpecError
        Not even all that fit are enough.
    """
    running = 0.0
    for _ in range(_ROUNDS):
        low = min(int(running), len(decode_s) - 2)
        between = decode_s[low] + (running - low) * (decode_s[low + 1] - decode_s[low])
        tau = between / idle
        found = arrivals.per_s * arrivals.passes * tau / arrivals.per_slot
        if found > max_running:
            raise SpecError(
                "requests arrive faster than decoding takes: "
                f"{max_running * arrivals.per_slot:.0f} sequences fit into the cache of a "
                f"worker, {found * arrivals.per_slot:.0f} would be in flight",
                "add workers, or lower the arrival rate",
            )
        if abs(found - running) <= _CLOSE * max(1.0, found):
            return tau, found
        running = found
    raise SpecError("no steady state: decoding slows down faster than requests drain")


def open_loop(times: LoopTimes, arrivals: Arrivals) -> LoopResult:
    """Steady state of one worker that prefills and decodes; raises SpecError beyond it."""
    alone = prompt_seconds(times.prompts, arrivals.input_tokens)
    wait = _waiting(arrivals.per_s, alone, "prefill")
    idle = 1.0 - arrivals.per_s * alone
    tau, running = _steady(times.decode_s, times.max_running, arrivals, idle)
    service = alone
    if times.mixes:
        service += tau * idle
    service += tau * (times.poll_passes - 1) / 2.0
    return LoopResult(
        ttft_s=tau * idle / 2.0 + wait + service,
        pass_s=tau,
        slots_per_s=arrivals.per_s / arrivals.per_slot,
        running=running,
    )


def open_pools(times: PoolTimes, arrivals: Arrivals) -> LoopResult:
    """Steady state of one decode worker and its share of a prefill pool."""
    alone = prompt_seconds(times.prompts, arrivals.input_tokens)
    wait = _waiting(arrivals.per_s / times.prefill_share, alone, "the prefill pool")
    tau, running = _steady(times.decode_s, times.max_running, arrivals, 1.0)
    return LoopResult(
        ttft_s=wait + alone + times.transfer_s + tau / 2.0,
        pass_s=tau,
        slots_per_s=arrivals.per_s / arrivals.per_slot,
        running=running,
    )
