"""One paragraph of why: what binds the winner, and what decides against the runner-up."""

from __future__ import annotations

from planner.domain.degrees import Degrees
from planner.search.plan import SearchResult
from planner.search.solve import Solved
from planner.units import format_bytes, format_count, format_seconds


def degrees_name(degrees: Degrees) -> str:
    """Short name of a layout's degrees."""
    experts = f", EP{degrees.ep}" if degrees.num_slots else ""
    experts += f" x expert-TP{degrees.expert_tp}" if degrees.expert_tp > 1 else ""
    copies = f" ({degrees.num_slots} slots)" if degrees.num_slots else ""
    stages = f", PP{degrees.pp}" if degrees.pp > 1 else ""
    replicas = f", {degrees.replicas} replicas" if degrees.replicas > 1 else ""
    shared = f" x CP{degrees.cp}" if degrees.cp > 1 else ""
    habits = (
        f", {degrees.overlap.label.replace(',', ' and ')} overlapped" if degrees.overlap else ""
    )
    habits += f", {degrees.draft} drafted" if degrees.draft else ""
    degree = f"TP{degrees.attn_tp}{shared} x DP{degrees.attn_dp}"
    return f"{degree}{experts}{copies}{stages}{replicas}{habits}"


def _term_text(name: str) -> str:
    return name.replace("_", " ")


def _against(best: Solved, other: Solved) -> str:
    """The term in which the runner-up spends most more per sequence, and the outcome."""
    mine, theirs = best.prediction, other.prediction
    ratio = mine.tokens_per_s_per_chip / theirs.tokens_per_s_per_chip
    per_token = {t.name: t.seconds / mine.batch for t in mine.terms}
    excess = {t.name: t.seconds / theirs.batch - per_token.get(t.name, 0.0) for t in theirs.terms}
    worst = max(excess, key=lambda name: excess[name])
    text = (
        f"The best of another kind, {degrees_name(other.assignment.degrees)}, reaches "
        f"{format_count(theirs.tokens_per_s_per_chip)} tokens/s/chip at batch {theirs.batch:,}: "
    )
    if ratio > 1.0005:
        text += f"{(1 - 1 / ratio):.1%} less, "
        text += f"most of it in {_term_text(worst)} per sequence"
    else:
        text += "as much within 0.05 %"
    used = other.assignment.degrees.chips_used
    if used < best.assignment.degrees.chips_used:
        text += f"; it leaves {best.assignment.degrees.chips_used - used} more chips idle"
    return text + "."


def why(found: SearchResult) -> str:
    """Explain the winner in a paragraph; every number in it is computed."""
    best = found.best
    prediction = best.prediction
    top = max(prediction.terms, key=lambda term: term.seconds)
    memory = prediction.memory
    free = memory.capacity_bytes - memory.used_bytes
    text = (
        f"{degrees_name(best.assignment.degrees)} spends "
        f"{top.seconds / prediction.step_s:.0%} of its {format_seconds(prediction.step_s)} step in "
        f"{_term_text(top.name)}, bound by {top.bound.value}. "
    )
    if prediction.critical_batch is not None:
        side = "below" if prediction.batch < prediction.critical_batch else "above"
        text += (
            f"Batch {prediction.batch:,} is {side} B* = "
            f"{format_count(prediction.critical_batch)}, where matmuls take as long as the "
            f"weight reads; {format_bytes(max(free, 0.0))} of HBM per chip stay free. "
        )
    if found.runners_up:
        text += _against(best, found.runners_up[0])
        others = [o for o in found.runners_up if o.assignment.degrees.ep != _ep(best)]
        if others and others[0] is not found.runners_up[0]:
            text += " " + _against(best, others[0])
    return text


def _ep(solved: Solved) -> int:
    return solved.assignment.degrees.ep
