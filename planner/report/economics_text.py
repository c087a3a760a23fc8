"""What tokens, caches and training cost, as people read it: the napkin beside the full model."""

from __future__ import annotations

from typing import TextIO

from planner.economics_api.budget import Budget, Phase
from planner.economics_api.cache import CacheEconomics
from planner.economics_api.capacity import Capacity
from planner.economics_api.serve import Figure, ImpliedCache, Kink, ServeEconomics
from planner.report.tables import print_table, print_text
from planner.units import (
    HOUR_S,
    format_bytes,
    format_bytes_per_s,
    format_count,
    format_flop_per_s,
    format_integer,
    format_params,
    format_percent,
    format_seconds,
    format_usd,
)

_TIMES = ((86400.0, "d"), (HOUR_S, "h"), (60.0, "min"))


def format_long(seconds: float) -> str:
    """Format a time that may be minutes, hours or days: ``4.06 s``, ``16.0 min``."""
    for unit, name in _TIMES:
        if seconds >= 2 * unit:
            return f"{format_count(seconds / unit)} {name}"
    return "0" if seconds == 0 else format_seconds(seconds)


def _usd(value: float | None) -> str:
    if value is None:
        return "-"
    return f"${value:.3g}" if 0 < value < 1e-3 else format_usd(value)


def _count(value: float | None) -> str:
    return "-" if value is None else format_count(value)


def _tokens(value: float | None) -> str:
    return "never" if value is None else f"{value:,.0f}"


def _usd_row(name: str, figure: Figure) -> tuple[str, str, str]:
    return name, _usd(figure.full), _usd(figure.napkin)


# economics serve.


def _decode_text(found: ServeEconomics) -> str:
    degrees = found.decode
    parts = [f"TP{degrees.attn_tp}", f"DP{degrees.attn_dp}"]
    parts += [f"EP{degrees.ep}"] if degrees.ep > 1 else []
    parts += [f"PP{degrees.pp}"] if degrees.pp > 1 else []
    parts += [f"CP{degrees.cp}"] if degrees.cp > 1 else []
    copies = f", {degrees.replicas} replicas" if degrees.replicas > 1 else ""
    return " x ".join(parts) + copies


def show_serve(found: ServeEconomics, stream: TextIO) -> None:
    """Print what tokens cost."""
    context = found.question.base.context
    print_text(
        f"{found.model} on {found.machine} ({found.size}) at {_usd(found.usd_per_chip_hour)} per "
        f"chip-hour, {context:,} tokens of context",
        stream,
    )
    experts = f" x EP{found.prefill_ep}" if found.prefill_ep > 1 else ""
    print_text(
        f"decode: {_decode_text(found)}, batch {found.batch:,} on {found.decode_chips} chips, "
        f"{format_seconds(found.step_s)} per token; prefill: TP{found.prefill_tp} x "
        f"DP{found.prefill_dp}{experts}, {found.prompt:,} tokens in "
        f"{format_seconds(found.prefill_s)}",
        stream,
    )
    ratio = found.ratio
    rows = [
        _usd_row("input", found.input_usd),
        _usd_row("output", found.output_usd),
        ("output / input", _count(ratio.full), _count(ratio.napkin)),
        ("output at any batch, at least", "-", _usd(found.floor_usd)),
    ]
    if found.request_usd is not None:
        question = found.question
        name = f"1,000 requests of {question.input:,} + {question.output:,}"
        rows.append((name, _usd(1000.0 * found.request_usd), "-"))
    print_table("Price of a million tokens", ("", "full model", "napkin"), rows, stream)
    _curve(found, stream)
    _kink(found.kink, stream)
    if found.implied is not None:
        _implied(found.implied, stream)
    _queue(found, stream)
    if found.capacity is not None:
        _capacity(found, found.capacity, stream)
    _notes(found, stream)


def _curve(found: ServeEconomics, stream: TextIO) -> None:
    rows = [
        (
            (">" if row.context == found.question.base.context else " ") + f" {row.context:,}",
            f"{row.batch:,}",
            format_seconds(row.step_s),
            format_percent(row.cache_share),
            _usd(row.usd.full),
            _usd(row.usd.napkin),
            _usd(row.floor_usd),
        )
        for row in found.curve
    ]
    header = ("context", "batch", "step", "of it cache", "$/M output", "napkin", "any batch")
    print_table("Price of output against the context", header, rows, stream, words=())


def _kink(kink: Kink, stream: TextIO) -> None:
    rows = [
        (
            "reading the cache takes as long as the rest",
            _tokens(kink.reads_equal_rest.full),
            _tokens(kink.reads_equal_rest.napkin),
        ),
        (
            "a token costs twice that of an empty context",
            _tokens(kink.twice.full),
            _tokens(kink.twice.napkin),
        ),
    ]
    title = f"Kink: context from which on, at {format_bytes(kink.kv_bytes)} of cache per token"
    print_table(title, ("", "full model", "napkin"), rows, stream)


