"""Exact assignment of one strategy: experts, stages, batches and chips.

Given degrees, the open decisions are

slots      expert copies on expert-parallel groups, per MoE layer (``experts``)
cells      chips of every stage (``mesh``)
ends       layers to stages, under the memory of a chip (``stages``)
sequences  how many sequences every attention group decodes (``batches``)

Slots and cells do not depend on the batch, so they are decided first; stages are cut anew
for every batch that the bisection tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.cost.evaluate import degrees_split, evaluate, replica_times
from planner.cost.fabric import replica_rates
from planner.cost.memory import activation_bytes, budget_bytes, layer_bytes, table_bytes
from planner.cost.price import FabricRates
from planner.cost.routing import moe_layer_indices
from planner.cost.step import layer_groups
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.cost import Prediction
from planner.domain.degrees import Degrees
from planner.domain.workload import Objective
from planner.search.batches import split_evenly
from planner.search.experts import place_experts
from planner.search.mesh import Cells, MeshMapper
from planner.search.request import PlanRequest
from planner.search.stages import cut_stages

Sequences = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Solved:
    """A complete assignment and its price."""

    assignment: Assignment
    prediction: Prediction


def even_sequences(degrees: Degrees, batch: int) -> Sequences:
    """Spread ``batch`` sequences so that no count of a kind differs by more than one.

    Replicas first, then attention groups (what they keep cached), then microbatches,
    rotated so that a microbatch's total differs by at most one group's remainder.
    """
    replicas = []
    for share in split_evenly(batch, degrees.replicas):
        columns = []
        carried = 0
        for cached in split_evenly(share, degrees.attn_dp):
            base, extra = divmod(cached, degrees.microbatches)
            column = [base] * degrees.microbatches
            for offset in range(extra):
                column[(carried + offset) % degrees.microbatches] += 1
            carried += extra
            columns.append(column)
        replicas.append(tuple(zip(*columns, strict=True)))
    return tuple(replicas)


def cap_slots(num_slots: int, ep: int) -> list[int]:
    """Slots of each expert-parallel group: equal, the first groups one more."""
    return list(split_evenly(num_slots, ep))


class StrategySolver:
    """Solves strategies of one request, remembering expert placements and link prices."""

    def __init__(self, request: PlanRequest, mapper: MeshMapper) -> None:
        self.request = request
        self.mapper = mapper
        self._maps: dict[tuple[int, int], tuple[SlotMap, ...]] = {}
        self._fabrics: dict[tuple[Degrees, Cells], FabricRates] = {}

    def slot_maps(self, degrees: Degrees) -> tuple[SlotMap, ...]:
        """Expert copies of every MoE layer; equal maps are listed once."""
        key = (degrees.ep, degrees.num_slots)
        if key not in self._maps:
            layers = moe_layer_indices(self.request.setting.model)
            grouped: dict[tuple[tuple[int, ...], ...], list[int]] = {}
            if layers:
                caps = np.array(cap_slots(degrees.num_slots, degrees.ep))
                placed = place_experts(self.request.loads, degrees.ep, caps)
                for layer, placement in zip(layers, placed, strict=True):
                    slots = tuple(
                        tuple(int(e) for e in group if e >= 0) for group in placement.slots
                    )
                    grouped.setdefault(slots, []).append(layer)
            self._maps[key] = tuple(
                SlotMap(layers=tuple(members), slots=slots) for slots, members in grouped.items()
            )
        return self._maps[key]

    def fabric(self, degrees: Degrees, cells: Cells) -> FabricRates:
        """Slowest link prices over the replicas."""
        key = (replace(degrees, microbatches=1, num_slots=0), cells)
        if key not in self._fabrics:
            stages = tuple(cell for replica in cells for cell in replica)
            # One loop over all stages covers every hop inside a replica.
            self._fabrics[key] = (
                replica_rates(self.request.topology, cells[0], degrees)
                if len(cells) == 1
                else _merge(
                    [replica_rates(self.request.topology, own, degrees) for own in set(cells)]
                )
            )
            assert stages
        return self._fabrics[key]

    def try_batch(self, degrees: Degrees, cells: Cells, batch: int) -> Assignment | None:
        """Cut stages for ``batch`` sequences; None when memory or the TPOT limit fails."""
        request = self.request
        sequences = even_sequences(degrees, batch)
        draft = Assignment(
            degrees=degrees,
            stage_ends=_even_ends(len(request.setting.model.layers), degrees.pp),
            cells=cells,
            slot_maps=self.slot_maps(degrees),
            sequences=sequences,
        )
        fabric = self.fabric(degrees, cells)
        heaviest = max(sequences, key=lambda s: sum(sum(mb) for mb in s))
        times = replica_times(request.setting, draft, heaviest, request.loads, fabric)
        ends = self._cut(draft, times.layer_s, heaviest, times)
        if ends is None:
            return None
        found = replace(draft, stage_ends=ends)
        final = replica_times(request.setting, found, heaviest, request.loads, fabric)
        if request.tpot_s is not None and final.step_s > request.tpot_s:
            return None
        return found

    def _cut(self, draft, layer_s, sequences, times):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def solve(self, degrees: Degrees, most_per_group: int) -> Solved | None:
        """Best assignment of one strategy, or None when no batch meets the limits.

        Parameters
        ----------
        most_per_group : int
            Proven upper bound on sequences per attention group and microbatch.
        """
        cells = self.mapper.assign(degrees)
        if cells is None:
            return None
        found = self._best_assignment(degrees, cells, most_per_group)
        if found is None:
            return None
        request = self.request
        prediction = evaluate(
            request.setting, request.topology, found, request.loads, request.price_usd_per_hour
        )
        return Solved(assignment=found, prediction=prediction)

    def _best_assignment(
        self, degrees: Degrees, cells: Cells, most_per_group: int
    ) -> Assignment | None:
        if self.request.batch is not None:
            return self.try_batch(degrees, cells, self.request.batch)
        per_group = degrees.attn_dp * degrees.microbatches * degrees.replicas
        if self.request.objective is Objective.LATENCY:
            return self.try_batch(degrees, cells, per_group)
        low, high = 0, most_per_group + 1
        probe = most_per_group
        best: Assignment | None = None
        while high - low > 1:
            tried = self.try_batch(degrees, cells, probe * per_group)
            if tried is None:
                high = probe
            else:
                low, best = probe, tried
            probe = (low + high) // 2
        return best


def _even_ends(num_layers: int, stages: int) -> tuple[int, ...]:
    ends = np.cumsum(split_evenly(num_layers, stages))
    return tuple(int(end) for end in ends)


def _merge(rates: Sequence[FabricRates]) -> FabricRates:
    """Slowest of several link prices, axis by axis."""
    return {
        key: max((own[key] for own in rates), key=lambda rate: float(rate.s_per_byte))
        for key in rates[0]
    }
