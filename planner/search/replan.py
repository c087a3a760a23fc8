"""From a layout to the next one: a fast step, few moved bytes.

Sets        layouts x of the space of :mod:`planner.search.plan` on the changed machine
Data        the old layout, of which every chip holds its part; f(x) the objective; b(x) bytes
            that chips lack and get (:mod:`planner.cost.migration`); m(x) seconds that takes
Variables   x
Objective   minimise f(x), or f(x) H / (H - m(x)) where migration is amortised over H seconds:
            nothing is decoded while bytes move
Constraints limits on memory, TPOT and batch as in a plan; b(x) <= B where moves are limited

Candidates are the layouts that leave most in place for a few strategies (the old degrees, the
best from scratch, the best that splits layers as the old layout does): chips keep roles
(``replan_cells``), experts keep chips (``replan_experts``), from fewest moves to best balance.
The best from scratch is among them, so that without limits the answer is no worse.

What is proven is the bound of the search from scratch: no layout of the space is better, whatever
it moves. Bytes are those of the layout found; fewer may do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs

from planner.domain.layout import Certificate
from planner.domain.outcome import Infeasible
from planner.search.plan import search_layout
from planner.search.replan_pool import Pool
from planner.search.replan_request import Candidate, ReplanRequest
from planner.search.replan_seeds import seeds
from planner.units import format_bytes

_SAME = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class ReplanResult:
    """The answer, what it is compared with, and what was proved.

    Attributes
    ----------
    chosen : Candidate
    least : Candidate
        The candidate that moves least: the old layout itself where it is valid.
    scratch : Candidate
        The best without regard to moves.
    old_is_valid : bool
        Whether the old layout could stay as it is, apart from its batch.
    bound : float
        No layout of the space has a smaller objective, whatever it moves.
    certificate : Certificate or None
        Of the search from scratch, with the chosen layout's objective; None for an old layout
        that stays, lies outside of the space and is better than all in it.
    candidates : int
        Layouts that were priced.
    """

    chosen: Candidate
    least: Candidate
    scratch: Candidate
    old_is_valid: bool
    bound: float
    certificate: Certificate | None
    candidates: int


def replan_layout(request: ReplanRequest) -> ReplanResult | Infeasible:
    """Find the next layout.

    Returns
    -------
    ReplanResult or Infeasible
        Infeasible when no layout meets the limits, or none that was found within ``most_bytes``.
    """
    found = search_layout(request.plan)
    if isinstance(found, Infeasible):
        return found
    pool = Pool(request, found.best.prediction.batch)
    stay = pool.stay()
    keeps = stay is not None and request.moves.stays
    if not keeps:
        for degrees, cells, maps in seeds(request, found):
            pool.extend(degrees, cells, maps)
    best = min((candidate.value for candidate in pool.found), default=np.inf)
    if pool.value(found.best) < best:
        pool.add(found.best)
    bound = found.certificate.bound
    # Whatever is better lies outside of the space, which does not know the old layout.
    known = [c for c in pool.found if c is stay or c.value >= bound * (1 - _SAME)]
    scratch = min(known, key=lambda c: (c.value, c.moved_bytes))
    least = stay or min(known, key=lambda c: (c.moved_bytes, c.value))
    most = request.moves.most_bytes
    within = [c for c in known if most is None or c.moved_bytes <= most]
    if not within:
        return _too_few_bytes(least.moved_bytes, most or 0.0)
    chosen = stay if stay is not None and keeps else _best(within, stay)
    return ReplanResult(
        chosen=chosen,
        least=least,
        scratch=scratch,
        old_is_valid=stay is not None,
        bound=bound,
        certificate=_certificate(found.certificate, chosen.value),
        candidates=len(pool.found),
    )


def _certificate(scratch: Certificate, value: float) -> Certificate | None:
    """The proof of the search with another layout's objective; None where it lies outside."""
    if value < scratch.bound * (1 - _SAME):
        return None
    bound = min(scratch.bound, value)
    return structs.replace(scratch, objective=value, bound=bound, gap=(value - bound) / value)


def _best(within: Sequence[Candidate], stay: Candidate | None) -> Candidate:
    """The cheapest; what is as cheap up to rounding moves as little as it can."""
    best = min(candidate.total for candidate in within)
    if best == np.inf:
        return min(within, key=lambda c: (c.time.seconds, c.value))
    equal = [c for c in within if c.total <= best * (1 + _SAME)]
    if stay is not None and any(c is stay for c in equal):
        return stay
    return min(equal, key=lambda c: (c.moved_bytes, c.total))


def _too_few_bytes(needed: float, most: float) -> Infeasible:
    return Infeasible(
        resource="moved bytes",
        needed=format_bytes(needed),
        available=format_bytes(most),
        message=(
            f"no layout was found that moves at most {format_bytes(most)}; the one that moves "
            f"least moves {format_bytes(needed)}"
        ),
        remedies=(f"--max-move {-(-needed // 1e6) / 1e3:g}GB",),
    )