def _implied(implied: ImpliedCache, stream: TextIO) -> None:
    step, ratio = implied.step, implied.model_kv_bytes / implied.kv_bytes
    stream.write("\n")
    print_text(
        f"A price of {step.factor:g} times the base above {step.context:,} tokens implies "
        f"{format_bytes(implied.kv_bytes)} of cache per token for these active parameters on "
        f"these chips; this model reads {format_bytes(implied.model_kv_bytes)} there, "
        f"{format_count(ratio)} times that. The higher price covers "
        f"{implied.covered_context:,.0f} tokens.",
        stream,
    )


def _queue(found: ServeEconomics, stream: TextIO) -> None:
    queue = found.queue
    answer = found.question.output
    per = "a decode step" if answer is None else f"freed by answers of {answer:,} tokens"
    rows = [
        ("next departure, mean", format_seconds(queue.next_wait_s)),
        (f"a place at {queue.load:.0%} load, mean", format_seconds(queue.mean_wait_s)),
        ("just missed, nobody queues, with the ride", format_seconds(queue.worst_s)),
        ("memory in use over its bandwidth (napkin)", format_seconds(found.drain_s)),
    ]
    places = "1 place" if queue.places == 1 else f"{queue.places:,} places"
    title = f"Waits: a train every {format_seconds(queue.interval_s)} with {places} ({per})"
    print_table(title, ("", ""), rows, stream)


def _capacity_row(mark: str, one: Capacity) -> tuple[str, ...]:
    experts = f" EP{one.ep}" if one.ep > 1 else ""
    return (
        f"{mark} TP{one.tp} x DP{one.dp}{experts}",
        format_count(one.worker_rate),
        f"{one.workers:,}",
        f"{one.chips:,}",
        f"{one.rented_chips:,}",
        format_seconds(one.ttft_s),
        format_seconds(one.tpot_s),
        _usd(one.usd_per_hour),
        _usd(1000.0 * one.usd_per_request),
    )


def _capacity(found: ServeEconomics, best: Capacity, stream: TextIO) -> None:
    question = found.question
    rows = [_capacity_row(">", best), *(_capacity_row(" ", one) for one in best.others)]
    header = (
        *("worker", "requests/s each", "workers", "chips", "rented", "TTFT", "TPOT"),
        *("$/h", "$/1,000"),
    )
    limits = ", ".join(
        f"{name} {format_seconds(limit)}"
        for name, limit in (("TTFT", question.base.ttft), ("TPOT", question.base.tpot))
        if limit is not None
    )
    title = (
        f"Chips for {question.rate:g} requests/s of {question.input:,} in and "
        f"{question.output:,} out" + (f" within {limits}" if limits else "")
    )
    print_table(title, header, rows, stream)


def _notes(found: ServeEconomics, stream: TextIO) -> None:
    stream.write("\n")
    if found.watts is not None and found.output_tokens_per_joule is not None:
        print_text(
            f"Energy at {found.watts / 1000.0:.3g} kW per chip, all in: "
            f"{format_count(found.output_tokens_per_joule)} output and "
            f"{_count(found.input_tokens_per_joule)} input tokens per joule.",
            stream,
        )
    print_text(
        "Napkin: 2 N FLOP per token against reads of weights and cache, at nameplate, perfectly "
        "shared by all chips. Full model: the layouts of plan and estimate.",
        stream,
    )


# economics cache.


def show_cache(found: CacheEconomics, stream: TextIO) -> None:
    """Print where a cache waits most cheaply."""
    print_text(
        f"{found.model} on {found.machine} at {_usd(found.usd_per_chip_hour)} per chip-hour: "
        f"{found.question.base.context:,} tokens of context are {format_bytes(found.kv_bytes)} "
        f"of keys and values, {format_bytes(found.kv_bytes_per_token)} per token",
        stream,
    )
    _spans(found, stream)
    if found.question.hold is not None:
        _at_hold(found, found.question.hold, stream)
    _tiers(found, stream)
    rows = [
        (
            f"{pair.first} to {pair.second}",
            "never" if pair.hold_s is None else format_long(pair.hold_s),
        )
        for pair in found.break_evens
    ]
    if rows:
        print_table("Break-even hold times of each pair", ("", ""), rows, stream)
    stream.write("\n")
    for tier in found.tiers:
        print_text(f"{tier.label}: {tier.source}.", stream)
    if found.recompute_usd is not None:
        print_text(
            f"recompute: a prefill of the full model, {_usd(found.recompute_usd)}; its matmuls "
            f"alone at peak (napkin) {_usd(found.recompute_napkin_usd)}.",
            stream,
        )


