"""Prices of the distinct shares of the work: what the bounds of all meshes are put together from.

A layer's time on a chip depends on few degrees at once, so that a handful of prices serves every
mesh. They come from the functions that price a final layout.

``blocks``   layers without routed experts, head, embedding; by ``(tp, cp, microbatch, sequence
             parallelism)``
``experts``  routed experts and their messages; by ``(microbatch / (tp cp), ep, expert_tp)``
``shards``   parameters on a chip; by ``tp`` and by ``ep expert_tp``
``links``    collectives over equal weights; by ``(tp, cp dp)`` and by ``(ep expert_tp, ranks)``
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from planner.cost.runs.gemm import sustained_chip
from planner.cost.runs.mesh_links import MeshLinks
from planner.cost.runs.train_memory import layer_activation_bytes, logit_bytes
from planner.cost.runs.training_layer import LayerTimes, Site, block_times, expert_times
from planner.cost.runs.training_links import TrainingLinks
from planner.cost.runs.training_matmul import PassTimes
from planner.cost.runs.training_shards import layer_local, table_local
from planner.cost.runs.training_stage import embedding_times, head_times
from planner.domain.curves import Op
from planner.domain.model import Layer
from planner.domain.run import Mesh, Recompute, Run, RunKind
from planner.search.training.request import TrainRequest
from planner.search.training.space import Meshes
from planner.topology.rate import CollectiveRate

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

OPS = (Op.ALL_REDUCE, Op.REDUCE_SCATTER, Op.ALL_GATHER)


def distinct_layers(request: TrainRequest) -> tuple[tuple[Layer, int, int], ...]:
    """Distinct layers with their number in the model, and among its prediction layers."""
    found: dict[Layer, list[int]] = {}
    for place, layers in enumerate((request.model.layers, request.model.mtp_layers)):
        for layer in layers:
            found.setdefault(layer, [0, 0])[place] += 1
    return tuple((layer, counts[0], counts[1]) for layer, counts in found.items())


def base_run(request: TrainRequest, mesh: Mesh, microbatch: int, split: bool) -> Run:
    """A run of the request with one mesh, its policies at their plainest."""
    return Run(
        kind=RunKind.TRAIN,
        mesh=mesh,
        global_batch=request.global_batch,
        seq_len=request.seq_len,
        microbatch=microbatch,
        sequence_parallel=split,
        overlap=request.overlap,
        optimizer=request.optimizer,
        optimizer_state=request.optimizer_state,
        gradients=request.gradients,
        engine="current",
    )


def _site(request: TrainRequest, run: Run) -> Site:
    links = TrainingLinks(links=MeshLinks(topology=request.topology, mesh=run.mesh))
    chip = sustained_chip(request.topology.chip)
    return Site(model=request.model, chip=chip, links=links, run=run, stages=())


# Columns of a priced layer.
MATMUL_F, MATMUL_I, MATMUL_W, CORE_F, CORE_I = range(5)
OTHER_F, OTHER_I, OTHER_W, HOST_F, HOST_I = range(5, 10)
TP_F, TP_B, CP_F, CP_B, EP_F, EP_B = range(10, 16)
NUM_COLUMNS = 16


def _columns(times: LayerTimes) -> list[float]:
    matmul, core, other, host = times.matmul, times.core, times.elementwise, times.host
    assert core.weight_grad == 0 and host.weight_grad == 0
    return [
        *(matmul.forward, matmul.input_grad, matmul.weight_grad),
        *(core.forward, core.input_grad),
        *(other.forward, other.input_grad, other.weight_grad),
        *(host.forward, host.input_grad),
        *times.tp,
        *times.cp,
        *times.ep,
    ]


def _passes(times: PassTimes) -> list[float]:
    return [times.forward, times.input_grad, times.weight_grad]


# Codes up to this are told apart by a table instead of by sorting.
MOST_CODES = 1 << 24


def _dense(values: IntArray) -> IntArray:
    """Number of each value among the distinct ones, ascending; values are not negative."""
    most = int(values.max(initial=0))
    if most > MOST_CODES:
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    present = np.zeros(most + 1, dtype=np.int64)
    present[values] = 1
    return np.asarray(np.cumsum(present)[values] - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """Which entry of a table each mesh has, and one mesh of every entry."""

    inverse: IntArray
    first: IntArray

    @classmethod
    def of(cls, *keys: IntArray) -> Index:
        """Distinct combinations of ``keys``."""
        code = np.zeros(len(keys[0]), dtype=np.int64)
        for key in keys:
            dense = _dense(key)
            code = _dense(code * (int(dense.max(initial=0)) + 1) + dense)
        first = np.zeros(int(code.max(initial=-1)) + 1, dtype=np.int64)
        first[code[::-1]] = np.arange(len(code))[::-1]
        return cls(inverse=code, first=first)


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """Layers without routed experts, by entry.

    Parameters
    ----------
    layers : array, shape ``[entries, layers, columns]``
    embedding, head : array, shape ``[entries, 3]``
        Seconds of the three passes.
    activations : array, shape ``[2, entries, layers]``
        Bytes that a microbatch keeps: everything, and with selective recomputation.
    logits : array, shape ``[entries]``
        Bytes of the logits.
    """

    layers: FloatArray
    embedding: FloatArray
    head: FloatArray
    activations: FloatArray
    logits: FloatArray


def price_blocks(request: TrainRequest, meshes: Meshes, index: Index) -> Blocks:
    """Price every distinct block."""
    layers, embedding, head, logits = [], [], [], []
    kept: tuple[list[list[float]], list[list[float]]] = ([], [])
    kinds = distinct_layers(request)
    for row in index.first:
        mesh = Mesh(attn_tp=int(meshes.tp[row]), cp=int(meshes.cp[row]))
        split = bool(meshes.sequence_parallel[row])
        run = base_run(request, mesh, int(meshes.microbatch[row]), split)
        site = _site(request, run)
        layers.append([_columns(block_times(site, layer)) for layer, _, _ in kinds])
        embedding.append(_passes(embedding_times(site)))
        head.append(_passes(head_times(site)))
        logits.append(logit_bytes(site))
        for place, recompute in enumerate((Recompute.NONE, Recompute.SELECTIVE)):
            other = replace(site, run=replace(run, recompute=recompute))
            kept[place].append([layer_activation_bytes(other, layer) for layer, _, _ in kinds])
    return Blocks(
        layers=np.array(layers),
        embedding=np.array(embedding),
        head=np.array(head),
        activations=np.array(kept),
        logits=np.array(logits),
    )


def price_experts(request: TrainRequest, meshes: Meshes, index: Index) -> FloatArray:
    """Routed experts of every distinct split, shape ``[entries, layers, columns]``."""
    found = []
    for row in index.first:
        # Only tokens / attn_tp counts: context parallelism stands for both.
        mesh = Mesh(
            cp=int(meshes.tp[row] * meshes.cp[row]),
            ep=int(meshes.ep[row]),
            expert_tp=int(meshes.expert_tp[row]),
        )
        site = _site(request, base_run(request, mesh, int(meshes.microbatch[row]), False))
        found.append([_columns(expert_times(site, kind[0])) for kind in distinct_layers(request)])
    return np.array(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """Collectives over the ranks that hold equal weights.

    Each call costs, by the fastest algorithm,
    ``latency + b + 2 sqrt(fill b) + latency2 + b2 + 2 sqrt(fill2 b2)`` with ``b`` bytes times
    ``s_per_byte``; the second half is the exchange between slices of a torus.

    Parameters
    ----------
    table : array, shape ``[entries, ops, algorithms, 6]``
    """

    table: FloatArray

    def seconds(self, entry: IntArray, op: Op, num_bytes: FloatArray) -> FloatArray:
        """Time of one call for every mesh, shape ``[n]``."""
        best = np.full(len(entry), np.inf)
        for algorithm in range(self.table.shape[2]):
            own = self.table[entry, OPS.index(op), algorithm]
            wire, wire2 = num_bytes * own[:, 1], num_bytes * own[:, 4]
            total = own[:, 0] + wire + 2 * np.sqrt(own[:, 2] * wire)
            total += own[:, 3] + wire2 + 2 * np.sqrt(own[:, 5] * wire2)
            best = np.minimum(best, total)
        return np.where(num_bytes > 0, best, 0.0)


def _rate_rows(
    rates: tuple[tuple[CollectiveRate, CollectiveRate], ...],
) -> list[tuple[float, ...]]:
    return [
        (a.latency_s, a.s_per_byte, a.fill_s, b.latency_s, b.s_per_byte, b.fill_s) for a, b in rates
    ] or [(0.0,) * 6]


def price_links(
    request: TrainRequest, meshes: Meshes, index: Index, axis: str, mesh_of: Callable[[int], Mesh]
) -> Links:
    """Prices of one axis (``cp_dp`` or ``expert_dp``) for every distinct group."""
    rows = []
    for row in index.first:
        links = TrainingLinks(links=MeshLinks(topology=request.topology, mesh=mesh_of(int(row))))
        rows.append([_rate_rows(links.rates(axis, op)) for op in OPS])
    depth = max((len(own) for row in rows for own in row), default=1)
    absent = (np.inf, 0.0, 0.0, 0.0, 0.0, 0.0)
    table = np.array([[own + [absent] * (depth - len(own)) for own in row] for row in rows])
    return Links(table=table.reshape(len(rows), len(OPS), depth, 6))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """Everything that the bounds of all meshes of a request look up.

    Parameters
    ----------
    block, expert, dense_shard, dense_link, expert_link : Index
        Entry of each mesh.
    dense : array, shape ``[entries, layers]``; tables : array, shape ``[entries, layers]``
        Parameters of a layer outside its routed experts on a chip, and those among them that
        some optimizers treat apart.
    first, last : array, shape ``[entries]``
        Embedding, and head, on a chip where they lie on different devices; ``tied`` both where
        they lie on one.
    routed : array, shape ``[layers]``
        Parameters of all routed experts of a layer.
    """

    kinds: tuple[tuple[Layer, int, int], ...]
    block: Index
    blocks: Blocks
    expert: Index
    experts: FloatArray
    dense_shard: Index
    dense: FloatArray
    tables: FloatArray
    first: FloatArray
    last: FloatArray
    tied: FloatArray
    routed: FloatArray
    dense_link: Index
    dense_links: Links
    expert_link: Index
    expert_links: Links


def build_tables(request: TrainRequest, meshes: Meshes) -> Tables:
    """Price the distinct shares of all meshes."""
    kinds = distinct_layers(request)
    block = Index.of(meshes.tp, meshes.cp, meshes.microbatch, meshes.sequence_parallel)
    share = _share_codes(meshes)
    expert = Index.of(share, meshes.ep, meshes.expert_tp)
    shard = Index.of(meshes.tp)
    dense_link = Index.of(meshes.tp, meshes.cp * meshes.dp)
    split = meshes.ep * meshes.expert_tp
    ranks = meshes.stage_chips // split
    expert_link = Index.of(split, ranks)
    model = request.model
    alone = [Mesh(attn_tp=int(tp)) for tp in meshes.tp[shard.first]]
    local = [[layer_local(model, layer, mesh) for layer, _, _ in kinds] for mesh in alone]
    ends = [
        (
            table_local(model, replace(mesh, pp=2), head=False).dense,
            table_local(model, replace(mesh, pp=2), head=True).dense,
            table_local(model, mesh, head=False).dense + table_local(model, mesh, head=True).dense,
        )
        for mesh in alone
    ]
    whole = [layer_local(model, layer, Mesh()).expert for layer, _, _ in kinds]
    return Tables(
        kinds=kinds,
        block=block,
        blocks=price_blocks(request, meshes, block),
        expert=expert,
        experts=price_experts(request, meshes, expert),
        dense_shard=shard,
        dense=np.array([[own.dense for own in row] for row in local]),
        tables=np.array([[own.tables for own in row] for row in local]),
        first=np.array([end[0] for end in ends]),
        last=np.array([end[1] for end in ends]),
        tied=np.array([end[2] for end in ends]),
        routed=np.array(whole),
        dense_link=dense_link,
        dense_links=price_links(
            request,
            meshes,
            dense_link,
            "cp_dp",
            lambda row: Mesh(
                attn_tp=int(meshes.tp[row]), attn_dp=int(meshes.cp[row] * meshes.dp[row])
            ),
        ),
        expert_link=expert_link,
        expert_links=price_links(
            request,
            meshes,
            expert_link,
            "expert_dp",
            lambda row: Mesh(attn_tp=int(split[row]), attn_dp=int(ranks[row]), ep=int(split[row])),
        ),
    )


def _share_codes(meshes: Meshes) -> IntArray:
    """One integer for each distinct ``microbatch / (tp cp)``."""
    pairs = Index.of(meshes.microbatch, meshes.tp * meshes.cp)
    shares: dict[Fraction, int] = {}
    codes = [
        shares.setdefault(
            Fraction(int(meshes.microbatch[row]), int(meshes.tp[row] * meshes.cp[row])), len(shares)
        )
        for row in pairs.first
    ]
    return np.array(codes, dtype=np.int64)[pairs.inverse]
