"""Optimistic link prices of many strategies at once, by what each price depends on.

On machines of flat domains (:func:`planner.search.mapping.is_flat`) without oversubscribed
leaves the price of an axis depends on a few numbers, and whole arrays are priced at once:

    group within a domain           its chips
    expert groups of a whole stage  chips, largest and smallest piece of the level split
    other groups over domains       chips: they lie in ceil(chips / domain) domains at least

On other machines :class:`planner.search.mesh.MeshMapper` prices every different split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.cost.fabric import library_gap_s, shape_rate
from planner.cost.price import FabricRates, LinkRate, join_rates, merge_rates, stack_rates
from planner.cost.runs.inference_engine import planned_engine
from planner.domain.curves import Op
from planner.search.mapping import can_share, is_flat, least_piece, split_load
from planner.search.mesh import MeshMapper, ops_by_axis
from planner.search.splits import SPLIT_FIELDS, codes, distinct, stage_chips
from planner.search.strategies import Strategies, units_of
from planner.topology.cell_counts import cell_counts
from planner.topology.closed_forms import (
    exchange_between_domains,
    inside_exchange,
    least_between_domains,
)
from planner.topology.graph import Topology
from planner.topology.groups import GroupShape, cell_room
from planner.topology.rate import ArrayRate

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
# Different prices of an axis, and which of them each strategy pays.
Priced = tuple[Ints, dict[Op, LinkRate]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RateTable:
    """Prices of every axis, and which of them each strategy pays.

    ``rates`` are arrays over the different prices of their axis; ``codes`` maps an axis to the
    price of each strategy, shape ``[strategies]``.
    """

    rates: FabricRates
    codes: Mapping[str, Ints]

    def select(self, picked: Ints | NDArray[np.bool_]) -> RateTable:
        """Those of a subset of the strategies, or of more with the prices of some."""
        return RateTable(
            rates=self.rates, codes={axis: own[picked] for axis, own in self.codes.items()}
        )

    def expand(self) -> FabricRates:
        """Prices of every axis, each an array over the strategies."""
        return {key: rate.pick(self.codes[key[0]]) for key, rate in self.rates.items()}


def strategy_rates(mapper: MeshMapper, strategies: Strategies) -> RateTable:
    """Optimistic prices of all axes for every strategy."""
    pricer = _Pricer(mapper, strategies)
    found: dict[str, Ints] = {}
    rates: dict[tuple[str, Op], LinkRate] = {}
    for axis in ops_by_axis(mapper.topology):
        found[axis], own = pricer.axis(axis)
        rates.update({(axis, op): rate for op, rate in own.items()})
    sizes, found["pp"] = distinct(stage_chips(strategies))
    rates["pp", Op.SEND_RECV] = _stacked([mapper.optimistic_hop(n) for n in sizes.tolist()])
    table = RateTable(rates=rates, codes=found)
    return _crowded(mapper.topology, strategies, table) if can_share(mapper.topology) else table


class _Pricer:
    """Prices the axes of many strategies."""

    def __init__(self, mapper: MeshMapper, strategies: Strategies) -> None:
        self.mapper = mapper
        self.topology = mapper.topology
        self.strategies = strategies
        self.size = stage_chips(strategies)
        self.largest = self.topology.largest_open
        self.is_flat = is_flat(self.topology)
        fabric = self.topology.spec.scale_out
        self.has_closed_forms = (
            self.is_flat and fabric is not None and self.topology.contention <= 1
        )

    def axis(self, axis: str) -> Priced:
        """Prices of one axis, operation by operation."""
        own: Ints = getattr(self.strategies, axis, self.strategies.ep)
        near = np.full(len(own), self.is_flat and axis in SPLIT_FIELDS)
        if axis in ("ep", "cp"):
            near &= (self.size <= self.largest) | (own == 1)
        near &= own <= self.largest
        parts = [(near, self._near(axis, own[near]))]
        left = ~near
        if self.has_closed_forms and axis == "ep":
            whole = left & self._is_whole()
            parts.append((whole, self._exchanges(np.flatnonzero(whole))))
            left &= ~whole
        if self.has_closed_forms and axis in SPLIT_FIELDS and axis != "cp":
            parts.append((left, self._over_domains(axis, own[left])))
        else:
            parts.append((left, self._one_by_one(axis, np.flatnonzero(left))))
        return _joined([part for part in parts if part[0].any()], ops_by_axis(self.topology)[axis])

    def _is_whole(self) -> Mask:
        """Strategies whose expert groups are a whole stage, strided by units of a domain."""
        own = self.strategies
        unit = units_of(own.attn_tp, own.expert_tp, self.largest)
        return np.asarray((own.ep * own.expert_tp == self.size) & (unit % own.expert_tp == 0))

    def _within(self, op: Op, size: int) -> LinkRate:
        return shape_rate(self.topology, op, GroupShape(pieces=(size,)))

    def _near(self, axis: str, own: Ints) -> Priced:
        """Groups within a flat domain: all that counts is how many chips they have."""
        sizes, code = distinct(own)
        return code, {
            op: _stacked([self._within(op, size) for size in sizes.tolist()])
            for op in ops_by_axis(self.topology)[axis]
        }

    def _exchanges(self, rows: Ints) -> Priced:
        """Expert groups over several domains, in pieces as level as can be.

        No cell has fewer pieces, and none of as many a larger smallest one; see
        :func:`planner.search.mapping.level_split`.
        """
        expert_tp, ep = self.strategies.expert_tp[rows], self.strategies.ep[rows]
        unit = units_of(self.strategies.attn_tp[rows], expert_tp, self.largest)
        widest = max(len(domain) for domain in cell_room(self.topology))
        need = self.size[rows] // unit
        domains = -(-need // np.maximum(widest // unit, 1))
        most = -(-need // domains) * unit // expert_tp
        least = need // domains * unit // expert_tp
        span = self.largest + 1
        _, first, code = np.unique(
            (ep * span + most) * span + least, return_index=True, return_inverse=True
        )
        ep, most, least = ep[first], most[first], least[first]
        pieces, piece = distinct(most)
        found = {}
        for op in ops_by_axis(self.topology)["ep"]:
            inside = [inside_exchange(self.topology, op, size) for size in pieces.tolist()]
            parts = (least, most, np.array(inside, dtype=float)[piece])
            found[op] = self._library(exchange_between_domains(self.topology, op, ep, parts))
        return code.astype(np.int64), found

    def _over_domains(self, axis: str, own: Ints) -> Priced:
        """Groups of which no more is known than how many domains they need at least."""
        sizes, code = distinct(own)
        found = {}
        for op in ops_by_axis(self.topology)[axis]:
            rates = least_between_domains(self.topology, op, sizes, self.largest)
            far = self._library(rates)
            every = [far.pick(np.array(place)) for place in range(len(sizes))]
            found[op] = _stacked(
                [
                    merge_rates([rate, self._within(op, size)], min)
                    if size <= self.largest
                    else rate
                    for rate, size in zip(every, sizes.tolist(), strict=True)
                ]
            )
        return code, found

    def _library(self, rate: ArrayRate) -> LinkRate:
        gap = library_gap_s(planned_engine(self.topology.chip))
        return LinkRate(
            latency_s=rate.latency_s + gap, s_per_byte=rate.s_per_byte, fill_s=rate.fill_s
        )

    def _one_by_one(self, axis: str, rows: Ints) -> Priced:
        """Other groups: one price for all strategies that split a stage alike."""
        splits = self.strategies.select(rows)
        code = codes([getattr(splits, name) for name in SPLIT_FIELDS])
        _, first, code = np.unique(code, return_index=True, return_inverse=True)
        rates = [self.mapper.axis_rates(splits.degrees(int(index)), axis) for index in first]
        ops = ops_by_axis(self.topology)[axis]
        if not rates:
            return code, {op: _stacked([]) for op in ops}
        columns = zip(*rates, strict=True)
        return code, {op: _stacked(own) for op, own in zip(ops, columns, strict=True)}


def _stacked(rates: Sequence[LinkRate]) -> LinkRate:
    none = np.empty(0)
    return stack_rates(rates) if rates else LinkRate(latency_s=none, s_per_byte=none, fill_s=none)


def _joined(parts: Sequence[tuple[Mask, Priced]], ops: Sequence[Op]) -> Priced:
    """One table from tables of disjoint sets of strategies."""
    if len(parts) == 1:
        return parts[0][1]
    if not parts:
        return np.empty(0, dtype=np.int64), {op: _stacked([]) for op in ops}
    code = np.zeros(len(parts[0][0]), dtype=np.int64)
    start = 0
    for mask, (own, _) in parts:
        code[mask] = start + own
        start += int(own.max()) + 1
    return code, {op: join_rates([rates[op] for _, (_, rates) in parts]) for op in ops}


def _crowded(topology: Topology, strategies: Strategies, table: RateTable) -> RateTable:
    """Prices of their own for strategies with more cells than there are whole ones.

    One cell at least is then split in two, or takes a smaller piece than it would alone.
    """
    units = np.lcm(strategies.attn_tp, strategies.expert_tp)
    size = stage_chips(strategies)
    may_share = (units <= topology.largest_open) & (strategies.cp == 1)
    may_share &= size == strategies.ep * strategies.expert_tp
    rows = np.flatnonzero(may_share)
    whole = cell_counts(topology, size[rows], units[rows])
    crowded = strategies.pp[rows] * strategies.replicas[rows] > whole
    rows, whole = rows[crowded], whole[crowded]
    if not len(rows):
        return table
    pairs, first, pair = np.unique(
        np.stack([size[rows], units[rows]]), axis=1, return_index=True, return_inverse=True
    )
    cells = list(zip(pairs.T.tolist(), whole[first].tolist(), strict=True))
    pieces = [(cell, least_piece(topology, (cell[0], cell[1]), n + 1)) for cell, n in cells]
    base, loaded, code = _pairs(table.codes["ep"][rows], pair.reshape(-1))
    rates = dict(table.rates)
    num_plain = 0
    for (axis, op), own in table.rates.items():
        if axis != "ep":
            continue
        num_plain = len(np.asarray(own.latency_s))
        loads = np.array([split_load(topology, op, cell[0], piece) for cell, piece in pieces])
        least = np.concatenate([np.zeros(num_plain), loads[loaded]])
        every = own.pick(np.concatenate([np.arange(num_plain), base]))
        rates[axis, op] = replace(every, s_per_byte=np.maximum(every.s_per_byte, least))
    ep = table.codes["ep"].copy()
    ep[rows] = num_plain + code
    return RateTable(rates=rates, codes={**table.codes, "ep": ep})


def _pairs(left: Ints, right: Ints) -> tuple[Ints, Ints, Ints]:
    """Distinct pairs of two columns, and which of them every row is."""
    span = int(right.max()) + 1
    keys, code = np.unique(left * span + right, return_inverse=True)
    return keys // span, keys % span, code.astype(np.int64)
