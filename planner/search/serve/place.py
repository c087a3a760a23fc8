"""Workers of both pools on named chips: pieces to domains, domain after domain."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from planner.domain.assignment import Assignment
from planner.search.serve.forms import Form
from planner.search.serve.pairs import Counts
from planner.search.serve.rooms import fill_domains

Cells = tuple[tuple[tuple[int, ...], ...], ...]


def place_pools(
    domains: Sequence[tuple[int, ...]], forms: tuple[Form, Form], counts: Counts
) -> tuple[Cells, Cells] | None:
    """Chips of every stage of every worker of both pools; None when they do not fit.

    Prefill workers take the first chips of early domains, so that they are neighbours.

    Parameters
    ----------
    domains : sequence of tuple of int
        Chips of every domain that workers may use.
    """
    first, second = forms
    wanted = (counts.prefill * first.num_pieces, counts.decode * second.num_pieces)
    sizes = [len(domain) for domain in domains]
    filled = fill_domains(sizes, (first.piece, second.piece), wanted)
    if filled is None:
        return None
    pieces: tuple[list[list[tuple[int, ...]]], list[list[tuple[int, ...]]]] = ([], [])
    for domain, own in zip(domains, filled, strict=True):
        start = 0
        for kind, (form, count) in enumerate(zip(forms, own, strict=True)):
            ends = [start + form.piece * place for place in range(count + 1)]
            pieces[kind].append([domain[a:b] for a, b in itertools.pairwise(ends)])
            start = ends[-1]
    return (
        _workers(pieces[0], first, counts.prefill),
        _workers(pieces[1], second, counts.decode),
    )


def _workers(by_domain: list[list[tuple[int, ...]]], form: Form, count: int) -> Cells:
    """Pieces to stages: consecutive ones, of a stage over several domains from each in turn."""
    if form.pieces == 1:
        pieces = [piece for own in by_domain for piece in own]
    else:
        most = max(map(len, by_domain))
        pieces = [own[turn] for turn in range(most) for own in by_domain if turn < len(own)]
    per_stage = form.pieces
    stages = [
        tuple(chip for piece in pieces[start : start + per_stage] for chip in piece)
        for start in range(0, count * form.num_pieces, per_stage)
    ]
    return tuple(
        tuple(stages[worker * form.stages : (worker + 1) * form.stages]) for worker in range(count)
    )


def repeated(worker: Assignment, cells: Cells) -> Assignment:
    """A pool: the layout of one worker on the chips of all."""
    degrees = replace(worker.degrees, replicas=len(cells))
    return replace(worker, degrees=degrees, cells=cells, sequences=worker.sequences * len(cells))
