"""A training plan as people read it: degrees, figures, terms, memory, schedules, proof, reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TextIO

from planner.domain.run import Recompute
from planner.domain.train_layout import Chunk, TrainDegrees, TrainLayout
from planner.report.plan_text import certificate_text
from planner.report.tables import print_table, print_text
from planner.units import format_bytes, format_count, format_seconds, format_usd


def degrees_line(d: TrainDegrees) -> str:
    """The chosen degrees and policy in one line."""
    parts = [f"TP{d.tp}"]
    parts[0] += " with sequence parallelism" if d.sequence_parallel else ""
    parts += [f"CP{d.cp}"] if d.cp > 1 else []
    parts += [f"DP{d.dp}", f"PP{d.pp}"]
    if d.ep > 1 or d.expert_tp > 1:
        split = f" x expert-TP{d.expert_tp}" if d.expert_tp > 1 else ""
        parts.append(f"EP{d.ep}{split}")
    if d.pp > 1:
        chunks = f" with {d.virtual_stages} chunks per rank" if d.virtual_stages > 1 else ""
        parts.append(f"{d.schedule.value}{chunks}")
    plural = "" if d.microbatches == 1 else "es"
    parts.append(f"{d.microbatches} microbatch{plural} of {d.microbatch}")
    parts += [f"ZeRO-{d.zero_stage}"] if d.zero_stage else []
    parts += [f"{d.recompute.value} recompute"] if d.recompute is not Recompute.NONE else []
    return ", ".join(parts)


def _headline(layout: TrainLayout, stream: TextIO) -> None:
    inputs, prediction = layout.inputs, layout.prediction
    print_text(
        f"{inputs.model.name} on {inputs.machine.name}: train, {inputs.global_batch:,} sequences "
        f"of {inputs.seq_len:,} tokens per step, {len(layout.chips)} chips used, "
        f"{len(layout.idle_chips)} idle",
        stream,
    )
    print_text(degrees_line(layout.degrees), stream)
    cost = prediction.usd_per_million_tokens
    hidden = ", ".join(layout.degrees.overlap) or "none"
    rows = [
        ("step", format_seconds(prediction.step_s)),
        ("MFU", f"{prediction.mfu:.1%}"),
        ("tokens/s", format_count(prediction.tokens_per_s)),
        ("tokens/s/chip", format_count(prediction.tokens_per_s_per_chip)),
        ("bubble", f"{prediction.bubble:.1%} of the step"),
        ("communication behind computation", hidden),
        ("$/M tokens", "no price known, see --price" if cost is None else format_usd(cost)),
    ]
    print_table("Figures", ("", ""), rows, stream)


def _terms(layout: TrainLayout, stream: TextIO) -> None:
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
    ]
    header = ("term", "time", "share", "waits for")
    print_table("Step (> binds)", header, rows, stream, words=(0, 3))


def _memory(layout: TrainLayout, stream: TextIO) -> None:
    memory = layout.prediction.memory
    free = memory.capacity_bytes - memory.used_bytes
    parts = (
        ("weights", memory.weights_bytes),
        ("gradients", memory.gradients_bytes),
        ("optimizer states", memory.optimizer_bytes),
        ("activations", memory.activations_bytes),
        ("context, buffers, fragments", memory.reserve_bytes),
        ("free", free) if free >= 0 else ("missing", -free),
    )
    rows = [
        (name, format_bytes(size), f"{size / memory.capacity_bytes:.1%}") for name, size in parts
    ]
    title = f"Memory of the fullest chip, {format_bytes(memory.capacity_bytes)} usable"
    print_table(title, ("", "bytes", "share"), rows, stream)


def _ranges(chunks: Iterable[Chunk]) -> Iterator[str]:
    for chunk in chunks:
        first, last = chunk.first_layer, chunk.end_layer - 1
        extra = "+embedding" if chunk.has_embedding else ""
        extra += "+head" if chunk.has_head else ""
        size = "no layer" if last < first else f"{first}..{last}" if last > first else f"{first}"
        yield size + extra


def _stages(layout: TrainLayout, stream: TextIO) -> None:
    """Layers of each pipeline rank; runs of ranks with as many layers share a row."""
    if layout.degrees.pp == 1:
        return
    by_rank: dict[int, list[Chunk]] = {}
    for chunk in layout.chunks:
        by_rank.setdefault(chunk.pp_rank, []).append(chunk)
    held = [
        (rank, sum(chunk.end_layer - chunk.first_layer for chunk in by_rank[rank]))
        for rank in sorted(by_rank)
    ]
    rows = []
    for count, run in groupby(held, key=lambda item: item[1]):
        ranks = [rank for rank, _ in run]
        name = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}..{ranks[-1]}"
        rows.append((name, f"{count}", ", ".join(_ranges(by_rank[ranks[0]]))))
    header = ("pipeline rank", "layers", "those of the first")
    print_table("Layers", header, rows, stream, words=(2,))


def _runners_up(layout: TrainLayout, stream: TextIO) -> None:
    best = layout.prediction.step_s
    rows = [
        (
            degrees_line(other.degrees),
            format_seconds(other.step_s),
            f"{other.mfu:.1%}",
            f"{best / other.step_s:.1%}",
        )
        for other in layout.runners_up
    ]
    if rows:
        header = ("layout", "step", "MFU", "speed of best")
        print_table("Best found with other schedules", header, rows, stream)


def show_train_layout(layout: TrainLayout, stream: TextIO) -> None:
    """Print a training layout."""
    _headline(layout, stream)
    _terms(layout, stream)
    _memory(layout, stream)
    _stages(layout, stream)
    _runners_up(layout, stream)
    stream.write("\n")
    proof = layout.certificate
    if proof is not None:
        print_text(certificate_text(proof), stream)
        print_text(
            f"{proof.enumerated:,} strategies: {proof.infeasible_memory:,} over memory, "
            f"{proof.pruned:,} pruned by bound, {proof.solved:,} solved.",
            stream,
        )
    if layout.why:
        print_text(f"Why: {layout.why}", stream)
