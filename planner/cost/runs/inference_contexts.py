"""Cached tokens that differ from sequence to sequence, and what is expected of them.

Contexts are log-normal with a given mean and standard deviation: they are positive, skewed to
the long side as lengths of real requests are, and any spread is possible (a normal cut off at
zero would move the mean). With ``sigma^2 = ln(1 + (spread / mean)^2)`` and
``mu = ln mean - sigma^2 / 2``, the moments up to a bound ``b`` are in closed form:

    E[X^k; X < b] = exp(k mu + k^2 sigma^2 / 2) Phi((ln b - mu) / sigma - k sigma)

Costs of attention are polynomials of degree 2 at most between a few bends (a window, a chunk,
a selection of tokens is full from some context on) and linear beyond the last, so their
expectation is a sum of such moments: exact, no quadrature.

Assumptions
-----------
- A kernel takes what the sum over its sequences takes: the mean cost of a sequence counts,
  not that of the longest.
- The router keeps the ranks of data-parallel attention equally loaded.
- Memory must hold all contexts of an attention group at once; their sum is taken as
  log-normal too (Fenton and Wilkinson's approximation, exact for one sequence and normal for
  many), at its quantile of ``HELD_QUANTILE``. Windows count as full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import NormalDist

from planner.domain.model import Attention, CompressedAttention, LinearAttention
from planner.errors import SpecError

HELD_QUANTILE = 0.99
_NORMAL = NormalDist()
Cost = Callable[[float], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contexts:
    """Cached tokens of the sequences of a batch.

    Parameters
    ----------
    mean : float
        Tokens.
    spread : float
        Standard deviation in tokens, 0 for equal contexts.

    Raises
    ------
    SpecError
        A number is negative or not finite, or contexts of no tokens spread.
    """

    mean: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("context_len", self.mean), ("context_spread", self.spread)):
            if value < 0:
                raise SpecError(f"{name}: {value:g} is negative", "it counts tokens, from 0 on")
            if not math.isfinite(value):
                raise SpecError(f"{name}: {value:g} is not a number of tokens")
        if self.spread and not self.mean:
            raise SpecError("context_spread: contexts of no tokens do not differ")

    @property
    def _log(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm."""
        sigma = math.sqrt(math.log1p((self.spread / self.mean) ** 2))
        return math.log(self.mean) - sigma * sigma / 2.0, sigma

    def expected(self, cost: Cost, bends: Iterable[float] = ()) -> float:
        """Mean of ``cost`` over the sequences.

        Parameters
        ----------
        cost : callable
            Continuous function of the cached tokens: a polynomial of degree 2 at most between
            neighbouring ``bends``, linear beyond the last.
        bends : iterable of float
            In tokens; those that are not positive do not matter.
        """
        found = sorted({float(bend) for bend in bends if bend > 0})
        if not self.spread or not found:
            return cost(self.mean)
        last = found[-1]
        slope = (cost(3.0 * last) - cost(2.0 * last)) / last
        level = cost(last) - slope * last
        total = level + slope * self.mean
        # What the line beyond the last bend misses below it.
        for low, high in zip([0.0, *found[:-1]], found, strict=True):
            total += self._segment(lambda x: cost(x) - level - slope * x, low, high)
        return total

    def _segment(self, cost: Cost, low: float, high: float) -> float:
        """``E[cost(X); low < X < high]`` of a polynomial of degree 2, by its three values."""
        middle, half = (low + high) / 2.0, (high - low) / 2.0
        before, at, after = cost(low), cost(middle), cost(high)
        first = (after - before) / 2.0 / half
        second = (after - 2.0 * at + before) / 2.0 / half**2
        m0, m1, m2 = (self._moment(k, high) - self._moment(k, low) for k in range(3))
        centred = m2 - 2.0 * middle * m1 + middle * middle * m0
        return at * m0 + first * (m1 - middle * m0) + second * centred

    def _moment(self, k: int, bound: float) -> float:
        """``E[X^k; X < bound]``."""
        if bound <= 0:
            return 0.0
        mu, sigma = self._log
        scale = math.exp(k * mu + (k * sigma) ** 2 / 2.0)
        return scale * _NORMAL.cdf((math.log(bound) - mu) / sigma - k * sigma)

    def held(self, sequences: float) -> float:
        """Tokens per sequence for which a group of ``sequences`` must have room."""
        if not self.spread:
            return self.mean
        ratio = self.spread / self.mean / math.sqrt(max(1.0, sequences))
        sigma = math.sqrt(math.log1p(ratio * ratio))
        quantile = _NORMAL.inv_cdf(HELD_QUANTILE)
        return max(self.mean, self.mean * math.exp(quantile * sigma - sigma * sigma / 2.0))


def context_bends(attention: Attention, new: float = 0.0) -> tuple[float, ...]:
    """Cached tokens at which costs of a layer's attention change their slope.

    Parameters
    ----------
    new : float
        Tokens that a pass appends to the cached ones; 0 for a decode step.

    Returns
    -------
    tuple of float
        For a limit of ``w`` visible tokens: where the last new token reaches it, where the
        first does, and where ``new`` tokens see ``w`` each in the mean (selection of
        compressed entries).
    """
    limits = []
    if not isinstance(attention, LinearAttention):
        window = getattr(attention, "window_tokens", None)
        if window is not None:
            limits.append(float(window))
        if attention.indexer is not None:
            limits.append(float(attention.indexer.top_k_tokens))
    bends = [bend for limit in limits for bend in (limit - new, limit)]
    if new and isinstance(attention, CompressedAttention) and attention.indexer is not None:
        bends.append(attention.indexer.top_k_tokens - (new + 1.0) / 2.0)
    return tuple(bends)
