"""The space of strategies as a table of families, so that work follows distinct shapes.

A *family* is one way to split a stage (attention, contexts, experts), to overlap and to
draft. It stands for every strategy that splits a stage like that:

    family  x  expert copies of its ``ep``  x  pipelines of the cells that the machine holds

Copies depend on ``ep`` alone and pipelines on the number of cells alone, so both are listed
once and shared. A machine of 32,768 chips has some 10^8 strategies, 10^6 families and
10^3 pipeline tables: counting is arithmetic on lengths, and only what a search looks at is
ever expanded into strategies. The sets themselves are stated in
:mod:`planner.search.strategies`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from planner.cost.routing import moe_shape
from planner.domain.degrees import OverlapMode
from planner.domain.model import MoeFfn
from planner.domain.question import permits
from planner.search.request import PlanRequest
from planner.search.strategies import (
    MAX_EXPERT_TP,
    Strategies,
    context_ways,
    draft_lengths,
    max_attn_tp,
    overlap_modes,
    pipelines,
    shares_contexts,
    slot_counts,
    stage_sizes,
    units_of,
)
from planner.topology.cell_counts import cell_counts

IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]
# Of families that survive failures: those of one replica, and those of several.
ALONE, SEVERAL = 1, 2
NUM_KINDS = 3


def spread(lengths: IntArray) -> tuple[IntArray, IntArray]:
    """For lists of these lengths behind each other: the list of every entry, its place in it."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    return owner, np.arange(len(owner)) - starts[owner]


