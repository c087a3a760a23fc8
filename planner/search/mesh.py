"""Mesh axes to chips: which cell of the machine holds which stage.

Sets: cells (disjoint groups of chips carved out of the machine), replicas, stages.
Decision: the cell of every (replica, stage). Rule: cells are taken in the machine's order
(the fastest ones, where wounds make them differ),
stage after stage of one replica, so that a replica's stages are neighbours and as few
domains as possible are touched. On machines whose domains are equal every cell has the
same shape and this is optimal; elsewhere the bound takes the best cell, so what the rule
loses shows up in the gap. More cells than the rule finds are laid over domains that they
share: see :mod:`planner.search.mapping`.

Work grows with the number of different cells, not with the number of cells: equal ones
(:mod:`planner.topology.kinds`) are priced once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

from planner.cost.fabric import axis_groups, axis_key, axis_ops, shape_rate
from planner.cost.price import NO_LINK, LinkRate, merge_rates
from planner.domain.curves import Op
from planner.domain.degrees import Degrees
from planner.domain.scale_up import GraphDomain
from planner.domain.work import Real
from planner.errors import DisconnectedError
from planner.search.mapping import (
    can_share,
    is_flat,
    is_split_by_units,
    least_chips,
    level_split,
    map_cells,
    neighbours,
    slowest_rates,
)
from planner.search.strategies import unit_of
from planner.topology.collectives import send_recv_rate
from planner.topology.graph import Topology
from planner.topology.groups import (
    Cell,
    GroupShape,
    carve,
    group_shape,
    healthy_shape,
    max_cells,
    sample_cells,
    sample_pieces,
)
from planner.topology.kinds import Kind, distinct_groups, group_kinds
from planner.topology.soundness import leaving_chips

Cells = tuple[tuple[tuple[int, ...], ...], ...]
Collective = tuple[str, Op]
Rates = dict[Collective, LinkRate]

# Chips of the cells that are remembered for pricing.
MAX_SAMPLED_CHIPS = 1 << 22
CUT_APART = LinkRate(latency_s=math.inf, s_per_byte=math.inf)


def ops_by_axis(topology: Topology) -> dict[str, tuple[Op, ...]]:
    """Operations that layouts of a machine may run on each mesh axis."""
    found: dict[str, tuple[Op, ...]] = {}
    for axis, op in axis_ops(topology):
        found[axis] = (*found.get(axis, ()), op)
    return found


@dataclass(slots=True)
class MeshMapper:
    """Carves one machine, remembering what it carved."""

    topology: Topology
    _is_flat: bool
    _largest: int
    _is_uneven: bool
    _carved: dict[tuple[int, int], tuple[Cell, ...]] = field(default_factory=dict)
    _samples: dict[tuple[int, int], tuple[Cell, ...]] = field(default_factory=dict)
    _kind_rates: dict[object, LinkRate] = field(default_factory=dict)
    _axis_rates: dict[object, tuple[LinkRate, ...]] = field(default_factory=dict)
    _hops: dict[bool, LinkRate] = field(default_factory=dict)

    @classmethod
    def of(cls, topology: Topology) -> MeshMapper:
        """Start with nothing carved."""
        sizes = {len(domain) for domain in topology.open_domains}
        return cls(
            topology=topology,
            _is_flat=is_flat(topology),
            _largest=topology.largest_open,
            _is_uneven=len(sizes) > 1 and can_share(topology),
        )

    def cells(self, size: int, unit: int) -> tuple[Cell, ...]:
        """Disjoint cells of ``size`` chips, units kept within a domain."""
        key = (size, unit)
        if key not in self._carved:
            self._carved[key] = carve(self.topology, size, unit)
        return self._carved[key]

    def unit(self, attn_tp: int, expert_tp: int) -> int | None:
        """Ranks that must share a domain."""
        return unit_of(attn_tp, expert_tp, self._largest)

    def assign(self, degrees: Degrees) -> Cells | None:
        """Cells of every replica and stage, or None when the machine holds too few.

        A wounded machine gives its fastest cells, in its own order.
        """
        unit = self.unit(degrees.attn_tp, degrees.expert_tp)
        if unit is None:
            return None
        need = degrees.pp * degrees.replicas
        if max_cells(self.topology, degrees.stage_chips, unit) < need:
            mapped = self._shared(degrees, unit)
            return None if mapped is None else _in_order(mapped, degrees)
        found = self.cells(degrees.stage_chips, unit)
        if need < len(found):
            found = self._chosen(found, degrees)
        chosen = [cell.chips for cell in found[:need]]
        if self._spreads(degrees, unit):
            mapped = self._shared(degrees, unit)
            least = partial(least_chips, self.topology)
            if mapped is not None and least(mapped) > least(chosen):
                chosen = list(mapped)
        return _in_order(chosen, degrees)

    def _chosen(self, found: tuple[Cell, ...], degrees: Degrees) -> tuple[Cell, ...]:
        """The fastest of more cells than are needed; of equal ones those that are neighbours."""
        need = degrees.pp * degrees.replicas
        if self.topology.wounded is not None:
            slowness = self._slowness(found, degrees)
            if len(set(slowness)) > 1:
                best = sorted(range(len(found)), key=lambda place: (slowness[place], place))
                return tuple(found[place] for place in sorted(best[:need]))
        return found if degrees.pp == 1 else neighbours(self.topology, found, degrees)

    def _spreads(self, degrees: Degrees, unit: int) -> bool:
        """Whether cells take several domains that are not alike, so that pieces must be chosen."""
        several = degrees.stage_chips > self._largest
        return several and self._is_uneven and is_split_by_units(degrees, unit)

    def _shared(self, degrees: Degrees, unit: int) -> tuple[tuple[int, ...], ...] | None:
        """Cells that may share domains; None where they may not, or do not fit."""
        if not is_split_by_units(degrees, unit):
            return None
        need = degrees.pp * degrees.replicas
        return map_cells(self.topology, degrees.stage_chips, unit, need)

    def _slowness(self, cells: Sequence[Cell], degrees: Degrees) -> list[tuple[float, float]]:
        """Order of cells on a wounded machine: their collectives, then their way out."""
        kinds = group_kinds(self.topology, [cell.chips for cell in cells])
        inside: dict[Kind, float] = {}
        for kind, cell in zip(kinds, cells, strict=True):
            if kind not in inside:
                rates = self._cell_rates(kind, cell, degrees).values()
                inside[kind] = sum(float(rate.s_per_byte) for rate in rates)
        if degrees.pp == 1 or len(self.topology.domains) == 1:
            return [(inside[kind], 0.0) for kind in kinds]
        ways_out = {chip for domain in leaving_chips(self.topology) for chip in domain}
        shut_in = [float(sum(chip not in ways_out for chip in cell.chips)) for cell in cells]
        return [(inside[kind], count) for kind, count in zip(kinds, shut_in, strict=True)]

    def _cell_rates(self, kind: Kind, cell: Cell, degrees: Degrees) -> Rates:
        """Slowest price of every collective within one cell; infinite where it is cut apart."""
        rates = {}
        for axis, op in axis_ops(self.topology):
            key = (kind, axis, op, axis_key(degrees, axis))
            if key not in self._kind_rates:
                groups = distinct_groups(self.topology, axis_groups(cell.chips, degrees, axis))
                shapes = dict.fromkeys(group_shape(self.topology, g) for g in groups.tolist())
                try:
                    found = [shape_rate(self.topology, op, shape) for shape in shapes]
                except DisconnectedError:
                    found = [CUT_APART]
                self._kind_rates[key] = merge_rates(found, max)
            rates[axis, op] = self._kind_rates[key]
        return rates

    def optimistic_rates(self, degrees: Degrees) -> Rates:
        """Fastest price of every collective over the cells of this stage size.

        Groups are priced as if they were healthy: that is cheap and never dearer.
        """
        return {
            (axis, op): rate
            for axis, ops in ops_by_axis(self.topology).items()
            for op, rate in zip(ops, self.axis_rates(degrees, axis), strict=True)
        }

    def axis_rates(self, degrees: Degrees, axis: str) -> tuple[LinkRate, ...]:
        """The same of one axis, operation by operation; remembered by how cells are split."""
        unit = self.unit(degrees.attn_tp, degrees.expert_tp)
        groups = (axis_key(degrees, axis), degrees.ep if axis == "ep" else 0)
        key = (degrees.stage_chips, unit, axis, groups)
        if key not in self._axis_rates:
            shapes = self._shapes(degrees, unit or 1, axis)
            self._axis_rates[key] = tuple(
                self._fastest(op, shapes) for op in ops_by_axis(self.topology)[axis]
            )
        return self._axis_rates[key]

    def _fastest(self, op: Op, cells: set[frozenset[GroupShape]]) -> LinkRate:
        """Price on the fastest cell; each waits for the slowest of its groups."""
        found = []
        for shapes in cells:
            own = [shape_rate(self.topology, op, shape) for shape in shapes]
            found.append(own[0] if len(own) == 1 else merge_rates(own, max))
        return found[0] if len(found) == 1 else merge_rates(found, min)

    def _sampled(self, size: int, unit: int) -> tuple[Cell, ...]:
        """A cell of each kind: the last ones are remembered, as axes follow each other."""
        if isinstance(self.topology.spec.scale_up, GraphDomain):
            return self.cells(size, unit)
        if (size, unit) not in self._samples:
            if len(self._samples) * self.topology.num_chips >= MAX_SAMPLED_CHIPS:
                self._samples.clear()
            self._samples[size, unit] = sample_cells(self.topology, size, unit)
        return self._samples[size, unit]

    def _shapes(self, degrees: Degrees, unit: int, axis: str) -> set[frozenset[GroupShape]]:
        """Shapes of the groups of an axis on one cell of each kind, wounds overlooked."""
        size = degrees.stage_chips
        whole = degrees.ep * degrees.expert_tp == size and unit % degrees.expert_tp == 0
        if axis == "ep" and whole and self._is_flat and self.topology.contention <= 1:
            kinds = sample_pieces(self.topology, size, unit)
            if self._spreads(degrees, unit):
                kinds = (level_split(self.topology, size, unit),)
            # Strided groups take the same share of every piece.
            return {
                frozenset(
                    {GroupShape(pieces=tuple(piece // degrees.expert_tp for piece in pieces))}
                )
                for pieces in kinds
            }
        cells = self._sampled(size, unit)
        found = set()
        for cell in cells:
            groups = distinct_groups(self.topology, axis_groups(cell.chips, degrees, axis))
            found.add(frozenset(healthy_shape(self.topology, group) for group in groups.tolist()))
        return found

    def wounded_rates(self, degrees: Degrees) -> Rates:
        """The same with wounds and crowding taken into account, cell by cell.

        A layout waits for its slowest cell. It needs ``pp * replicas`` of them, so that cell
        is no faster than the ``pp * replicas``-th fastest of the machine.
        """
        unit = self.unit(degrees.attn_tp, degrees.expert_tp)
        need = degrees.pp * degrees.replicas
        rates = self.optimistic_rates(degrees)
        if unit is None:
            return rates
        crowded = max_cells(self.topology, degrees.stage_chips, unit) < need
        if crowded or self._spreads(degrees, unit):
            return slowest_rates(self.topology, degrees, unit, rates)
        if self.topology.wounded is None:
            return rates
        cells = self.cells(degrees.stage_chips, unit)
        kinds = group_kinds(self.topology, [cell.chips for cell in cells])
        counts: dict[Kind, int] = {}
        samples: dict[Kind, Cell] = {}
        for kind, cell in zip(kinds, cells, strict=True):
            counts[kind] = counts.get(kind, 0) + 1
            samples.setdefault(kind, cell)
        of_kinds = [self._cell_rates(kind, cell, degrees) for kind, cell in samples.items()]
        # Of several replicas each may be slow in another way: the slowest one is slow in all
        # only where cells can be put in order.
        place = min(need if in_order(of_kinds) else degrees.pp, len(cells))

        def needed(values: Sequence[Real]) -> Real:
            """The ``place``-th smallest value, each counted as often as its kind occurs."""
            left = place
            for value, count in sorted(zip(map(float, values), counts.values(), strict=True)):
                left -= count
                if left <= 0:
                    return value
            raise AssertionError("fewer cells than were counted")

        for axis, op in axis_ops(self.topology):
            per_kind = [own[axis, op] for own in of_kinds]
            alike = len({len(rate.others) for rate in per_kind}) == 1
            rates[axis, op] = merge_rates(per_kind, needed if alike else min)
        return rates

    def optimistic_hop(self, size: int, num_stages: int = 2) -> LinkRate:
        """Fastest that the slowest hop among ``num_stages`` stages of ``size`` chips can be."""
        is_near = num_stages * size <= self._largest
        if is_near not in self._hops:
            self._hops[is_near] = self._hop(is_near)
        return self._hops[is_near]

    def _hop(self, is_near: bool) -> LinkRate:
        domains = [domain for domain in self.topology.open_domains if domain]
        largest = max(domains, key=len)
        others = [domain for domain in domains if domain is not largest]
        if not is_near and not others:
            return NO_LINK
        a, b = (largest[0], largest[1]) if is_near else (largest[0], others[0][0])
        rate = send_recv_rate(self.topology, a, b)
        return LinkRate(latency_s=rate.latency_s, s_per_byte=rate.s_per_byte, fill_s=rate.fill_s)


def in_order(kinds: Sequence[Rates]) -> bool:
    """Whether of every two cells one has no collective that is slower than the other's."""
    rows = [
        [float(v) for rate in own.values() for one in (rate, *rate.others) for v in _prices(one)]
        for own in kinds
    ]
    rows.sort(key=sum)
    return all(len(a) == len(b) and all(map(float.__le__, a, b)) for a, b in pairwise(rows))


def _prices(rate: LinkRate) -> tuple[Real, Real, Real]:
    return rate.latency_s, rate.s_per_byte, rate.fill_s


def _in_order(cells: Sequence[tuple[int, ...]], degrees: Degrees) -> Cells:
    """Consecutive cells to the stages of one replica after another."""
    return tuple(
        tuple(cells[replica * degrees.pp : (replica + 1) * degrees.pp])
        for replica in range(degrees.replicas)
    )
