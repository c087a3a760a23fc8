"""Optimistic seconds of what a step does with weights: messages of gradients, and the update.

Both are those of the device with the most parameters, the *fullest*. It has at least ``N`` of
them: those of the mean device, of ``ceil(layers / p)`` of the smallest layers, of that share of
the layers of any one kind. Which ones it has is for the cut to say. So each amount that time
depends on (parameters outside the experts, in the experts, seconds of the update) is at least that
of the cheapest layers that add up to ``N`` beside the embedding, or the head, or neither
(:meth:`WeightBound.least`, a fractional covering problem). Messages of dense parameters and of
experts that have ``N`` in common are cheapest where one of the two is as small as it can be, since
a message's time is concave in its bytes.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from planner.cost.overlap import exposed_seconds
from planner.cost.price import chip_flop_per_s
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s
from planner.cost.runs.optimizer import layer_update_flop, traffic_per_param
from planner.cost.runs.training import STEP_KERNELS
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.run import Mesh, Optimizer, ScheduleKind
from planner.search.training.cases import Cases, FloatArray, Hiding, IntArray
from planner.search.training.memory import MemoryBound
from planner.search.training.policies import KINDS

# Schedules that may put embedding and head on one device of several.
TABLES_TOGETHER = [KINDS.index(kind) for kind in (ScheduleKind.ZB_V, ScheduleKind.NONE)]


class WeightBound(MemoryBound):
    """Every method returns arrays over cases, or over rows of the space."""

    def layer_params(self, rows: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Parameters of a layer of every kind on a chip, ``[n, layers]``: dense, expert, tables."""
        shard = self.tables.dense_shard.inverse[rows]
        return self.tables.dense[shard], self.local_experts(rows), self.tables.tables[shard]

    def fullest_params(self, rows: IntArray) -> FloatArray:
        """Parameters that the fullest device holds at least."""
        dense, expert, _ = self.params(rows)
        p = self.meshes.pp[rows]
        own = self.layer_params(rows)
        totals = own[0] + own[1]
        few = self.cheapest(totals, np.ceil(self.num_layers / p))
        alike = (np.ceil(self.counts / p[:, None]) * totals).max(axis=1)
        return np.asarray(np.maximum((dense + expert) / p, np.maximum(few, alike)))

    def least(self, cases: Cases, costs: FloatArray, table_costs: FloatArray) -> FloatArray:
        """Smallest cost of what the fullest device may hold.

        Only ZB-V puts embedding and head on one device; no schedule stands for all of them.

        Parameters
        ----------
        costs : array, shape ``[n, layers]``
            Of a layer of every kind.
        table_costs : array, shape ``[n]``
            Of one parameter of embedding or head.
        """
        rows = cases.rows
        most = self.fullest_params(rows)
        own = self.layer_params(rows)
        totals = own[0] + own[1]
        p = self.meshes.pp[rows]
        shard = self.tables.dense_shard.inverse[rows]
        first, last, tied = (
            table[shard] for table in (self.tables.first, self.tables.last, self.tables.tied)
        )
        ahead, ahead_cost = totals @ self.ends, costs @ self.ends
        tables = (np.zeros(len(rows)), first, last, first + last)
        prediction = (0.0, 0.0, 1.0, 1.0)
        found = [
            table * table_costs
            + also * ahead_cost
            + self._cover(most - table - also * ahead, totals, costs)
            for table, also in zip(tables, prediction, strict=True)
        ]
        together = np.isin(cases.policies.kind, TABLES_TOGETHER)
        found[-1] = np.where(together, found[-1], np.inf)
        alone = tied * table_costs + costs @ (self.counts + self.ends)
        return np.asarray(np.where(p == 1, alone, np.min(found, axis=0)))

    def _cover(self, need: FloatArray, totals: FloatArray, costs: FloatArray) -> FloatArray:
        """Cheapest share of the model's layers whose ``totals`` add up to ``need``."""
        left, found = np.maximum(0.0, need), np.zeros(len(need))
        rates = costs / totals
        if totals.shape[1] == 1:
            return np.asarray(np.minimum(left, self.counts[0] * totals[:, 0]) * rates[:, 0])
        if totals.shape[1] == 2:
            # Of two kinds, sorting is most of the work.
            first = rates[:, 0] <= rates[:, 1]
            most = self.counts * totals
            taken = np.minimum(left, np.where(first, most[:, 0], most[:, 1]))
            others = np.minimum(left - taken, np.where(first, most[:, 1], most[:, 0]))
            low, high = rates.min(axis=1), rates.max(axis=1)
            return np.asarray(taken * low + others * high)
        order = np.argsort(rates, axis=1)
        every = np.arange(len(need))
        for place in range(totals.shape[1]):
            kind = order[:, place]
            taken = np.minimum(left, self.counts[kind] * totals[every, kind])
            found += taken * rates[every, kind]
            left = left - taken
        return found

    def _message_s(
        self, rows: IntArray, op: Op, size: float, ends: tuple[tuple[FloatArray, FloatArray], ...]
    ) -> FloatArray:
        """Collective over ``size`` bytes of each parameter, the cheaper of two splits."""
        found = [
            self.weight_links_s(rows, op, dense * size, expert * size) for dense, expert in ends
        ]
        return np.asarray(np.min(found, axis=0))

    def message_s(self, cases: Cases) -> tuple[FloatArray, FloatArray]:
        """Reduction of gradients once per step, and return of the weights, not hidden."""
        rows, zero = cases.rows, cases.policies.zero
        most = self.fullest_params(rows)
        dense, expert, small = self.layer_params(rows)
        one, none = np.ones(len(rows)), np.zeros(len(rows))
        least_dense, least_expert = self.least(cases, dense, one), self.least(cases, expert, none)
        splits = (
            (least_dense, np.maximum(most - least_dense, least_expert)),
            (np.maximum(most - least_expert, least_dense), least_expert),
        )
        size = BYTES_PER_ELEMENT[self.request.gradients]
        reduce = np.where(
            zero == 0,
            self._message_s(rows, Op.ALL_REDUCE, size, splits),
            self._message_s(rows, Op.REDUCE_SCATTER, size, splits),
        )
        if (zero == 2).any():
            tables = self.least(cases, small, one)
            kept = self._message_s(rows, Op.REDUCE_SCATTER, size, ((tables, none),))
            reduce = np.where(zero == 2, kept, reduce)
        stored = BYTES_PER_ELEMENT[self.request.model.precision.attention]
        gather = self._message_s(rows, Op.ALL_GATHER, stored, splits)
        once = zero < 3
        return np.where(once, reduce, 0.0), np.where(once & (zero > 0), gather, 0.0)

    def gradients_s(self, cases: Cases, hiding: Hiding) -> FloatArray:
        """Reduction and return of the weights of the fullest device, mostly hidden."""
        reduce, gather = self.message_s(cases)
        if not self.hides_dp:
            return reduce + gather
        held = (hiding.layers + self.num_mtp).astype(float)
        rest = 1.0 - 1.0 / held
        total = (reduce + gather) / held
        total = total + exposed_seconds(reduce * rest, hiding.backward_s, self.share)
        return np.asarray(total + exposed_seconds(gather * rest, hiding.forward_s, self.share))

    @cached_property
    def _update_flop(self) -> tuple[FloatArray, FloatArray]:
        """FLOP of the update of a layer: outside the routed experts, and in all of them."""
        model = self.request.model
        once = [layer_update_flop(model, layer, Mesh()) for layer, _, _ in self.tables.kinds]
        half = [layer_update_flop(model, layer, Mesh(ep=2)) for layer, _, _ in self.tables.kinds]
        routed = 2.0 * (np.array(once) - np.array(half))
        return np.array(once) - routed, routed

    def optimizer_s(self, cases: Cases) -> FloatArray:
        """Update of the fullest device; its matrix products are those of the mean one."""
        rows, request = cases.rows, self.request
        sharded = cases.policies.zero >= 1
        first, second = (np.where(sharded, own, 1.0) for own in self.ranks(rows))
        small_bytes, other_bytes = traffic_per_param(
            request.optimizer, request.optimizer_state, request.gradients
        )
        dense, expert, small = self.layer_params(rows)
        moved = small * small_bytes + (dense - small) * other_bytes
        moved = moved / first[:, None] + expert * other_bytes / second[:, None]
        seconds = self.least(cases, moved, small_bytes / first)
        seconds = seconds / achieved_hbm_bytes_per_s(self.chip)
        if request.optimizer is Optimizer.MUON:
            weight = self.counts + self.ends
            plain, routed = self._update_flop
            p, tp = self.meshes.pp[rows], self.meshes.tp[rows]
            ways = self.meshes.ep[rows] * self.meshes.expert_tp[rows]
            flop = (plain @ weight / tp + routed @ weight / ways) / p
            seconds = seconds + flop / first / chip_flop_per_s(self.chip, "bf16")
        return np.asarray(STEP_KERNELS * self.chip.efficiency.kernel_s + seconds)
