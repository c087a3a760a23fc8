"""A plan as people read it: degrees, figures, terms, memory, runners-up, proof, reason."""

from __future__ import annotations

from typing import TextIO

from planner.domain.layout import Certificate, DegreesRecord, Layout
from planner.report.tables import print_table, print_text
from planner.units import format_bytes, format_count, format_seconds, format_usd

_STOPPED = {
    "time limit": " The time limit ended the search.",
    "interrupted": " Ctrl-C ended the search.",
    "own bounds": " No other strategy comes as near; how experts are placed and which chips are"
    " used is bounded no better.",
}


def degrees_line(degrees: DegreesRecord, batch: int) -> str:
    """The chosen degrees in one line."""
    shared = f" x CP{degrees.cp}" if degrees.cp > 1 else ""
    parts = [f"TP{degrees.attn_tp}{shared} x DP{degrees.attn_dp}"]
    if degrees.num_slots:
        experts = f"EP{degrees.ep}"
        experts += f" x expert-TP{degrees.expert_tp}" if degrees.expert_tp > 1 else ""
        parts.append(f"{experts} ({degrees.num_slots} slots)")
    parts.append(f"PP{degrees.pp}")
    if degrees.pp > 1:
        parts.append(
            f"{degrees.microbatches} microbatch{'' if degrees.microbatches == 1 else 'es'}"
        )
    if degrees.overlap != "none":
        parts.append(f"{degrees.overlap.replace(',', ' and ')} overlapped")
    if degrees.draft:
        parts.append(f"{degrees.draft} drafted")
    plural = "" if degrees.replicas == 1 else "s"
    parts += [f"{degrees.replicas} replica{plural}", f"batch {batch:,}"]
    return ", ".join(parts)


def split_row(layout: Layout) -> tuple[str, str]:
    """How the batch is split: sequences of one attention group in one microbatch."""
    counts = [
        count for split in layout.batches for microbatch in split.sequences for count in microbatch
    ]
    low, high = min(counts), max(counts)
    size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    microbatch = ", microbatch" if layout.degrees.microbatches > 1 else ""
    return f"sequences per group{microbatch}", size


def _drafted(layout: Layout) -> list[tuple[str, str]]:
    """What a pass yields where tokens are drafted."""
    if not layout.degrees.draft:
        return []
    return [("tokens per pass", f"{layout.prediction.tokens_per_pass:.2f}")]


def _limit_name(layout: Layout) -> str:
    """What the step of the phase is to a user."""
    return "TPOT" if layout.inputs.seq_len is None else "TTFT"


def _headline(layout: Layout, stream: TextIO) -> None:
    inputs, prediction = layout.inputs, layout.prediction
    reserved = len(layout.reserved_chips)
    spares = f" ({reserved} as spares)" if reserved else ""
    lengths = f"context {inputs.context_tokens:,}"
    if inputs.seq_len is not None:
        lengths = f"{inputs.seq_len:,} new tokens over {inputs.context_tokens:,} cached"
    print_text(
        f"{inputs.model.name} on {inputs.machine.name}: {inputs.phase}, "
        f"{lengths}, {len(layout.ranks)} chips used, "
        f"{len(layout.idle_chips)} idle{spares}",
        stream,
    )
    print_text(degrees_line(layout.degrees, prediction.batch), stream)
    cost = prediction.usd_per_million_tokens
    rows = [
        (f"step ({_limit_name(layout)})", format_seconds(prediction.step_s)),
        ("tokens/s/user", format_count(prediction.tokens_per_s_per_user)),
        ("tokens/s/chip", format_count(prediction.tokens_per_s_per_chip)),
        ("tokens/s", format_count(prediction.tokens_per_s)),
        *_drafted(layout),
        split_row(layout),
        ("$/M tokens", "no price known, see --price" if cost is None else format_usd(cost)),
        (
            "B* (matmul = weight reads)",
            "-" if prediction.critical_batch is None else format_count(prediction.critical_batch),
        ),
        ("largest batch that fits", f"{prediction.largest_batch:,}"),
        ("busiest expert group / mean", f"{prediction.expert_imbalance:.3f}"),
    ]
    print_table("Figures", ("", ""), rows, stream)


