"""The price of a collective as text."""

from __future__ import annotations

from typing import TextIO

from planner.machine_api import CollectivePrices
from planner.report.tables import print_table
from planner.topology.collectives import CollectiveCost
from planner.units import (
    GIB,
    MIB,
    format_bytes,
    format_bytes_per_s,
    format_integer,
    format_seconds,
)


def _size(num_bytes: float) -> str:
    """Whole binary units as such, others in decimal ones."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1024.0, "KiB")):
        # 64 MB happens to be a whole number of KiB.
        if num_bytes >= unit and num_bytes % unit == 0 and (unit > 1024 or num_bytes < MIB):
            return f"{format_integer(int(num_bytes / unit))} {name}"
    return format_bytes(num_bytes)


def _title(prices: CollectivePrices) -> str:
    count = len(prices.chips)
    group = f"1 chip ({prices.chips[0]})"
    if count > 1:
        group = f"{format_integer(count)} chips ({prices.chips[0]} to {prices.chips[-1]})"
    beside = "" if not prices.others else f", {prices.others} more groups at the same time"
    op = prices.costs[0].op.value
    return f"{op} over {group} of {prices.machine}, {prices.size}{beside}"


def _bandwidth(cost: CollectiveCost) -> str:
    return "-" if not cost.seconds else format_bytes_per_s(cost.num_bytes / cost.seconds)


def _over(cost: CollectiveCost) -> str:
    return "-" if cost.ratio is None else f"{cost.ratio:.2f}"


def show_collective(prices: CollectivePrices, stream: TextIO) -> None:
    """Print one price in full, or a table over sizes."""
    if len(prices.costs) == 1:
        _show_one(prices, prices.costs[0], stream)
        return
    rows = [
        (
            _size(cost.num_bytes),
            format_seconds(cost.seconds),
            format_seconds(cost.latency_s),
            format_seconds(cost.wire_s),
            format_seconds(cost.fill_s),
            _bandwidth(cost),
            _over(cost),
            cost.algorithm,
            cost.link or "-",
        )
        for cost in prices.costs
    ]
    header = ("size", "time", "latency", "wire", "ramp", "size / time", "wire / optimum")
    print_table(_title(prices), (*header, "algorithm", "link"), rows, stream, words=(7, 8))
    last = prices.costs[-1]
    if last.link_name:
        text = f"Busiest link at {_size(last.num_bytes)}: {last.link} {last.link_name}"
        stream.write(f"\n{text}; optimum by {last.bound_method}\n")


def _show_one(prices: CollectivePrices, cost: CollectiveCost, stream: TextIO) -> None:
    rows = [
        ("size", _size(cost.num_bytes)),
        ("time", format_seconds(cost.seconds)),
        ("  latency", format_seconds(cost.latency_s)),
        ("  wire, at achieved bandwidth", format_seconds(cost.wire_s)),
        ("  ramp of the pipeline", format_seconds(cost.fill_s)),
        ("size / time", _bandwidth(cost)),
        ("algorithm", cost.algorithm),
        ("busiest link", f"{cost.link or '-'} {cost.link_name}".strip()),
    ]
    if cost.bound_s is not None:
        rows += [
            ("wire time, optimum", f"{format_seconds(cost.bound_s)} (by {cost.bound_method})"),
            ("wire / optimum", _over(cost)),
        ]
    print_table(_title(prices), ("", ""), rows, stream, words=(0, 1))