def _spans(found: CacheEconomics, stream: TextIO) -> None:
    rows = [
        (
            format_long(span.from_s),
            "for ever" if span.to_s is None else format_long(span.to_s),
            span.label,
        )
        for span in found.spans
    ]
    print_table("Cheapest by hold time", ("from", "to", "keep in"), rows, stream, words=(2,))


def _at_hold(found: CacheEconomics, hold: float, stream: TextIO) -> None:
    rows = [
        (
            (">" if index == 0 else " ") + f" {price.label}",
            _usd(price.usd),
            format_long(price.wait_s),
        )
        for index, price in enumerate(found.at_hold)
    ]
    rule = "" if found.by_drain_time is None else f"; nearest drain time: {found.by_drain_time}"
    title = f"Held for {format_long(hold)} and read once{rule}"
    print_table(title, ("", "cost", "then waits"), rows, stream)


def _tiers(found: CacheEconomics, stream: TextIO) -> None:
    costs = {keep.name: keep for keep in found.keeps}
    rows = [
        (
            tier.label,
            format_bytes(tier.capacity_bytes),
            format_bytes_per_s(tier.bytes_per_s),
            format_long(tier.drain_s),
            _usd(costs[tier.name].once_usd),
            _usd(costs[tier.name].hold_usd_per_s * HOUR_S),
        )
        for tier in found.tiers
    ]
    if found.recompute_usd is not None:
        rows.append(("recompute", "-", "-", "-", _usd(found.recompute_usd), "$0"))
    header = ("tier", "capacity", "bandwidth", "drain time", "read once", "hold 1 h")
    print_table("Tiers, and this context in each", header, rows, stream)


# economics train.

_PHASES = {"pretrain": "pre-training", "rl": "RL rollouts", "inference": "inference"}


def _phase_row(row: Phase) -> tuple[str, ...]:
    return (
        _PHASES[row.name] + ("" if row.given else " (balanced)"),
        format_params(row.tokens),
        format_percent(row.share),
        _count(row.chip_hours),
        format_count(row.napkin_chip_hours),
        _usd(row.usd),
        _usd(row.napkin_usd),
        "-" if row.energy_kwh is None else f"{format_count(row.energy_kwh / 1000.0)} MWh",
    )


def show_budget(found: Budget, stream: TextIO) -> None:
    """Print tokens, hours and dollars of the three phases."""
    print_text(
        f"{found.model} on {found.machine} ({found.size}) at {_usd(found.usd_per_chip_hour)} per "
        f"chip-hour; {format_params(found.active_params)} parameters multiply a token",
        stream,
    )
    header = (
        *("", "tokens", "napkin share", "chip-hours", "napkin", "cost", "napkin"),
        "energy",
    )
    print_table("Budget", header, [_phase_row(row) for row in found.phases], stream)
    speed = found.training
    rows = [
        ("over-training, of Chinchilla's 20 per parameter", f"{found.over_training:,.3g} x"),
        ("Chinchilla's tokens", format_params(found.chinchilla_tokens)),
        ("training MFU", format_percent(speed.mfu)),
        ("trained tokens/s/chip", format_count(speed.tokens_per_s_per_chip)),
        (f"pre-training on {format_integer(speed.chips)} chips", f"{found.days:,.3g} days"),
        ("training over decode MFU, coefficient", f"{found.coefficients.inefficiency:g}"),
        ("training over decode MFU, full model", _count(found.inefficiency)),
    ]
    if found.decode_tokens_per_s_per_chip is not None:
        name = f"decoded tokens/s/chip, on {found.decode_size}"
        rows.append((name, format_count(found.decode_tokens_per_s_per_chip)))
    if found.tokens_per_joule is not None:
        rows.append(("trained tokens per joule", format_count(found.tokens_per_joule)))
    print_table("What it rests on", ("", ""), rows, stream)
    stream.write("\n")
    print_text(_speed_text(found), stream)
    print_text(
        f"Napkin: 6 N per trained token, {found.coefficients.rl:g} N per rollout token and 2 N per "
        f"served one, the last two at {found.coefficients.inefficiency:g} times the time, all at "
        "the training MFU; equal spending where balanced.",
        stream,
    )


def _speed_text(found: Budget) -> str:
    speed = found.training
    degrees = speed.degrees
    peak = format_flop_per_s(speed.flop_per_s)
    if degrees is None:
        return f"MFU as given, of {peak} dense."
    parts = [f"TP{degrees.tp}", f"CP{degrees.cp}", f"DP{degrees.dp}", f"PP{degrees.pp}"]
    parts += [f"EP{degrees.ep}"] if degrees.ep > 1 else []
    step = "" if speed.step_s is None else f", {format_seconds(speed.step_s)} per step"
    return f"MFU of the best training layout, {' x '.join(parts)}{step}, of {peak} dense."
