"""Small operations of a layer: what passes through HBM between the multiplies.

Assumptions
-----------
- A norm with its residual reads both and writes both, on every rank of tensor parallelism.
- Queries, keys and values are rotated and stored; the intermediate of an FFN passes through
  its activation function; each is read and written once.
- Routed tokens are copied into the experts' order and summed back: three passes of the
  hidden size per token and expert.
- Inputs of 8- and 4-bit multiplies are converted by a kernel of their own unless the engine
  fuses it into the operation before.
"""

from __future__ import annotations

from planner.cost.block import WIRE_BYTES
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s
from planner.cost.runs.inference_setting import Serving
from planner.cost.runs.record import RunTerm
from planner.domain.cost import Bound
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.model import (
    Attention,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    MoeFfn,
)


def _rotated_elements(attention: Attention) -> float:
    """Queries, keys and values of one token that pass through HBM between kernels."""
    match attention:
        case GroupedQueryAttention():
            return float((attention.num_heads + 2 * attention.num_kv_heads) * attention.head_dim)
        case LatentAttention():
            per_head = attention.qk_nope_head_dim + attention.qk_rope_head_dim
            return float(attention.num_heads * per_head)
        case LinearAttention():
            keys = 2 * attention.num_key_heads * attention.key_head_dim
            return float(keys + 2 * attention.num_value_heads * attention.value_head_dim)
        case _:
            return float(attention.num_heads * attention.head_dim)


def small_operations(serving: Serving, layer: Layer, rows: float) -> tuple[RunTerm, int]:
    """Time of the small operations of one layer, and how many kernels they are."""
    hidden, mesh = float(serving.model.hidden_size), serving.mesh
    norms = 4.0 * layer.num_norms * hidden
    elements = norms + 2.0 * _rotated_elements(layer.attention) / mesh.attn_tp
    ffn = layer.ffn
    width = float(ffn.shared_width if isinstance(ffn, MoeFfn) else ffn.width)
    kernels = layer.num_norms + 2
    per_width = 3.0 if ffn.gated else 2.0
    elements += per_width * width / mesh.attn_tp
    if isinstance(ffn, MoeFfn):
        # Copies to and from the experts' order, and their activation function.
        pairs = ffn.top_k * serving.tokens_ratio / mesh.ep
        elements += pairs * (per_width * ffn.expert_width / mesh.expert_tp + 3.0 * hidden)
        kernels += 5
    num_bytes = rows * elements * serving.engine.small_passes * WIRE_BYTES
    activations = serving.model.precision.activations
    narrow = BYTES_PER_ELEMENT[activations] < WIRE_BYTES
    if narrow and not serving.engine.fuses_quantisation:
        inputs, num_inputs = _quantised_elements(serving, layer)
        num_bytes += rows * inputs * (WIRE_BYTES + BYTES_PER_ELEMENT[activations])
        kernels += num_inputs
    seconds = num_bytes / achieved_hbm_bytes_per_s(serving.chip)
    fixed = kernels * serving.chip.efficiency.kernel_s
    bound = Bound.MEMORY if seconds > fixed else Bound.OVERHEAD
    return RunTerm(name="small_operations", seconds=seconds + fixed, bound=bound), kernels


def _quantised_elements(serving: Serving, layer: Layer) -> tuple[float, int]:
    """Inputs of one token that are converted to a narrow format, and the kernels for it.

    The inputs of attention, of its output projection, of the FFN and of its down projection.
    """
    hidden, mesh, ffn = float(serving.model.hidden_size), serving.mesh, layer.ffn
    inner = float(ffn.shared_width if isinstance(ffn, MoeFfn) else ffn.width) / mesh.attn_tp
    if isinstance(ffn, MoeFfn):
        pairs = ffn.top_k * serving.tokens_ratio / mesh.ep
        inner += pairs * ffn.expert_width / mesh.expert_tp
    return hidden * (2.0 + 1.0 / mesh.attn_tp) + inner, 4
