"""Time of matrix multiplies with a ramp over their size.

    compute = FLOP x max(1, tile / tokens) / (peak x achieved fraction)
    memory  = bytes / (HBM rate x achieved fraction)
    t       = (compute^4 + memory^4)^(1/4) + kernels x fixed cost

and, on the ideal chip of a pure roofline, ``max(compute, memory)`` without padding. The same
functions serve floats and arrays over strategies.

The achieved fraction is that of a large multiply. Below, three things slow a kernel down: a
tile of ``tile`` rows costs the same with fewer rows in it; near the ridge a kernel keeps
neither the tensor cores nor the memory fully busy; and each kernel has a launch, a prologue
and a last wave.

The exponent reproduces the measured ramp of bf16 multiplies with n = k = 8192
(aiconfigurator@095f58a kernel tables): H100 with m = 128 / 256 / 512 / 4096 reaches
0.33 / 0.62 / 0.77 / 0.83 of its peak, here 0.33 / 0.58 / 0.73 / 0.78; B200
0.29 / 0.49 / 0.65 / 0.76, here 0.31 / 0.52 / 0.64 / 0.69.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.domain.hardware import Chip
from planner.domain.work import Real

# Rows of the smallest tensor-core tile: wgmma of Hopper is m64 (CUDA PTX ISA, wgmma.mma_async).
TILE_ROWS = 64
# A count that stands for none where a quotient needs one.
_NONE = 1e-300


def achieved_flop_per_s(chip: Chip, rate: str) -> float:
    """FLOP/s of a large matrix multiply of ``chip`` at a rate key.

    Raises
    ------
    KeyError
        The chip has no such rate.
    """
    return dict(chip.peak_flop_per_s)[rate] * dict(chip.efficiency.matmul).get(rate, 1.0)


def achieved_hbm_bytes_per_s(chip: Chip) -> float:
    """Bytes/s of a long stream from or to HBM."""
    return chip.hbm_bytes_per_s * chip.efficiency.hbm


def padded_flop(chip: Chip, flop: Real, rows: Real) -> Real:
    """FLOP of multiplies of ``rows`` rows each, with those of empty rows of their tiles."""
    if is_ideal(chip):
        return flop
    return flop * np.maximum(1.0, TILE_ROWS / np.maximum(rows, _NONE))


def busy_seconds(chip: Chip, compute_s: Real, memory_s: Real) -> Real:
    """Time of a multiply that takes ``compute_s`` and ``memory_s`` on each resource alone.

    ``(compute^4 + memory^4)^(1/4)``: monotone in both, and growing no faster than either.
    """
    if is_ideal(chip):
        return np.maximum(compute_s, memory_s)
    compute, memory = compute_s * compute_s, memory_s * memory_s
    return np.sqrt(np.sqrt(compute * compute + memory * memory))


def matmul_seconds(
    chip: Chip, rate: str, flop: float, hbm_bytes: float, tokens: float, num_kernels: int = 1
) -> float:
    """Time of matrix multiplies of one shape class.

    Parameters
    ----------
    chip : Chip
        Where they run.
    rate : str
        Rate key of their operands, see :func:`planner.cost.block.matmul_rate`.
    flop : float
        Of all ``num_kernels`` together.
    hbm_bytes : float
        Read and written by all of them: weights, and activations where they do not stay on
        chip.
    tokens : float
        Rows of one multiply; for grouped experts, rows of one expert.
    num_kernels : int
        Kernels launched.

    Raises
    ------
    KeyError
        The chip has no such rate.
    """
    if flop <= 0 and hbm_bytes <= 0:
        return 0.0
    padded = padded_flop(chip, flop, tokens) if tokens > 0 else flop
    compute = padded / achieved_flop_per_s(chip, rate)
    memory = hbm_bytes / achieved_hbm_bytes_per_s(chip)
    return float(busy_seconds(chip, compute, memory)) + num_kernels * chip.efficiency.kernel_s


def is_ideal(chip: Chip) -> bool:
    """Whether a chip is a pure roofline, where kernels cost nothing to start."""
    return chip.efficiency.kernel_s == 0.0


def sustained_chip(chip: Chip) -> Chip:
    """The chip with matmul fractions that it keeps up over a whole training step."""
    share = chip.efficiency.sustained
    matmul = tuple((key, fraction * share) for key, fraction in chip.efficiency.matmul)
    return replace(chip, efficiency=replace(chip.efficiency, matmul=matmul, sustained=1.0))
