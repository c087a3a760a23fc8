"""Why the winner of a comparison wins: the terms in which it differs from each other one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.studies.links import LinkBytes
from planner.studies.record import Candidate, Figures
from planner.units import format_bytes, format_percent

# Terms that are named on either side, and what is too little to name.
MOST_NAMED = 2
LEAST_SHARE = 0.002


def reasons(ranked: Sequence[Candidate]) -> tuple[str, ...]:
    """One sentence or two about each candidate behind the winner."""
    if not ranked:
        return ()
    best = ranked[0]
    return tuple(_reason(best, other) for other in ranked[1:])


def _reason(best: Candidate, other: Candidate) -> str:
    mine, theirs = best.figures, other.figures
    assert mine is not None and theirs is not None
    lead = 1.0 - mine.value / theirs.value
    gains, losses = _differences(mine, theirs)
    parts = [f"{best.name} is {format_percent(lead)} better than {other.name}"]
    if theirs.gap is not None and theirs.value * (1.0 - theirs.gap) < mine.value:
        parts = [f"{parts[0]}, not by more than the gap of {format_percent(theirs.gap)}"]
    if gains:
        parts.append("it saves " + _list(gains))
    if losses:
        parts.append("it pays " + _list(losses))
    text = "; ".join(parts)
    extra = list(_circumstances(mine, theirs))
    return text + (f" ({', '.join(extra)})." if extra else ".")


def _list(parts: list[tuple[str, float]]) -> str:
    named = [f"{format_percent(share)} in {name}" for name, share in parts]
    return " and ".join(named)


def _differences(
    mine: Figures, theirs: Figures
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Terms by what the winner saves, and pays, as shares of the other's objective."""
    own = {term.name: term.value for term in mine.terms}
    other = {term.name: term.value for term in theirs.terms}
    saved = {
        name: (other.get(name, 0.0) - own.get(name, 0.0)) / theirs.value
        for name in dict.fromkeys([*other, *own])
    }
    order = sorted(saved.items(), key=lambda item: (-abs(item[1]), item[0]))
    big = [(name.replace("_", " "), share) for name, share in order if abs(share) > LEAST_SHARE]
    gains = [(name, share) for name, share in big if share > 0][:MOST_NAMED]
    losses = [(name, -share) for name, share in big if share < 0][:MOST_NAMED]
    return gains, losses


def _circumstances(mine: Figures, theirs: Figures) -> Iterator[str]:
    """What differs beside the time: batch, memory, bytes out of the domain, idle chips."""
    if mine.batch != theirs.batch:
        yield f"batch {mine.batch:,} against {theirs.batch:,}"
    ours, others = mine.memory.weights_bytes, theirs.memory.weights_bytes
    if abs(ours - others) > 0.02 * others:
        yield f"weights {format_bytes(ours)} against {format_bytes(others)} per chip"
    out = (_leaving(mine.links), _leaving(theirs.links))
    if abs(out[0] - out[1]) > 0.02 * max(out):
        yield f"{format_bytes(out[0])} against {format_bytes(out[1])} per chip leave the domain"
    if mine.idle_chips != theirs.idle_chips:
        yield f"{mine.idle_chips} against {theirs.idle_chips} chips idle"


def _leaving(links: Sequence[LinkBytes]) -> float:
    return sum(own.bytes_per_chip for own in links if own.name != "scale-up")
