"""Where to keep a cache that nobody reads for a while (chapter 6).

A tier is bought whole: with its price per second go a capacity and a bandwidth. One byte kept
for ``h`` seconds and read once costs

    price x ( 1 / bandwidth + h / capacity )

At ``h = capacity / bandwidth``, the drain time, both parts are equal. A tier whose drain time is
far shorter than the hold time is paid for capacity that is slow to fill, one whose drain time
is far longer for bandwidth that is never used: the best tier is about the one whose drain time
matches. Recomputation keeps nothing and pays for a prefill.

Assumptions
-----------
- Reads are spread evenly: a tier that holds only caches of hold time ``h`` is read at
  ``capacity / h`` bytes per second, below its bandwidth.
- Writing is not charged, nor is the chip that waits for a read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from planner.cost.roofline import drain_s

RECOMPUTE = "recompute"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """A memory and its price.

    Parameters
    ----------
    capacity_bytes, bytes_per_s : float
        Of one unit: what it holds, and how fast it is read.
    usd_per_byte_s : float
        Dollars to hold one byte for one second.
    source : str
        Where the figures come from.
    """

    name: str
    label: str
    capacity_bytes: float
    bytes_per_s: float
    usd_per_byte_s: float
    source: str = ""

    @property
    def drain_s(self) -> float:
        """Seconds to read all of it."""
        return drain_s(self.capacity_bytes, self.bytes_per_s)

    @property
    def read_usd_per_byte(self) -> float:
        """Dollars of the bandwidth that reads one byte: the price of one drain time."""
        return self.usd_per_byte_s * self.drain_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """What one way to have a cache again costs: ``once_usd + hold_usd_per_s * h``.

    ``wait_s`` are seconds until it is there.
    """

    name: str
    label: str
    once_usd: float
    hold_usd_per_s: float
    wait_s: float
    drain_s: float | None

    def usd(self, hold_s: float) -> float:
        """Dollars after ``hold_s`` seconds."""
        return self.once_usd + self.hold_usd_per_s * hold_s


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakEven:
    """From ``hold_s`` on the second is cheaper than the first; before, the first.

    ``hold_s`` is 0 where the second always is, None where it never is.
    """

    first: str
    second: str
    hold_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Hold times from ``from_s`` to ``to_s`` at which ``name`` is the cheapest; None: for ever."""

    name: str
    label: str
    from_s: float
    to_s: float | None


def keep_in(tier: Tier, num_bytes: float) -> Keep:
    """A cache of ``num_bytes`` in a tier."""
    return Keep(
        name=tier.name,
        label=tier.label,
        once_usd=num_bytes * tier.read_usd_per_byte,
        hold_usd_per_s=num_bytes * tier.usd_per_byte_s,
        wait_s=num_bytes / tier.bytes_per_s,
        drain_s=tier.drain_s,
    )


def recompute(usd: float, seconds: float) -> Keep:
    """A cache that is thrown away and computed again."""
    return Keep(
        name=RECOMPUTE,
        label="recompute",
        once_usd=usd,
        hold_usd_per_s=0.0,
        wait_s=seconds,
        drain_s=None,
    )


def break_even(first: Keep, second: Keep) -> BreakEven:
    """Hold time at which ``second``, the cheaper to hold, overtakes ``first``."""
    if second.hold_usd_per_s > first.hold_usd_per_s:
        first, second = second, first
    slope = first.hold_usd_per_s - second.hold_usd_per_s
    extra = second.once_usd - first.once_usd
    later = extra / slope if slope > 0 else None
    hold = 0.0 if extra <= 0 else later
    return BreakEven(first=first.name, second=second.name, hold_s=hold)


def break_evens(keeps: Sequence[Keep]) -> tuple[BreakEven, ...]:
    """Every pair, the dearer to hold first."""
    ordered = sorted(keeps, key=lambda keep: -keep.hold_usd_per_s)
    return tuple(
        break_even(first, second)
        for index, first in enumerate(ordered)
        for second in ordered[index + 1 :]
    )


def cheapest_spans(keeps: Sequence[Keep]) -> tuple[Span, ...]:
    """The lower envelope of all costs over the hold time, from 0 to infinity."""
    # Of equal costs at the start, the one that costs less to hold stays the cheapest.
    here = min(keeps, key=lambda keep: (keep.once_usd, keep.hold_usd_per_s))
    spans, start = [], 0.0
    while True:
        later = [
            ((other.once_usd - here.once_usd) / (here.hold_usd_per_s - other.hold_usd_per_s), other)
            for other in keeps
            if other.hold_usd_per_s < here.hold_usd_per_s
        ]
        if not later:
            spans.append(_span(here, start, None))
            return tuple(spans)
        end, after = min(later, key=lambda pair: (pair[0], pair[1].hold_usd_per_s))
        spans.append(_span(here, start, end))
        here, start = after, end


def _span(keep: Keep, from_s: float, to_s: float | None) -> Span:
    return Span(name=keep.name, label=keep.label, from_s=from_s, to_s=to_s)


def by_drain_time(tiers: Sequence[Tier], hold_s: float) -> Tier:
    """The lecture's rule: the tier whose drain time is nearest to the hold time, by ratio."""
    return min(tiers, key=lambda tier: abs(math.log(tier.drain_s / hold_s)))
