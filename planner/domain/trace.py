"""Requests as they came, and what of them a workload consists of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from planner.domain.serving import RequestKind

QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request.

    Parameters
    ----------
    arrival_s : float, optional
        Seconds since the first one; None where the source has no times.
    input_len, output_len : int
        Tokens of the prompt and of the answer.
    reused : int
        Prompt tokens whose blocks an earlier prompt began with.
    """

    input_len: int
    output_len: int
    arrival_s: float | None = None
    reused: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Tokens: mean, quantiles at 50, 90 and 99 %, and the longest."""

    mean: float
    p50: int
    p90: int
    p99: int
    longest: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Requests of one file.

    Parameters
    ----------
    form : str
        What the file was taken for.
    failed : int
        Rows without prompt or answer, which are left out.
    has_blocks : bool
        Whether the file names the blocks of its prompts.
    """

    form: str
    requests: tuple[Request, ...]
    failed: int = 0
    has_blocks: bool = False

    @property
    def inputs(self) -> Lengths:
        """Of prompts."""
        return _lengths([one.input_len for one in self.requests])

    @property
    def outputs(self) -> Lengths:
        """Of answers."""
        return _lengths([one.output_len for one in self.requests])

    @property
    def span_s(self) -> float | None:
        """Seconds between the first and the last arrival; None without times, or in no time."""
        times = [one.arrival_s for one in self.requests if one.arrival_s is not None]
        if len(times) < len(self.requests) or len(times) < 2:
            return None
        span = max(times) - min(times)
        return span if span > 0 else None

    @property
    def rate_per_s(self) -> float | None:
        """Requests per second: intervals over the time between first and last."""
        span = self.span_s
        return None if span is None else (len(self.requests) - 1) / span

    @property
    def burstiness(self) -> float | None:
        """Squared coefficient of variation of the intervals: 1 for random arrivals, 0 for even."""
        span = self.span_s
        if span is None:
            return None
        times = sorted(one.arrival_s or 0.0 for one in self.requests)
        gaps = [b - a for a, b in pairwise(times)]
        mean = span / len(gaps)
        return math.fsum((gap - mean) ** 2 for gap in gaps) / len(gaps) / mean**2

    @property
    def prefix_hit(self) -> float:
        """Share of prompt tokens that a cache of every earlier block holds."""
        return sum(one.reused for one in self.requests) / sum(
            one.input_len for one in self.requests
        )

    @property
    def decode_context(self) -> tuple[float, float]:
        """Cached tokens of a decoding sequence: mean and standard deviation.

        A sequence decodes ``o`` tokens over contexts from ``i`` to ``i + o``, evenly:
        ``mean = sum o (i + o / 2) / sum o`` and
        ``mean square = sum o (i^2 + i o + o^2 / 3) / sum o``.
        """
        total = math.fsum(one.output_len for one in self.requests)
        mean = math.fsum(
            one.output_len * (one.input_len + one.output_len / 2) for one in self.requests
        )
        square = math.fsum(
            one.output_len
            * (one.input_len**2 + one.input_len * one.output_len + one.output_len**2 / 3)
            for one in self.requests
        )
        mean /= total
        return mean, math.sqrt(max(square / total - mean**2, 0.0))

    @property
    def mix(self) -> tuple[RequestKind, ...]:
        """How often each pair of lengths occurs, in order of the lengths."""
        counts: dict[tuple[int, int], int] = {}
        for one in self.requests:
            key = (one.input_len, one.output_len)
            counts[key] = counts.get(key, 0) + 1
        return tuple(
            RequestKind(input_len=i, output_len=o, weight=float(counts[i, o]))
            for i, o in sorted(counts)
        )


def _lengths(values: Sequence[int]) -> Lengths:
    ordered = sorted(values)

    def quantile(share: float) -> int:
        # The smallest value that a share of all values does not exceed.
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    p50, p90, p99 = (quantile(share) for share in QUANTILES)
    return Lengths(
        mean=math.fsum(ordered) / len(ordered), p50=p50, p90=p90, p99=p99, longest=ordered[-1]
    )
