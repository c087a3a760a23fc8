"""Mesh axes to chips: which cell of the machine holds which stage.

Sets: cells (disjoint groups of chips carved out of the machine), replicas, stages.
Decision: the cell of every (replica, stage). Rule: cells are taken in the machine's order
(the fastest ones, where wounds make them differ),
stage after stage of one replica, so that a replica's stages are neighbours and as few
domains as possible are touched. On machines whose domains are equal every cell has the
same shape and this is optimal; elsewhere the bound takes the best cell, so what the rule
loses shows up in the gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cost.fabric import AXIS_OPS, axis_groups, shape_rate
from planner.cost.price import NO_LINK, FabricRates, LinkRate, merge_rates, stack_rates
from planner.domain.curves import Op
from planner.domain.degrees import Degrees
from planner.domain.scale_up import MeshDomain, SwitchDomain
from planner.domain.work import Real
from planner.errors import DisconnectedError
from planner.search.strategies import Strategies, unit_of
from planner.topology.collectives import send_recv_rate
from planner.topology.graph import Topology
from planner.topology.groups import Cell, GroupShape, carve, group_shape, healthy_shape
from planner.topology.soundness import leaving_chips

Cells = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(slots=True)
class MeshMapper:
    """Carves one machine, remembering what it carved."""

    topology: Topology
    _carved: dict[tuple[int, int], tuple[Cell, ...]]
    _shapes: dict[tuple[int, ...], GroupShape]
    _healthy: dict[tuple[int, ...], GroupShape]
    _axis_rates: dict[object, LinkRate]

    @classmethod
    def of(cls, topology: Topology) -> MeshMapper:
        """Start with nothing carved."""
        return cls(topology=topology, _carved={}, _shapes={}, _healthy={}, _axis_rates={})

    def cells(self, size: int, unit: int) -> tuple[Cell, ...]:
        """Disjoint cells of ``size`` chips, units kept within a domain."""
        key = (size, unit)
        if key not in self._carved:
            self._carved[key] = carve(self.topology, size, unit)
        return self._carved[key]

    def shape(self, chips: tuple[int, ...]) -> GroupShape:
        """Shape of a group of chips."""
        if chips not in self._shapes:
            self._shapes[chips] = group_shape(self.topology, chips)
        return self._shapes[chips]

    def healthy(self, chips: tuple[int, ...]) -> GroupShape:
        """Shape of a group with its wounds overlooked."""
        if chips not in self._healthy:
            self._healthy[chips] = healthy_shape(self.topology, chips)
        return self._healthy[chips]

    def unit(self, attn_tp: int, expert_tp: int) -> int | None:
        """Ranks that must share a domain."""
        largest = max(len(domain) for domain in self.topology.domains)
        return unit_of(attn_tp, expert_tp, largest)

    def assign(self, degrees: Degrees) -> Cells | None:
        """Cells of every replica and stage, or None when the machine holds too few.

        A wounded machine gives its fastest cells, in its own order.
        """
        unit = self.unit(degrees.attn_tp, degrees.expert_tp)
        if unit is None:
            return None
        found = self.cells(degrees.stage_chips, unit)
        need = degrees.pp * degrees.replicas
        if len(found) < need:
            return None
        if self.topology.wounded is not None and need < len(found):
            slowness = [self._slowness(cell, degrees) for cell in found]
            best = sorted(range(len(found)), key=lambda place: (slowness[place], place))
            found = tuple(found[place] for place in sorted(best[:need]))
        return tuple(
            tuple(found[replica * degrees.pp + stage].chips for stage in range(degrees.pp))
            for replica in range(degrees.replicas)
        )

    def _slowness(self, cell: Cell, degrees: Degrees) -> tuple[float, float]:
        """Order of cells on a wounded machine: their collectives, then their way out."""
        rates = self._cell_rates(cell, degrees)
        inside = sum(float(rate.s_per_byte) for rate in rates.values())
        if degrees.pp == 1 or len(self.topology.domains) == 1:
            return inside, 0.0
        ways_out = {chip for domain in leaving_chips(self.topology) for chip in domain}
        return inside, float(sum(chip not in ways_out for chip in cell.chips))

    def _cell_rates(self, cell: Cell, degrees: Degrees) -> dict[tuple[str, Op], LinkRate]:
        """Slowest price of every collective within one cell; infinite where it is cut apart."""
        rates = {}
        for axis, op in AXIS_OPS:
            shapes = {self.shape(group) for group in axis_groups(cell.chips, degrees, axis)}
            try:
                found = [shape_rate(self.topology, op, shape) for shape in shapes]
            except DisconnectedError:
                found = [LinkRate(latency_s=math.inf, s_per_byte=math.inf)]
            rates[axis, op] = merge_rates(found, max)
        return rates

    def optimistic_rates(self, degrees: Degrees) -> dict[tuple[str, Op], LinkRate]:
        """Fastest price of every collective over the cells of this stage size.

        Groups are priced as if they were healthy: that is cheap and never dearer.
        """
        unit = self.unit(degrees.attn_tp, degrees.expert_tp)
        cells = () if unit is None else self.cells(degrees.stage_chips, unit)
        # An axis depends on its own degree only: expert groups on how finely they are split.
        own = {
            "attn_tp": degrees.attn_tp,
            "ep": -degrees.expert_tp,
            "expert_tp": degrees.expert_tp,
        }
        return {
            (axis, op): self._axis_rate(cells, degrees, (axis, op), (unit, own[axis]))
            for axis, op in AXIS_OPS
        }

    def _axis_rate(
        self,
        cells: Sequence[Cell],
        degrees: Degrees,
        collective: tuple[str, Op],
        split: tuple[int | None, int],
    ) -> LinkRate:
        """Fastest price of one collective over cells, remembered by how they are split."""
        axis, op = collective
        key = (degrees.stage_chips, axis, op, split)
        if key not in self._axis_rates:
            kinds = {cell.pieces: cell for cell in reversed(cells)}
            shapes = {
                self.healthy(group)
                for cell in kinds.values()
                for group in self._different(axis_groups(cell.chips, degrees, axis), split[1])
            }
            found = [shape_rate(self.topology, op, shape) for shape in shapes]
            self._axis_rates[key] = merge_rates(found, min)
        return self._axis_rates[key]

    def _different(self, groups: list[tuple[int, ...]], degree: int) -> list[tuple[int, ...]]:
        """Groups of one axis of a cell that may have different shapes.

        Where one level of switches, or a full mesh, joins the chips of a domain, all are
        alike: a split of ``degree`` lies within a domain, since units do, and strided
        groups take the same share of every piece.
        """
        scale_up = self.topology.spec.scale_up
        flat = isinstance(scale_up, SwitchDomain) and len(scale_up.levels) == 1
        flat = flat or (isinstance(scale_up, MeshDomain) and scale_up.is_full)
        largest = max(len(domain) for domain in self.topology.domains)
        return groups[:1] if flat and abs(degree) <= largest else groups

    def wounded_rates(self, degrees: Degrees) -> dict[tuple[str, Op], LinkRate]:
        """The same with wounds taken into account, cell by cell.

        A layout waits for its slowest cell. It needs ``pp * replicas`` of them, so that cell
        is no faster than the ``pp * replicas``-th fastest of the machine.
        """
        if self.topology.wounded is None:
            return self.optimistic_rates(degrees)
        unit = self.unit(degrees.attn_tp, degrees.expert_tp)
        cells = () if unit is None else self.cells(degrees.stage_chips, unit)
        place = min(degrees.pp * degrees.replicas, len(cells)) - 1

        def needed(values: Sequence[Real]) -> Real:
            return sorted(float(value) for value in values)[place]

        of_cells = [self._cell_rates(cell, degrees) for cell in cells]
        rates: dict[tuple[str, Op], LinkRate] = {}
        for axis, op in AXIS_OPS:
            per_cell = [own[axis, op] for own in of_cells]
            alike = len({len(rate.others) for rate in per_cell}) == 1
            rates[axis, op] = merge_rates(per_cell, needed if alike else min)
        return rates

    def optimistic_hop(self, size: int) -> LinkRate:
        """Fastest hop between two stages of ``size`` chips."""
        domains = self.topology.domains
        largest = max(domains, key=len)
        if 2 * size <= len(largest):
            a, b = largest[0], largest[1]
        else:
            others = [domain for domain in domains if domain is not largest]
            if not others:
                return NO_LINK
            a, b = largest[0], others[0][0]
        rate = send_recv_rate(self.topology, a, b)
        return LinkRate(latency_s=rate.latency_s, s_per_byte=rate.s_per_byte, fill_s=rate.fill_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class RateTable:
    """Prices of the distinct splits of a stage, and which of them each strategy has.

    ``rates`` are arrays over the splits, ``split`` has shape ``[strategies]``.
    """

    rates: FabricRates
    split: NDArray[np.int64]

    def select(self, picked: NDArray[np.int64] | NDArray[np.bool_]) -> RateTable:
        """Those of a subset of the strategies."""
        return RateTable(rates=self.rates, split=self.split[picked])

    def expand(self) -> FabricRates:
        """Prices of every axis, each an array over the strategies."""
        return {key: rate.pick(self.split) for key, rate in self.rates.items()}


def strategy_rates(mapper: MeshMapper, strategies: Strategies) -> RateTable:
    """Optimistic prices of all axes for every strategy."""
    keys = np.stack([strategies.attn_tp, strategies.attn_dp, strategies.ep, strategies.expert_tp])
    code = ((keys[0] * 65536 + keys[1]) * 65536) + keys[2]
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    tables: dict[tuple[str, Op], list[LinkRate]] = {}
    for index in first:
        degrees = strategies.degrees(int(index))
        rates = mapper.optimistic_rates(degrees)
        rates["pp", Op.SEND_RECV] = mapper.optimistic_hop(degrees.stage_chips)
        for key, rate in rates.items():
            tables.setdefault(key, []).append(rate)
    stacked = {key: stack_rates(rates) for key, rates in tables.items()}
    return RateTable(rates=stacked, split=inverse.astype(np.int64))