def _terms(layout: Layout, stream: TextIO) -> None:
    prediction = layout.prediction
    terms = sorted(prediction.terms, key=lambda term: -term.seconds)
    rows = [
        (
            ("> " if index == 0 else "  ") + term.name.replace("_", " "),
            format_seconds(term.seconds),
            f"{term.seconds / prediction.step_s:.1%}",
            term.bound.value,
        )
        for index, term in enumerate(terms)
        if term.seconds > 0
    ]
    title = f"Step, {layout.inputs.time_model} time model (> binds)"
    header = ("term", "time", "share", "waits for")
    print_table(title, header, rows, stream, words=(0, 3))
    if len(layout.stages) > 1:
        mean = sum(prediction.stage_s) / len(prediction.stage_s)
        stages = [
            (
                str(index),
                f"{stage.first_layer}..{stage.end_layer - 1}",
                format_seconds(seconds),
                f"{seconds / mean:.3f}",
            )
            for index, (stage, seconds) in enumerate(
                zip(layout.stages, prediction.stage_s, strict=True)
            )
        ]
        title = f"Stages, {prediction.bubble:.1%} of the step idle"
        print_table(title, ("stage", "layers", "time", "of mean"), stages, stream)


def _memory(layout: Layout, stream: TextIO) -> None:
    memory = layout.prediction.memory
    free = memory.capacity_bytes - memory.used_bytes
    parts = (
        ("weights", memory.weights_bytes),
        ("KV cache", memory.kv_bytes),
        ("activations", memory.activations_bytes),
        ("engine reserve", memory.reserve_bytes),
        # An edited layout may overflow: its free memory must not read as zero.
        ("free", free) if free >= 0 else ("missing", -free),
    )
    rows = [
        (name, format_bytes(size), f"{size / memory.capacity_bytes:.1%}") for name, size in parts
    ]
    title = f"Memory of the fullest chip, {format_bytes(memory.capacity_bytes)} usable"
    print_table(title, ("", "bytes", "share"), rows, stream)


def _runners_up(layout: Layout, stream: TextIO) -> None:
    best = layout.prediction.tokens_per_s_per_chip
    rows = [
        (
            degrees_line(other.degrees, other.batch) + (", at best" if other.bound_only else ""),
            format_seconds(other.step_s),
            format_count(other.tokens_per_s_per_chip),
            f"{other.tokens_per_s_per_chip / best:.1%}",
        )
        for other in layout.runners_up
    ]
    if rows:
        header = ("layout", "step", "tok/s/chip", "of best")
        print_table("Runners-up of other kinds", header, rows, stream)


def certificate_text(certificate: Certificate) -> str:
    """What was proved, in one paragraph."""
    return (
        f"Certificate: no layout in the searched space is more than {certificate.gap:.2%} better "
        f"({certificate.objective:.6g} {certificate.unit}, proven bound "
        f"{certificate.bound:.6g})." + _STOPPED.get(certificate.stopped, "")
    )


def counts_text(certificate: Certificate, limit: str = "TPOT") -> str:
    """What became of the strategies, by reason, in one line."""
    unplaced, dominated = certificate.infeasible_placement, certificate.dominated
    return (
        f"{certificate.enumerated:,} strategies: {certificate.infeasible_memory:,} over memory, "
        f"{certificate.infeasible_tpot:,} over {limit}, {certificate.pruned:,} pruned by bound, "
        f"{certificate.solved:,} solved"
        + (f", {unplaced:,} of them without a placement" if unplaced else "")
        + (f"; {dominated:,} more dominated." if dominated else ".")
    )


def show_layout(layout: Layout, stream: TextIO) -> None:
    """Print a layout."""
    _headline(layout, stream)
    _terms(layout, stream)
    _memory(layout, stream)
    _runners_up(layout, stream)
    stream.write("\n")
    if layout.certificate is not None:
        print_text(certificate_text(layout.certificate), stream)
        print_text(counts_text(layout.certificate, _limit_name(layout)), stream)
    if layout.why:
        print_text(f"Why: {layout.why}", stream)
