"""Which communication of a training step hides behind which computation, and what is left.

    exposed = max(0, message - compute) + share x min(message, compute)

While a message runs behind computation it holds some of the chip's cores, so the computation
is slower by that share for as long: ``share`` is 20 of the 132 multiprocessors of a Hopper
chip (DeepSeek-V3 report, arXiv 2412.19437, section 3.2.2, a figure that recurs in NCCL's
default of 16 to 24 channels); copies of a TPU need no core.

What hides behind what, where a run says that it does:

========  ================================================================================
``tp``    matrix multiplies of the same pass (chunked kernels, asynchronous tensor parallel)
``dp``    the backward pass of the last microbatch, all but its last layer, and the first
          forward pass; weights that are sharded too, each pass of the same layer
``ep``    the passes of another microbatch (two microbatches at once, DualPipe)
========  ================================================================================

Keys and values of context parallelism always travel behind the attention core. Where a run
does not say, nothing else hides: Megatron-LM's ``--overlap-grad-reduce`` and
``--tp-comm-overlap`` are off unless asked for. XLA hides tensor parallelism on a torus by
itself (Wang 2023, "Overlap communication with dependent computation via decomposition").
"""

from __future__ import annotations

from planner.domain.run import Overlap, Run

# Multiprocessors that a message holds on a GPU: see the module.
CORE_SHARE = 20 / 132

USUAL: frozenset[Overlap] = frozenset()


def hides(run: Run, what: Overlap) -> bool:
    """Whether a run hides a kind of communication."""
    chosen = USUAL if run.overlap is None else run.overlap
    return what in chosen


def exposed_seconds(message_s: float, compute_s: float, core_share: float = CORE_SHARE) -> float:
    """Time that a message adds to the computation it runs behind.

    Parameters
    ----------
    message_s, compute_s : float
        Each alone, in seconds.
    core_share : float
        Fraction of the chip that the message takes from the computation.

    Returns
    -------
    float
        In ``[0, message_s]``: hiding never costs more than waiting.
    """
    if message_s <= 0:
        return 0.0
    left = max(0.0, message_s - compute_s)
    return left + core_share * min(message_s, compute_s)
