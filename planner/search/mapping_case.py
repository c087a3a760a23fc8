"""What is asked of a mapping of cells to domains, what an answer is, and what none can beat.

A *unit* is a run of ranks that must share a domain, a *piece* the units of one cell in one
domain. An all-to-all of a cell of ``N`` chips over NICs of their own takes
``V / nic * (1 - smallest piece / N)``: mappings are judged by their smallest piece.

This file knows no solver: :func:`violations` is the specification, :func:`piece_bound` a
closed form that holds for every mapping.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Pieces = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MappingCase:
    """Cells to lay over domains.

    Parameters
    ----------
    capacities : tuple of int
        Units that each domain holds.
    need : int
        Units of one cell, at least 1.
    num_cells : int
        Cells, at least 1.
    """

    capacities: tuple[int, ...]
    need: int
    num_cells: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapping:
    """Pieces of every cell, and what was proved.

    Parameters
    ----------
    cells : tuple
        ``(domain, units)`` of the pieces of each cell, domains ascending.
    smallest : int
        Units of the smallest piece.
    bound : int
        No mapping has a larger smallest piece.
    """

    cells: tuple[Pieces, ...]
    smallest: int
    bound: int


def whole_cells(case: MappingCase) -> int:
    """Cells that fit without being split: ``sum_d floor(n_d / N)``."""
    return sum(capacity // case.need for capacity in case.capacities)


def offered(capacity: int, need: int, piece: int) -> int:
    """Most units of a domain in pieces of ``piece .. need`` units.

    ``m`` pieces take at most ``m * need``, and ``m <= floor(capacity / piece)``.
    """
    return min(capacity, capacity // piece * need)


def piece_bound(case: MappingCase) -> int:
    """Closed form of the largest smallest piece; 0 where the cells do not fit at all.

    A cell that is not whole has at least ``max(2, ceil(N / max n_d))`` pieces, and domains
    offer ``M * N`` units in pieces of that size.
    """
    largest = max(case.capacities, default=0)
    if case.num_cells * case.need > sum(case.capacities):
        return 0
    if whole_cells(case) >= case.num_cells:
        return case.need
    fewest = max(2, -(-case.need // largest))
    sizes = Counter(case.capacities)
    low, high = 0, case.need // fewest + 1
    while high - low > 1:
        piece = (low + high) // 2
        units = sum(n * offered(size, case.need, piece) for size, n in sizes.items())
        if units >= case.num_cells * case.need:
            low = piece
        else:
            high = piece
    return low


def violations(case: MappingCase, cells: Sequence[Pieces]) -> list[str]:
    """What a mapping breaks, in words: every cell complete, no domain overfull."""
    found = []
    if len(cells) != case.num_cells:
        found.append(f"{len(cells)} cells are mapped, {case.num_cells} are asked for")
    used: Counter[int] = Counter()
    for index, pieces in enumerate(cells):
        domains = [domain for domain, _ in pieces]
        if len(set(domains)) != len(domains):
            found.append(f"cell {index} has two pieces in one domain")
        if any(units < 1 for _, units in pieces):
            found.append(f"cell {index} has an empty piece")
        total = sum(units for _, units in pieces)
        if total != case.need:
            found.append(f"cell {index} has {total} units, needs {case.need}")
        for domain, units in pieces:
            used[domain] += units
    for domain, units in sorted(used.items()):
        if not 0 <= domain < len(case.capacities) or units > case.capacities[domain]:
            found.append(f"domain {domain} holds {units} units, more than it has")
    return found


def smallest_piece(cells: Sequence[Pieces]) -> int:
    """Units of the smallest piece of all cells."""
    return min(units for pieces in cells for _, units in pieces)
