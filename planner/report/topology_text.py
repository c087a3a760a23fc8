"""What a machine is made of, what it can do and what it has lost, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TextIO

from planner.machine_api import SourcedNumber
from planner.report.tables import print_table
from planner.topology.bisection import Bisection
from planner.topology.losses import Losses
from planner.topology.summary import ChipTotal, CurveRow, TopologySummary
from planner.units import (
    format_bytes,
    format_bytes_per_s,
    format_flop_per_s,
    format_integer,
    format_percent,
    format_seconds,
    format_usd,
)

MAX_LOST = 20
SWITCHES = (("leaf", "leaf switches"), ("spine", "spine switches"), ("core", "core switches"))
Row = tuple[str, str, str]


def _range(least: float, most: float) -> str:
    """One rate, or two where the worst differs from the best."""
    text = format_bytes_per_s(most)
    return text if least == most else f"{format_bytes_per_s(least)} to {text}"


def _sizes(summary: TopologySummary) -> str:
    sizes = sorted(set(summary.domain_chips), reverse=True)
    return ", ".join(f"{summary.domain_chips.count(size)} x {size}" for size in sizes)


def _cut(cut: Bisection | None) -> tuple[str, str]:
    if cut is None:
        return "-", "one domain"
    return format_bytes_per_s(cut.bytes_per_s), ("upper bound, " * cut.is_bound) + cut.method


def _inside(summary: TopologySummary) -> Iterator[Row]:
    cut, method = _cut(summary.scale_up_bisection)
    kinds = " + ".join(f"{format_integer(kind.chips)} {kind.name}" for kind in summary.chips)
    yield "chips", format_integer(summary.num_chips), kinds
    yield "scale-up domains", _sizes(summary), "chips each"
    yield "scale-up switches", format_integer(summary.count("switch")), ""
    yield "scale-up links", format_integer(summary.scale_up_links), "cables"
    rates = _range(summary.scale_up_least_bytes_per_s, summary.scale_up_bytes_per_s)
    yield "scale-up per chip", rates, ""
    yield "scale-up per domain", format_bytes_per_s(summary.scale_up_domain_bytes_per_s), ""
    yield "scale-up bisection", cut, method


def _outside(summary: TopologySummary) -> Iterator[Row]:
    yield "NICs", format_integer(summary.count("nic")), ""
    for kind, name in SWITCHES:
        if summary.count(kind) or kind != "core":
            yield name, format_integer(summary.count(kind)), ""
    if summary.count("host"):
        yield "hosts", format_integer(summary.count("host")), ""
    yield "scale-out per chip", format_bytes_per_s(summary.scale_out_bytes_per_s), ""
    worst, best = summary.scale_out_worst_domain, summary.scale_out_domain_bytes_per_s
    where = "" if worst.bytes_per_s == best else f"least: {worst.domain}"
    yield "scale-out per domain (egress)", _range(worst.bytes_per_s, best), where
    yield "scale-out bisection", *_cut(summary.scale_out_bisection)
    ratio = summary.scale_ratio
    yield "scale-up / scale-out", "-" if ratio is None else f"{ratio:.1f}", ""


def _totals(summary: TopologySummary) -> Iterator[Row]:
    yield "HBM as labelled", format_bytes(summary.hbm_bytes), ""
    yield "HBM usable, as measured", format_bytes(summary.hbm_usable_bytes), ""
    yield "HBM bandwidth", format_bytes_per_s(summary.hbm_bytes_per_s), ""
    drain = format_seconds(summary.hbm_drain_s)
    yield "HBM drain time, as labelled", drain, "to read all of it once"
    price = summary.price_usd_per_hour
    yield "price per hour", "-" if price is None else format_usd(price), ""


def _show_tiers(summary: TopologySummary, stream: TextIO) -> None:
    rows = [
        (
            tier.tier,
            "scale-up" if tier.scale_up else "scale-out",
            format_integer(tier.links),
            "-" if tier.cables is None else format_integer(tier.cables),
            _range(tier.least_bytes_per_s, tier.most_bytes_per_s),
        )
        for tier in summary.tiers
    ]
    header = ("tier", "", "links", "cables", "one link")
    print_table("Links, by pair of nodes", header, rows, stream, words=(0, 1))


def _show_chips(summary: TopologySummary, stream: TextIO) -> None:
    mixed = len(summary.chips) > 1

    def row(kind: ChipTotal) -> tuple[str, ...]:
        price = kind.price_usd_per_hour
        return (
            kind.name,
            format_integer(kind.chips),
            format_bytes(kind.hbm_bytes),
            format_bytes(kind.hbm_usable_bytes),
            format_bytes_per_s(kind.hbm_bytes_per_s),
            format_percent(kind.hbm_achieved),
            format_seconds(kind.hbm_drain_s),
            "-" if price is None else format_usd(price),
        )

    header = ("chip", "count", "HBM", "usable", "bandwidth", "achieved", "drain time", "per hour")
    print_table("Chips", header, [row(kind) for kind in summary.chips], stream)
    rows = [
        (
            peak.rate,
            *([kind.name] if mixed else []),
            format_flop_per_s(peak.flop_per_s),
            format_percent(peak.achieved),
            format_flop_per_s(kind.chips * peak.flop_per_s),
        )
        for kind in summary.chips
        for peak in kind.peaks
    ]
    if mixed:
        rows += [
            (
                peak.rate,
                "all",
                "",
                format_percent(peak.achieved),
                format_flop_per_s(peak.flop_per_s),
            )
            for peak in summary.peak_flop_per_s
        ]
    names = ("rate", *(["chip"] if mixed else []), "one chip", "achieved", "all together")
    words = (0, 1) if mixed else (0,)
    print_table("Peak rates, dense", names, rows, stream, words=words)


def _show_curves(curves: Sequence[CurveRow], stream: TextIO) -> None:
    rows = [
        (
            row.tier.replace("_", "-"),
            row.op,
            format_percent(row.derate),
            format_seconds(row.base_s),
            format_seconds(row.step_s),
            format_seconds(row.fill_s),
        )
        for row in curves
    ]
    header = ("tier", "operation", "achieved", "base", "per step", "per chunk")
    print_table(
        "Collectives: fraction of nameplate, fixed times", header, rows, stream, words=(0, 1)
    )


def show_topology(summary: TopologySummary, curves: Sequence[CurveRow], stream: TextIO) -> None:
    """Print what was built for a machine."""
    rows = list(chain(_inside(summary), _outside(summary), _totals(summary)))
    title = f"{summary.name}, {summary.size}; bandwidths are nameplate, one direction"
    print_table(title, ("", "", ""), rows, stream, words=(0, 2))
    _show_tiers(summary, stream)
    _show_chips(summary, stream)
    _show_curves(curves, stream)


def _left(fraction: float) -> str:
    # One chip of thousands is not nothing.
    return f"{100 * fraction:.6g} %" if 0.9995 <= fraction < 1 else format_percent(fraction)


def _change(name: str, before: float, now: float, text: str) -> tuple[str, ...]:
    """One line of the comparison; ``text`` says how the figure is written."""
    write = {"count": lambda value: format_integer(round(value)), "rate": format_bytes_per_s}[text]
    return (name, write(before), write(now), "-" if before == 0 else _left(now / before))


def show_losses(
    before: TopologySummary, now: TopologySummary, lost: Losses, stream: TextIO
) -> None:
    """Print a wounded machine beside the whole one, and the names of what was lost."""
    worst = now.scale_up_bisection_domain
    rows = [
        _change("chips", before.num_chips, now.num_chips, "count"),
        _change("scale-up domains", len(before.domain_chips), len(now.domain_chips), "count"),
        _change("scale-up links (cables)", before.scale_up_links, now.scale_up_links, "count"),
    ]
    for kind, name in (("switch", "scale-up switches"), ("nic", "NICs"), *SWITCHES):
        if before.count(kind):
            rows.append(_change(name, before.count(kind), now.count(kind), "count"))
    rows += [
        _change(
            "scale-up of the worst chip",
            before.scale_up_least_bytes_per_s,
            now.scale_up_least_bytes_per_s,
            "rate",
        ),
        _change(
            f"scale-up bisection, worst domain ({worst})",
            before.scale_up_bisection.bytes_per_s,
            now.scale_up_bisection.bytes_per_s,
            "rate",
        ),
        _change(
            f"egress, worst domain ({now.scale_out_worst_domain.domain})",
            before.scale_out_worst_domain.bytes_per_s,
            now.scale_out_worst_domain.bytes_per_s,
            "rate",
        ),
    ]
    cuts = before.scale_out_bisection, now.scale_out_bisection
    if cuts[0] is not None and cuts[1] is not None:
        rows.append(
            _change("scale-out bisection", cuts[0].bytes_per_s, cuts[1].bytes_per_s, "rate")
        )
    elif cuts[0] is not None:
        rows.append(
            ("scale-out bisection", format_bytes_per_s(cuts[0].bytes_per_s), "one domain", "-")
        )
    rows.append(
        (
            "HBM",
            format_bytes(before.hbm_bytes),
            format_bytes(now.hbm_bytes),
            _left(now.hbm_bytes / before.hbm_bytes),
        )
    )
    print_table(
        "Wounds: whole machine and what is left", ("", "whole", "now", "left"), rows, stream
    )
    _show_lost(lost, stream)


def _few(names: Sequence[str]) -> str:
    more = len(names) - MAX_LOST
    return ", ".join(names[:MAX_LOST]) + (f" and {format_integer(more)} more" if more > 0 else "")


def _show_lost(lost: Losses, stream: TextIO) -> None:
    rows = [
        (f"{node.kind} lost", format_integer(len(node.names)), _few(node.names))
        for node in lost.nodes
    ]
    if lost.links:
        rows.append(("link lost", format_integer(len(lost.links)), _few(lost.links)))
    if lost.slowed:
        slow = [f"{link.name} ({format_percent(link.left)})" for link in lost.slowed]
        rows.append(("link slower", format_integer(len(slow)), _few(slow)))
    if rows:
        print_table("Lost by name", ("", "", ""), rows, stream, words=(0, 2))


def show_sources(sources: Sequence[SourcedNumber], stream: TextIO) -> None:
    """Print where every number of a machine comes from."""
    rows = [(item.field, item.value, item.as_of or "-", item.source) for item in sources]
    print_table("Sources", ("number", "value", "as of", "source"), rows, stream, words=(0, 2, 3))
