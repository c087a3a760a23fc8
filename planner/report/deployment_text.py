"""A deployment beside the best layout, as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from planner.deployment.compare import Comparison
from planner.deployment.serving import Deployment
from planner.domain.layout import Layout
from planner.report.plan_text import degrees_line
from planner.report.tables import print_table, print_text
from planner.report.verdict_text import show_changes, show_verdict
from planner.units import format_seconds


def show_deployment(file: str, current: Deployment, unread: Sequence[str], stream: TextIO) -> None:
    """What was read and what it is worth."""
    layout = current.layout
    engine = current.told.engine.value
    print_text(
        f"{layout.inputs.model.name} on {layout.inputs.machine.name} with {engine}, as {file} "
        f"says: {current.told.chips} chips",
        stream,
    )
    print_text(degrees_line(layout.degrees, layout.prediction.batch), stream)
    if current.running < current.allowed:
        print_text(
            f"Of {current.allowed:,} sequences per attention rank that it allows, "
            f"{current.running:,} fit.",
            stream,
        )
    for refusal in current.refusals:
        print_text(f"{refusal}.", stream)
    if unread:
        print_text(f"Not read, and not priced: {' '.join(unread)}", stream)


def _row(name: str, layout: Layout) -> tuple[str, str, str, str]:
    found = layout.prediction
    return (
        name,
        format_seconds(found.step_s),
        f"{found.tokens_per_s_per_chip:,.0f}",
        degrees_line(layout.degrees, found.batch),
    )


def show_comparison(found: Comparison, stream: TextIO) -> None:
    """The deployment, the best layout, and what makes the difference."""
    engine = found.current.told.engine.value
    rows = [_row("deployed", found.current.layout)]
    if found.explanation is not None and found.explanation.layout != found.told:
        rows.append(_row("with the flags below", found.explanation.layout))
    rows.append(_row(f"best that {engine} can express", found.told))
    rows.append(_row("best", found.best))
    print_table(
        "Comparison", ("layout", "TPOT", "tokens/s/chip", "degrees"), rows, stream, words=(0, 3)
    )
    stream.write("\n")
    proof = found.best.certificate
    if not show_verdict(found.ratio, None if proof is None else proof.gap, stream):
        return
    if found.explanation is None:
        print_text(f"Nothing better can be expressed for {engine}.", stream)
        return
    why = found.explanation
    show_changes("flag", why.flags, (why.gain, found.told_ratio), stream)
