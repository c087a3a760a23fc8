"""Matrix multiplies of a layer in training: forward, input gradient and weight gradient.

Each multiply of ``tokens x in`` by ``in x out`` costs ``2 tokens in out`` FLOP in each of the
three passes.

Assumptions
-----------
- Operands are read in the compute format and results are written in 16 bits; the weight
  gradient is accumulated in HBM in ``grad_bytes`` per parameter (read and written), as the
  fused accumulation of Megatron-LM does.
- With 8- and 4-bit operands each input and each output gradient is read in 16 bits and written
  twice in the narrow format (as it is, and transposed for the weight gradient).
- Experts of one chip run as one grouped kernel per matrix; its rows are the tokens of one
  expert, balanced.
- The head multiplies in 16 bits in every recipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.cost.block import matmul_rate
from planner.cost.runs.gemm import is_ideal, matmul_seconds
from planner.cost.weights import layer_weights
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.hardware import Chip
from planner.domain.model import (
    CompressedAttention,
    LatentAttention,
    Layer,
    ModelSpec,
    MoeFfn,
    Shard,
    Weight,
    WeightRole,
)

# Outputs that the last wave of a multiply lacks: a quarter of a wave of 128 x 128 tiles on some
# 128 cores. H100 reaches 0.73 at m = 1024 and 0.83 at m = 4096 with n = 8192
# (aiconfigurator@095f58a kernel tables), the ratio of (1 + tail / outputs) is 1.05.
TAIL_OUTPUTS = 2.0**19
# Rate of the grouped multiplies of experts over that of one multiply; calibrated on every fourth
# published training step of MoE models.
GROUPED_SHARE = 0.77
NARROW = frozenset({DType.FP8, DType.MXFP8, DType.INT8, DType.NVFP4, DType.MXFP4})
ROW_PARALLEL = ("o_proj", "o_b_proj", "down_proj", "expert_down_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class Matmul:
    """One multiply as a whole: ``width_in x width_out`` and how it may be split."""

    weight: Weight
    width_in: float
    width_out: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PassTimes:
    """Seconds of the three passes of something."""

    forward: float = 0.0
    input_grad: float = 0.0
    weight_grad: float = 0.0

    def __add__(self, other: PassTimes) -> PassTimes:
        return PassTimes(
            forward=self.forward + other.forward,
            input_grad=self.input_grad + other.input_grad,
            weight_grad=self.weight_grad + other.weight_grad,
        )

    def times(self, count: float) -> PassTimes:
        """``count`` of them."""
        return PassTimes(
            forward=self.forward * count,
            input_grad=self.input_grad * count,
            weight_grad=self.weight_grad * count,
        )

    @property
    def total(self) -> float:
        """All three."""
        return self.forward + self.input_grad + self.weight_grad


def layer_matmuls(model: ModelSpec, layer: Layer) -> tuple[Matmul, ...]:
    """Multiplies of one layer; those of routed experts count **one** expert."""
    found = []
    for weight in layer_weights(model, layer):
        if weight.matmul_params > 0:
            width_in = _width_in(model, layer, weight)
            found.append(
                Matmul(weight=weight, width_in=width_in, width_out=weight.matmul_params / width_in)
            )
    return tuple(found)


def _width_in(model: ModelSpec, layer: Layer, weight: Weight) -> float:
    hidden = float(model.hidden_size)
    if isinstance(layer.ffn, MoeFfn) and weight.role is WeightRole.ROUTED_EXPERT:
        hidden = float(layer.ffn.expert_hidden or model.hidden_size)
    attention = layer.attention
    if isinstance(attention, LatentAttention):
        if weight.name == "q_b_proj":
            return float(attention.q_lora_rank or hidden)
        if weight.name == "kv_b_proj":
            return float(attention.kv_lora_rank)
    if isinstance(attention, CompressedAttention):
        if weight.name == "q_b_proj":
            return float(attention.q_lora_rank)
        if weight.name == "o_a_proj":
            return float(attention.num_heads * attention.head_dim)
    if weight.name in ROW_PARALLEL:
        return weight.matmul_params / hidden
    return hidden


def split_share(weight: Weight, ways: int) -> float:
    """Fraction of a weight on the busiest of ``ways`` chips."""
    if weight.shard is Shard.REPLICATED:
        return 1.0
    parts = weight.shard_ways
    return math.ceil(parts / min(ways, parts)) / parts


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Rows of multiplies on one chip.

    Parameters
    ----------
    tokens : float
        Of a microbatch on one chip (context parallelism divides them).
    expert_pairs : float
        Token-expert pairs that one chip computes for its local experts.
    local_experts : float
        Experts that one chip holds.
    """

    tokens: float
    expert_pairs: float = 0.0
    local_experts: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One multiply on one chip: its local shape and rows."""

    width_in: float
    width_out: float
    rows: float
    copies: float = 1.0

    @property
    def flop(self) -> float:
        """Of one pass."""
        return 2.0 * self.width_in * self.width_out * self.rows * self.copies


def kernel_times(chip: Chip, dtype: DType, kernel: Kernel, grad_bytes: float) -> PassTimes:
    """Price the three passes of one multiply (or of one grouped multiply)."""
    rate = matmul_rate(chip, dtype, dtype)
    size = min(2.0, BYTES_PER_ELEMENT[dtype])
    wide = 2.0
    params = kernel.width_in * kernel.width_out * kernel.copies
    rows = kernel.rows * kernel.copies
    x, y = rows * kernel.width_in, rows * kernel.width_out

    def one(num_bytes: float, outputs: float) -> float:
        slower = 1.0
        if not is_ideal(chip):
            slower += TAIL_OUTPUTS / outputs
            slower /= GROUPED_SHARE if kernel.copies > 1 else 1.0
        return matmul_seconds(chip, rate, kernel.flop * slower, num_bytes, kernel.rows)

    return PassTimes(
        forward=one(size * (params + x) + wide * y, y),
        input_grad=one(size * (params + y) + wide * x, x),
        weight_grad=one(size * (x + y) + 2.0 * grad_bytes * params, params),
    )


def narrow_copy_bytes(dtype: DType, kernel: Kernel) -> tuple[float, float]:
    """HBM bytes to convert the input (forward) and the output gradient (backward)."""
    if dtype not in NARROW:
        return 0.0, 0.0
    per_element = 2.0 + 2.0 * BYTES_PER_ELEMENT[dtype]
    rows = kernel.rows * kernel.copies
    return per_element * rows * kernel.width_in, per_element * rows * kernel.width_out


def local_kernel(matmul: Matmul, rows: Rows, attn_tp: int, expert_tp: int) -> Kernel:
    """Shape of a multiply on the busiest chip."""
    weight = matmul.weight
    width_in, width_out = matmul.width_in, matmul.width_out
    if weight.role is WeightRole.ROUTED_EXPERT:
        share = 1.0 / expert_tp
        experts = max(1.0, rows.local_experts)
        local = Kernel(
            width_in=width_in, width_out=width_out, rows=rows.expert_pairs / experts, copies=experts
        )
    else:
        share = split_share(weight, attn_tp)
        local = Kernel(width_in=width_in, width_out=width_out, rows=rows.tokens)
    by_row = weight.name in ROW_PARALLEL
    return Kernel(
        width_in=local.width_in * (share if by_row else 1.0),
        width_out=local.width_out * (1.0 if by_row else share),
        rows=local.rows,
        copies=local.copies,
    )
