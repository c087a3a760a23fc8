"""What ``planner economics --csv`` prints: the main table of each command, unknown cells empty.

``--json`` prints the records of :mod:`planner.economics_api` themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.economics_api.budget import Budget
from planner.economics_api.cache import CacheEconomics
from planner.economics_api.serve import ServeEconomics
from planner.export.csv_table import Cell, csv_table
from planner.units import GB, HOUR_S

SERVE_HEADER = (
    *("context_tokens", "batch", "step_s", "cache_share", "usd_per_million_output"),
    *("napkin_usd_per_million_output", "floor_usd_per_million_output"),
)
CAPACITY_HEADER = (
    *("tp", "dp", "ep", "worker_requests_per_s", "workers", "chips", "rented_chips"),
    *("ttft_s", "tpot_s", "usd_per_hour", "usd_per_request"),
)
CACHE_HEADER = (
    *("tier", "label", "capacity_bytes", "bytes_per_s", "drain_s", "usd_per_GB_hour"),
    *("read_usd", "hold_usd_per_hour", "wait_s", "cheapest_from_s", "cheapest_to_s"),
)
BUDGET_HEADER = (
    *("phase", "tokens", "given", "training_flop", "share", "chip_hours", "napkin_chip_hours"),
    *("usd", "napkin_usd", "energy_kwh"),
)


def serve_csv(found: ServeEconomics) -> bytes:
    """The price against the context; with a rate, the layouts that serve it."""
    best = found.capacity
    if best is not None:
        return csv_table(
            CAPACITY_HEADER,
            (
                (
                    *(one.tp, one.dp, one.ep, one.worker_rate, one.workers, one.chips),
                    *(one.rented_chips, one.ttft_s, one.tpot_s, one.usd_per_hour),
                    one.usd_per_request,
                )
                for one in (best, *best.others)
            ),
        )
    return csv_table(
        SERVE_HEADER,
        (
            (
                *(row.context, row.batch, row.step_s, row.cache_share),
                *(row.usd.full, row.usd.napkin, row.floor_usd),
            )
            for row in found.curve
        ),
    )


def cache_csv(found: CacheEconomics) -> bytes:
    """Tiers, and the hold times at which each is the cheapest."""
    tiers = {tier.name: tier for tier in found.tiers}
    spans = {span.name: span for span in found.spans}
    rows: list[Sequence[Cell]] = []
    for keep in found.keeps:
        tier, span = tiers.get(keep.name), spans.get(keep.name)
        figures: tuple[Cell, ...] = (None, None, None, None)
        if tier is not None:
            per_hour = keep.hold_usd_per_s * HOUR_S / found.kv_bytes * GB
            figures = (tier.capacity_bytes, tier.bytes_per_s, tier.drain_s, per_hour)
        rows.append(
            (
                keep.name,
                keep.label,
                *figures,
                keep.once_usd,
                keep.hold_usd_per_s * HOUR_S,
                keep.wait_s,
                None if span is None else span.from_s,
                None if span is None else span.to_s,
            )
        )
    return csv_table(CACHE_HEADER, rows)


def budget_csv(found: Budget) -> bytes:
    """The three phases."""
    return csv_table(
        BUDGET_HEADER,
        (
            (
                *(row.name, row.tokens, int(row.given), row.flop, row.share, row.chip_hours),
                *(row.napkin_chip_hours, row.usd, row.napkin_usd, row.energy_kwh),
            )
            for row in found.phases
        ),
    )
