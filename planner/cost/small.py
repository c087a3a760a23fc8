"""Small operations of a layer: what passes through HBM between the multiplies.

Assumptions
-----------
- A norm with its residual reads both and writes both, on every rank of tensor parallelism.
- Queries, keys and values are rotated and stored; the intermediate of an FFN passes through
  its activation function; each is read and written once.
- Routed tokens are copied into the experts' order and summed back: three passes of the
  hidden size per token and expert.
- Inputs of 8- and 4-bit multiplies are converted by a kernel of their own unless the engine
  fuses it into the operation before: the inputs of attention, of its output projection, of the
  FFN and of its down projection.
"""

from __future__ import annotations

from planner.cost.block import WIRE_BYTES, RoutedLoad, Split, Tokens
from planner.cost.runs.inference_engine import Engine
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.model import (
    Attention,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    ModelSpec,
    MoeFfn,
)
from planner.domain.work import OpWork, Real


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


def small_op(
    model: ModelSpec,
    engine: Engine,
    layer: Layer,
    split: Split,
    load: tuple[Tokens, RoutedLoad | None],
) -> OpWork:
    """Small operations of one layer on its busiest chip, as one record."""
    tokens, routed = load
    hidden, ffn = float(model.hidden_size), layer.ffn
    width = float(ffn.shared_width if isinstance(ffn, MoeFfn) else ffn.width)
    per_width = 3.0 if ffn.gated else 2.0
    of_rank = 2.0 * _rotated_elements(layer.attention) + per_width * width
    elements = tokens.group * (4.0 * layer.num_norms * hidden + of_rank / split.attn_tp)
    kernels = layer.num_norms + 2
    pairs: Real = 0.0
    expert_width: Real = 0.0
    if isinstance(ffn, MoeFfn) and routed is not None:
        # Copies to and from the experts' order, and their activation function.
        pairs = tokens.stage * ffn.top_k * routed.hot_share
        expert_width = ffn.expert_width / split.expert_tp
        elements = elements + pairs * (per_width * expert_width + 3.0 * hidden)
        kernels += 5
    num_bytes = elements * (engine.small_passes * WIRE_BYTES)
    narrow = BYTES_PER_ELEMENT[model.precision.activations]
    if narrow < WIRE_BYTES and not engine.fuses_quantisation:
        inputs = tokens.group * (2.0 * hidden + (hidden + width) / split.attn_tp)
        num_bytes = num_bytes + (inputs + pairs * expert_width) * (WIRE_BYTES + narrow)
        kernels += 4
    return OpWork(
        term="small_operations", rate="core", flop=0.0, hbm_bytes=num_bytes, num_kernels=kernels
    )
