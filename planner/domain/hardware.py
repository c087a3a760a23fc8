"""A machine as facts: chips, links, nodes, racks, fabric. The graph is built from these.

Bandwidths are bytes/s per direction, FLOP/s are dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from planner.domain.dtypes import DType


class Op(StrEnum):
    """Collective operations, with what ``num_bytes`` means for each (nccl-tests convention)."""

    ALL_REDUCE = "all_reduce"  # buffer of one chip
    ALL_GATHER = "all_gather"  # gathered result
    REDUCE_SCATTER = "reduce_scatter"  # input of one chip
    ALL_TO_ALL = "all_to_all"  # total send buffer of one chip, its own share included
    SEND_RECV = "send_recv"  # message of one sender


@dataclass(frozen=True, kw_only=True, slots=True)
class Sourced:
    """A number with where it comes from."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """Achieved fractions of nameplate rates, in (0, 1], and fixed costs.

    ``matmul`` maps a rate key of the chip (``bf16``, ``fp8``, ``fp4``, ``int8``) to the
    fraction that a large matrix multiply reaches; ``attention`` is the fraction of the
    bf16 peak that a decode attention core reaches when compute-bound; ``kernel_s`` is
    added for every operation of a layer (launch and ramp inside a captured graph).
    """

    matmul: tuple[tuple[str, float], ...]
    hbm: float
    attention: float
    kernel_s: float
    scale_up: float
    scale_out: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    """One accelerator chip. ``peak_flop_per_s`` maps a rate key to dense FLOP/s."""

    name: str
    peak_flop_per_s: tuple[tuple[str, float], ...]
    hbm_bytes: float
    hbm_usable_bytes: float
    hbm_bytes_per_s: float
    efficiency: Efficiency
    price_usd_per_hour: float | None = None


# Which rates a format may run at, fastest first. Wider rates are always allowed.
RATE_KEYS: dict[DType, tuple[str, ...]] = {
    DType.FP32: ("tf32", "fp32"),
    DType.BF16: ("bf16",),
    DType.FP16: ("bf16",),
    DType.FP8: ("fp8", "bf16"),
    DType.MXFP8: ("fp8", "bf16"),
    DType.INT8: ("int8", "bf16"),
    DType.INT4: ("int8", "bf16"),
    DType.MXFP4: ("fp4", "fp8", "bf16"),
    DType.NVFP4: ("fp4", "fp8", "bf16"),
}
