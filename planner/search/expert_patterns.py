"""Exact placement for loads of few distinct values, by counting patterns in CP-SAT.

Chips of one size are interchangeable, and so are experts of one load: a solution is described
by how many chips hold each multiset of pieces.

Sets        values v (distinct loads), copies r in k_v .. k_v + span - 1 (k_v: fewest copies
            below the known load), classes (v, r) of pieces, chip kinds k (distinct sizes),
            patterns p of kind k: a_p(v, r) pieces of each class, at most c_k in total
Data        N_v experts of value v, G_k chips of kind k, load_p = sum a_p(v, r) w_v / r
Variables   n(v, r)  experts of value v with r copies
            m(v)     experts of value v with k_v + span copies or more
            y(p)     chips that hold pattern p
            T        load of the hottest chip
Objective   least T

Constraints
    experts    sum_r n(v, r) + m(v) = N_v
    pieces     sum_p a_p(v, r) y(p) = r n(v, r)
    chips      sum_{p of kind k} y(p) = G_k
    many       sum_p empty_p y(p) >= sum_v (k_v + span) m(v)
    distinct   y(p) > 0  =>  n(v, r) >= a_p(v, r)             r >= 2
    hottest    y(p) > 0  =>  T >= load_p
    full       y(p) = 0 where empty_p > 0                     (placement only)
    total      sum_k G_k T >= sum_p load_p y(p) + sum_v w_v m(v)

The model is solved twice. With ``m = 0`` and every slot filled its solution is a placement
(the search counts all slots as copies that are read). With ``m`` free it is
a relaxation (those experts fill slots, but only the total feels their load), so that its
optimum is a lower bound for every number of copies.

Loads are rounded down to integer ticks, hence so is the bound.

*Distinct* suffices: hand the pieces of class (v, r) to its n experts in turn, chip after
chip. A chip takes at most n in a row, all different, and every expert ends with r copies.

The bound holds for even splits (the engines' rule), not for uneven ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb
from typing import Any

import numpy as np

from planner.search.expert_bounds import FloatArray, IntArray

_MAX_VALUES = 4
_MAX_PATTERNS = 400
_MAX_SPAN = 4
_SAME = 1e-12
_DETERMINISTIC_TIME = 0.5
_TICKS = 1 << 24
_CLOSED = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class PatternResult:
    """Better slots (``num_experts`` when empty), or None; and a proven bound."""

    slots: IntArray | None
    bound: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """Answer of CP-SAT: bound (infinite when infeasible), and n and y when solved."""

    bound: float
    experts: IntArray | None
    chips: IntArray | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Instance:
    """Data of the model.

    ``class_value[q]``, ``class_copies[q]`` describe piece class q; ``pieces[p]`` counts the
    pieces of each class in pattern p and ``kind[p]`` is its chip size.
    """

    counts: IntArray
    first_copies: IntArray
    span: int
    class_value: IntArray
    class_copies: IntArray
    sizes: IntArray
    num_chips: IntArray
    pieces: IntArray
    kind: IntArray
    loads: FloatArray
    values: FloatArray
    tick: float


def solve_patterns(
    loads_row: FloatArray, caps: IntArray, *, lower: float, upper: float
) -> PatternResult:
    """Look for a placement below ``upper``, or prove that there is none.

    Parameters
    ----------
    loads_row : array, shape ``[num_experts]``
        Loads in descending order.
    caps : int array, shape ``[num_chips]``
    lower, upper : float
        Proven bound and load of a known placement.

    Returns
    -------
    PatternResult
        ``slots`` is None when nothing better was found; ``bound`` is at least ``lower``.
        Instances with many distinct loads or patterns are returned unsolved.
    """
    instance = _build(loads_row, caps, upper)
    if instance is None:
        return PatternResult(slots=None, bound=lower)
    if not len(instance.loads):
        return PatternResult(slots=None, bound=upper)
    return _solve(instance, caps, lower, upper)


def _distinct_values(loads_row: FloatArray) -> tuple[FloatArray, IntArray] | None:
    """Values and multiplicities of descending loads; None when there are too many."""
    tolerance = _SAME * float(loads_row[0])
    starts = np.concatenate([[0], np.flatnonzero(-np.diff(loads_row) > tolerance) + 1])
    if len(starts) > _MAX_VALUES or loads_row[-1] <= 0:
        return None
    return loads_row[starts], np.diff(np.append(starts, len(loads_row)))


def _build(loads_row: FloatArray, caps: IntArray, upper: float) -> _Instance | None:
    """Enumerate piece classes and patterns lighter than ``upper``; None when too many."""
    found = _distinct_values(loads_row)
    if found is None:
        return None
    values, counts = found
    limit = upper * (1 - 1e-9)
    first = np.maximum(np.ceil(values / limit - 1e-9), 1).astype(np.int64)
    spare = int(caps.sum()) - int((counts * first).sum())
    if spare < 0:
        return None
    widest = int(caps.max())
    for span in range(min(_MAX_SPAN, spare + 1, len(caps)), 0, -1):
        if comb(len(values) * span + widest, widest) <= _MAX_PATTERNS:
            break
    else:
        return None
    class_value = np.repeat(np.arange(len(values)), span)
    class_copies = (first[:, None] + np.arange(span)).ravel()
    sizes, num_chips = np.unique(caps, return_counts=True)
    size = values[class_value] / class_copies
    pieces, kind = _patterns(len(size), sizes)
    loads: FloatArray = pieces.astype(np.float64) @ size
    keep = loads < limit
    pieces, kind, loads = pieces[keep], kind[keep], loads[keep]
    return _Instance(
        counts=counts, first_copies=first, span=span, class_value=class_value,
        class_copies=class_copies, sizes=sizes, num_chips=num_chips, pieces=pieces, kind=kind,
        loads=loads, values=values, tick=upper / _TICKS,
    )  # fmt: skip


def _patterns(num_classes: int, sizes: IntArray) -> tuple[IntArray, IntArray]:
    """All multisets of at most ``size`` classes, for every chip size."""
    pieces, kind = [], []
    for position, size in enumerate(sizes.tolist()):
        # Class number num_classes stands for an empty slot.
        for chosen in combinations_with_replacement(range(num_classes + 1), size):
            pieces.append(np.bincount(chosen, minlength=num_classes + 1)[:num_classes])
            kind.append(position)
    return np.array(pieces, dtype=np.int64), np.array(kind, dtype=np.int64)


class _Model:
    """The CP-SAT model; one method per constraint."""

    def __init__(self, instance: _Instance) -> None:
        # Importing CP-SAT takes a quarter of a second: only instances that need it pay.
        from ortools.sat.python import cp_model

        self.data = instance
        self.cp: Any = cp_model
        self.model: Any = cp_model.CpModel()
        total_chips = int(instance.num_chips.sum())
        experts = instance.counts.tolist()
        self.n = [
            self.model.new_int_var(0, experts[v], f"n{q}")
            for q, v in enumerate(instance.class_value.tolist())
        ]
        self.m = [self.model.new_int_var(0, count, f"m{v}") for v, count in enumerate(experts)]
        num_patterns = len(instance.kind)
        self.y = [self.model.new_int_var(0, total_chips, f"y{p}") for p in range(num_patterns)]
        self.used = [self.model.new_bool_var(f"u{p}") for p in range(num_patterns)]
        self.t = self.model.new_int_var(0, _TICKS, "T")
        for y, used in zip(self.y, self.used, strict=True):
            self.model.add(y == 0).only_enforce_if(~used)

    def experts(self) -> None:
        """``sum_r n(v, r) + m(v) = N_v``."""
        for value, count in enumerate(self.data.counts.tolist()):
            own = [self.n[q] for q in np.flatnonzero(self.data.class_value == value)]
            self.model.add(sum(own) + self.m[value] == count)

    def pieces(self) -> None:
        """``sum_p a_p(v, r) y(p) = r n(v, r)``."""
        for q, copies in enumerate(self.data.class_copies.tolist()):
            placed = self._weighted(self.data.pieces[:, q])
            self.model.add(placed == copies * self.n[q])

    def chips(self) -> None:
        """``sum_{p of kind k} y(p) = G_k``."""
        for kind, count in enumerate(self.data.num_chips.tolist()):
            self.model.add(self._weighted((self.data.kind == kind).astype(np.int64)) == count)

    def many(self) -> None:
        """``sum_p empty_p y(p) >= sum_v (k_v + span) m(v)``."""
        empty = self.data.sizes[self.data.kind] - self.data.pieces.sum(axis=1)
        most = (self.data.first_copies + self.data.span).tolist()
        needed = sum(k * m for k, m in zip(most, self.m, strict=True))
        self.model.add(self._weighted(empty) >= needed)

    def distinct(self) -> None:
        """``y(p) > 0  =>  n(v, r) >= a_p(v, r)`` for r >= 2."""
        for p, q in np.argwhere(self.data.pieces > 1).tolist():
            if self.data.class_copies[q] > 1:
                count = int(self.data.pieces[p, q])
                self.model.add(self.n[q] >= count).only_enforce_if(self.used[p])

    def hottest(self) -> None:
        """``y(p) > 0  =>  T >= load_p``."""
        for used, load in zip(self.used, self._ticks(self.data.loads), strict=True):
            self.model.add(self.t >= load).only_enforce_if(used)

    def full(self) -> None:
        """``y(p) = 0`` for patterns with an empty slot, and ``m = 0``: a whole placement."""
        empty = self.data.sizes[self.data.kind] - self.data.pieces.sum(axis=1)
        for p in np.flatnonzero(empty > 0).tolist():
            self.model.add(self.y[p] == 0)
        self.model.add(sum(self.m) == 0)

    def total(self) -> None:
        """``sum_k G_k T >= sum_p load_p y(p) + sum_v w_v m(v)``."""
        weights = self._ticks(self.data.values)
        light = sum(w * m for w, m in zip(weights, self.m, strict=True))
        placed = self.cp.LinearExpr.weighted_sum(self.y, self._ticks(self.data.loads))
        self.model.add(int(self.data.num_chips.sum()) * self.t >= placed + light)

    def least_hottest(self) -> None:
        """Minimise T."""
        self.model.minimize(self.t)

    def _ticks(self, loads: FloatArray) -> list[int]:
        ticks: list[int] = np.floor(loads / self.data.tick).astype(np.int64).tolist()
        return ticks

    def _weighted(self, weights: IntArray) -> Any:
        nonzero = np.flatnonzero(weights)
        chosen = [self.y[p] for p in nonzero]
        return self.cp.LinearExpr.weighted_sum(chosen, weights[nonzero].tolist())


def _run(instance: _Instance, floor: float, *, allow_many: bool) -> _Run:
    """Run CP-SAT with one worker and a fixed seed; ``floor`` is a proven bound."""
    model = _Model(instance)
    model.experts()
    model.pieces()
    model.chips()
    model.many()
    model.distinct()
    model.hottest()
    model.total()
    model.least_hottest()
    model.model.add(model.t >= int(floor / instance.tick))
    if not allow_many:
        model.full()
    solver = model.cp.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = _DETERMINISTIC_TIME
    status = solver.solve(model.model)
    if status == model.cp.INFEASIBLE:
        return _Run(bound=np.inf, experts=None, chips=None)
    if status not in (model.cp.OPTIMAL, model.cp.FEASIBLE):
        return _Run(bound=0.0, experts=None, chips=None)
    return _Run(
        bound=int(solver.best_objective_bound) * instance.tick,
        experts=np.array([solver.value(n) for n in model.n], dtype=np.int64),
        chips=np.array([solver.value(y) for y in model.y], dtype=np.int64),
    )


def _solve(instance: _Instance, caps: IntArray, lower: float, upper: float) -> PatternResult:
    """Solve without experts of many copies for a placement, then with them for a bound."""
    slots, reached = None, upper
    run = _run(instance, lower, allow_many=False)
    if run.experts is not None and run.chips is not None:
        slots = _unfold(instance, caps, run.experts, run.chips)
        reached = float(instance.loads[run.chips > 0].max())
    if reached <= lower * (1 + _CLOSED):
        return PatternResult(slots=slots, bound=lower)
    relaxed = _run(instance, lower, allow_many=True)
    return PatternResult(slots=slots, bound=max(lower, min(relaxed.bound, reached)))


def _unfold(instance: _Instance, caps: IntArray, experts: IntArray, chips: IntArray) -> IntArray:
    """Number chips and experts: pieces of a class go to its experts in turn."""
    num_experts = int(instance.counts.sum())
    slots = np.full((len(caps), int(caps.max())), num_experts, dtype=np.int64)
    # Loads are in descending order, so value v owns a range of expert numbers.
    next_expert = np.concatenate([[0], np.cumsum(instance.counts)])
    first = np.zeros(len(experts), dtype=np.int64)
    # Most copies first: the heaviest experts get them when the loads are not quite equal.
    for q in reversed(range(len(experts))):
        value = int(instance.class_value[q])
        first[q] = next_expert[value]
        next_expert[value] += experts[q]
    patterns = np.repeat(np.arange(len(chips)), chips)
    dealt = np.zeros(len(experts), dtype=np.int64)
    for kind, size in enumerate(instance.sizes.tolist()):
        own = patterns[instance.kind[patterns] == kind]
        for chip, pattern in zip(np.flatnonzero(caps == size), own, strict=True):
            place = 0
            for q, count in enumerate(instance.pieces[pattern].tolist()):
                for _ in range(count):
                    slots[chip, place] = first[q] + dealt[q] % experts[q]
                    dealt[q] += 1
                    place += 1
    return slots
