"""Optimistic seconds of training steps, on arrays of meshes and policies.

Prices of layers are exact (:mod:`~planner.search.training.tables`); what is relaxed is the cut of
the model into chunks. With ``T`` seconds of one microbatch on all devices, ``m`` microbatches,
``p`` devices, and ``x`` a time that the slowest device cannot undercut
(:meth:`StepBound.slowest_device_s`),

    step >= max( even pipeline of T / p per device,   joint bound of T / p and x )

*Why.* The step of a cut is priced as an even pipeline of some device time ``b`` plus ``m`` times
what devices need beyond it (:mod:`planner.cost.schedules.step`, *Peeling*). A unit of device time
costs the even pipeline no more than ``m p`` units of step, and never shortens it, so evening out
is never dearer: the first bound. The second is that of :mod:`~planner.search.training.joint`.
Published steps of ZB-H2 are those of the slowest device alone
(:mod:`planner.cost.runs.training_pipeline`).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from planner.cost.overlap import exposed_seconds
from planner.cost.runs.mesh_links import hop_ends
from planner.cost.runs.training import STEP_KERNELS
from planner.cost.runs.training_layer import WIRE
from planner.cost.schedules.forms import Work, bubble_seconds
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.run import ScheduleKind
from planner.search.training import tables as t
from planner.search.training.cases import (
    FULL,
    SELECTIVE,
    BoolArray,
    Cases,
    FloatArray,
    Hiding,
    IntArray,
    Parts,
    Passes,
    most_layers,
)
from planner.search.training.joint import Pipelines, joint_bound_s
from planner.search.training.policies import KINDS, hides_experts
from planner.search.training.weights import WeightBound
from planner.topology.collectives import send_recv_rate


def least_idle_s(
    p: FloatArray, slowest: FloatArray, least: FloatArray, tables: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """:meth:`StepBound.validated_idle_s` with the least idle share of a layer given.

    ``tables`` are seconds of embedding and head in the three passes, arrays ``[n, 3]``.
    """
    found = np.maximum(0.0, slowest * least)
    for table in tables:
        own = table[:, 0] + table[:, 1] - 2.0 * table[:, 2]
        rest = np.maximum(0.0, slowest - table.sum(axis=1))
        # At least the table, and layers for the rest of the time: fewer idle less.
        found = np.minimum(found, np.maximum(0.0, own + rest * least))
    return np.asarray((p - 1) * found)


class StepBound(WeightBound):
    """Bounds of one request; every method takes cases and returns arrays over them."""

    def sharding_s(self, cases: Cases) -> tuple[FloatArray, FloatArray]:
        """Gathering weights and reducing gradients of one layer, ``[n, layers]`` each."""
        tables, rows = self.tables, cases.rows
        shape = (len(rows), len(self.counts))
        gather, reduce = np.zeros(shape), np.zeros(shape)
        zero = cases.policies.zero
        some = np.flatnonzero(zero >= 2)
        if not len(some):
            return gather, reduce
        picked = rows[some]
        dense = tables.dense[tables.dense_shard.inverse[picked]]
        expert = self.local_experts(picked)
        stored = BYTES_PER_ELEMENT[self.request.model.precision.attention]
        for layer in range(shape[1]):
            own = dense[:, layer], expert[:, layer]
            for op, size, into in (
                (Op.ALL_GATHER, stored, gather),
                (Op.REDUCE_SCATTER, BYTES_PER_ELEMENT[self.request.gradients], reduce),
            ):
                into[some, layer] = self.weight_links_s(picked, op, own[0] * size, own[1] * size)
        return np.where((zero >= 3)[:, None], gather, 0.0), reduce

    def layer_passes(self, cases: Cases, hide_ep: BoolArray) -> Passes:
        """One microbatch of one layer of every kind."""
        own = self.columns(cases.rows)
        take = [own[:, :, column] for column in range(t.NUM_COLUMNS)]
        share = self.share
        behind = take[t.MATMUL_I] + take[t.MATMUL_W]
        tp_f, tp_b = take[t.TP_F], take[t.TP_B]
        if self.hides_tp:
            tp_f = exposed_seconds(tp_f, take[t.MATMUL_F], share)
            tp_b = exposed_seconds(tp_b, behind, share)
        cp_f = exposed_seconds(take[t.CP_F], take[t.CORE_F], share)
        cp_b = exposed_seconds(take[t.CP_B], take[t.CORE_I], share)
        compute_f = take[t.MATMUL_F] + take[t.CORE_F] + take[t.OTHER_F]
        compute_i = take[t.MATMUL_I] + take[t.CORE_I] + take[t.OTHER_I]
        compute_w = take[t.MATMUL_W] + take[t.OTHER_W]
        hide = hide_ep[:, None]
        ep_f = np.where(hide, exposed_seconds(take[t.EP_F], compute_f, share), take[t.EP_F])
        ep_b = np.where(
            hide, exposed_seconds(take[t.EP_B], compute_i + compute_w, share), take[t.EP_B]
        )
        message_f, message_b = tp_f + cp_f + ep_f, tp_b + cp_b + ep_b
        recompute = cases.policies.recompute[:, None]
        again = np.where(recompute == SELECTIVE, take[t.CORE_F], 0.0)
        again = np.where(recompute >= FULL, compute_f + message_f, again)
        busy_f = compute_f + message_f
        busy_b = compute_i + message_b + again + compute_w
        gather, reduce = self.sharding_s(cases)
        if self.hides_dp:
            shard_f = exposed_seconds(gather, busy_f, share)
            shard_b = exposed_seconds(gather + reduce, busy_b, share)
        else:
            shard_f, shard_b = gather, gather + reduce
        return Passes(
            forward=busy_f + take[t.HOST_F] + shard_f,
            input_grad=compute_i + message_b + again + take[t.HOST_I] + shard_b,
            weight_grad=compute_w,
        )

    def whole_model(self, cases: Cases, passes: Passes) -> FloatArray:
        """Seconds of one microbatch on all devices in the three passes, shape ``[3, n]``."""
        blocks, entry = self.tables.blocks, self.tables.block.inverse[cases.rows]
        weight = self.counts + self.ends
        parts = (passes.forward, passes.input_grad, passes.weight_grad)
        layers = np.stack([part @ weight for part in parts])
        tables = blocks.embedding[entry] + (1 + self.num_mtp) * blocks.head[entry]
        return np.asarray(layers + tables.T)

    def slowest_device_s(self, cases: Cases, passes: Passes, whole: FloatArray) -> FloatArray:
        """What the slowest device takes at least, over the three passes.

        The mean; ``ceil(layers / p)`` of the cheapest layers; that share of the layers of any one
        kind. Devices of DualPipe take half of two stages each: of ``p / 2`` pairs.
        """
        p = self.meshes.pp[cases.rows].astype(float)
        total = passes.total
        dual = cases.policies.kind == KINDS.index(ScheduleKind.DUALPIPE)
        places = np.where(dual, p / 2.0, p)
        few = self.cheapest(total, np.ceil(self.num_layers / places))
        alike = (np.ceil(self.counts / places[:, None]) * total).max(axis=1)
        most = np.maximum(few, alike) / np.where(dual, 2.0, 1.0)
        return np.asarray(np.maximum(whole.sum(axis=0) / p, most))

    # Steps.

    def pipeline_s(
        self, cases: Cases, whole: FloatArray, slowest: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """All microbatches and the bubble; and the slowest device's time that messages hide behind.

        Gradients hide better behind a device that is slower than ``slowest``, but not as fast as
        the step grows with it, once the bound does: from the second number on.
        """
        p = self.meshes.pp[cases.rows].astype(float)
        m = self.microbatches[cases.rows].astype(float)
        policies = cases.policies
        found, behind = m * slowest, slowest.copy()
        for position, kind in enumerate(KINDS):
            rows = np.flatnonzero(policies.kind == position)
            if not len(rows) or kind is ScheduleKind.NONE:
                continue
            if kind is ScheduleKind.ZB_H2:
                found[rows] += self.validated_idle_s(cases, slowest)[rows]
                continue
            v = policies.virtual_stages[rows].astype(float)
            pipes = Pipelines(p=p[rows], m=m[rows], v=v, mean=whole[:, rows] / p[rows])
            bubble = bubble_seconds(kind, pipes.p, pipes.m, pipes.v, Work(*pipes.mean))
            even = pipes.m * pipes.mean.sum(axis=0) + np.maximum(0.0, bubble)
            joint, slope = joint_bound_s(kind, pipes, slowest[rows])
            own = np.maximum(np.maximum(found[rows], even), joint)
            # Where the second bound grows slower than messages hide, m x is what does.
            late = slowest[rows] + (own - joint) / np.maximum(1.0, slope)
            behind[rows] = np.where(slope >= 1.0, np.minimum(late, own / pipes.m), own / pipes.m)
            found[rows] = own
        return found, behind

    def validated_idle_s(self, cases: Cases, slowest: FloatArray) -> FloatArray:
        """Least idle time of ZB-H2's slowest device: ``(p - 1)(F + B - 2 W)`` of what it may hold.

        Its layers idle by their kind; embedding and head are counted apart.
        """
        passes = self.layer_passes(cases, hides_experts(self.request, cases.policies.kind))
        idle = passes.forward + passes.input_grad - 2.0 * passes.weight_grad
        least = (idle / passes.total).min(axis=1)
        blocks, entry = self.tables.blocks, self.tables.block.inverse[cases.rows]
        return least_idle_s(
            self.meshes.pp[cases.rows].astype(float),
            slowest,
            least,
            (blocks.embedding[entry], (1 + self.num_mtp) * blocks.head[entry]),
        )

    @cached_property
    def _hops(self) -> tuple[t.Index, FloatArray]:
        pp = self.meshes.pp
        index = t.Index.of(self.stage_chips, pp)
        topology = self.request.topology
        rows = []
        for row in index.first:
            if pp[row] == 1:
                rows.append((0.0, 0.0, 0.0))
                continue
            ends = hop_ends(topology, int(self.stage_chips[row]), int(pp[row]))
            rate = send_recv_rate(topology, *ends)
            rows.append((rate.latency_s, rate.s_per_byte, rate.fill_s))
        return index, np.array(rows).reshape(-1, 3)

    def hops_s(self, cases: Cases) -> FloatArray:
        """Messages between devices; see :func:`planner.cost.runs.training.hop_seconds`."""
        meshes, rows = self.meshes, cases.rows
        index, rates = self._hops
        latency, per_byte, fill = rates[index.inverse[rows]].T
        interleaved = cases.policies.kind == KINDS.index(ScheduleKind.INTERLEAVED)
        tokens = meshes.microbatch[rows] * self.request.seq_len / meshes.cp[rows]
        num_bytes = WIRE * tokens * self.request.model.hidden_size
        split = (meshes.sequence_parallel[rows] > 0) | interleaved
        wire = np.where(split, num_bytes / meshes.tp[rows], num_bytes) * per_byte
        hop = latency + wire + 2 * np.sqrt(fill * wire)
        p = meshes.pp[rows]
        share = np.where(interleaved, self.share, 1.0)
        beside = share * self.microbatches[rows] * 2.0 * hop * cases.policies.virtual_stages
        return np.where(p > 1, 2.0 * (p - 1) * hop + beside, 0.0)

    def _pass_shares(
        self, cases: Cases, passes: Passes, plain: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Largest share of its time that anything on a device spends forward, and backward.

        ``plain`` leaves embedding and head out.
        """
        entry = self.tables.block.inverse[cases.rows]
        blocks = self.tables.blocks
        shares = [passes.forward / passes.total]
        if not plain:
            for table in (blocks.embedding[entry], blocks.head[entry]):
                shares.append((table[:, 0] / table.sum(axis=1))[:, None])
        every = np.concatenate(shares, axis=1)
        return every.max(axis=1), 1.0 - every.min(axis=1)

    def step_s(self, cases: Cases) -> FloatArray:
        """Optimistic seconds of a step, shape ``[n]``."""
        parts = self._parts(cases)
        slowest = self.slowest_device_s(cases, parts.passes, parts.whole)
        layers = most_layers(self.num_layers, self.meshes.pp[cases.rows])
        return self._with_slowest_s(parts, slowest, layers)

    def tight_step_s(
        self, case: Cases, slowest_s: float, devices: tuple[tuple[float, int, bool], ...]
    ) -> float:
        """The same for one case, given what the slowest device takes and holds at least.

        Messages of gradients hide better behind a device of more layers, but then that device
        takes longer.

        Parameters
        ----------
        slowest_s : float
            Of the slowest device.
        devices : tuple of (float, int, bool)
            Seconds and layers of what the slowest device may be, and whether it holds nothing
            but layers; empty where only ``slowest_s`` is known.
        """
        parts = self._parts(case)
        if not devices:
            p = self.meshes.pp[case.rows]
            few, most = -(-self.num_layers // p), most_layers(self.num_layers, p)
            return float(
                min(
                    self._with_slowest_s(parts, self._cheapest_s(parts, slowest_s, few), few)[0],
                    self._with_slowest_s(parts, self._cheapest_s(parts, slowest_s, most), most)[0],
                )
            )
        found = [
            self._with_slowest_s(
                parts, np.maximum(parts.mean, seconds), np.array([max(1, layers)]), plain
            )
            for seconds, layers, plain in devices
        ]
        return float(min(values[0] for values in found))

    def least_rest_s(self, case: Cases, slowest_s: float) -> float:
        """Gradients and update of one case behind a device that takes no longer than given."""
        passes = self.layer_passes(case, hides_experts(self.request, case.policies.kind))
        shares = self._pass_shares(case, passes, plain=False)
        hiding = Hiding(
            forward_s=shares[0] * slowest_s,
            backward_s=shares[1] * slowest_s,
            layers=most_layers(self.num_layers, self.meshes.pp[case.rows]),
        )
        kernels = STEP_KERNELS * self.chip.efficiency.kernel_s
        rest = self.gradients_s(case, hiding) + self.optimizer_s(case)
        return float(rest[0]) - kernels

    def _cheapest_s(self, parts: Parts, slowest_s: float, layers: IntArray) -> FloatArray:
        dual = parts.cases.policies.kind == KINDS.index(ScheduleKind.DUALPIPE)
        own = np.where(dual, 0.0, self.cheapest(parts.passes.total, layers.astype(float)))
        return np.maximum(np.maximum(slowest_s, parts.mean), own)

    def _parts(self, cases: Cases) -> Parts:
        hide = hides_experts(self.request, cases.policies.kind)
        passes = self.layer_passes(cases, hide)
        whole = self.whole_model(cases, passes)
        return Parts(
            cases=cases,
            passes=passes,
            whole=whole,
            mean=whole.sum(axis=0) / self.meshes.pp[cases.rows],
            fixed=self.hops_s(cases) + self.optimizer_s(cases),
        )

    def _with_slowest_s(
        self, parts: Parts, slowest: FloatArray, layers: IntArray, plain: bool = False
    ) -> FloatArray:
        cases = parts.cases
        found, behind = self.pipeline_s(cases, parts.whole, slowest)
        shares = self._pass_shares(cases, parts.passes, plain)
        hiding = Hiding(forward_s=shares[0] * behind, backward_s=shares[1] * behind, layers=layers)
        gradients = self.gradients_s(cases, hiding)
        return np.asarray(found + gradients + parts.fixed)
