"""Library of ``economics cache``: where a context waits for its next request most cheaply."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from planner.catalog.economics_files import HBM, TierFigures, load_tiers
from planner.domain.outcome import Infeasible
from planner.economics.napkin import input_usd, kept_kv_bytes
from planner.economics.question import CacheQuestion, check_positive
from planner.economics.tiers import (
    RECOMPUTE,
    BreakEven,
    Keep,
    Span,
    Tier,
    break_evens,
    by_drain_time,
    cheapest_spans,
    keep_in,
    recompute,
)
from planner.economics_api.phases import Setting, cheapest_prefill, read_setting
from planner.errors import SpecError
from planner.run_api import RunEstimate
from planner.units import MILLION, usd_per_second


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldPrice:
    """Dollars of one way to have the cache again after the hold time that was asked for."""

    name: str
    label: str
    usd: float
    wait_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEconomics:
    """Where to keep the cache of one context.

    Parameters
    ----------
    kv_bytes : float
        Of the context.
    tiers : tuple of Tier
        Shortest drain time first.
    keeps : tuple of Keep
        Of the same tiers, and recomputation; ``recompute_napkin_usd`` is its matmuls alone.
    spans : tuple of Span
        The cheapest at every hold time.
    at_hold : tuple of HoldPrice
        At the hold time that was asked for, the cheapest first; empty without one.
    by_drain_time : str, optional
        What the lecture's rule picks there.
    """

    question: CacheQuestion
    model: str
    machine: str
    usd_per_chip_hour: float
    kv_bytes: float
    kv_bytes_per_token: float
    tiers: tuple[Tier, ...]
    keeps: tuple[Keep, ...]
    recompute_s: float | None
    recompute_usd: float | None
    recompute_napkin_usd: float | None
    break_evens: tuple[BreakEven, ...]
    spans: tuple[Span, ...]
    at_hold: tuple[HoldPrice, ...]
    by_drain_time: str | None


def cache_economics(question: CacheQuestion) -> CacheEconomics | Infeasible:
    """Price every way to have the cache of a context again.

    Returns
    -------
    Infeasible
        A prefill of the context does not fit.

    Raises
    ------
    SpecError
        A number is none, a tier is unknown, or nobody knows a price.
    CatalogError
        A file cannot be read.
    """
    check_positive(hold=question.hold)
    setting = read_setting(question.base)
    tiers = _tiers(setting, question)
    context = question.base.context
    kv_bytes = kept_kv_bytes(setting.model, context)
    keeps = [keep_in(tier, kv_bytes) for tier in tiers]
    prefill, napkin = None, None
    if not question.only or RECOMPUTE in question.only:
        found = cheapest_prefill(setting, context)
        if isinstance(found, Infeasible):
            return found
        prefill, napkin = found, _napkin_usd(setting, found)
        keeps.append(recompute(_usd(found) * context, found.seconds))
    hold = question.hold
    rule = None if hold is None or not tiers else by_drain_time(tiers, hold).name
    return CacheEconomics(
        question=question,
        model=setting.model.name,
        machine=setting.topology.spec.name,
        usd_per_chip_hour=setting.usd_per_hour,
        kv_bytes=kv_bytes,
        kv_bytes_per_token=kv_bytes / context,
        tiers=tiers,
        keeps=tuple(keeps),
        recompute_s=None if prefill is None else prefill.seconds,
        recompute_usd=None if prefill is None else _usd(prefill) * context,
        recompute_napkin_usd=napkin,
        break_evens=break_evens(keeps),
        spans=cheapest_spans(keeps),
        at_hold=() if hold is None else _at_hold(keeps, hold),
        by_drain_time=rule,
    )


def _usd(prefill: RunEstimate) -> float:
    """Dollars of one prompt token."""
    assert prefill.usd_per_million_tokens is not None
    return prefill.usd_per_million_tokens / MILLION


def _napkin_usd(setting: Setting, prefill: RunEstimate) -> float:
    """``2 N L / C`` chip-seconds of the whole context."""
    context = setting.base.context
    chips = setting.chips(1, prefill.peak_flop_per_s)
    return input_usd(setting.sizes(context), chips) * context


def _at_hold(keeps: list[Keep], hold: float) -> tuple[HoldPrice, ...]:
    prices = [
        HoldPrice(name=keep.name, label=keep.label, usd=keep.usd(hold), wait_s=keep.wait_s)
        for keep in keeps
    ]
    return tuple(sorted(prices, key=lambda price: price.usd))


def _tiers(setting: Setting, question: CacheQuestion) -> tuple[Tier, ...]:
    """HBM and the tiers of the files, those that were named, shortest drain time first."""
    figures = {one.name: one for one in load_tiers(question.tiers_file, setting.topology.chip.name)}
    known = (HBM, *(name for name in figures if name != HBM), RECOMPUTE)
    for name in question.only:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise SpecError(f"--tier: unknown '{name}'", f"{hint}known: {', '.join(known)}")
    tiers = [_hbm(setting, figures.pop(HBM, None)), *map(_tier, figures.values())]
    wanted = [tier for tier in tiers if not question.only or tier.name in question.only]
    return tuple(sorted(wanted, key=lambda tier: tier.drain_s))


def _hbm(setting: Setting, given: TierFigures | None) -> Tier:
    """The machine's own figures, where the user's file has no others."""
    chip = setting.topology.chip
    capacity, rate = chip.hbm_usable_bytes, chip.hbm_bytes_per_s
    price = usd_per_second(setting.usd_per_hour) / capacity
    source = f"the file of {setting.topology.spec.name}, the price of a whole chip"
    if given is None:
        given = TierFigures(
            name=HBM,
            label="HBM",
            capacity_bytes=None,
            bytes_per_s=None,
            usd_per_byte_s=None,
            source="",
        )
    return Tier(
        name=HBM,
        label="HBM" if given.label == HBM else given.label,
        capacity_bytes=given.capacity_bytes or capacity,
        bytes_per_s=given.bytes_per_s or rate,
        usd_per_byte_s=given.usd_per_byte_s or price,
        source=given.source or source,
    )


def _tier(figures: TierFigures) -> Tier:
    assert figures.capacity_bytes is not None and figures.bytes_per_s is not None
    assert figures.usd_per_byte_s is not None
    return Tier(
        name=figures.name,
        label=figures.label,
        capacity_bytes=figures.capacity_bytes,
        bytes_per_s=figures.bytes_per_s,
        usd_per_byte_s=figures.usd_per_byte_s,
        source=figures.source,
    )
