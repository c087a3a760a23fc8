"""A comparison as people read it: figures side by side, terms, why, break-evens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO

from planner.domain.train_layout import TrainDegrees
from planner.report.plan_text import degrees_line
from planner.report.tables import print_table, print_text
from planner.report.train_text import degrees_line as train_line
from planner.studies.record import Candidate, Comparison, Figures, Flip
from planner.units import (
    format_bytes,
    format_count,
    format_integer,
    format_percent,
    format_seconds,
    format_usd,
)

# A term below this share of every candidate is left out of the table.
LEAST_SHARE = 0.01
# Counted: the value itself belongs to the other side.
WHOLE = ("tokens", "sequences", "stages")
Read = Callable[[Figures], str]


def candidate_line(figures: Figures) -> str:
    """Degrees of one candidate."""
    degrees = figures.degrees
    if isinstance(degrees, TrainDegrees):
        return train_line(degrees)
    return degrees_line(degrees, figures.batch)


def _optional(value: float | None, text: Callable[[float], str]) -> str:
    return "-" if value is None else text(value)


def _user(figures: Figures) -> str:
    return _optional(figures.tokens_per_s_per_user, format_count)


def _rows(training: bool) -> list[tuple[str, Read]]:
    common: list[tuple[str, Read]] = [
        ("step", lambda f: format_seconds(f.step_s)),
        ("tokens/s/chip", lambda f: format_count(f.tokens_per_s_per_chip)),
        ("$/M tokens", lambda f: _optional(f.usd_per_million_tokens, format_usd)),
    ]
    if training:
        common.insert(1, ("MFU", lambda f: _optional(f.mfu, format_percent)))
    else:
        common.insert(
            1, ("tokens/s/user", lambda f: _optional(f.tokens_per_s_per_user, format_count))
        )
        common.insert(0, ("batch", lambda f: format_integer(f.batch)))
    memory: list[tuple[str, Read]] = [
        ("weights per chip", lambda f: format_bytes(f.memory.weights_bytes)),
    ]
    if training:
        memory.append(("gradients, optimizer", lambda f: format_bytes(f.memory.states_bytes)))
        memory.append(("activations per chip", lambda f: format_bytes(f.memory.activations_bytes)))
    else:
        memory.append(("KV cache per chip", lambda f: format_bytes(f.memory.kv_bytes)))
    rest: list[tuple[str, Read]] = [
        ("bubble" if training else "idle share", lambda f: format_percent(f.bubble)),
        ("idle chips", lambda f: format_integer(f.idle_chips)),
        ("proven gap", lambda f: _optional(f.gap, format_percent)),
    ]
    return [*common, *memory, *rest]


def _links(ranked: Sequence[Candidate]) -> list[tuple[str, Read]]:
    """One row per class of links."""
    figures = ranked[0].figures
    assert figures is not None

    def row(place: int) -> Read:
        return lambda f: (
            format_bytes(f.links[place].bytes_per_chip) if place < len(f.links) else "-"
        )

    return [(f"{own.name} bytes per chip", row(place)) for place, own in enumerate(figures.links)]


def _figures(found: Comparison, stream: TextIO) -> None:
    ranked = found.ranked
    training = found.phase == "train"
    rows = [*_rows(training), *_links(ranked)]
    table = [
        (name, *(read(one.figures) for one in ranked if one.figures is not None))
        for name, read in rows
    ]
    print_table("Side by side, best first", ("", *(one.name for one in ranked)), table, stream)


def _terms(found: Comparison, stream: TextIO) -> None:
    """What each term takes of the objective."""
    ranked = [one.figures for one in found.ranked if one.figures is not None]
    shares = [{term.name: term.value for term in one.terms} for one in ranked]
    best = ranked[0].value
    names = dict.fromkeys(name for own in shares for name in own)
    big = [name for name in names if any(own.get(name, 0.0) > LEAST_SHARE * best for own in shares)]
    order = sorted(big, key=lambda name: -max(own.get(name, 0.0) for own in shares))
    rows = [
        (name.replace("_", " "), *(f"{own.get(name, 0.0) / best:.1%}" for own in shares))
        for name in order
    ]
    rows.append(("sum", *(f"{one.value / best:.1%}" for one in ranked)))
    title = f"{found.unit[0].upper()}{found.unit[1:]} by term, the winner's sum is 100 %"
    print_table(title, ("", *(one.name for one in found.ranked)), rows, stream)


def amount_text(value: float, unit: str) -> str:
    """A quantity in its unit."""
    match unit:
        case "s":
            return format_seconds(value)
        case "B":
            return format_bytes(value)
        case "B/s":
            return format_bytes(value) + "/s"
        case "":
            return f"1/{1 / value:.3g}" if value < 1 else f"{value:.3g}"
    return f"{value:,.0f} {unit}"


def flip_text(flip: Flip, winner: str) -> tuple[str, str, str, str]:
    """Quantity, present value, where the ranking changes, and how."""
    if flip.at is None:
        where, how = f"not to {amount_text(flip.until, flip.unit)}", f"{winner} leads"
    else:
        amount, up = amount_text(flip.at, flip.unit), flip.until > flip.present
        where = f"{'above' if up else 'below'} {amount}"
        if flip.unit in WHOLE:
            where = f"from {amount} {'on' if up else 'down'}"
        how = f"{flip.leader} leads" if flip.leader else "none of these fits"
    return flip.label, amount_text(flip.present, flip.unit), where, how


def _flips(found: Comparison, stream: TextIO) -> None:
    if not found.flips:
        return
    winner = found.ranked[0].name
    rows = [flip_text(flip, winner) for flip in found.flips]
    header = ("quantity", "now", "ranking changes", "then")
    print_table("Break-evens", header, rows, stream, words=(0, 2, 3))


def show_comparison(found: Comparison, stream: TextIO) -> None:
    """Print a comparison."""
    length = "context" if found.phase == "decode" else "sequences of"
    print_text(
        f"{found.model} on {found.machine}: {found.phase}, {length} {found.length_tokens:,}, "
        f"objective {found.objective.value}",
        stream,
    )
    for one in found.candidates:
        note = f" ({one.note})" if one.note else ""
        if one.figures is not None:
            print_text(f"{one.name}{note}: {candidate_line(one.figures)}", stream)
        elif one.infeasible is not None:
            print_text(f"{one.name}: no layout, {one.infeasible.message}", stream)
    _figures(found, stream)
    _terms(found, stream)
    _flips(found, stream)
    stream.write("\n")
    for sentence in found.why:
        print_text(sentence, stream)
