"""A training run beside the best layout, as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from planner.deployment.train_compare import TrainComparison
from planner.deployment.train_express import fits, name_of
from planner.domain.train_layout import TrainLayout
from planner.report.tables import print_table, print_text
from planner.report.verdict_text import show_changes, show_verdict
from planner.units import format_bytes, format_percent, format_seconds


def show_training_run(
    file: str, engine: str, layout: TrainLayout, unread: Sequence[str], stream: TextIO
) -> None:
    """What was read, and whether it fits."""
    inputs = layout.inputs
    print_text(
        f"{inputs.model.name} on {inputs.machine.name} with {engine}, as {file} says: "
        f"{len(layout.chips)} chips, {inputs.global_batch:,} sequences of {inputs.seq_len:,} "
        "tokens per step",
        stream,
    )
    print_text(name_of(layout), stream)
    if not fits(layout):
        memory = layout.prediction.memory
        print_text(
            f"It does not fit: {format_bytes(memory.used_bytes)} per chip, "
            f"{format_bytes(memory.capacity_bytes)} are usable.",
            stream,
        )
    if unread:
        print_text(f"Not read, and not priced: {' '.join(unread)}", stream)


def _row(name: str, layout: TrainLayout) -> tuple[str, str, str, str]:
    found = layout.prediction
    return name, format_seconds(found.step_s), format_percent(found.mfu), name_of(layout)


def show_training_comparison(found: TrainComparison, engine: str, stream: TextIO) -> None:
    """The run, the best layout, and what makes the difference."""
    rows = [_row("deployed", found.current)]
    if found.explanation is not None and found.explanation.layout != found.told:
        rows.append(_row("with the changes below", found.explanation.layout))
    rows.append(_row(f"best that {engine} can express", found.told))
    rows.append(_row("best", found.best))
    print_table("Comparison", ("layout", "step", "MFU", "degrees"), rows, stream, words=(0, 3))
    stream.write("\n")
    proof = found.best.certificate
    if not show_verdict(found.ratio, None if proof is None else proof.gap, stream):
        return
    if found.explanation is None:
        print_text(f"Nothing better can be expressed for {engine}.", stream)
        return
    why = found.explanation
    show_changes("decision", why.changes, (why.gain, found.told_ratio), stream)
