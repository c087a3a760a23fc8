"""Forms of a worker, and the rate of the best layout of each.

All strategies of one phase are bounded at once, each as one worker on a block of sound domains;
those of a form are solved in order of their bound, when the form is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from planner.cost.block import ceil_div
from planner.search.batch_bounds import BoundTable
from planner.search.frontier import bounded
from planner.search.mesh import MeshMapper
from planner.search.request import PlanRequest
from planner.search.solve import Solved, StrategySolver
from planner.search.space import StrategySpace, strategy_space
from planner.search.splits import stage_chips
from planner.search.strategies import Strategies

# The rest of a form's strategies may be better than its best one by this share of the gap.
TOLERANCE = 0.25


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Form:
    """Room of one worker: ``stages`` times ``pieces`` domains with ``piece`` chips in each."""

    piece: int
    pieces: int
    stages: int

    @property
    def num_pieces(self) -> int:
        """Pieces of the worker."""
        return self.pieces * self.stages

    @property
    def chips(self) -> int:
        """Chips of the worker."""
        return self.piece * self.num_pieces


@dataclass(frozen=True, kw_only=True, slots=True)
class FormBest:
    """The best layout of a form that was found.

    Parameters
    ----------
    solved : Solved, optional
        None when none meets the limits, or none was needed.
    rate : float
        Its requests per second.
    """

    solved: Solved | None
    rate: float


@dataclass(slots=True)
class _Progress:
    """Strategies of a form that were taken, the best of them, and a bound of all of them."""

    taken: int = 0
    best: Solved | None = None
    rate: float = 0.0
    bound: float = 0.0


def piece_of(size: int, largest: int) -> tuple[int, int]:
    """Chips in each domain of a stage of ``size``, and how many domains; 0 chips if uneven."""
    domains = ceil_div(size, largest)
    return (size // domains, domains) if size % domains == 0 else (0, domains)


@dataclass(slots=True)
class FormTable:
    """Forms of the workers of one phase.

    Parameters
    ----------
    request : PlanRequest
        On the block, with one replica.
    per_request : float
        Tokens of the phase per request.
    space : StrategySpace
        All strategies; ``strategies`` and ``table`` are those that may meet the limits.
    infeasible : (int, int)
        Strategies of the space over memory, and those that are too slow alone.
    by_form : mapping
        Strategies of every form, best bound first.
    rate_bounds : mapping
        Requests per second that no worker of the form exceeds; falls as forms are solved.
    """

    request: PlanRequest
    per_request: float
    space: StrategySpace
    strategies: Strategies
    table: BoundTable
    infeasible: tuple[int, int]
    by_form: dict[Form, NDArray[np.int64]]
    rate_bounds: dict[Form, float]
    num_solved: int = 0
    _progress: dict[tuple[Form, float], _Progress] = field(default_factory=dict)
    _mapper: MeshMapper | None = None
    _solvers: dict[float | None, StrategySolver] = field(default_factory=dict)
    _solved: dict[tuple[int, float | None], Solved | None] = field(default_factory=dict)

    @classmethod
    def of(cls, request: PlanRequest, per_request: float) -> FormTable:
        """Bound every strategy of a phase."""
        every = strategy_space(request)
        largest = request.topology.largest_open
        space = every.only(_is_even(every.families, largest))
        mapper = MeshMapper.of(request.topology)
        strategies, table, infeasible = bounded(request, mapper, space)
        by_form, rates = _forms(strategies, table, largest)
        return cls(
            request=request,
            per_request=per_request,
            space=space,
            strategies=strategies,
            table=table,
            infeasible=infeasible,
            by_form=by_form,
            rate_bounds={form: rate / per_request for form, rate in rates.items()},
            _mapper=mapper,
        )

    def best(
        self,
        form: Form,
        limit_of: Callable[[Solved], float | None],
        needed: float,
        key: float = 0.0,
    ) -> FormBest:
        """Solve strategies of a form in order of bound until none can be better, or be needed.

        Parameters
        ----------
        limit_of : callable
            The longest step of a solved layout; one that is slower is solved again under it.
        needed : float
            Requests per second below which a worker of the form is of no use.
        key : float
            What ``limit_of`` depends on: progress under equal keys is kept.
        """
        so_far = self._progress.setdefault((form, key), _Progress())
        loose = 1.0 + TOLERANCE * self.request.gap
        order = self.by_form[form]
        while so_far.taken < len(order):
            index = int(order[so_far.taken])
            optimistic = form.chips / float(self.table.objective[index]) / self.per_request
            if optimistic <= max(so_far.rate * loose, needed):
                break
            so_far.taken += 1
            quick = min(optimistic, self._beyond(index))
            if quick <= max(so_far.rate * loose, needed):
                so_far.bound = max(so_far.bound, quick)
                continue
            tight = self._tightened(index, optimistic)
            so_far.bound = max(so_far.bound, tight)
            if tight <= so_far.rate * loose:
                continue
            solved = self._within(index, limit_of)
            own = 0.0 if solved is None else solved.prediction.tokens_per_s / self.per_request
            if own > so_far.rate:
                so_far.best, so_far.rate = solved, own
        bound = max(so_far.bound, so_far.rate)
        if so_far.taken < len(order):
            ahead = float(self.table.objective[int(order[so_far.taken])])
            bound = max(bound, form.chips / ahead / self.per_request)
        self.rate_bounds[form] = min(self.rate_bounds[form], bound)
        return FormBest(solved=so_far.best, rate=so_far.rate)

    def _within(self, index: int, limit_of: Callable[[Solved], float | None]) -> Solved | None:
        solved = self._solve(index, self.request.step_limit_s)
        limit = None if solved is None else limit_of(solved)
        if solved is None or limit is None or solved.prediction.step_s <= limit:
            return solved
        return self._solve(index, limit) if limit > 0 else None

    def _solver(self, limit: float | None) -> StrategySolver:
        if limit not in self._solvers:
            assert self._mapper is not None
            own = replace(self.request, step_limit_s=limit)
            self._solvers[limit] = StrategySolver(own, self._mapper)
        return self._solvers[limit]

    def _solve(self, index: int, limit: float | None) -> Solved | None:
        key = (index, limit)
        if key not in self._solved:
            degrees, most = self.strategies.degrees(index), int(self.table.most[index])
            self._solved[key] = self._solver(limit).solve(degrees, most)
            self.num_solved += 1
        return self._solved[key]

    def _beyond(self, index: int) -> float:
        """Requests per second that no layout of a strategy exceeds, found quickly."""
        solver = self._solver(self.request.step_limit_s)
        found = solver.rate_beyond(self.strategies.degrees(index), int(self.table.most[index]))
        return found * self.request.setting.sequence_tokens / self.per_request

    def _tightened(self, index: int, optimistic: float) -> float:
        """Requests per second that no layout of a strategy exceeds."""
        degrees = self.strategies.degrees(index)
        value = self._solver(self.request.step_limit_s).bound(degrees, int(self.table.most[index]))
        if value is None:
            return 0.0
        return min(optimistic, degrees.chips_used / value / self.per_request)


def _is_even(strategies: Strategies, largest: int) -> NDArray[np.bool_]:
    """Strategies whose stages have equal pieces of whole units in every domain."""
    size = stage_chips(strategies)
    domains = -(-size // largest)
    unit = np.lcm(strategies.attn_tp, strategies.expert_tp)
    # Groups that exceed a domain span whole pieces; the unit is then that of the other group.
    smaller = np.minimum(strategies.attn_tp, strategies.expert_tp)
    unit = np.where(unit > largest, np.where(smaller <= largest, smaller, 1), unit)
    even: NDArray[np.bool_] = (size % domains == 0) & (size // domains % unit == 0)
    return np.where(domains == 1, True, even)


def _forms(
    strategies: Strategies, table: BoundTable, largest: int
) -> tuple[dict[Form, NDArray[np.int64]], dict[Form, float]]:
    """Strategies by form, best first, and the most tokens per second of each."""
    possible = np.flatnonzero(np.isfinite(table.objective))
    order = possible[np.argsort(table.objective[possible], kind="stable")]
    size, stages = stage_chips(strategies)[order], strategies.pp[order]
    code = size * (int(stages.max(initial=0)) + 1) + stages
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    by_kind = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(first)))
    found: dict[Form, NDArray[np.int64]] = {}
    rates: dict[Form, float] = {}
    for kind, start in enumerate(first.tolist()):
        piece, pieces = piece_of(int(size[start]), largest)
        form = Form(piece=piece, pieces=pieces, stages=int(stages[start]))
        own = order[by_kind[ends[kind - 1] if kind else 0 : ends[kind]]]
        found[form] = own
        rates[form] = form.chips / float(table.objective[own[0]])
    return found, rates
