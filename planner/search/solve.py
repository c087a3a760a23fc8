"""Exact assignment of one strategy: experts, stages, batches and chips.

Given degrees, the open decisions are

slots      expert copies on expert-parallel groups, per MoE layer (``experts``)
cells      chips of every stage (``mesh``)
ends       layers to stages, under the memory of a chip (``stages``)
sequences  how many sequences every attention group decodes (``batches``)

Slots and cells do not depend on the batch, so they are decided first; stages are cut anew
for every batch that the bisection tries. :meth:`StrategySolver.bound` runs the same steps
with what no slots and no cells can beat, which proves how good the strategy could still be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from planner.cost.block import RoutedLoad
from planner.cost.evaluate import (
    ReplicaLoad,
    Routing,
    cached_sequences,
    degrees_split,
    evaluate,
    fullest_microbatch,
    on_machine,
    replica_times,
    staged,
)
from planner.cost.fabric import replica_rates
from planner.cost.memory import (
    activation_bytes,
    budget_bytes,
    cache_bytes,
    draft_bytes,
    layer_bytes,
    table_bytes,
)
from planner.cost.price import FabricRates, merge_rates
from planner.cost.routing import moe_layer_indices, moe_shape, routed_load, touched_bound
from planner.cost.step import layer_groups
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.cost import Prediction
from planner.domain.curves import Op
from planner.domain.degrees import Degrees
from planner.domain.workload import Objective
from planner.errors import DisconnectedError
from planner.search.batches import split_evenly
from planner.search.experts import ExpertPlacement, place_experts
from planner.search.mesh import Cells, MeshMapper
from planner.search.request import PlanRequest
from planner.search.stages import Ends, StageCosts, cut_stages

Sequences = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Solved:
    """A complete assignment and its price."""

    assignment: Assignment
    prediction: Prediction


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What :meth:`StrategySolver.cut` needs beside a batch: degrees, routing, link prices."""

    degrees: Degrees
    routing: Routing
    fabric: FabricRates


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cut:
    """Stages for one batch, and the step they give."""

    batch: int
    sequences: Sequences
    ends: Ends
    step_s: float