def runs(sizes: IntArray, most: int) -> Iterator[slice]:
    """Slices of entries whose sizes add up to about ``most``, at least one entry each."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(start, end)
        start = end


@dataclass(frozen=True, kw_only=True, slots=True)
class Lists:
    """Lists of rows behind each other.

    ``rows`` has shape ``[rows, columns]``; list ``i`` has ``lengths[i]`` rows from
    ``starts[i]`` on.
    """

    rows: IntArray
    starts: IntArray
    lengths: IntArray

    @classmethod
    def of(cls, lists: Sequence[Sequence[tuple[int, ...]]], columns: int) -> Lists:
        """Join lists of rows of ``columns`` numbers."""
        lengths = np.array([len(own) for own in lists], dtype=np.int64)
        flat = [row for own in lists for row in own]
        return cls(
            rows=np.array(flat, dtype=np.int64).reshape(-1, columns),
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategySpace:
    """All strategies of a request, by family.

    Parameters
    ----------
    families : Strategies
        One row per family with one stage, one microbatch, as many replicas as cells fit, and
        one copy of every expert.
    copies, pipes : Lists
        ``num_slots`` by distinct ``ep``; ``(pp, microbatches, replicas)`` by distinct cells.
    copies_of, pipes_of : array of int, shape ``[families]``
        The lists of each family.
    """

    families: Strategies
    copies: Lists
    pipes: Lists
    copies_of: IntArray
    pipes_of: IntArray

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def counts(self) -> IntArray:
        """Strategies of each family, shape ``[families]``."""
        return self.copies.lengths[self.copies_of] * self.pipes.lengths[self.pipes_of]

    def expand(self, picked: IntArray) -> tuple[Strategies, IntArray]:
        """Strategies of some families, and the family of each; copies before pipelines."""
        owner, place = spread(self.counts[picked])
        family = picked[owner]
        pipe = self.pipes_of[family]
        copy, row = np.divmod(place, self.pipes.lengths[pipe])
        slots = self.copies.rows[self.copies.starts[self.copies_of[family]] + copy, 0]
        rows = self.pipes.rows[self.pipes.starts[pipe] + row]
        own = self.families
        return (
            Strategies(
                attn_tp=own.attn_tp[family],
                attn_dp=own.attn_dp[family],
                ep=own.ep[family],
                expert_tp=own.expert_tp[family],
                cp=own.cp[family],
                overlap=own.overlap[family],
                draft=own.draft[family],
                num_slots=slots,
                pp=rows[:, 0],
                microbatches=rows[:, 1],
                replicas=rows[:, 2],
            ),
            family,
        )

    def only(self, picked: Mask) -> StrategySpace:
        """The space of some families, of which each is in ``picked`` or not."""
        families = self.families.select(picked)
        kept = replace(
            self,
            families=families,
            copies_of=self.copies_of[picked],
            pipes_of=self.pipes_of[picked],
        )
        return _without_empty(kept)

    def first(self, picked: IntArray) -> Strategies:
        """The first strategy of some families."""
        rows = self.pipes.rows[self.pipes.starts[self.pipes_of[picked]]]
        return replace(
            self.families.select(picked),
            num_slots=self.copies.rows[self.copies.starts[self.copies_of[picked]], 0],
            pp=rows[:, 0],
            microbatches=rows[:, 1],
            replicas=rows[:, 2],
        )

    def every(self) -> Strategies:
        """All strategies; mind how many they are."""
        return self.expand(np.arange(len(self.families)))[0]

    def pipe_totals(self, values: IntArray) -> IntArray:
        """Sum over the pipelines of every family of a value per pipeline, shape ``[families]``."""
        ends = np.append(0, np.cumsum(values))
        sums = ends[self.pipes.starts + self.pipes.lengths] - ends[self.pipes.starts]
        return np.asarray(sums[self.pipes_of])

    def pipe_most(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Largest value of a pipeline in every list of them, shape ``[lists]``."""
        if not len(self.pipes.starts):
            return np.zeros(0)
        return np.asarray(np.maximum.reduceat(values, self.pipes.starts))

    def with_copies(self, picked: IntArray) -> tuple[Strategies, IntArray]:
        """Families with every number of copies, in one stage, and the family of each."""
        owner, place = spread(self.copy_counts[picked])
        family = picked[owner]
        slots = self.copies.rows[self.copies.starts[self.copies_of[family]] + place, 0]
        return replace(self.families.select(family), num_slots=slots), family

    def most_copies(self, picked: IntArray) -> Strategies:
        """Families with the largest number of copies, in one stage."""
        lists = self.copies_of[picked]
        last = self.copies.starts[lists] + self.copies.lengths[lists] - 1
        return replace(self.families.select(picked), num_slots=self.copies.rows[last, 0])

    @property
    def copy_counts(self) -> IntArray:
        """Numbers of copies of each family, shape ``[families]``."""
        return self.copies.lengths[self.copies_of]

    def description(self) -> dict[str, str]:
        """Values that each degree takes in the space, for the certificate.

        Contexts are shared under some values of ``attn_tp`` alone: those are named too.
        """
        own = self.families
        columns = {f.name: getattr(own, f.name) for f in fields(Strategies)}
        columns["num_slots"] = self.copies.rows[:, 0]
        for place, name in enumerate(("pp", "microbatches", "replicas")):
            columns[name] = self.pipes.rows[:, place]
        found = {name: write_values(np.unique(column)) for name, column in columns.items()}
        modes = [OverlapMode(mode).label for mode in np.unique(own.overlap).tolist()]
        sharing = np.unique(own.attn_tp[own.cp > 1])
        return {**found, "overlap": " | ".join(modes), "attn_tp with cp": write_values(sharing)}


def write_values(values: IntArray) -> str:
    """Write ascending values as ``1..8,12,16``."""
    if not len(values):
        return ""
    breaks = np.flatnonzero(np.diff(values) != 1) + 1
    parts = []
    for run in np.split(values, breaks):
        if len(run) > 2:
            parts.append(f"{run[0]}..{run[-1]}")
        else:
            parts.extend(map(str, run.tolist()))
    return ",".join(parts)


def _multiples(sizes: IntArray, degree: int) -> IntArray:
    return np.flatnonzero(sizes % degree == 0)


