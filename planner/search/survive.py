"""Layouts that go on when any one unit of chips dies.

Space       strategies with two copies' worth of slots or two replicas, and two attention groups:
            others cannot survive (:mod:`planner.search.survival`)
Bound       that of the search: the constraints below only remove layouts
Constraints every expert of a replica lies in two places that do not die together
            (``expert_apart``), unless some replica is untouched by every unit; sequences find
            room after the worst failure: the batch is lowered until they do

Places are the classes of expert groups that share a unit in some stage of some replica: experts
in two classes survive in every stage, wherever stages are cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.cost.block import RoutedLoad
from planner.cost.evaluate import Routing
from planner.cost.routing import moe_layer_indices, moe_shape
from planner.domain.assignment import SlotMap
from planner.domain.degrees import Degrees
from planner.search.batches import split_evenly
from planner.search.expert_apart import place_apart
from planner.search.expert_bounds import FloatArray, IntArray
from planner.search.experts import place_experts
from planner.search.mesh import Cells, MeshMapper
from planner.search.replan_solve import GivenSolver
from planner.search.request import PlanRequest
from planner.search.solve import Solved, StrategySolver
from planner.search.survival import memory_after, survival_violations

_SHRINKS = 16


def solver_for(request: PlanRequest, mapper: MeshMapper) -> StrategySolver:
    """The solver of a request's strategies."""
    return SurvivingSolver(request, mapper) if request.units else StrategySolver(request, mapper)


class SurvivingSolver(StrategySolver):
    """Solves strategies so that any one unit may die."""

    def solve(self, degrees: Degrees, most: int) -> Solved | None:
        """Best assignment of one strategy that survives, or None when none was found."""
        request = self.request
        cells = self.mapper.assign(degrees)
        maps = None if cells is None else self._maps_apart(degrees, cells)
        if cells is None or maps is None:
            return None
        solver = GivenSolver(request, cells, maps)
        for _ in range(_SHRINKS):
            found = solver.solve(degrees, most)
            if found is None:
                return None
            if survival_violations(found.assignment, request.setting.model, request.units):
                return None
            needed, capacity = memory_after(
                self.setting, found.assignment, request.loads, request.units
            )
            if needed <= capacity:
                return found
            if request.batch is not None:
                return None
            memory = found.prediction.memory
            fixed = memory.weights_bytes + memory.reserve_bytes
            share = (capacity - fixed) / (needed - fixed)
            largest = max(sum(map(sum, own)) for own in found.assignment.sequences)
            most = min(largest - 1, int(largest * share))
            if most < 1:
                return None
        return None

    def _optimistic_routing(self, degrees: Degrees) -> Routing:
        """Sharper where one replica must hold two copies of every expert."""
        free = super()._optimistic_routing(degrees)
        shape = moe_shape(self.request.setting.model)
        if shape is None or degrees.replicas > 1:
            return free
        top_k, slots = shape[1], (degrees.num_slots, degrees.ep)

        def routing(tokens: float) -> dict[int, RoutedLoad]:
            hot, touched = twice_bound(self.request.loads, top_k, slots, tokens)
            return {
                layer: RoutedLoad(
                    hot_share=max(float(load.hot_share), float(hot[row])),
                    touched_slots=max(float(load.touched_slots), float(touched[row])),
                )
                for row, (layer, load) in enumerate(free(tokens).items())
            }

        return routing

    def _maps_apart(self, degrees: Degrees, cells: Cells) -> tuple[SlotMap, ...] | None:
        layers = moe_layer_indices(self.request.setting.model)
        plain = self.slot_maps(degrees)
        if not layers or untouched_replica(cells, self.request.units):
            return plain
        shape = moe_shape(self.request.setting.model)
        if shape is None or degrees.num_slots < 2 * shape[0]:
            return None
        caps = np.array(split_evenly(degrees.num_slots, degrees.ep), dtype=np.int64)
        place = places(degrees, cells, self.request.units)
        placed = place_experts(self.request.loads, degrees.ep, caps)
        grouped: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for layer, row, free in zip(layers, self.request.loads, placed, strict=True):
            groups = place_apart(row, caps, place, free.bound)
            if groups is None or sum(map(len, groups)) != degrees.num_slots:
                return None
            grouped.setdefault(groups, []).append(layer)
        return tuple(SlotMap(layers=tuple(own), slots=slots) for slots, own in grouped.items())


def twice_bound(
    loads: FloatArray, top_k: int, slots: tuple[int, int], tokens: float
) -> tuple[FloatArray, FloatArray]:
    """Hottest share and touched copies that some group has where experts have two copies or more.

    The copies of an expert that are touched grow concavely with their number: those beyond two
    add at least the chord's slope, and the busiest group has the mean at least. Where the slots
    hold just two copies of each, the fullest group holds ``ceil(slots / groups)`` of them, at
    least the coldest ones.

    Parameters
    ----------
    loads : array, shape ``[layers, experts]``
    slots : (int, int)
        Slots of a layer, at least two per expert, and groups.

    Returns
    -------
    (array, array)
        Each of shape ``[layers]``.
    """
    num_slots, groups = slots
    extra = num_slots - 2 * loads.shape[1]
    p = np.minimum(top_k * loads, 1.0)
    one = 1.0 - (1.0 - p / 2) ** tokens
    total = 2 * one.sum(axis=1)
    if extra > 0:
        # No group holds an expert twice.
        most = min(extra + 2, max(groups, 3))
        chord = (most * (1.0 - (1.0 - p / most) ** tokens) - 2 * one) / (most - 2)
        touched = (total + extra * chord.min(axis=1)) / groups
        return np.zeros(len(loads)), np.asarray(touched)
    fullest = -(-num_slots // groups)
    hot = np.sort(loads / 2, axis=1)[:, :fullest].sum(axis=1)
    coldest = np.sort(one, axis=1)[:, :fullest].sum(axis=1)
    return hot, np.maximum(total / groups, coldest)


def untouched_replica(cells: Cells, units: Sequence[frozenset[int]]) -> bool:
    """Whether every unit leaves some replica whole."""
    replicas = [frozenset(chip for cell in stages for chip in cell) for stages in cells]
    return all(any(not unit & own for own in replicas) for unit in units)


def places(degrees: Degrees, cells: Cells, units: Sequence[frozenset[int]]) -> IntArray:
    """Class of every expert group; groups of two classes share no unit, shape ``[ep]``."""
    unit_of = {chip: number for number, unit in enumerate(units) for chip in unit}
    parent = list(range(degrees.ep))

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for stages in cells:
        for cell in stages:
            first: dict[int, int] = {}
            for index, chip in enumerate(cell):
                group = index // degrees.expert_tp
                other = first.setdefault(unit_of.get(chip, -1 - chip), group)
                low, high = sorted((root(group), root(other)))
                parent[high] = low
    roots = [root(group) for group in range(degrees.ep)]
    number = {own: place for place, own in enumerate(dict.fromkeys(roots))}
    return np.array([number[own] for own in roots], dtype=np.int64)
