"""Checks a placement of experts from its slots and the loads alone.

The specification of ``planner experts``, in plain Python on purpose: it shares no code with
the search, so that a mistake there cannot hide here. A price certificate is re-checked by
listing, chip size by chip size, the dearest set of pieces that fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_CLOSE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class PricedLoad:
    """Certificate of one layer: a refuted load, prices ``(slots, threshold, weight)``."""

    limit: float
    prices: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainRule:
    """Domains of equally many chips; ``num_groups`` groups stay whole, None spreads copies."""

    num_domains: int
    num_groups: int | None = None


def chip_totals(chips: Sequence[Sequence[int]], loads: Sequence[float]) -> list[float]:
    """Load of each chip when copies share their expert's tokens evenly."""
    copies = [0] * len(loads)
    for held in chips:
        for expert in held:
            copies[expert] += 1
    return [sum(loads[expert] / copies[expert] for expert in held) for held in chips]


def placement_violations(
    chips: Sequence[Sequence[int]],
    loads: Sequence[float],
    num_slots: int,
    rule: DomainRule | None = None,
) -> list[str]:
    """Sentences on what is wrong with a placement; empty when it is right.

    Parameters
    ----------
    chips : sequence of sequences of int
        Experts on each chip.
    loads : sequence of float
        Load of each expert.
    num_slots : int
        Slots of all chips together; they are spread evenly.
    rule : DomainRule or None
    """
    num_experts, num_chips = len(loads), len(chips)
    found = []
    for chip, held in enumerate(chips):
        if any(not 0 <= expert < num_experts for expert in held):
            return [f"chip {chip} holds an expert that is not there"]
        if len(set(held)) < len(held):
            found.append(f"chip {chip} holds two copies of an expert")
        if len(held) > -(-num_slots // num_chips):
            found.append(f"chip {chip} holds {len(held)} copies, more than its slots")
    if sum(len(held) for held in chips) > num_slots:
        found.append("more copies than slots")
    placed = {expert for held in chips for expert in held}
    missing = sorted(set(range(num_experts)) - placed)
    found += [f"expert {expert} is nowhere" for expert in missing]
    if rule is not None:
        found += _domain_violations(chips, num_experts, rule)
    return found


def _domain_violations(
    chips: Sequence[Sequence[int]], num_experts: int, rule: DomainRule
) -> list[str]:
    per_domain = len(chips) // rule.num_domains
    counts = [[0] * rule.num_domains for _ in range(num_experts)]
    for chip, held in enumerate(chips):
        for expert in held:
            counts[expert][chip // per_domain] += 1
    found = []
    if rule.num_groups is None:
        for expert, inside in enumerate(counts):
            if max(inside) - min(inside) > 1:
                found.append(f"the copies of expert {expert} are not spread over the domains")
        return found
    size = num_experts // rule.num_groups
    held_groups = [0] * rule.num_domains
    for group in range(rule.num_groups):
        homes = {
            domain
            for expert in range(group * size, (group + 1) * size)
            for domain, count in enumerate(counts[expert])
            if count
        }
        for domain in homes:
            held_groups[domain] += 1
        if len(homes) > 1:
            found.append(f"group {group} is in {len(homes)} domains")
    if max(held_groups) > min(held_groups):
        found.append("the domains hold different numbers of groups")
    return found


def refutes(certificate: PricedLoad, loads: Sequence[float], slots: Sequence[int]) -> bool:
    """Whether prices show that some chip carries more than the certificate's load.

    Parameters
    ----------
    certificate : PricedLoad
    loads : sequence of float
        Load of each expert.
    slots : sequence of int
        Slots of each chip.
    """
    limit = certificate.limit
    fewest = [max(1, math.ceil(load / limit * (1 - _CLOSE))) for load in loads]
    spare = sum(slots) - sum(fewest)
    if spare < 0:
        return True
    demand = 0.0
    for load, least in zip(loads, fewest, strict=True):
        # More copies than chips, or than slots are left, cannot be placed.
        most = min(len(slots), least + spare)
        demand += min(
            (copies * _price(certificate, load / copies / limit))
            for copies in range(least, max(most, least) + 1)
        )
    room = 0.0
    for size in set(slots):
        for unit, threshold, weight in certificate.prices:
            room += slots.count(size) * weight * _dearest(unit, threshold, size)
    return demand > room + _CLOSE


def _level(unit: int, threshold: float, piece: float) -> int:
    """``v``: 0 below the threshold, otherwise 1 more for each threshold that it crowds out."""
    if piece < threshold * (1 - 1e-11):
        return 0
    return max(
        value
        for value in range(1, unit + 1)
        if value == 1 or piece >= 1 - (unit - value + 1) * threshold + _CLOSE
    )


def _price(certificate: PricedLoad, piece: float) -> float:
    return sum(
        weight * _level(unit, threshold, piece) for unit, threshold, weight in certificate.prices
    )


def _dearest(unit: int, threshold: float, size: int) -> int:
    """Most that at most ``size`` pieces cost which weigh 1 together, in exact fractions."""
    base = Fraction(threshold)
    lightest = {value: max(base, 1 - (unit - value + 1) * base) for value in range(1, unit + 1)}
    lightest[1] = base
    # A piece of value 2 and more weighs strictly more than what is written.
    best = 0
    stack = [(unit, size, Fraction(0), 0, False)]
    while stack:
        value, left, weight, price, strict = stack.pop()
        best = max(best, price)
        if not value or not left:
            continue
        stack.append((value - 1, left, weight, price, strict))
        heavier = weight + lightest[value]
        over = strict or value > 1
        if heavier < 1 or (heavier == 1 and not over):
            stack.append((value, left - 1, heavier, price + value, over))
    return best
