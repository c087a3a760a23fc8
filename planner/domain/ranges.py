"""Sets of whole numbers as people write them: ``1..8,12,16``."""

from __future__ import annotations

from collections.abc import Iterable


def write_ranges(values: Iterable[int]) -> str:
    """Write a set of numbers, ascending, runs of three and more as ``first..last``."""
    ordered = sorted(set(values))
    parts: list[str] = []
    start = 0
    for position in range(1, len(ordered) + 1):
        if position < len(ordered) and ordered[position] == ordered[position - 1] + 1:
            continue
        run = ordered[start:position]
        parts.append(f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run)))
        start = position
    return ",".join(parts)


def read_ranges(text: str) -> frozenset[int]:
    """Read what :func:`write_ranges` wrote; the empty text is the empty set.

    Raises
    ------
    ValueError
        If a part is not a number or a range of numbers.
    """
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dots, last = part.partition("..")
        low = int(first)
        found.update(range(low, (int(last) if dots else low) + 1))
    return frozenset(found)
