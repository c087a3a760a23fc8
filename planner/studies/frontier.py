"""Library of ``planner frontier``: what speed costs.

The front of tokens/s/user against tokens/s/chip, or dollars per token, is walked by limits on the
time per token: at each limit the planner's own answer is the best layout, batch and number of
drafts that meet it, with a certificate. So a point of the front is what ``plan`` says under that
limit, and nothing of the space is better by more than the point's gap.

>>> from planner import Question
>>> question = Question(model="deepseek-v3", machine="gb200-nvl72", context_tokens=8192)
>>> frontier(question, points=16).points[0].tokens_per_s_per_user
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from planner.api import plan
from planner.domain.layout import DegreesRecord, Layout
from planner.domain.outcome import Infeasible
from planner.domain.question import Question
from planner.domain.workload import Objective, Phase
from planner.errors import SpecError
from planner.studies.record import Tell, silent

LEAST_POINTS = 2
MOST_POINTS = 200
# Plans for one point of the front at most: some limits give the layout of their neighbour.
TRIES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierPoint:
    """The best layout under one limit.

    Parameters
    ----------
    limit_s : float, optional
        Longest time per output token that was asked for; None where there was none.
    speed : float
        Tokens/s/user over those of the cheapest point.
    price : float
        Price of a token over that of the cheapest point.
    gap : float
        Proven: no layout under the limit is better by more than this share.
    """

    limit_s: float | None
    step_s: float
    tokens_per_s_per_user: float
    tokens_per_s_per_chip: float
    usd_per_million_tokens: float | None
    speed: float
    price: float
    degrees: DegreesRecord
    batch: int
    gap: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Frontier:
    """A front, fastest point first.

    Parameters
    ----------
    floor_s : float
        Proven: no layout has a shorter step, whatever is paid.
    cheapest_bound : float
        Proven: no token is cheaper than this share of the cheapest point's price.
    """

    model: str
    machine: str
    num_chips: int
    context_tokens: int
    objective: Objective
    points: tuple[FrontierPoint, ...]
    floor_s: float
    cheapest_bound: float

    @property
    def cheapest(self) -> FrontierPoint:
        """Slow mode."""
        return self.points[-1]

    @property
    def fastest(self) -> FrontierPoint:
        """Fast mode at any price."""
        return self.points[0]

    def at_speed(self, speed: float) -> FrontierPoint | None:
        """The cheapest point at least ``speed`` times as fast as the cheapest of all."""
        fast = [point for point in self.points if point.speed >= speed]
        return fast[-1] if fast else None


def _check(question: Question, points: int) -> None:
    if question.phase is not Phase.DECODE:
        raise SpecError(
            f"a frontier is one of decode, not of {question.phase.value}", "leave --phase out"
        )
    if question.objective is Objective.LATENCY:
        raise SpecError(
            "--objective latency is one end of the frontier", "write --objective throughput or cost"
        )
    if not LEAST_POINTS <= points <= MOST_POINTS:
        raise SpecError(
            f"--points: {points} is not in {LEAST_POINTS}..{MOST_POINTS}",
            "write for example --points 16",
        )


def frontier(question: Question, points: int = 16, tell: Tell = silent) -> Frontier | Infeasible:
    """Walk the front from the fastest to the cheapest layout.

    Parameters
    ----------
    question : Question
        ``tpot_s`` is the slowest speed of interest; ``objective`` says whether tokens/s/chip or
        dollars per token are set against speed.
    points : int
        How many points to look for; fewer are found where the space holds fewer layouts.
    tell : callable
        Told what is being done, and the share that is done.

    Raises
    ------
    SpecError, CatalogError
        The question cannot be understood.
    """
    _check(question, points)
    tell("the cheapest layout", 0.0)
    slow = plan(question)
    if isinstance(slow, Infeasible):
        return slow
    tell("the fastest layout", 1 / (points + 1))
    fast = plan(replace(question, objective=Objective.LATENCY))
    assert isinstance(fast, Layout) and fast.certificate is not None
    found = {question.tpot_s: slow}
    walk = _Walk(question=question, found=found, points=points, tell=tell)
    walk.add(fast.prediction.step_s)
    walk.between(fast.prediction.step_s, slow.prediction.step_s)
    layouts = _front(walk.found, question)
    proof = slow.certificate
    assert proof is not None
    return Frontier(
        model=question.model,
        machine=slow.inputs.machine.name,
        num_chips=len(slow.ranks) + len(slow.idle_chips),
        context_tokens=question.context_tokens,
        objective=question.objective,
        points=tuple(_point(limit, own, slow) for limit, own in layouts),
        floor_s=fast.certificate.bound,
        cheapest_bound=proof.bound / proof.objective,
    )


@dataclass(kw_only=True, slots=True)
class _Walk:
    """Plans under limits between two ends."""

    question: Question
    found: dict[float | None, Layout]
    points: int
    tell: Tell

    def add(self, limit_s: float) -> None:
        """Plan under one limit; the limit is that of an existing layout, so something fits."""
        share = len(self.found) / (self.points + 1)
        self.tell(f"layouts of {limit_s * 1e3:.3g} ms per token", min(1.0, share))
        layout = plan(replace(self.question, tpot_s=limit_s))
        if isinstance(layout, Layout):
            self.found[limit_s] = layout

    def between(self, low_s: float, high_s: float) -> None:
        """Even by ratio, then in the widest gaps until there are enough different points."""
        count = self.points - len(self.found)
        ratio = (high_s / low_s) ** (1 / (count + 1))
        if ratio <= 1.0:
            return
        for place in range(1, count + 1):
            self.add(low_s * ratio**place)
        for _ in range((TRIES - 1) * self.points):
            steps = [own.prediction.step_s for _, own in _front(self.found, self.question)]
            if len(steps) >= self.points:
                return
            limit = _widest(steps, self.found)
            if limit is None:
                return
            self.add(limit)


def _widest(steps: Sequence[float], tried: dict[float | None, Layout]) -> float | None:
    """The middle of the widest gap, by ratio, in which no limit was tried yet."""
    gaps = sorted(pairwise(steps), key=lambda pair: -(pair[1] / pair[0]))
    limits = [limit for limit in tried if limit is not None]
    for low, high in gaps:
        middle = math.sqrt(low * high)
        untried = not any(low * 1.001 < limit < middle * 1.001 for limit in limits)
        if high > low * 1.02 and untried:
            return middle
    return None


def _price(layout: Layout, objective: Objective) -> float:
    """What a token costs: dollars, or chip-seconds where no price is known."""
    own = layout.prediction
    if own.usd_per_million_tokens is not None:
        return own.usd_per_million_tokens
    chips = own.chips_rented
    if objective is Objective.THROUGHPUT:
        chips = len(layout.ranks) + len(layout.idle_chips)
    return chips / own.tokens_per_s


def _merit(layout: Layout, objective: Objective) -> float:
    """What the objective maximises."""
    if objective is Objective.COST:
        return 1.0 / _price(layout, objective)
    return layout.prediction.tokens_per_s_per_chip


def _front(
    found: dict[float | None, Layout], question: Question
) -> list[tuple[float | None, Layout]]:
    """Layouts that no other one beats in both respects, fastest first."""
    order = sorted(
        found.items(),
        key=lambda item: (item[1].prediction.step_s, -_merit(item[1], question.objective)),
    )
    kept: list[tuple[float | None, Layout]] = []
    best = 0.0
    for limit, layout in order:
        merit = _merit(layout, question.objective)
        if merit > best:
            kept.append((limit, layout))
            best = merit
    return kept


def _point(limit_s: float | None, layout: Layout, cheapest: Layout) -> FrontierPoint:
    own, base, proof = layout.prediction, cheapest.prediction, layout.certificate
    assert proof is not None
    objective = Objective(layout.inputs.objective)
    return FrontierPoint(
        limit_s=limit_s,
        step_s=own.step_s,
        tokens_per_s_per_user=own.tokens_per_s_per_user,
        tokens_per_s_per_chip=own.tokens_per_s_per_chip,
        usd_per_million_tokens=own.usd_per_million_tokens,
        speed=own.tokens_per_s_per_user / base.tokens_per_s_per_user,
        price=_price(layout, objective) / _price(cheapest, objective),
        degrees=layout.degrees,
        batch=own.batch,
        gap=proof.gap,
    )
