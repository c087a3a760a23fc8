"""Exact assignment of one strategy: experts, stages, batches and chips.

Given degrees, the open decisions are

slots      expert copies on expert-parallel groups, per MoE layer (``experts``)
cells      chips of every stage (``mesh``)
ends       layers to stages, under the memory of a chip (``cuts``)
sequences  how many sequences every replica decodes (``best_batch``), dealt evenly to its
           microbatches and attention groups

Slots and cells do not depend on the batch, so they are decided first; stages are cut anew
for every batch that is tried. :meth:`StrategySolver.bound` runs the same steps with what no
slots and no cells can beat, which proves how good the strategy could still be.

Replicas may differ in their links (:mod:`planner.search.uneven`). All have the stages of one
of them; a free batch is then chosen for each. A pinned batch is dealt evenly; where the slowest
step counts, by speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from planner.cost.block import RoutedLoad, ceil_div
from planner.cost.evaluate import Routing, evaluate, on_machine
from planner.cost.fabric import replica_rates
from planner.cost.price import FabricRates, LinkRate, merge_rates
from planner.cost.routing import moe_layer_indices, moe_shape, routed_load, touched_bound
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.cost import Prediction
from planner.domain.curves import Op
from planner.domain.degrees import Degrees
from planner.domain.workload import Objective
from planner.errors import DisconnectedError
from planner.search.batches import Replica, slowest_step, split_evenly
from planner.search.best_batch import BatchRange, BestBatch, best_batch
from planner.search.cuts import Cut, Cutter, ReplicaCase
from planner.search.experts import TOLERANCE, ExpertPlacement, place_experts
from planner.search.mesh import Cells, MeshMapper
from planner.search.objective import counted_chips, objective_value
from planner.search.request import PlanRequest
from planner.search.uneven import Dealt, by_speed, each_best, shared_equals, slowest_step_s
from planner.topology.groups import max_cells

# Of the gap that is asked for, what the placement of experts may take.
PLACEMENT_PART = 0.4

# Kinds of replicas whose own stages are tried.
MAX_KINDS = 4

Sequences = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Solved:
    """A complete assignment and its price."""

    assignment: Assignment
    prediction: Prediction


def replica_sequences(degrees: Degrees, batch: int) -> tuple[tuple[int, ...], ...]:
    """Deal ``batch`` sequences so that no count of a kind differs by more than one.

    Attention groups first (what they keep cached), then microbatches; the remainders rotate
    over microbatches, so that their totals differ by at most one.
    """
    columns = []
    carried = 0
    for cached in split_evenly(batch, degrees.attn_dp):
        base, extra = divmod(cached, degrees.microbatches)
        column = [base] * degrees.microbatches
        for offset in range(extra):
            column[(carried + offset) % degrees.microbatches] += 1
        carried += extra
        columns.append(column)
    return tuple(zip(*columns, strict=True))


def dealt(degrees: Degrees, replicas: tuple[int, ...]) -> Sequences:
    """Sequences of every group of every microbatch, given those of the replicas."""
    tables = {batch: replica_sequences(degrees, batch) for batch in set(replicas)}
    return tuple(tables[batch] for batch in replicas)


def slowest(kinds: Sequence[ReplicaCase]) -> ReplicaCase:
    """A replica with the slowest price of every collective."""
    if len(kinds) == 1:
        return kinds[0]
    fabrics = [kind.fabric for kind in kinds]
    merged = {axis: merge_rates([own[axis] for own in fabrics], max) for axis in fabrics[0]}
    return replace(kinds[0], fabric=merged)


def sum_over_replicas(
    replicas: int,
    case: Callable[[int], ReplicaCase],
    rate: Callable[[ReplicaCase], float | None],
) -> float | None:
    """Sum of ``rate(case(j))`` over ``j = 1 .. replicas``; None where one has no rate."""
    rates = [(count, rate(own)) for count, own in replica_runs(replicas, case)]
    if any(own is None for _, own in rates):
        return None
    return sum(count * (own or 0.0) for count, own in rates)


def replica_runs(
    replicas: int, case: Callable[[int], ReplicaCase]
) -> list[tuple[int, ReplicaCase]]:
    """Runs of equal links among ``case(1) .. case(replicas)``, which never get faster.

    They are found by halving.
    """
    found: list[tuple[int, ReplicaCase]] = []
    parts = [(1, replicas)]
    while parts:
        first, last = parts.pop()
        if case(first).fabric == case(last).fabric:
            found.append((last - first + 1, case(first)))
        else:
            middle = (first + last) // 2
            parts += [(middle + 1, last), (first, middle)]
    return found


class StrategySolver:
    """Solves strategies of one request, remembering expert placements and link prices."""

    def __init__(self, request: PlanRequest, mapper: MeshMapper) -> None:
        self.request = request
        self.setting = on_machine(request.setting, request.topology)
        self.mapper = mapper
        self.cutter = Cutter(request)
        self._maps: dict[tuple[int, int], tuple[SlotMap, ...]] = {}
        self._hot_bounds: dict[tuple[int, int], list[float]] = {}
        self._fabrics: dict[tuple[Degrees, Cells], list[FabricRates]] = {}

    @property
    def _rates_add_up(self) -> bool:
        """Whether the objective is made of the replicas' rates, not of the slowest step."""
        return self.request.objective is not Objective.LATENCY

    @property
    def _tolerance(self) -> float:
        """Gap at which the placement of experts stops: part of what shall be proven in all."""
        return min(TOLERANCE, PLACEMENT_PART * self.request.gap)

    def slot_maps(self, degrees: Degrees) -> tuple[SlotMap, ...]:
        """Expert copies of every MoE layer; equal maps are listed once."""
        key = (degrees.ep, degrees.num_slots)
        if key not in self._maps:
            layers = moe_layer_indices(self.request.setting.model)
            grouped: dict[tuple[tuple[int, ...], ...], list[int]] = {}
            placed: tuple[ExpertPlacement, ...] = ()
            which: list[int] = []
            if layers:
                # Layers with equal loads share one placement.
                rows, inverse = np.unique(self.request.loads, axis=0, return_inverse=True)
                which = inverse.ravel().tolist()
                caps = np.array(split_evenly(degrees.num_slots, degrees.ep), dtype=np.int64)
                placed = place_experts(rows, degrees.ep, caps, tolerance=self._tolerance)
            groups = [placement.groups for placement in placed]
            for layer, row in zip(layers, which, strict=True):
                grouped.setdefault(groups[row], []).append(layer)
            self._maps[key] = tuple(
                SlotMap(layers=tuple(members), slots=slots) for slots, members in grouped.items()
            )
            self._hot_bounds[key] = [placed[row].bound for row in which]
        return self._maps[key]

    def fabrics(self, degrees: Degrees, cells: Cells) -> list[FabricRates]:
        """Link prices of every replica; equal ones are one object."""
        key = (replace(degrees, microbatches=1, num_slots=0), cells)
        if key not in self._fabrics:
            every = [cell for stages in cells for cell in stages]
            self._fabrics[key] = shared_equals(
                [replica_rates(self.request.topology, own, degrees, every) for own in cells]
            )
        return self._fabrics[key]

    def solve(self, degrees: Degrees, most: int) -> Solved | None:
        """Best assignment of one strategy, or None when no batch meets the limits.

        Parameters
        ----------
        most : int
            Proven upper bound on the sequences of a replica.
        """
        cells = self.mapper.assign(degrees)
        if cells is None:
            return None
        try:
            fabrics = self.fabrics(degrees, cells)
        except DisconnectedError:
            return None
        request = self.request
        maps = self.slot_maps(degrees)
        model = request.setting.model
        routing = cache(lambda tokens: routed_load(maps, request.loads, model, tokens))
        kinds = {
            id(fabric): ReplicaCase(degrees=degrees, routing=routing, fabric=fabric)
            for fabric in fabrics
        }
        found = self._decided([kinds[id(fabric)] for fabric in fabrics], most)
        if found is None:
            return None
        assignment = Assignment(
            degrees=degrees,
            stage_ends=found.ends,
            cells=cells,
            slot_maps=maps,
            sequences=dealt(degrees, found.replicas),
        )
        prediction = evaluate(
            request.setting, request.topology, assignment, request.loads, request.price_usd_per_hour
        )
        return Solved(assignment=assignment, prediction=prediction)

    def _decided(self, cases: Sequence[ReplicaCase], most: int) -> Dealt | None:
        """Stages, and sequences of every replica.

        Parameters
        ----------
        cases : sequence of ReplicaCase
            One per replica; equal ones are one object.
        """
        kinds = list({id(case): case for case in cases}.values())
        case, replicas = slowest(kinds), len(cases)
        if self.request.batch is not None:
            even = split_evenly(self.request.batch, replicas)
            cut = self._pinned_cut(case, even)
            found = None if cut is None else Dealt(ends=cut.ends, replicas=even)
            return found if len(kinds) == 1 else self._unlevel(cases, found)
        free = self._free_batch(case, most)
        if len(kinds) > 1 and self._rates_add_up:
            own = [free, *(self._free_batch(kind, most) for kind in kinds[:MAX_KINDS])]
            stages = [found.cut.ends for found in own if found is not None]
            best = each_best(self.cutter, cases, stages, self._batches(case.degrees, most))
            return None if best is None else best[1]
        if free is None:
            return None
        return Dealt(ends=free.cut.ends, replicas=(free.cut.batch,) * replicas)

    def _unlevel(self, cases: Sequence[ReplicaCase], even: Dealt | None) -> Dealt | None:
        """A pinned batch by speed, where the slowest step counts and that makes it faster."""
        batch = self.request.batch
        assert batch is not None
        if self._rates_add_up:
            return even
        kinds = list({id(case): case for case in cases}.values())
        share = ceil_div(batch, len(cases))
        cuts = [self.cutter.cut(kind, share) for kind in kinds[:MAX_KINDS]]
        stages = [cut.ends for cut in cuts if cut is not None]
        found = [by_speed(self.cutter, cases, ends, batch) for ends in dict.fromkeys(stages)]
        every = [dealt for dealt in (even, *found) if dealt is not None]
        return min(every, key=lambda own: slowest_step_s(self.cutter, cases, own), default=None)

    def _pinned_cut(self, case: ReplicaCase, replicas: tuple[int, ...]) -> Cut | None:
        """Stages for replicas of two sizes: those of the one or the other."""
        first = self.cutter.cut(case, replicas[0])
        if first is None or len(set(replicas)) == 1 or not self._rates_add_up:
            return first
        best, best_rate = first, 0.0
        for own in (first, self.cutter.cut(case, replicas[-1])):
            cuts = [own and self.cutter.priced(case, batch, own.ends) for batch in set(replicas)]
            parts = {cut.batch: cut for cut in cuts if cut is not None}
            if len(parts) == len(set(replicas)):
                rate = sum(parts[batch].rate for batch in replicas)
                if rate > best_rate:
                    best, best_rate = parts[replicas[0]], rate
        return best

    def _free_batch(self, case: ReplicaCase, most: int) -> BestBatch | None:
        """The best batch of one replica: the smallest one for latency."""
        degrees = case.degrees
        if not self._rates_add_up:
            cut = self.cutter.cut(case, degrees.microbatches)
            return None if cut is None else BestBatch(cut=cut, rate_bound=cut.rate)
        cut_of = cache(partial(self.cutter.cut, case))
        return best_batch(cut_of, self._batches(degrees, most), degrees.pp > 1)

    def _batches(self, degrees: Degrees, most: int) -> BatchRange:
        full = degrees.microbatches * degrees.attn_dp
        return BatchRange(microbatch=degrees.microbatches, full=full, most=most)

    def bound(self, degrees: Degrees, most: int) -> float | None:
        """Objective that no assignment of the strategy beats; None when proven infeasible.

        Slots receive the proven lower bound of the hottest share and of the touched
        copies, links the best cells of the machine; stages are cut exactly.
        """
        found = self._bound_rates(degrees, most)
        if found is None:
            return None
        step_s, sequences_per_s = found
        tokens_per_s = self.setting.sequence_tokens * sequences_per_s
        counted, rented = counted_chips(self.request, np.array([degrees.chips_used]))
        chips = (float(np.max(counted)), float(rented[0]))
        price = self.request.price_usd_per_hour
        return float(objective_value(self.request.objective, step_s, tokens_per_s, chips, price))

    def _bound_rates(self, degrees: Degrees, most: int) -> tuple[float, float] | None:
        """Least step of the slowest replica, and most sequences per second of all."""
        routing = self._optimistic_routing(degrees)

        @cache
        def case(fastest: int) -> ReplicaCase:
            return self._optimistic_case(degrees, routing, fastest)

        batch, replicas = self.request.batch, degrees.replicas
        if batch is None and self._rates_add_up:

            def rate(own: ReplicaCase) -> float | None:
                found = self._free_batch(own, most)
                return None if found is None else found.rate_bound

            total = sum_over_replicas(replicas, case, rate)
            return None if total is None else (1.0, total)
        sizes: tuple[int, ...] = (degrees.microbatches,)
        if batch is not None:
            sizes = split_evenly(batch, replicas)
        if batch is not None and not self._rates_add_up:
            step_s = self._level_step_s(replica_runs(replicas, case), batch)
            return None if step_s is None else (step_s, 1.0)
        # Whoever is the slowest may have the fewest sequences.
        cuts = (self.cutter.cut(case(1), sizes[0]), self.cutter.cut(case(replicas), sizes[-1]))
        if None in cuts:
            return None
        step_s = max(cut.step_s for cut in cuts if cut is not None)
        if batch is None:
            return step_s, 1.0

        def fullest(own: ReplicaCase) -> float:
            found = (self.cutter.cut(own, size) for size in set(sizes))
            return max((cut.rate for cut in found if cut is not None), default=0.0)

        if case(1).fabric != case(replicas).fabric:
            return step_s, sum_over_replicas(replicas, case, fullest) or 0.0
        rates = {cut.batch: cut.rate for cut in cuts if cut is not None}
        return step_s, sum(rates[size] for size in sizes)

    def _optimistic_case(self, degrees: Degrees, routing: Routing, fastest: int) -> ReplicaCase:
        """The slowest of so many replicas, on cells chosen for them alone."""
        rates = dict(self.mapper.wounded_rates(replace(degrees, replicas=fastest)))
        rates["pp", Op.SEND_RECV] = self._fastest_hop(degrees)
        return ReplicaCase(degrees=degrees, routing=routing, fabric=rates)

    def rate_beyond(self, degrees: Degrees, most: int) -> float:
        """Sequences per second that no replica of up to ``most`` exceeds, limits left aside.

        Quicker than :meth:`bound`, and no less; infinite where not even that fits.
        """
        case = self._optimistic_case(degrees, self._optimistic_routing(degrees), 1)
        endless = Cutter(replace(self.request, step_limit_s=None))
        batches = self._batches(degrees, most)
        cuts = [endless.cut(case, b, degrees.microbatches) for b in batches.candidates(most)]
        return max((cut.rate for cut in cuts if cut is not None), default=math.inf)

    def _level_step_s(self, runs: list[tuple[int, ReplicaCase]], batch: int) -> float | None:
        """Slowest step where a pinned batch is dealt by speed; None beyond the limits."""
        replicas = sum(count for count, _ in runs)
        if len(runs) == 1:
            cut = self.cutter.cut(runs[0][1], ceil_div(batch, replicas))
            return None if cut is None else cut.step_s
        least = runs[0][1].degrees.microbatches
        kinds: list[Replica] = []
        for count, case in runs:

            @cache
            def step_s(sequences: int, case: ReplicaCase = case) -> float:
                cut = self.cutter.cut(case, sequences)
                return math.inf if cut is None else cut.step_s

            most = batch - (replicas - 1) * least
            kinds += [Replica(step_s=step_s, least=least, most=most)] * count
        return slowest_step(batch, kinds)

    def _fastest_hop(self, degrees: Degrees) -> LinkRate:
        """The slowest hop of a replica at best: stages that are whole fill domain by domain."""
        size, topology = degrees.stage_chips, self.request.topology
        unit = self.mapper.unit(degrees.attn_tp, degrees.expert_tp) or 1
        need = degrees.pp * degrees.replicas
        whole = size <= topology.largest_open and max_cells(topology, size, unit) >= need
        return self.mapper.optimistic_hop(size, max(2, degrees.pp) if whole else 2)

    def _optimistic_routing(self, degrees: Degrees) -> Routing:
        model = self.request.setting.model
        layers = moe_layer_indices(model)
        shape = moe_shape(model)
        self.slot_maps(degrees)
        hot = self._hot_bounds[degrees.ep, degrees.num_slots]

        @cache
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