def even_sequences(degrees: Degrees, batch: int) -> Sequences:
    """Spread ``batch`` sequences so that no count of a kind differs by more than one.

    Replicas first, then attention groups (what they keep cached), then microbatches; the
    remainders rotate over microbatches, so that their totals differ by at most one.
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


class StrategySolver:
    """Solves strategies of one request, remembering expert placements and link prices."""

    def __init__(self, request: PlanRequest, mapper: MeshMapper) -> None:
        self.request = request
        self.setting = on_machine(request.setting, request.topology)
        self.mapper = mapper
        self._maps: dict[tuple[int, int], tuple[SlotMap, ...]] = {}
        self._hot_bounds: dict[tuple[int, int], list[float]] = {}
        self._fabrics: dict[tuple[Degrees, Cells], FabricRates] = {}

    def slot_maps(self, degrees: Degrees) -> tuple[SlotMap, ...]:
        """Expert copies of every MoE layer; equal maps are listed once."""
        key = (degrees.ep, degrees.num_slots)
        if key not in self._maps:
            layers = moe_layer_indices(self.request.setting.model)
            grouped: dict[tuple[tuple[int, ...], ...], list[int]] = {}
            placed: tuple[ExpertPlacement, ...] = ()
            if layers:
                caps = np.array(split_evenly(degrees.num_slots, degrees.ep), dtype=np.int64)
                placed = place_experts(self.request.loads, degrees.ep, caps)
            for layer, placement in zip(layers, placed, strict=True):
                grouped.setdefault(placement.groups, []).append(layer)
            self._maps[key] = tuple(
                SlotMap(layers=tuple(members), slots=slots) for slots, members in grouped.items()
            )
            self._hot_bounds[key] = [placement.bound for placement in placed]
        return self._maps[key]

    def fabric(self, degrees: Degrees, cells: Cells) -> FabricRates:
        """Slowest link prices over the replicas."""
        key = (replace(degrees, microbatches=1, num_slots=0), cells)
        if key not in self._fabrics:
            every = [cell for stages in cells for cell in stages]
            own = [
                replica_rates(self.request.topology, stages, degrees, every)
                for stages in set(cells)
            ]
            self._fabrics[key] = {
                axis: merge_rates([rates[axis] for rates in own], max) for axis in own[0]
            }
        return self._fabrics[key]

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
        try:
            fabric = self.fabric(degrees, cells)
        except DisconnectedError:
            return None
        request = self.request
        maps = self.slot_maps(degrees)
        model = request.setting.model
        case = _Case(
            degrees=degrees,
            routing=lambda tokens: routed_load(maps, request.loads, model, tokens),
            fabric=fabric,
        )
        cut = self._best_cut(case, most_per_group)
        if cut is None:
            return None
        assignment = Assignment(
            degrees=degrees,
            stage_ends=cut.ends,
            cells=cells,
            slot_maps=maps,
            sequences=cut.sequences,
        )
        prediction = evaluate(
            request.setting, request.topology, assignment, request.loads, request.price_usd_per_hour
        )
        return Solved(assignment=assignment, prediction=prediction)

    def bound(self, degrees: Degrees, most_per_group: int) -> tuple[int, float] | None:
        """Batch and step that no assignment of the strategy beats; None when proven infeasible.

        Slots receive the proven lower bound of the hottest share and of the touched
        copies, links the best cell of the machine; stages are cut exactly.
        """
        rates = dict(self.mapper.wounded_rates(degrees))
        rates["pp", Op.SEND_RECV] = self.mapper.optimistic_hop(degrees.stage_chips)
        case = _Case(degrees=degrees, routing=self._optimistic_routing(degrees), fabric=rates)
        cut = self._best_cut(case, most_per_group)
        return None if cut is None else (cut.batch, cut.step_s)

    def _optimistic_routing(self, degrees: Degrees) -> Routing:
        model = self.request.setting.model
        layers = moe_layer_indices(model)
        shape = moe_shape(model)
        self.slot_maps(degrees)
        hot = self._hot_bounds[degrees.ep, degrees.num_slots]

        def routing(tokens: float) -> dict[int, RoutedLoad]:
            if shape is None:
                return {}
            slots = (degrees.num_slots, degrees.ep)
            touched = touched_bound(self.request.loads, shape[1], slots, tokens)
            return {
                layer: RoutedLoad(hot_share=hot[row], touched_slots=float(touched[row]))
                for row, layer in enumerate(layers)
            }

        return routing

    def _best_cut(self, case: _Case, most_per_group: int) -> _Cut | None:
        """Cut for the best batch: the pinned one, the smallest, or the largest that fits."""
        degrees = case.degrees
        if self.request.batch is not None:
            return self.cut(case, self.request.batch)
        per_group = degrees.attn_dp * degrees.microbatches * degrees.replicas
        if self.request.objective is Objective.LATENCY:
            return self.cut(case, per_group)
        low, high, probe = 0, most_per_group + 1, most_per_group
        best: _Cut | None = None
        while high - low > 1:
            tried = self.cut(case, probe * per_group)
            if tried is None:
                high = probe
            else:
                low, best = probe, tried
            probe = (low + high) // 2
        return best

    def cut(self, case: _Case, batch: int) -> _Cut | None:
        """Cut stages for ``batch`` sequences; None when memory or the limit on the step fails."""
        request, degrees = self.request, case.degrees
        setting = self.setting
        sequences = even_sequences(degrees, batch)
        load = ReplicaLoad(microbatch=fullest_microbatch(sequences[0]), routing=case.routing)
        whole = Assignment(
            degrees=degrees,
            stage_ends=(len(setting.model.layers),),
            cells=(),
            slot_maps=(),
            sequences=sequences,
        )
        costs = self._stage_costs(case, sequences, load)
        if costs is None:
            return None
        times = replica_times(setting, whole, load, case.fabric)
        tables = (times.embedding_s, times.head_s + times.draft_s)
        ends = cut_stages(replace(costs, layer_s=times.layer_s, table_s=tables), degrees.pp)
        if ends is None:
            return None
        final = staged(setting, replace(whole, stage_ends=ends), times)
        if request.step_limit_s is not None and final.step_s > request.step_limit_s:
            return None
        return _Cut(batch=batch, sequences=sequences, ends=ends, step_s=final.step_s)

    def _stage_costs(
        self, case: _Case, sequences: Sequences, load: ReplicaLoad
    ) -> StageCosts | None:
        """Bytes of every layer on the fullest chip, and what is left for a stage."""
        degrees, setting = case.degrees, self.setting
        split = degrees_split(degrees)
        slots = -(-degrees.num_slots // degrees.ep)
        cached = float(cached_sequences(sequences[0]))
        layer_b = np.zeros(len(setting.model.layers))
        for group in layer_groups(setting.model):
            own = layer_bytes(setting, group, split)
            moe = slots if group.is_moe else 0
            kept = cache_bytes(setting, group, split, cached)
            layer_b[list(group.indices)] = own.fixed + own.per_slot * moe + kept
        tokens = load.microbatch.tokens(setting, split)
        routed = case.routing(float(tokens.stage))
        first, last = table_bytes(setting, split, float(degrees.pp))
        if degrees.draft:
            drafting = draft_bytes(setting, split, (float(slots), cached))
            last = last + drafting[0] + drafting[1]
        hot = max((float(load.hot_share) for load in routed.values()), default=0.0)
        active = float(activation_bytes(setting, split, tokens, hot))
        free = budget_bytes(setting) - active
        if free <= 0:
            return None
        return StageCosts(
            layer_s=layer_b,
            layer_bytes=layer_b,
            table_s=(0.0, 0.0),
            table_bytes=(float(first), float(last)),
            capacity_bytes=free,
        )
