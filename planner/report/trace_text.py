"""A request trace in numbers."""

from __future__ import annotations

from typing import TextIO

from planner.domain.trace import Lengths, Trace
from planner.report.tables import print_table, print_text
from planner.units import format_percent, format_seconds


def _row(name: str, found: Lengths) -> tuple[str, ...]:
    numbers = (found.p50, found.p90, found.p99, found.longest)
    return (name, f"{found.mean:,.0f}", *(f"{number:,}" for number in numbers))


def show_trace(file: str, trace: Trace, stream: TextIO) -> None:
    """Lengths, arrivals, contexts of decode, reuse of prefixes."""
    count = len(trace.requests)
    failed = f", {trace.failed:,} rows without answer left out" if trace.failed else ""
    print_text(f"{file}: {trace.form}, {count:,} requests{failed}", stream)
    header = ("tokens", "mean", "50%", "90%", "99%", "longest")
    rows = [_row("prompt", trace.inputs), _row("answer", trace.outputs)]
    print_table("Lengths", header, rows, stream)
    mean, spread = trace.decode_context
    figures = [("cached tokens of a decoding sequence", f"{mean:,.0f} +- {spread:,.0f}")]
    if trace.rate_per_s is not None and trace.span_s is not None:
        assert trace.burstiness is not None
        figures += [
            ("requests per second", f"{trace.rate_per_s:.3g}"),
            ("over", format_seconds(trace.span_s)),
            ("burstiness (1 is random)", f"{trace.burstiness:.2f}"),
        ]
    if trace.has_blocks:
        figures.append(("prompt tokens seen before", format_percent(trace.prefix_hit)))
    print_table("Workload", ("", ""), figures, stream)
    stream.write("\n")
    print_text(options_of(trace), stream)


def options_of(trace: Trace) -> str:
    """The same workload as options."""
    mean, spread = trace.decode_context
    words = [f"--context {mean:.0f} --context-spread {spread:.0f}"]
    words.append(f"--input {trace.inputs.mean:.0f} --output {trace.outputs.mean:.0f}")
    if trace.rate_per_s is not None:
        words.append(f"--rate {trace.rate_per_s:.3g}/s")
    if trace.has_blocks:
        words.append(f"--prefix-hit {trace.prefix_hit:.2f}")
    return "As options: " + " ".join(words)
