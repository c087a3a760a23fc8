"""Cells over domains that they share, as a counting model: how many, never which.

Sets        classes ``k`` of domains of equal capacity ``a_k``, ``n_k`` of them; cells of ``N``
            units; compositions ``q``: ways to write ``N`` as a sum of pieces of at least
            ``s``; patterns ``p`` of a class: fullest ways to cut ``a_k`` into slots of
            ``s .. N`` units
Data        ``M`` cells, threshold ``s``
Variables   ``mu_q`` cells of composition ``q``, ``lambda_kp`` domains cut by pattern ``p``
Objective   fewest pieces, ``sum_q |q| mu_q``
Constraints cells       ``sum_q mu_q = M``
            domains     ``sum_p lambda_kp <= n_k`` for every class
            slots       ``sum_q mu_q #{pieces of q >= a} <= sum_kp lambda_kp #{slots of p >= a}``
                        for every size ``a`` (nested, so a piece finds a slot: Hall)

The largest ``s`` that is feasible is found by bisection. The model is exact: pieces of a real
mapping are such compositions, its domains are cut no finer than some pattern, and from counts
that fit a mapping is read off by giving the largest piece the largest slot. Two pieces of a
cell that meet in one domain are one, larger piece.

No domain, cell or chip has a name in the model, so there is no symmetry left and its size
depends on the distinct capacities alone.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from ortools.sat.python import cp_model

from planner.search.mapping_case import (
    Mapping,
    MappingCase,
    Pieces,
    piece_bound,
    smallest_piece,
    violations,
    whole_cells,
)

Parts = tuple[int, ...]

# Columns beyond which a model is coarsened instead of solved as it stands.
MAX_COLUMNS = 4000
# Deterministic seconds of one call; the largest measured need a tenth.
WORK = 4.0


class Answer(Enum):
    """What the solver knows of a threshold."""

    YES = "feasible"
    NO = "infeasible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Compositions of a cell, and patterns of each class of domains.

    ``classes`` are ``(capacity, number of domains)``, ``patterns[k]`` those of class ``k``.
    """

    compositions: tuple[Parts, ...]
    classes: tuple[tuple[int, int], ...]
    patterns: tuple[tuple[Parts, ...], ...]


def partitions(total: int, parts: int, least: int, most: int) -> Iterator[Parts]:
    """Ways to write ``total`` as ``parts`` numbers of ``least .. most``, descending."""
    if parts == 0:
        if total == 0:
            yield ()
        return
    for first in range(min(most, total - least * (parts - 1)), least - 1, -1):
        if first * parts < total:
            return
        for rest in partitions(total - first, parts - 1, least, first):
            yield (first, *rest)


