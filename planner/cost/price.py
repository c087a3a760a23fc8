"""Seconds of counted work on one chip and its links.

    compute_s = FLOP / (peak FLOP/s x achieved fraction), tiles of multiplies filled up
    memory_s  = HBM bytes / (HBM bytes/s x achieved fraction)
    busy_s    = both together: of a multiply by :mod:`planner.cost.runs.gemm`, else the larger
    network_s = latency + x + 2 sqrt(fill x), x = bytes x seconds per byte of the busiest
                link; the fastest of the algorithms that the machine has
    overhead_s = kernels x fixed cost of one kernel

A layer then takes, by time model (theory: chapter 1 and the inference chapter's sum),

    OVERLAP   max(sum compute + overhead, sum memory + overhead, sum network)
    SUM       sum over operations of busy + overhead + sum network
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.cost.runs.gemm import (
    achieved_flop_per_s,
    achieved_hbm_bytes_per_s,
    busy_seconds,
    padded_flop,
)
from planner.domain.cost import Bound
from planner.domain.curves import Op
from planner.domain.hardware import Chip
from planner.domain.work import Message, OpWork, Real

CORE_RATE = "bf16"


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkRate:
    """Price of a collective on one mesh axis, monotone in every field.

    Parameters
    ----------
    latency_s, s_per_byte, fill_s : float or array
        See :mod:`planner.domain.curves`.
    others : tuple of LinkRate
        Further algorithms for the same operation; a call takes the fastest.
    """

    latency_s: Real
    s_per_byte: Real
    fill_s: Real = 0.0
    link: str = ""
    others: tuple[LinkRate, ...] = ()

    def seconds(self, num_bytes: Real) -> Real:
        """Time of one call."""
        wire = num_bytes * self.s_per_byte
        total: Real = self.latency_s + wire + 2 * np.sqrt(self.fill_s * wire)
        for other in self.others:
            total = np.minimum(total, other.seconds(num_bytes))
        return total

    def pick(self, picked: NDArray[np.int64] | NDArray[np.bool_]) -> LinkRate:
        """The entries ``picked`` of a rate whose fields are arrays."""
        return replace(
            self,
            latency_s=np.asarray(self.latency_s)[picked],
            s_per_byte=np.asarray(self.s_per_byte)[picked],
            fill_s=np.asarray(self.fill_s)[picked],
            others=tuple(other.pick(picked) for other in self.others),
        )


NO_LINK = LinkRate(latency_s=0.0, s_per_byte=0.0)


def merge_rates(rates: Sequence[LinkRate], choose: Callable[[Sequence[Real]], Real]) -> LinkRate:
    """One rate from several by choosing every field, algorithm by algorithm.

    With ``max`` no group is slower than the result, with ``min`` none is faster. Algorithms
    that not every rate has are left out of the former; the latter keeps them all.
    """
    link = max(rates, key=lambda rate: np.max(rate.s_per_byte)).link
    tables = [(rate, *rate.others) for rate in rates]
    common = min(len(table) for table in tables)
    depth = common if choose is max else max(len(table) for table in tables)
    merged = [
        LinkRate(
            latency_s=choose([t[place].latency_s for t in tables if place < len(t)]),
            s_per_byte=choose([t[place].s_per_byte for t in tables if place < len(t)]),
            fill_s=choose([t[place].fill_s for t in tables if place < len(t)]),
        )
        for place in range(depth)
    ]
    return replace(merged[0], link=link, others=tuple(merged[1:]))


def stack_rates(rates: Sequence[LinkRate]) -> LinkRate:
    """One rate whose fields are arrays over ``rates``; an absent algorithm never wins."""
    absent = LinkRate(latency_s=np.inf, s_per_byte=0.0)
    depth = max(len(rate.others) for rate in rates)

    def column(own: Sequence[LinkRate]) -> LinkRate:
        return LinkRate(
            latency_s=np.array([rate.latency_s for rate in own]),
            s_per_byte=np.array([rate.s_per_byte for rate in own]),
            fill_s=np.array([rate.fill_s for rate in own]),
        )

    others = tuple(
        column([rate.others[place] if place < len(rate.others) else absent for rate in rates])
        for place in range(depth)
    )
    return replace(column(rates), others=others)


def join_rates(rates: Sequence[LinkRate]) -> LinkRate:
    """One rate from several whose fields are arrays, behind each other."""
    depth = max(len(rate.others) for rate in rates)

    def column(own: Sequence[LinkRate]) -> LinkRate:
        return LinkRate(
            latency_s=np.concatenate([np.asarray(rate.latency_s) for rate in own]),
            s_per_byte=np.concatenate([np.asarray(rate.s_per_byte) for rate in own]),
            fill_s=np.concatenate([np.asarray(rate.fill_s) for rate in own]),
        )

    def other(rate: LinkRate, place: int) -> LinkRate:
        if place < len(rate.others):
            return rate.others[place]
        nothing = np.zeros(np.shape(rate.latency_s))
        return LinkRate(latency_s=nothing + np.inf, s_per_byte=nothing, fill_s=nothing)

    others = tuple(column([other(rate, place) for rate in rates]) for place in range(depth))
    return replace(column(rates), others=others)


FabricRates = Mapping[tuple[str, Op], LinkRate]


@dataclass(frozen=True, kw_only=True, slots=True)
class PricedTerm:
    """Seconds of one term of one layer on each resource.

    ``busy_s`` is what compute and memory take together when the operation runs alone.
    """

    name: str
    compute_s: Real = 0.0
    memory_s: Real = 0.0
    busy_s: Real = 0.0
    network_s: Real = 0.0
    overhead_s: Real = 0.0

    @property
    def alone_s(self) -> Real:
        """Seconds when nothing else runs."""
        return self.busy_s + self.network_s + self.overhead_s

    @property
    def bound(self) -> Bound:
        """The resource that takes longest, of a term whose fields are floats."""
        parts = {
            Bound.COMPUTE: float(self.compute_s),
            Bound.MEMORY: float(self.memory_s),
            Bound.NETWORK: float(self.network_s),
            Bound.OVERHEAD: float(self.overhead_s),
        }
        return max(parts, key=lambda name: parts[name])


def chip_flop_per_s(chip: Chip, rate: str) -> float:
    """Achieved FLOP/s of ``chip`` at a rate key, or of attention cores for ``core``."""
    if rate == "core":
        return dict(chip.peak_flop_per_s)[CORE_RATE] * chip.efficiency.attention
    return achieved_flop_per_s(chip, rate)


def price_op(op: OpWork, chip: Chip) -> PricedTerm:
    """Price one operation on ``chip``."""
    memory = op.hbm_bytes / achieved_hbm_bytes_per_s(chip)
    overhead = op.num_kernels * chip.efficiency.kernel_s
    if op.rows is None and isinstance(op.flop, float) and op.flop == 0.0:
        return PricedTerm(name=op.term, memory_s=memory, busy_s=memory, overhead_s=overhead)
    if op.rows is None:
        compute = op.flop / chip_flop_per_s(chip, op.rate)
        busy: Real = np.maximum(compute, memory)
    else:
        padded = padded_flop(chip, op.flop, op.rows)
        compute = padded / chip_flop_per_s(chip, op.rate)
        busy = busy_seconds(chip, compute, memory)
    return PricedTerm(
        name=op.term, compute_s=compute, memory_s=memory, busy_s=busy, overhead_s=overhead
    )


def price_message(message: Message, fabric: FabricRates) -> PricedTerm:
    """Price one collective with the rates of its axis.

    Raises
    ------
    KeyError
        If ``fabric`` has no rate for the message: a collective without a price is a bug.
    """
    if not np.any(message.active):
        return PricedTerm(name=message.term)
    rate = fabric[message.axis, message.op]
    seconds = message.active * rate.seconds(message.num_bytes)
    return PricedTerm(name=message.term, network_s=seconds)


def price_messages(messages: Iterable[Message], fabric: FabricRates) -> list[PricedTerm]:
    """Price collectives, one record each."""
    return [price_message(message, fabric) for message in messages]
