"""Which communication hides behind which computation, and what of it is left to see.

    exposed = max(0, message - compute) + share x min(message, compute)

While a message runs behind computation it holds some of the chip's cores, so the computation
is slower by that share for as long: ``share`` is 20 of the 132 multiprocessors of a Hopper
chip (DeepSeek-V3 report, arXiv 2412.19437, section 3.2.2, a figure that recurs in NCCL's
default of 16 to 24 channels); copies of a TPU need no core.

What hides behind what in training, where a run says that it does:

========  ================================================================================
``tp``    matrix multiplies of the same pass (chunked kernels, asynchronous tensor parallel)
``dp``    the backward pass of the last microbatch, all but its last layer, and the first
          forward pass; weights that are sharded too, each pass of the same layer
``ep``    the passes of another microbatch (two microbatches at once, DualPipe)
========  ================================================================================

In inference, ``tp`` and ``ep`` hide behind the computation of the other half of the pass.

Keys and values of context parallelism always travel behind the attention core of a training
step. Where a run does not say, nothing else hides: Megatron-LM's ``--overlap-grad-reduce``
and ``--tp-comm-overlap`` are off unless asked for. XLA hides tensor parallelism on a torus by
itself (Wang 2023, "Overlap communication with dependent computation via decomposition").
"""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray

from planner.cost.runs.gemm import is_ideal
from planner.domain.hardware import Chip
from planner.domain.run import Overlap, Run
from planner.domain.work import Real

# Multiprocessors that a message holds on a GPU: see the module.
CORE_SHARE = 20 / 132

USUAL: frozenset[Overlap] = frozenset()


def hides(run: Run, what: Overlap) -> bool:
    """Whether a run hides a kind of communication."""
    chosen = USUAL if run.overlap is None else run.overlap
    return what in chosen


def core_share(chip: Chip, *, on_torus: bool) -> float:
    """Share of a chip that a hidden message holds."""
    return 0.0 if on_torus or is_ideal(chip) else CORE_SHARE


@overload
def exposed_seconds(message_s: float, compute_s: float, share: float) -> float: ...
@overload
def exposed_seconds(
    message_s: NDArray[np.float64], compute_s: NDArray[np.float64], share: float
) -> NDArray[np.float64]: ...
@overload
def exposed_seconds(message_s: Real, compute_s: Real, share: float) -> Real: ...
def exposed_seconds(message_s: Real, compute_s: Real, share: float) -> Real:
    """Time that a message adds to the computation it runs behind.

    Parameters
    ----------
    message_s, compute_s : float or array
        Each alone, in seconds.
    share : float
        Fraction of the chip that the message takes from the computation.

    Returns
    -------
    float or array
        In ``[0, message_s]``: hiding never costs more than waiting.
    """
    if isinstance(message_s, float) and isinstance(compute_s, float):
        return float(message_s - (1.0 - share) * min(message_s, compute_s))
    return message_s - (1.0 - share) * np.minimum(message_s, compute_s)
