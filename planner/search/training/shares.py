"""What one chip holds and prices of a mesh, looked up: the common ground of both bounds."""

from __future__ import annotations

import numpy as np

from planner.cost.overlap import core_share
from planner.cost.runs.gemm import sustained_chip
from planner.cost.runs.train_memory import WIDE
from planner.domain.curves import Op
from planner.domain.run import Overlap
from planner.search.training import tables as t
from planner.search.training.cases import FloatArray, IntArray
from planner.search.training.request import TrainRequest
from planner.search.training.space import Meshes


class Shares:
    """The tables of one request; methods take rows of the space, arrays of shape ``[n]``."""

    def __init__(self, request: TrainRequest, meshes: Meshes) -> None:
        self.request = request
        self.meshes = meshes
        self.tables = t.build_tables(request, meshes)
        self.chip = sustained_chip(request.topology.chip)
        torus = request.topology.is_torus
        self.is_torus = torus
        self.share = core_share(self.chip, on_torus=torus)
        self.hides_tp = torus or Overlap.TP in request.overlap
        self.hides_dp = Overlap.DP in request.overlap
        kinds = self.tables.kinds
        self.counts = np.array([float(count) for _, count, _ in kinds])
        self.ends = np.array([float(mtp) for _, _, mtp in kinds])
        self.num_layers = len(request.model.layers)
        self.num_mtp = len(request.model.mtp_layers)
        per_rank = request.global_batch // meshes.dp
        self.microbatches = per_rank // meshes.microbatch
        self.stage_chips = meshes.stage_chips

    def columns(self, rows: IntArray) -> FloatArray:
        """Priced layers of each mesh, shape ``[n, layers, columns]``."""
        tables = self.tables
        own = tables.blocks.layers[tables.block.inverse[rows]]
        found: FloatArray = own + tables.experts[tables.expert.inverse[rows]]
        return found

    def local_experts(self, rows: IntArray) -> FloatArray:
        """Parameters of routed experts of a layer on a chip, ``[n, layers]``."""
        ways = self.meshes.ep[rows] * self.meshes.expert_tp[rows]
        return self.tables.routed[None, :] / ways[:, None]

    def cheapest(self, total: FloatArray, number: FloatArray) -> FloatArray:
        """Sum over the ``number`` cheapest layers of the model, given one of every kind."""
        if total.shape[1] == 1:
            return np.asarray(number * total[:, 0])
        if total.shape[1] == 2:
            first = total[:, 0] <= total[:, 1]
            low, high = np.where(first, total.T, total.T[::-1])
            taken = np.minimum(number, np.where(first, *self.counts))
            return np.asarray(taken * low + (number - taken) * high)
        order = np.argsort(total, axis=1)
        left, found = number.copy(), np.zeros(len(total))
        for place in range(total.shape[1]):
            index = order[:, place]
            taken = np.minimum(left, self.counts[index])
            found += taken * np.take_along_axis(total, index[:, None], axis=1)[:, 0]
            left = left - taken
        return found

    def params(self, rows: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Parameters of the whole model over the chips of one rank: dense, expert, tables."""
        tables = self.tables
        shard = tables.dense_shard.inverse[rows]
        weight = self.counts + self.ends
        p = self.meshes.pp[rows]
        ends = np.where(p > 1, tables.first[shard] + tables.last[shard], tables.tied[shard])
        dense = tables.dense[shard] @ weight + ends
        expert = self.local_experts(rows) @ weight
        return dense, expert, tables.tables[shard] @ weight + ends

    def ranks(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Ranks that hold the same dense weights, and the same experts."""
        meshes = self.meshes
        dense = meshes.cp[rows] * meshes.dp[rows]
        ways = meshes.ep[rows] * meshes.expert_tp[rows]
        return dense.astype(float), (self.stage_chips[rows] // ways).astype(float)

    def weight_links_s(
        self, rows: IntArray, op: Op, dense_bytes: FloatArray, expert_bytes: FloatArray
    ) -> FloatArray:
        """One collective over the ranks of equal dense weights, and one over those of experts."""
        tables = self.tables
        first = tables.dense_links.seconds(tables.dense_link.inverse[rows], op, dense_bytes)
        second = tables.expert_links.seconds(tables.expert_link.inverse[rows], op, expert_bytes)
        return first + second

    def entry_bytes(self, rows: IntArray) -> FloatArray:
        """Input of one layer of one microbatch."""
        meshes = self.meshes
        tokens = meshes.microbatch[rows] * self.request.seq_len / meshes.cp[rows]
        split = (meshes.sequence_parallel[rows] > 0) | self.is_torus
        outside = np.where(split, tokens / meshes.tp[rows], tokens)
        return np.asarray(WIDE * outside * self.request.model.hidden_size)
