"""A plan of two pools as people read it: workers, rates, steps, memory, proof, reason."""

from __future__ import annotations

from typing import TextIO

from planner.domain.serve_layout import PoolLayout, ServeLayout
from planner.report.plan_text import certificate_text, counts_text, degrees_line
from planner.report.tables import print_table, print_text
from planner.units import format_bytes, format_count, format_seconds, format_usd


def _headline(layout: ServeLayout, stream: TextIO) -> None:
    inputs, together = layout.inputs, layout.prediction
    reserved = len(layout.reserved_chips)
    spares = f" ({reserved} as spares)" if reserved else ""
    cached = f" ({inputs.prefix_hit:.0%} cached)" if inputs.prefix_hit else ""
    print_text(
        f"{inputs.model.name} on {inputs.machine.name}: serve, {inputs.input_len:,} tokens "
        f"in{cached}, {inputs.output_len:,} out, {together.chips_used} chips used, "
        f"{len(layout.idle_chips)} idle{spares}",
        stream,
    )
    for name, pool in (("prefill", layout.prefill), ("decode", layout.decode)):
        print_text(f"{name}: {pool_line(pool)}", stream)


def pool_line(pool: PoolLayout) -> str:
    """Workers of a pool, their chips and degrees, in one line."""
    degrees, workers = pool.degrees, pool.degrees.replicas
    chips = len(pool.ranks) // workers
    layout = degrees_line(degrees, pool.prediction.batch)
    plural = "" if workers == 1 else "s"
    return f"{workers} worker{plural} x {chips} chips = {len(pool.ranks)}; {layout}"


def _figures(layout: ServeLayout, stream: TextIO) -> None:
    together = layout.prediction
    links = together.link_requests_per_s
    cost = together.usd_per_million_tokens
    rows = [
        ("requests/s", format_count(together.requests_per_s)),
        ("limited by", together.limited_by),
        ("answer tokens/s", format_count(together.tokens_per_s)),
        ("answer tokens/s/chip", f"{together.tokens_per_s_per_chip:,.1f}"),
        ("time to first token (TTFT)", format_seconds(together.ttft_s)),
        ("  prefill", format_seconds(together.prefill_s)),
        ("  transfer of the cache", format_seconds(together.transfer_s)),
        ("step (TPOT)", format_seconds(together.tpot_s)),
        ("cache sent per request", format_bytes(together.kv_bytes)),
        ("  by the busiest chip", format_bytes(together.kv_bytes_per_chip)),
        ("requests/s of prefill workers", format_count(together.prefill_requests_per_s)),
        ("requests/s of decode workers", format_count(together.decode_requests_per_s)),
        ("requests/s of the links", "unlimited" if links is None else format_count(links)),
        ("$/M tokens", "no price known, see --price" if cost is None else format_usd(cost)),
    ]
    print_table("Figures", ("", ""), rows, stream)


def _steps(layout: ServeLayout, stream: TextIO) -> None:
    for name, pool in (("Prefill pass", layout.prefill), ("Decode step", layout.decode)):
        prediction = pool.prediction
        rows = [
            (
                ("> " if place == 0 else "  ") + term.name.replace("_", " "),
                format_seconds(term.seconds),
                f"{term.seconds / prediction.step_s:.1%}",
                term.bound.value,
            )
            for place, term in enumerate(sorted(prediction.terms, key=lambda t: -t.seconds))
            if term.seconds > 0
        ]
        title = f"{name}, {format_seconds(prediction.step_s)} (> binds)"
        print_table(title, ("term", "time", "share", "waits for"), rows, stream, words=(0, 3))


def _memory(layout: ServeLayout, stream: TextIO) -> None:
    mine, theirs = layout.prefill.prediction.memory, layout.decode.prediction.memory
    rows = [
        (name, format_bytes(a), format_bytes(b))
        for name, a, b in (
            ("weights", mine.weights_bytes, theirs.weights_bytes),
            ("KV cache", mine.kv_bytes, theirs.kv_bytes),
            ("activations", mine.activations_bytes, theirs.activations_bytes),
            ("engine reserve", mine.reserve_bytes, theirs.reserve_bytes),
            ("usable", mine.capacity_bytes, theirs.capacity_bytes),
        )
    ]
    print_table("Memory of the fullest chip", ("", "prefill", "decode"), rows, stream)


def show_serve_layout(layout: ServeLayout, stream: TextIO) -> None:
    """Print a layout of two pools."""
    _headline(layout, stream)
    _figures(layout, stream)
    _steps(layout, stream)
    _memory(layout, stream)
    stream.write("\n")
    if layout.certificate is not None:
        print_text(certificate_text(layout.certificate), stream)
        print_text(counts_text(layout.certificate, "TTFT or TPOT"), stream)
    if layout.why:
        print_text(f"Why: {layout.why}", stream)
