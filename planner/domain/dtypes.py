"""Number formats and the bytes that one element takes, block scales included."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from planner.errors import SpecError


class DType(StrEnum):
    """A number format of weights, activations or KV cache."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    INT8 = "int8"
    MXFP8 = "mxfp8"
    INT4 = "int4"
    MXFP4 = "mxfp4"
    NVFP4 = "nvfp4"


def dtype_of(name: str) -> DType:
    """A format by its name, as files spell it.

    Raises
    ------
    SpecError
        There is none.
    """
    try:
        return DType(name)
    except ValueError:
        known = ", ".join(dtype.value for dtype in DType)
        raise SpecError(f"'{name[:40]}' is no number format", f"one of {known}") from None


# Bytes per element. Block-scaled formats carry one 8-bit scale per block: 32 elements in
# the OCP MX formats (OCP Microscaling v1.0, section 5), 16 in NVFP4 (plus one fp32 per
# tensor, which is not counted). Plain fp8/int8/int4 are counted without scales: one fp32
# per 128 x 128 block is 0.02 %.
BYTES_PER_ELEMENT: dict[DType, float] = {
    DType.FP32: 4.0,
    DType.BF16: 2.0,
    DType.FP16: 2.0,
    DType.FP8: 1.0,
    DType.INT8: 1.0,
    DType.MXFP8: 1.0 + 1 / 32,
    DType.INT4: 0.5,
    DType.MXFP4: 0.5 + 1 / 32,
    DType.NVFP4: 0.5 + 1 / 16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """Number formats of one model, role by role.

    ``activations`` is the format of matmul inputs: a matrix multiply runs at the rate of
    the wider of its two operands.
    """

    attention: DType
    dense_ffn: DType
    shared_expert: DType
    routed_expert: DType
    router: DType
    embedding: DType
    head: DType
    norm: DType
    activations: DType
    kv: DType

    def of_role(self, role: str) -> DType:
        """Format of the weights of ``role``, a value of ``WeightRole``."""
        dtype = getattr(self, role)
        assert isinstance(dtype, DType)
        return dtype