def _attention(request: PlanRequest, sizes: IntArray) -> IntArray:
    """``(index of the size, attn_tp, cp)`` of all splits of attention, sorted, shape ``[n, 3]``."""
    dense = not any(isinstance(layer.ffn, MoeFfn) for layer in request.setting.model.layers)
    most = min(max_attn_tp(request), int(sizes.max(initial=0)))
    parts = [np.empty((0, 3), dtype=np.int64)]
    for attn_tp in range(1, most + 1):
        places = _multiples(sizes, attn_tp)
        if not permits(request.limits.tp, attn_tp) or not len(places):
            continue
        shares = request.limits.cp is None and shares_contexts(request, attn_tp)
        if request.limits.cp is None and not shares:
            ways = [[1]] * len(places)
        else:
            ways = [context_ways(request, size, attn_tp, shares) for size in sizes[places].tolist()]
        if dense:
            groups = (sizes[places] // attn_tp).tolist()
            ways = [[cp for cp in own if cp == n] for own, n in zip(ways, groups, strict=True)]
        owner = np.repeat(places, [len(own) for own in ways])
        flat = np.array([cp for own in ways for cp in own], dtype=np.int64)
        parts.append(np.stack([owner, np.full(len(owner), attn_tp), flat], axis=1))
    table = np.concatenate(parts)
    return table[np.argsort(table[:, 0], kind="stable")]


def _experts(request: PlanRequest, sizes: IntArray) -> IntArray:
    """``(index of the size, ep, expert_tp)`` of all splits of experts, sorted, shape ``[n, 3]``."""
    limits = request.limits
    every = np.arange(len(sizes))
    if moe_shape(request.setting.model) is None:
        allowed = permits(limits.ep, 1) and permits(limits.expert_tp, 1)
        every = every if allowed else every[:0]
        return np.stack([every, np.ones_like(every), np.ones_like(every)], axis=1)
    parts = [np.empty((0, 3), dtype=np.int64)]
    # Wide experts first, so that groups ascend within a size.
    for expert_tp in range(MAX_EXPERT_TP, 0, -1):
        if permits(limits.expert_tp, expert_tp):
            places = _multiples(sizes, expert_tp)
            ep = sizes[places] // expert_tp
            parts.append(np.stack([places, ep, np.full(len(places), expert_tp)], axis=1))
    table = np.concatenate(parts)
    if limits.ep is not None:
        table = table[np.isin(table[:, 1], sorted(limits.ep))]
    return table[np.argsort(table[:, 0], kind="stable")]


def _copies(request: PlanRequest, keys: IntArray) -> Lists:
    """Slots per MoE layer that are worth trying, by ``NUM_KINDS ep + kind``."""
    shape = moe_shape(request.setting.model)
    found: list[list[tuple[int]]] = []
    for ep, kind in (divmod(key, NUM_KINDS) for key in keys.tolist()):
        if shape is None:
            found.append([] if kind == ALONE else [(0,)])
            continue
        counts = {*slot_counts(shape[0], ep)}
        if request.units:
            counts |= {*slot_counts(shape[0], ep, 2)}
        least = max(ep, 2 * shape[0] if kind == ALONE else 0)
        allowed = request.limits.slots
        own = [(n,) for n in sorted(counts) if n >= least and permits(allowed, n)]
        found.append(own)
    return Lists.of(found, 1)


def _pipes(request: PlanRequest, keys: Iterable[tuple[int, int, int]]) -> Lists:
    """Pipelines by cells, ``attn_dp`` where it counts, and kind."""
    found = []
    for cells, attn_dp, kind in keys:
        rows = pipelines(request, cells, attn_dp)
        found.append([row for row in rows if not kind or (row[2] == 1) == (kind == ALONE)])
    return Lists.of(found, 3)


def _kinds(request: PlanRequest, attn_dp: IntArray) -> tuple[IntArray, IntArray]:
    """Row and kind of every split; one that survives failures is of two kinds.

    Alone it needs two attention groups and two copies of every expert, beside other replicas
    neither.
    """
    rows = np.arange(len(attn_dp))
    if not request.units:
        return rows, np.zeros_like(rows)
    alone = rows[attn_dp > 1]
    kinds = np.concatenate([np.full_like(alone, ALONE), np.full_like(rows, SEVERAL)])
    return np.concatenate([alone, rows]), kinds


def _join(attention: IntArray, experts: IntArray, num_sizes: int) -> tuple[IntArray, IntArray]:
    """Rows of both tables that belong to one size: every pair of them."""
    per_size = np.bincount(experts[:, 0], minlength=num_sizes)
    starts = np.cumsum(per_size) - per_size
    left, place = spread(per_size[attention[:, 0]])
    return left, starts[attention[left, 0]] + place


def _habits(
    request: PlanRequest, columns: dict[str, IntArray]
) -> tuple[IntArray, IntArray, IntArray]:
    """Row, overlap mode and draft of every split with every way to overlap and to draft."""
    dense = moe_shape(request.setting.model) is None
    drafts = np.array(draft_lengths(request), dtype=np.int64)
    axes = np.where(columns["attn_tp"] > 1, int(OverlapMode.TP), 0)
    if not dense:
        apart = columns["attn_dp"] * columns["cp"] > 1
        axes = axes | np.where(apart, int(OverlapMode.EP), 0)
    modes = [[int(mode) for mode in overlap_modes(request, own)] for own in OverlapMode]
    # Halves of a rank's fraction of a prompt's token would make steps jump.
    plain = [[mode for mode in own if mode == int(OverlapMode.NONE)] for own in modes]
    most_halved = request.setting.new_tokens or math.inf
    whole = (columns["cp"] > 1) & (columns["cp"] >= most_halved)
    table = Lists.of([[(mode,) for mode in own] for own in (*modes, *plain)], 1)
    kind = axes + np.where(whole, len(modes), 0)
    row, place = spread(table.lengths[kind])
    mode = table.rows[table.starts[kind[row]] + place, 0]
    count = len(drafts)
    return np.repeat(row, count), np.repeat(mode, count), np.tile(drafts, len(row))


def strategy_space(request: PlanRequest) -> StrategySpace:
    """All strategies of a request.

    Returns
    -------
    StrategySpace
        Possibly empty, when the limits exclude everything.
    """
    sizes = np.array(stage_sizes(request), dtype=np.int64)
    attention, experts = _attention(request, sizes), _experts(request, sizes)
    left, right = _join(attention, experts, len(sizes))
    size, attn_tp, cp = sizes[attention[left, 0]], attention[left, 1], attention[left, 2]
    columns = {
        "attn_tp": attn_tp,
        "cp": cp,
        "attn_dp": size // (attn_tp * cp),
        "ep": experts[right, 1],
        "expert_tp": experts[right, 2],
    }
    unit = units_of(attn_tp, columns["expert_tp"], request.topology.largest_open)
    fits = (unit > 0) & (size % np.maximum(unit, 1) == 0)
    cells = np.zeros(len(size), dtype=np.int64)
    cells[fits] = cell_counts(request.topology, size[fits], unit[fits])
    kept = np.flatnonzero(cells > 0)
    columns, cells = {name: column[kept] for name, column in columns.items()}, cells[kept]
    row, columns["overlap"], columns["draft"] = _habits(request, columns)
    given = ("overlap", "draft")
    columns = {n: own if n in given else own[row] for n, own in columns.items()}
    cells = cells[row]
    row, kind = _kinds(request, columns["attn_dp"])
    columns, cells = {name: column[row] for name, column in columns.items()}, cells[row]
    copy_keys, copies_of = np.unique(columns["ep"] * NUM_KINDS + kind, return_inverse=True)
    dp = columns["attn_dp"] if request.limits.dp else np.zeros_like(cells)
    span = int(dp.max(initial=0)) + 1
    keys, pipes_of = np.unique((cells * span + dp) * NUM_KINDS + kind, return_inverse=True)
    pairs = [divmod(key, NUM_KINDS) for key in keys.tolist()]
    ones = np.ones_like(cells)
    shape = moe_shape(request.setting.model)
    families = Strategies(
        **columns,
        num_slots=ones * (0 if shape is None else shape[0]),
        pp=ones,
        microbatches=ones,
        replicas=cells,
    )
    copies = _copies(request, copy_keys)
    pipes = _pipes(request, [(*divmod(pair, span), own) for pair, own in pairs])
    space = StrategySpace(
        families=families, copies=copies, pipes=pipes, copies_of=copies_of, pipes_of=pipes_of
    )
    return _without_empty(space)


def _without_empty(space: StrategySpace) -> StrategySpace:
    """Only families and lists that hold something, so that lists can be reduced."""
    kept = np.flatnonzero(space.counts > 0)

    def used(lists: Lists, of: IntArray) -> tuple[Lists, IntArray]:
        picked, inverse = np.unique(of[kept], return_inverse=True)
        owner, place = spread(lists.lengths[picked])
        lengths = lists.lengths[picked]
        rows = lists.rows[lists.starts[picked][owner] + place]
        return Lists(rows=rows, starts=np.cumsum(lengths) - lengths, lengths=lengths), inverse

    copies, copies_of = used(space.copies, space.copies_of)
    pipes, pipes_of = used(space.pipes, space.pipes_of)
    return StrategySpace(
        families=space.families.select(kept),
        copies=copies,
        pipes=pipes,
        copies_of=copies_of,
        pipes_of=pipes_of,
    )
