"""A mix of requests: what its lengths mean for passes, caches and latencies.

Requests of different lengths share the passes of an engine, so

- a decode pass sees a kind as often as its answers are long: contexts and caches count with
  the mean over *resident* sequences, ``sum w o x / sum w o``;
- a token of prompt work belongs to a long prompt more often than to a short one: its attention
  is priced at ``sum w i^2 / sum w i``, and the prompts of each kind relative to that
  (:class:`planner.cost.runs.serving_loop.PromptTimes`);
- requests are drawn by their weights, evenly, in a random order that never changes.

``w`` are weights, ``i`` and ``o`` tokens of prompts and answers. A mix of one kind is that kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from planner.domain.serving import RequestKind, ServingRun

# More kinds are merged, in so many groups of neighbouring prompts times answers.
_INPUT_GROUPS, _OUTPUT_GROUPS = 16, 4
MOST_KINDS = _INPUT_GROUPS * _OUTPUT_GROUPS
# Shares of requests, the shortest prompts first, whose latency is reported.
BANDS = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TtftBand:
    """Requests between two quantiles of the prompt length.

    Parameters
    ----------
    low, high : float
        Quantiles, in [0, 1].
    input_len, ttft_s : float
        Means over them: tokens of the prompt, time to the first token.
    """

    low: float
    high: float
    input_len: float
    ttft_s: float


def _merged(kinds: Sequence[RequestKind]) -> RequestKind:
    weight = sum(kind.weight for kind in kinds)
    return RequestKind(
        input_len=sum(kind.weight * kind.input_len for kind in kinds) / weight,
        output_len=sum(kind.weight * kind.output_len for kind in kinds) / weight,
        weight=weight,
    )


def _groups(kinds: Sequence[RequestKind], count: int) -> list[list[RequestKind]]:
    """Neighbours in groups of about equal weight, empty ones left out."""
    total, before = sum(kind.weight for kind in kinds), 0.0
    found: list[list[RequestKind]] = [[] for _ in range(count)]
    for kind in kinds:
        middle = (before + kind.weight / 2.0) / total
        found[min(count - 1, int(middle * count))].append(kind)
        before += kind.weight
    return [group for group in found if group]


def condensed(kinds: Sequence[RequestKind]) -> tuple[RequestKind, ...]:
    """At most ``MOST_KINDS`` kinds with the same means, in order of prompt and answer.

    Equal kinds become one; of many, neighbours in prompt length, then in answer length, are
    merged into their mean.

    Returns
    -------
    tuple of RequestKind
        Weights add up to those given.
    """
    same: dict[tuple[float, float], float] = {}
    for kind in kinds:
        key = (kind.input_len, kind.output_len)
        same[key] = same.get(key, 0.0) + kind.weight
    distinct = [RequestKind(input_len=i, output_len=o, weight=same[i, o]) for i, o in sorted(same)]
    if len(distinct) <= MOST_KINDS:
        return tuple(distinct)
    return tuple(
        _merged(group)
        for near in _groups(distinct, _INPUT_GROUPS)
        for group in _groups(sorted(near, key=lambda kind: kind.output_len), _OUTPUT_GROUPS)
    )


def mixed(run: ServingRun, kinds: Sequence[RequestKind]) -> ServingRun:
    """The run with requests of these kinds instead of equal ones.

    Parameters
    ----------
    kinds : sequence of RequestKind
        One or more; weights above zero.
    """
    mean = _merged(kinds)
    return replace(run, input_len=mean.input_len, output_len=mean.output_len, mix=condensed(kinds))


def resident(run: ServingRun, value: Callable[[RequestKind], float]) -> float:
    """Mean over decoding sequences, who stay as long as their answers."""
    if len(run.kinds) == 1:
        return value(run.kinds[0])
    weights = [kind.weight * kind.output_len for kind in run.kinds]
    total = sum(weights)
    return sum(w * value(kind) for w, kind in zip(weights, run.kinds, strict=True)) / total


def prompt_len_of_work(run: ServingRun) -> float:
    """Mean prompt length over prompt tokens."""
    if len(run.kinds) == 1:
        return run.input_len
    return sum(kind.weight * kind.input_len**2 for kind in run.kinds) / sum(
        kind.weight * kind.input_len for kind in run.kinds
    )


def shares(run: ServingRun) -> tuple[float, ...]:
    """Fraction of the requests that each kind has."""
    total = sum(kind.weight for kind in run.kinds)
    return tuple(kind.weight / total for kind in run.kinds)


def ttft_bands(samples: Sequence[tuple[float, float, float]]) -> tuple[TtftBand, ...]:
    """Latency by quantile of the prompt length; a sample on a border counts on both sides.

    Parameters
    ----------
    samples : sequence of (float, float, float)
        Prompt tokens, share of the requests, seconds to the first token.

    Returns
    -------
    tuple of TtftBand
        Between neighbouring ``BANDS``, those of equal prompts together.
    """
    ordered = sorted(samples)
    total = sum(share for _, share, _ in ordered)
    found: list[TtftBand] = []
    for low, high in pairwise(BANDS):
        at, weight, tokens, seconds = 0.0, 0.0, 0.0, 0.0
        for length, share, ttft_s in ordered:
            end = at + share / total
            inside = max(0.0, min(end, high) - max(at, low))
            weight += inside
            tokens += inside * length
            seconds += inside * ttft_s
            at = end
        band = TtftBand(low=low, high=high, input_len=tokens / weight, ttft_s=seconds / weight)
        if found and math.isclose(found[-1].input_len, band.input_len):
            band = replace(band, low=found.pop().low)
        found.append(band)
    return tuple(found)
