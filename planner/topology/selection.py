"""Groups of chips by number or by name, and the groups beside them that look alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from planner.errors import SpecError
from planner.topology.graph import Topology


def chips_by_number(topology: Topology, text: str) -> tuple[int, ...]:
    """Chips of a list of numbers and ranges such as ``0-71`` or ``0,8,16-23``.

    Raises
    ------
    SpecError
        The text cannot be read, names a chip twice, or one that the machine does not have.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last) if dash else (first, first)
        if not all(end.isascii() and end.isdigit() and len(end) < 10 for end in ends):
            raise SpecError(f"--chips: cannot read '{text}'", "write for example --chips 0-7,16")
        low, high = int(ends[0]), int(ends[1])
        if high < low or high >= topology.num_chips:
            raise SpecError(
                f"--chips: '{part.strip()}' is not a range of chips",
                f"the machine has chips 0 to {topology.num_chips - 1}",
            )
        found.extend(range(low, high + 1))
    return _distinct(topology, found, "--chips")


def chips_by_name(topology: Topology, text: str) -> tuple[int, ...]:
    """Chips whose names match a list of patterns; ``*`` stands for any run of characters.

    Raises
    ------
    SpecError
        A pattern matches no chip, or two match the same one.
    """
    found: list[int] = []
    names = topology.chip_names
    for part in text.split(","):
        pattern = re.compile(".*".join(re.escape(piece) for piece in part.strip().split("*")))
        hits = [chip for chip, name in enumerate(names) if pattern.fullmatch(name)]
        if not hits:
            near = difflib.get_close_matches(part.strip(), names[:20_000], n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"chips: {names[0]}, ..."
            raise SpecError(f"--group: no chip is called '{part.strip()}'", hint)
        found.extend(hits)
    return _distinct(topology, found, "--group")


def _distinct(topology: Topology, found: list[int], option: str) -> tuple[int, ...]:
    seen: set[int] = set()
    for chip in found:
        if chip in seen:
            raise SpecError(f"{option}: {topology.chip_names[chip]} (chip {chip}) is named twice")
        seen.add(chip)
    return tuple(found)


def groups_alike(num_chips: int, group: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Disjoint groups of the rest of the machine, each the chosen one moved along.

    Moved by the smallest distances first: beside chips 0 to 7 of 72 lie 8 to 15 and so on,
    beside 0, 8, 16, ... lie 1, 9, 17, ...
    """
    taken = set(group)
    low, high = min(group), max(group)
    moves = sorted(range(-low, num_chips - high), key=lambda move: (abs(move), -move))
    found = []
    for move in moves:
        moved = tuple(chip + move for chip in group)
        if taken.isdisjoint(moved):
            taken.update(moved)
            found.append(moved)
    return tuple(sorted(found))
