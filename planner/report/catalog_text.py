"""What ships, and what a machine looks like, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from planner.report.tables import print_table
from planner.topology.summary import TopologySummary
from planner.units import (
    format_bytes,
    format_bytes_per_s,
    format_flop_per_s,
    format_params,
    format_seconds,
    format_usd,
)


def show_models(rows: Sequence[tuple[str, int, int, int, str]], stream: TextIO) -> None:
    """Print the model catalogue."""
    cells = [
        (name, format_params(total), format_params(active), str(layers), architecture)
        for name, total, active, layers, architecture in rows
    ]
    header = ("model", "parameters", "active", "layers", "architecture")
    print_table("Models", header, cells, stream, words=(0, 4))


def show_machines(rows: Sequence[tuple[str, str, str, int]], stream: TextIO) -> None:
    """Print the machine catalogue."""
    cells = [(name, size, str(chips), summary) for name, summary, size, chips in rows]
    header = ("machine", "default", "chips", "summary")
    print_table("Machines", header, cells, stream, words=(0, 3))


def show_topology(summary: TopologySummary, stream: TextIO) -> None:
    """Print what was built for a machine."""
    domains = sorted(set(summary.domain_chips), reverse=True)
    sizes = ", ".join(f"{summary.domain_chips.count(size)} x {size}" for size in domains)
    ratio = "-" if summary.scale_ratio is None else f"{summary.scale_ratio:.1f}"
    price = summary.price_usd_per_hour
    rows = [
        ("chips", f"{summary.num_chips:,}"),
        ("scale-up domains (chips)", sizes),
        ("scale-up switches", f"{summary.scale_up_switches:,}"),
        ("scale-up links", f"{summary.scale_up_links:,}"),
        ("scale-up per chip", format_bytes_per_s(summary.scale_up_bytes_per_s)),
        ("scale-up per domain", format_bytes_per_s(summary.scale_up_domain_bytes_per_s)),
        ("scale-up bisection", format_bytes_per_s(summary.scale_up_bisection_bytes_per_s)),
        ("leaf switches", f"{summary.leaf_switches:,}"),
        ("spine switches", f"{summary.spine_switches:,}"),
        ("scale-out per chip", format_bytes_per_s(summary.scale_out_bytes_per_s)),
        ("scale-out per domain", format_bytes_per_s(summary.scale_out_domain_bytes_per_s)),
        ("scale-up / scale-out", ratio),
        *((f"peak {rate}", format_flop_per_s(peak)) for rate, peak in summary.peak_flop_per_s),
        ("HBM as labelled", format_bytes(summary.hbm_bytes)),
        ("HBM usable, as measured", format_bytes(summary.hbm_usable_bytes)),
        ("HBM bandwidth", format_bytes_per_s(summary.hbm_bytes_per_s)),
        ("HBM drain time, as labelled", format_seconds(summary.hbm_drain_s)),
        ("price per hour", "-" if price is None else format_usd(price)),
    ]
    title = f"{summary.name}, {summary.size}; bandwidths are nameplate, one direction"
    print_table(title, ("", ""), rows, stream)
