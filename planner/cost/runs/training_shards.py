"""Parameters that one chip holds, and the ranks that hold the same ones.

Attention, dense FFNs, shared experts and tables are split over ``attn_tp`` and equal over
``cp x attn_dp``; norms and router are replicated; routed experts are split over
``ep x expert_tp`` and equal over the rest of the stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from planner.cost.runs.training_matmul import split_share
from planner.cost.weights import layer_weights, table_weights
from planner.domain.model import Layer, ModelSpec, MoeFfn, Weight, WeightRole
from planner.domain.run import Mesh


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalParams:
    """Parameters on one chip before data-parallel sharding.

    ``tables`` (embedding, head, norms, router) are a part of ``dense``.
    """

    dense: float = 0.0
    expert: float = 0.0
    tables: float = 0.0

    def __add__(self, other: LocalParams) -> LocalParams:
        return LocalParams(
            dense=self.dense + other.dense,
            expert=self.expert + other.expert,
            tables=self.tables + other.tables,
        )

    def times(self, count: int) -> LocalParams:
        """``count`` of them."""
        return LocalParams(
            dense=self.dense * count, expert=self.expert * count, tables=self.tables * count
        )

    @property
    def total(self) -> float:
        """Both."""
        return self.dense + self.expert

    def sharded(self, mesh: Mesh) -> float:
        """Parameters of a chip's share when each kind is split over its equal ranks."""
        return self.dense / dense_ranks(mesh) + self.expert / expert_ranks(mesh)

    def split_tables(self, mesh: Mesh, sharded: bool) -> tuple[float, float]:
        """Tables, and everything else, on one chip or of its share."""
        if not sharded:
            return self.tables, self.total - self.tables
        tables = self.tables / dense_ranks(mesh)
        return tables, self.sharded(mesh) - tables


def dense_ranks(mesh: Mesh) -> int:
    """Ranks that hold the same attention weights."""
    return mesh.cp * mesh.attn_dp


def expert_ranks(mesh: Mesh) -> int:
    """Ranks that hold the same experts."""
    return max(1, mesh.stage_chips // (mesh.ep * mesh.expert_tp))


def _count(weights: Iterable[Weight], tp: int) -> float:
    return sum(weight.num_params * split_share(weight, tp) for weight in weights)


def layer_local(model: ModelSpec, layer: Layer, mesh: Mesh) -> LocalParams:
    """Parameters of one layer on one chip."""
    weights = layer_weights(model, layer)
    routed = [w for w in weights if w.role is WeightRole.ROUTED_EXPERT]
    others = [w for w in weights if w.role is not WeightRole.ROUTED_EXPERT]
    expert = 0.0
    if isinstance(layer.ffn, MoeFfn):
        each = float(sum(weight.num_params for weight in routed))
        expert = each * layer.ffn.num_experts / mesh.ep / mesh.expert_tp
    small = [w for w in others if w.role in (WeightRole.NORM, WeightRole.ROUTER)]
    return LocalParams(
        dense=_count(others, mesh.attn_tp), expert=expert, tables=_count(small, mesh.attn_tp)
    )


def table_local(model: ModelSpec, mesh: Mesh, head: bool) -> LocalParams:
    """Embedding (and positions) on one chip, or the head with the final norm."""
    weights = [
        weight
        for weight in table_weights(model)
        if (weight.role is not WeightRole.EMBEDDING) == head and not (weight.tied and mesh.pp == 1)
    ]
    held = _count(weights, mesh.attn_tp)
    return LocalParams(dense=held, tables=held)
