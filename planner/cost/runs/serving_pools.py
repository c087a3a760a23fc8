"""Prefill and decode on chips of their own: what travels between them, and how many of each.

The cache of a prompt is sent over the machine's graph from the worker that computed it to the
one that decodes, every chip of an attention rank its own part at the same time. Workers lie one
after another, the prefill pool first; a prompt may go from any worker to any other, so the
time is the mean over pairs of first chips.

Decisions
---------
- Per chip the larger of what one sends and one receives counts: the layouts may differ.
- The whole prompt is sent, its cached prefix too: decode workers are not assumed to have it.
- An engine that streams chunks hides all but the last, as far as computing takes longer:
  of ``k`` chunks, prefill seconds ``S`` and transfer ``T``, ``max(T / k, T - S (1 - 1/k))``
  remain (:attr:`planner.cost.runs.serving_engine.EngineHabits.streams_chunks`).
- Ranks send and receive one cache at a time; the links that this keeps busy bound the rate.
- Pools are balanced where both could serve the same rate,

      workers = rate x busy seconds of one request,

  counted in full prefill passes, and in decode passes over all requests that are in flight
  and not at prefill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.cost.runs.serving_step import StepPricer
from planner.cost.transfer import path_seconds as chip_seconds
from planner.cost.transfer import spread
from planner.domain.serving import ServingPool, ServingRun
from planner.topology.graph import Topology

BALANCED = 0.1  # the pools of a balanced pair differ by at most this share
_HALVINGS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfers:
    """The caches of prompts on their way to the decode pool, by kind of request.

    Parameters
    ----------
    num_bytes : tuple of float
        Of a whole prompt, over all chips of its rank.
    seconds, exposed_s : tuple of float
        Of sending it, and the part that the request waits for.
    link_s : tuple of float
        Busy time of the links per request and decode worker: the ranks of both pools share them.
    """

    num_bytes: tuple[float, ...]
    seconds: tuple[float, ...]
    exposed_s: tuple[float, ...]
    link_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolUse:
    """How busy two pools are, and how they would be balanced.

    Parameters
    ----------
    prefill, decode, links : float
        Utilisation: prefill seconds per second and worker, in full passes; decoding sequences
        of those that a worker could decode (what fits, or is in flight); busy time of the
        links between the pools.
    limits : str
        The one of the three that is used most.
    prompt_s : float
        Seconds of a prefill worker per request, in full passes.
    kv_bytes, transfer_s, hidden_s : float
        Of a mean request: bytes that are sent, seconds of it, and those behind its prefill.
    balanced : (int, int)
        Prefill and decode workers: with a concurrency the smallest whole numbers of which
        neither pool is more than ``BALANCED`` too large for the other, with a rate the fewest
        that serve it.
    """

    prefill: float
    decode: float
    links: float
    limits: str
    prompt_s: float
    kv_bytes: float
    transfer_s: float
    hidden_s: float
    balanced: tuple[int, int]


def path_seconds(
    topology: Topology, prefill: ServingPool, decode: ServingPool
) -> Callable[[float], float]:
    """Seconds of bytes per chip from one pool to the other, the mean over pairs of workers."""
    senders = [place * prefill.worker_chips for place in spread(prefill.num_workers)]
    receivers = [
        prefill.num_chips + place * decode.worker_chips for place in spread(decode.num_workers)
    ]
    return chip_seconds(topology, senders, receivers)


def transfers(
    run: ServingRun,
    pricers: tuple[StepPricer, StepPricer],
    computing_s: Sequence[float],
    chunk: float | None,
) -> Transfers:
    """Price the transfer of every kind's prompt.

    Parameters
    ----------
    pricers : (StepPricer, StepPricer)
        Of a prefill and of a decode worker.
    computing_s : sequence of float
        Prefill of a prompt alone, by kind.
    chunk : float, optional
        Tokens of a chunk that is sent while the next ones are computed; None where the
        transfer follows the whole prompt.
    """
    first, second = pricers
    assert run.prefill is not None
    seconds_of = path_seconds(first.topology, run.prefill, run.decode)
    # Ranks of the prefill pool per decode worker, and those of the worker.
    senders = first.pool.attn_dp * run.prefill.num_workers / run.decode.num_workers
    ways = min(senders, float(second.pool.attn_dp))
    sizes, seconds, exposed = [], [], []
    for kind, computing in zip(run.kinds, computing_s, strict=True):
        part = max(first.cache_bytes(kind.input_len), second.cache_bytes(kind.input_len))
        sent = seconds_of(part)
        chunks = (
            1
            if chunk is None
            else max(1, math.ceil(kind.input_len * (1.0 - run.prefix_hit) / chunk))
        )
        sizes.append(first.sequence_bytes(kind.input_len))
        seconds.append(sent)
        exposed.append(max(sent / chunks, sent - computing * (1.0 - 1.0 / chunks)))
    return Transfers(
        num_bytes=tuple(sizes),
        seconds=tuple(seconds),
        exposed_s=tuple(exposed),
        link_s=tuple(sent / ways for sent in seconds),
    )


def decode_rate(decode_s: Sequence[float], own: float, passes: float, before_s: float) -> float:
    """Requests per second of a decode worker that is never short of prompts.

    Parameters
    ----------
    decode_s : sequence of float
        Seconds of a pass over so many sequences (slots).
    own : float
        Sequences (slots) in flight per worker.
    passes : float
        Per request.
    before_s : float
        Seconds of a request before it decodes: of those in flight, the rate times this many
        are not decoding.
    """

    def rate(running: float) -> float:
        low = min(int(running), len(decode_s) - 2)
        step = decode_s[low] + (running - low) * (decode_s[low + 1] - decode_s[low])
        return running / (passes * step)

    low, high = 0.0, min(own, len(decode_s) - 1.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if middle + rate(middle) * before_s > own:
            high = middle
        else:
            low = middle
    return rate(high)


def whole_workers(ratio: float) -> tuple[int, int]:
    """The smallest whole prefill and decode workers in about a ratio.

    Parameters
    ----------
    ratio : float
        Prefill workers per decode worker, above zero.

    Returns
    -------
    (int, int)
        Whose ratio is within ``BALANCED`` of it.
    """
    count = 1
    while True:
        pair = (
            (max(1, round(count * ratio)), count)
            if ratio >= 1.0
            else (count, max(1, round(count / ratio)))
        )
        if abs(pair[0] / pair[1] / ratio - 1.0) <= BALANCED:
            return pair
        count += 1