def compositions(need: int, piece: int, largest: int) -> Iterator[Parts]:
    """Ways to write a cell as pieces of ``piece .. largest`` units, fewest first."""
    for count in range(1, need // piece + 1):
        yield from partitions(need, count, piece, min(largest, need))


def slot_patterns(capacity: int, need: int, piece: int) -> Iterator[Parts]:
    """Fullest ways to cut a domain into slots: no other way has larger ones."""
    for count in range(1, capacity // piece + 1):
        yield from partitions(min(capacity, count * need), count, piece, need)


def columns(case: MappingCase, piece: int) -> Columns | None:
    """All columns of the model at a threshold; None when they are too many."""
    classes = tuple(sorted(Counter(c for c in case.capacities if c >= piece).items()))
    largest = max((capacity for capacity, _ in classes), default=0)
    made = tuple(itertools.islice(compositions(case.need, piece, largest), MAX_COLUMNS + 1))
    left = MAX_COLUMNS - len(made)
    patterns = []
    for capacity, _ in classes:
        if left < 0:
            return None
        own = tuple(itertools.islice(slot_patterns(capacity, case.need, piece), left + 1))
        left -= len(own)
        patterns.append(own)
    if left < 0:
        return None
    return Columns(compositions=made, classes=classes, patterns=tuple(patterns))


class _Model:
    """The counting model at one threshold."""

    def __init__(self, case: MappingCase, cols: Columns) -> None:
        self.case, self.cols = case, cols
        self.model = cp_model.CpModel()
        self.mu = [
            self.model.new_int_var(0, case.num_cells, f"mu{q}")
            for q in range(len(cols.compositions))
        ]
        self.lam = [
            [self.model.new_int_var(0, count, f"lambda{k}_{p}") for p in range(len(patterns))]
            for k, ((_, count), patterns) in enumerate(
                zip(cols.classes, cols.patterns, strict=True)
            )
        ]
        self.cells_are_all_made()
        self.domains_are_not_exceeded()
        self.pieces_find_slots()

    def cells_are_all_made(self) -> None:
        """``sum_q mu_q = M``."""
        self.model.add(cp_model.LinearExpr.sum(self.mu) == self.case.num_cells)

    def domains_are_not_exceeded(self) -> None:
        """``sum_p lambda_kp <= n_k``."""
        for (_, count), own in zip(self.cols.classes, self.lam, strict=True):
            self.model.add(cp_model.LinearExpr.sum(own) <= count)

    def pieces_find_slots(self) -> None:
        """``sum_q mu_q #{q >= a} <= sum_kp lambda_kp #{p >= a}`` for every size ``a``."""
        pieces = self.cols.compositions
        slots = [pattern for patterns in self.cols.patterns for pattern in patterns]
        lam = [variable for own in self.lam for variable in own]
        for size in sorted({part for q in pieces for part in q}):
            asked = [sum(part >= size for part in q) for q in pieces]
            given = [sum(part >= size for part in p) for p in slots]
            self.model.add(
                cp_model.LinearExpr.weighted_sum(self.mu, asked)
                <= cp_model.LinearExpr.weighted_sum(lam, given)
            )

    def solve(self, fewest_pieces: bool) -> tuple[Answer, list[int], list[list[int]]]:
        """Answer, and the counts ``mu`` and ``lambda`` if it is yes."""
        if fewest_pieces:
            sizes = [len(q) for q in self.cols.compositions]
            self.model.minimize(cp_model.LinearExpr.weighted_sum(self.mu, sizes))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.max_deterministic_time = WORK
        status = solver.solve(self.model)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            lam = [[solver.value(v) for v in own] for own in self.lam]
            return Answer.YES, [solver.value(v) for v in self.mu], lam
        return (Answer.NO if status == cp_model.INFEASIBLE else Answer.UNKNOWN), [], []


def _at_threshold(
    case: MappingCase, piece: int, fewest_pieces: bool
) -> tuple[Answer, tuple[Pieces, ...]]:
    """Whether pieces of at least ``piece`` units are possible, and a mapping if so."""
    cols = columns(case, piece)
    if cols is None:
        return Answer.UNKNOWN, ()
    if not cols.compositions or not cols.classes:
        return Answer.NO, ()
    answer, mu, lam = _Model(case, cols).solve(fewest_pieces)
    if answer is not Answer.YES:
        return answer, ()
    cells = _read_off(case, cols, mu, lam)
    # A search that ran out of work may return counts that do not hold.
    good = not violations(case, cells) and smallest_piece(cells) >= piece
    return (Answer.YES, cells) if good else (Answer.UNKNOWN, ())


def _read_off(
    case: MappingCase, cols: Columns, mu: Sequence[int], lam: Sequence[Sequence[int]]
) -> tuple[Pieces, ...]:
    """Name cells and domains: the largest piece takes the largest slot, ties by number."""
    slots: list[tuple[int, int]] = []
    for (capacity, _), patterns, counts in zip(cols.classes, cols.patterns, lam, strict=True):
        domains = iter([d for d, own in enumerate(case.capacities) if own == capacity])
        for pattern, count in zip(patterns, counts, strict=True):
            for domain in itertools.islice(domains, count):
                slots += [(-slot, domain) for slot in pattern]
    made = [q for q, count in zip(cols.compositions, mu, strict=True) for _ in range(count)]
    pieces = [(-part, cell) for cell, q in enumerate(made) for part in q]
    cells: list[Counter[int]] = [Counter() for _ in made]
    for (part, cell), (_, domain) in zip(sorted(pieces), sorted(slots), strict=False):
        cells[cell][domain] -= part
    return tuple(sorted(tuple(sorted(cell.items())) for cell in cells))


def pour(case: MappingCase) -> tuple[Pieces, ...]:
    """Cells poured over the domains one after another: always complete, pieces as they fall."""
    cells: list[Pieces] = []
    pieces: list[tuple[int, int]] = []
    gap = case.need
    for domain, capacity in enumerate(case.capacities):
        left = capacity
        while left and len(cells) < case.num_cells:
            taken = min(left, gap)
            pieces.append((domain, taken))
            left, gap = left - taken, gap - taken
            if gap == 0:
                cells.append(tuple(pieces))
                pieces, gap = [], case.need
    return tuple(cells)


def _whole(case: MappingCase) -> tuple[Pieces, ...]:
    places = (
        domain
        for domain, capacity in enumerate(case.capacities)
        for _ in range(capacity // case.need)
    )
    return tuple(((domain, case.need),) for domain in itertools.islice(places, case.num_cells))


def _coarse(case: MappingCase, grain: int) -> MappingCase:
    return MappingCase(
        capacities=tuple(capacity // grain for capacity in case.capacities),
        need=case.need // grain,
        num_cells=case.num_cells,
    )


def _bisect(case: MappingCase, low: int, high: int) -> tuple[int, tuple[Pieces, ...]]:
    """Least threshold of ``low + 1 .. high + 1`` proved impossible, and the best mapping.

    A threshold whose model is too large, or that the solver left open, proves nothing.
    """
    best: tuple[Pieces, ...] = ()
    stop, refuted = high + 1, high + 1
    while stop - low > 1:
        piece = (low + stop) // 2
        if columns(case, piece) is None:
            # Larger pieces leave fewer ways.
            low = piece
            continue
        answer, cells = _at_threshold(case, piece, fewest_pieces=False)
        if answer is Answer.YES:
            low, best = smallest_piece(cells), cells
        else:
            stop = piece
            refuted = piece if answer is Answer.NO else refuted
    return refuted, best


def _with_fewest_pieces(case: MappingCase, best: tuple[Pieces, ...]) -> tuple[Pieces, ...]:
    """A mapping with no smaller piece and, if the solver finds one, fewer of them."""
    largest = max(case.capacities)
    split = case.num_cells - min(case.num_cells, whole_cells(case))
    fewest = case.num_cells - split + split * max(2, -(-case.need // largest))
    if sum(map(len, best)) <= fewest:
        return best
    answer, cells = _at_threshold(case, smallest_piece(best), fewest_pieces=True)
    fewer = answer is Answer.YES and sum(map(len, cells)) < sum(map(len, best))
    return cells if fewer else best


@lru_cache(maxsize=1 << 12)
def solve_mapping(case: MappingCase) -> Mapping | None:
    """Cells with the largest smallest piece, then the fewest pieces.

    Returns
    -------
    Mapping or None
        None when domains do not hold that many cells. ``bound`` equals ``smallest`` where the
        model could be solved as it stands.
    """
    bound = piece_bound(case)
    if bound == 0:
        return None
    if whole_cells(case) >= case.num_cells:
        return Mapping(cells=_whole(case), smallest=case.need, bound=case.need)
    best = pour(case)
    smallest = smallest_piece(best)
    # Coarse units first where single ones are too many ways: their mapping is good, not proved.
    for grain in (grain for grain in (8, 4, 2) if case.need % grain == 0):
        coarse = _coarse(case, grain)
        top = piece_bound(coarse)
        if top * grain > smallest and columns(case, max(1, bound // 2)) is None:
            _, cells = _bisect(coarse, smallest // grain, top)
            if cells:
                best = tuple(tuple((d, grain * units) for d, units in cell) for cell in cells)
                smallest = smallest_piece(best)
    if smallest < bound:
        refuted, cells = _bisect(case, smallest, bound)
        bound = min(bound, refuted - 1)
        if cells:
            best, smallest = cells, smallest_piece(cells)
    best = _with_fewest_pieces(case, best)
    assert not violations(case, best)
    return Mapping(cells=best, smallest=smallest, bound=bound)
