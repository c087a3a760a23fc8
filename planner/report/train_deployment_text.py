"""A training run beside the best layout, as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from planner.deployment.train_compare import TrainComparison, TrainExplanation
from planner.deployment.train_express import fits, name_of
from planner.domain.train_layout import TrainLayout
from planner.report.tables import print_table, print_text
from planner.units import format_bytes, format_percent, format_seconds

_NEAR = 1.005
_NUMBERS = ("no", "this", "these two", "these three", "these four")


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
    gap = "" if proof is None else f" (proven within {format_percent(proof.gap)})"
    if found.ratio <= _NEAR:
        print_text(f"Your current layout is as good as the best one{gap}.", stream)
        return
    print_text(f"Your current layout is {found.ratio:.2f} x off the best one{gap}.", stream)
    if found.explanation is None:
        print_text(f"Nothing better can be expressed for {engine}.", stream)
        return
    _show_changes(found.explanation, found.told_ratio, stream)


def _show_changes(found: TrainExplanation, whole: float, stream: TextIO) -> None:
    count = len(found.changes)
    which = _NUMBERS[count] if count < len(_NUMBERS) else f"these {count}"
    verb, noun = ("is", "decision") if count == 1 else ("are", "decisions")
    part = "" if found.gain >= whole * (1 - 1e-9) else f", {found.gain:.2f} x of {whole:.2f} x"
    print_text(f"{which.capitalize()} {noun} {verb} the difference{part}:", stream)
    width = max((len(name) for name, _, _ in found.changes), default=0)
    for name, old, new in found.changes:
        stream.write(f"  {name.ljust(width)}  {old} -> {new}\n")
