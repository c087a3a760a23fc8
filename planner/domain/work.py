"""Counted work, before any price: the additive records of the cost model.

Every field is a float or a NumPy array over strategies: the same counting code serves one
layout and a million candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.domain.curves import Op

Real = float | NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class OpWork:
    """Work of one operation of one layer on its busiest chip, for one microbatch.

    Parameters
    ----------
    term : str
        The term of the step that it belongs to (``attention``, ``routed_experts`` ...).
    rate : str
        ``core`` for attention cores, else the rate key of the matmul.
    flop : float or array
        Floating-point operations.
    hbm_bytes : float or array
        Bytes read from or written to HBM.
    num_kernels : int
        Launches, each of which pays the chip's fixed cost.
    rows : float or array, optional
        Rows of one matrix multiply (of one expert, where experts are grouped); None for
        what is no matrix multiply.
    """

    term: str
    rate: str
    flop: Real
    hbm_bytes: Real
    num_kernels: int = 1
    rows: Real | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One collective of one layer: ``num_bytes`` in the convention of its operation.

    ``axis`` is the mesh axis: ``attn_tp``, ``cp``, ``ep``, ``expert_tp`` or ``pp``; on a
    torus also ``attn_tp_inner`` and ``attn_tp_outer``, the two axes of large tensor-parallel
    groups. ``active`` counts how often the collective happens, 0 where its axis has one member.
    """

    term: str
    op: Op
    axis: str
    num_bytes: Real
    active: Real = 1.0
