"""What an optimizer keeps, reads and computes.

    state bytes per parameter   32-bit weight (4) and moments: two with Adam, one with Muon
    Adam with 32-bit moments    4 + 2 x 4 = 12; with 16-bit moments 8; with 8-bit ones 6
    Muon                        4 + 4 = 8; tables, norms and the router keep Adam's

A step reads the gradient and the state and writes the state and the stored weight. Muon
orthogonalises the momentum of every matrix with five Newton-Schulz iterations (Jordan 2024),
each ``A = X X^T``, ``B = b A + c A A``, ``X = a X + B X``: ``4 m^2 n + 2 m^3`` FLOP for a matrix
of ``m <= n`` rows and columns, in 16 bits. Ranks that hold the same weights share that work
when states are sharded (ZeRO-1 and up), else each does all of it.

Assumptions
-----------
- The smaller side of a matrix is the hidden size, or what is left of the parameters over it.
- Masters are 32-bit whatever the format of the moments.
"""

from __future__ import annotations

from planner.cost.runs.training_shards import LocalParams
from planner.cost.weights import layer_weights
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.model import Layer, ModelSpec, MoeFfn, WeightRole
from planner.domain.run import Mesh, Optimizer, Run

MASTER_BYTES = 4.0
STORED_BYTES = 2.0
NEWTON_SCHULZ_STEPS = 5


def state_bytes_per_param(optimizer: Optimizer, moments: DType) -> tuple[float, float]:
    """Bytes of the state of one parameter: of tables, norms and router, and of all others."""
    size = BYTES_PER_ELEMENT[moments]
    count = 2.0 if optimizer is Optimizer.ADAM else 1.0
    return MASTER_BYTES + 2.0 * size, MASTER_BYTES + count * size


def traffic_per_param(
    optimizer: Optimizer, moments: DType, gradients: DType
) -> tuple[float, float]:
    """HBM bytes of the update of one parameter, of the same two kinds."""
    once = BYTES_PER_ELEMENT[gradients] + STORED_BYTES
    small, others = state_bytes_per_param(optimizer, moments)
    return once + 2.0 * small, once + 2.0 * others


def state_bytes(run: Run, params: LocalParams, sharded: bool) -> float:
    """Bytes of the optimizer's state on one chip."""
    tables, others = params.split_tables(run.mesh, sharded)
    small_bytes, other_bytes = state_bytes_per_param(run.optimizer, run.optimizer_state)
    return tables * small_bytes + others * other_bytes


def traffic_bytes(run: Run, params: LocalParams, sharded: bool) -> float:
    """HBM bytes of the update: gradient in, state in and out, stored weight out."""
    tables, others = params.split_tables(run.mesh, sharded)
    small_bytes, other_bytes = traffic_per_param(run.optimizer, run.optimizer_state, run.gradients)
    return tables * small_bytes + others * other_bytes


def layer_update_flop(model: ModelSpec, layer: Layer, mesh: Mesh) -> float:
    """Newton-Schulz FLOP of one layer on one chip, not shared with other ranks.

    Tensor-parallel ranks gather a matrix and share its iterations.
    """
    hidden = float(model.hidden_size)
    total = 0.0
    for weight in layer_weights(model, layer):
        if not weight.matmul_params or weight.role is WeightRole.ROUTER:
            continue
        size = float(weight.matmul_params)
        small = min(hidden, size / hidden)
        flop = NEWTON_SCHULZ_STEPS * (4.0 * small * size + 2.0 * small**3)
        if weight.role is WeightRole.ROUTED_EXPERT:
            assert isinstance(layer.ffn, MoeFfn)
            total += flop * layer.ffn.num_experts / mesh.ep / mesh.expert_tp
        else:
            total += flop / mesh.attn_tp
    return total
