"""Optimistic bytes of the fullest device, on arrays of meshes and policies.

Memory of the fullest device is at least that of the mean, and of the second device, whose chunks
hold :func:`~planner.search.training.cases.least_layers` layers each.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from planner.cost.runs.optimizer import state_bytes_per_param
from planner.cost.runs.train_memory import RESERVE_BYTES, RESERVE_SHARE, WIDE, WORK_SHARE
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.run import ScheduleKind
from planner.search.training.cases import (
    FULL,
    REVERSIBLE,
    SELECTIVE,
    BoolArray,
    Cases,
    FloatArray,
    IntArray,
    least_layers,
    most_layers,
)
from planner.search.training.policies import KINDS, interleaved_chunks
from planner.search.training.shares import Shares


class MemoryBound(Shares):
    """Bytes of cases; every method returns arrays over them."""

    def held(self, cases: Cases, stage: int | IntArray) -> FloatArray:
        """Microbatches in flight on a device (:mod:`planner.cost.runs.train_memory`)."""
        p = self.meshes.pp[cases.rows].astype(float)
        m = self.microbatches[cases.rows].astype(float)
        v = np.maximum(1, cases.policies.virtual_stages)
        kind = cases.policies.kind
        found = p - stage
        for scheduled, value in (
            (ScheduleKind.GPIPE, m),
            (ScheduleKind.INTERLEAVED, p - stage + (p - 1) / v),
            (ScheduleKind.ZB_H1, p),
            (ScheduleKind.ZB_V, p),
            (ScheduleKind.ZB_H2, 2 * p - 1),
            (ScheduleKind.DUALPIPE, p + 1),
        ):
            found = np.where(kind == KINDS.index(scheduled), value, found)
        return np.asarray(np.minimum(found, m))

    def state_bytes(self, cases: Cases, params: tuple[FloatArray, ...]) -> FloatArray:
        """Weights, gradients and optimizer states of parameters ``(dense, expert, tables)``.

        The last axis of the parameters is that of the cases.
        """
        request, zero = self.request, cases.policies.zero
        dense, expert, small = params
        ranks, expert_ranks = self.ranks(cases.rows)
        whole, share = dense + expert, dense / ranks + expert / expert_ranks
        dual = cases.policies.kind == KINDS.index(ScheduleKind.DUALPIPE)
        copies = np.where(dual, 2.0, 1.0)
        stored = BYTES_PER_ELEMENT[request.model.precision.attention]
        weights = copies * stored * np.where(zero >= 3, share, whole)
        gradients = (
            copies * BYTES_PER_ELEMENT[request.gradients] * np.where(zero >= 2, share, whole)
        )
        small_bytes, other_bytes = state_bytes_per_param(request.optimizer, request.optimizer_state)
        small_share = np.where(zero >= 1, small / ranks, small)
        others = np.where(zero >= 1, share, whole) - small_share
        return np.asarray(weights + gradients + small_share * small_bytes + others * other_bytes)

    def activation_bytes(self, cases: Cases) -> FloatArray:
        """Kept by one microbatch of one layer of every kind, ``[n, layers]``."""
        blocks, entry = self.tables.blocks, self.tables.block.inverse[cases.rows]
        recompute = cases.policies.recompute
        full = blocks.activations[0][entry]
        selective = blocks.activations[1][entry]
        kept = np.where((recompute == SELECTIVE)[:, None], selective, full)
        entry_bytes = self.entry_bytes(cases.rows)[:, None]
        kept = np.where((recompute == FULL)[:, None], entry_bytes, kept)
        return np.where((recompute == REVERSIBLE)[:, None], 0.0, kept)

    def layer_state_bytes(self, cases: Cases) -> FloatArray:
        """Weights, gradients and optimizer states of one layer of every kind, ``[n, layers]``."""
        tables = self.tables
        shard = tables.dense_shard.inverse[cases.rows]
        expert = self.local_experts(cases.rows)
        params = (tables.dense[shard].T, expert.T, tables.tables[shard].T)
        return self.state_bytes(cases, params).T

    def work_bytes(self, cases: Cases) -> FloatArray:
        """What the layer at work needs beside what is kept, on a device that holds a layer."""
        entry = self.tables.block.inverse[cases.rows]
        selective = (cases.policies.recompute == SELECTIVE).astype(np.int64)
        largest = self.tables.blocks.activations[selective, entry].min(axis=1)
        again = np.where(cases.policies.recompute >= FULL, largest, 0.0)
        # Of sharded weights the layer at work and the next one are gathered.
        shard = self.tables.dense_shard.inverse[cases.rows]
        params = (self.tables.dense[shard] + self.local_experts(cases.rows)).min(axis=1)
        stored = BYTES_PER_ELEMENT[self.request.model.precision.attention]
        gathered = ((1.0 if self.is_torus else 2.0) * stored + WIDE) * params
        gathered = np.where(cases.policies.zero >= 3, gathered, 0.0)
        return np.asarray(WORK_SHARE * largest + again + gathered)

    def input_bytes(self, cases: Cases) -> FloatArray:
        """Inputs of layers and their gradients, on every device."""
        held = 4.0 * self.entry_bytes(cases.rows)
        reversible = cases.policies.recompute == REVERSIBLE
        least = np.minimum(1.0, self.microbatches[cases.rows]) * self.entry_bytes(cases.rows)
        return np.asarray(held + np.where(reversible, least, 0.0))

    def inner_layers(self, cases: Cases) -> IntArray:
        """Fewest layers of a device that is neither the first nor the last.

        No schedule stands for all of them where there are several devices.
        """
        p = self.meshes.pp[cases.rows]
        v_shaped = cases.policies.kind == KINDS.index(ScheduleKind.ZB_V)
        v = np.where(v_shaped, 2, cases.policies.virtual_stages)
        found = v * least_layers(self.num_layers, p * v)
        relaxed = cases.policies.kind == KINDS.index(ScheduleKind.NONE)
        return np.where(relaxed, self._fewest_inner[p], found)

    @cached_property
    def _fewest_inner(self) -> IntArray:
        """Fewest layers of an inner device by number of devices, over all chunks per device."""
        p = np.arange(1, self.num_layers + 3)
        found = least_layers(self.num_layers, p)
        for v in {2, *interleaved_chunks(self.request)}:
            own = v * least_layers(self.num_layers, p * v)
            found = np.where(p * v <= self.num_layers + 2, np.minimum(found, own), found)
        return np.concatenate([[0], found])

    def memory_bytes(self, cases: Cases) -> FloatArray:
        """Optimistic bytes of the fullest device, shape ``[n]``."""
        rows = cases.rows
        p = self.meshes.pp[rows].astype(float)
        params = self.params(rows)
        own = self.activation_bytes(cases)
        inner = self.inner_layers(cases)
        blocks, entry = self.tables.blocks, self.tables.block.inverse[rows]
        work, inputs = self.work_bytes(cases), self.input_bytes(cases)
        alone = own @ self.counts + own @ self.ends + blocks.logits[entry]
        mean = self.state_bytes(cases, (params[0] / p, params[1] / p, params[2] / p))
        # The first and the last device may hold no layer at all.
        busy = np.where(p == 1, 1.0, np.maximum(0.0, p - 2) / p)
        whole = mean + np.where(p == 1, alone, 0.0) + busy * work + inputs
        layer = self.layer_state_bytes(cases) + self.held(cases, 1)[:, None] * own
        second = self.cheapest(layer, inner.astype(float)) + work + inputs
        found = np.maximum(whole, np.where(p > 2, second, 0.0))
        return found + self.reserve_bytes

    def has_room(self, cases: Cases) -> BoolArray:
        """Whether the devices have room for as many layers as the model has, shape ``[n]``.

        For layers of the kind that takes the fewest bytes on each device; see
        :meth:`planner.search.training.rooms.Pipeline.rooms`.
        """
        rows = cases.rows
        p = self.meshes.pp[rows]
        held_here = self.counts > 0
        states = self.layer_state_bytes(cases)[:, held_here]
        kept = self.activation_bytes(cases)[:, held_here]
        budget = self.chip.hbm_usable_bytes - self.reserve_bytes
        free = budget - self.work_bytes(cases) - self.input_bytes(cases)
        shard = self.tables.dense_shard.inverse[rows]
        entry = self.tables.block.inverse[rows]
        ends = []
        for table in (self.tables.first[shard], self.tables.last[shard]):
            ends.append(self.state_bytes(cases, (table, np.zeros(len(rows)), table)))
        last = np.where(cases.policies.kind == KINDS.index(ScheduleKind.ZB_V), 0, p - 1)
        most = most_layers(self.num_layers, p)
        found = np.zeros(len(rows))
        for stage in range(int(p.max(initial=0))):
            sizes = states + self.held(cases, stage)[:, None] * kept
            left = free - np.where(stage == 0, ends[0], 0.0)
            left = left - np.where(stage == last, ends[1] + self.tables.blocks.logits[entry], 0.0)
            room = np.floor(
                np.maximum(0.0, left * (1 + 1e-9)) / np.maximum(1e-9, sizes.min(axis=1))
            )
            found += np.where(stage < p, np.minimum(room, most), 0.0)
        return np.asarray((found >= self.num_layers) | (p == 1))

    @property
    def reserve_bytes(self) -> float:
        """What is not the layout's."""
        if self.is_torus:
            return 0.0
        return RESERVE_BYTES + RESERVE_SHARE * self.chip.hbm_usable_bytes
