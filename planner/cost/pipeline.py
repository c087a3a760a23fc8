"""Pipelines of decode: microbatches circulate, so the end of one step starts the next.

The step of ``m`` microbatches over stages ``t_s`` with hops ``h`` between them takes exactly

    max( sum t_s + hops,  m * max t_s )

(checked by event simulation; (p-1)/m bubbles belong to a pipeline that drains). With one
microbatch in flight ``1 - 1/p`` of each stage is idle, with ``m >= p`` equal ones none is.
"""

from __future__ import annotations

from collections.abc import Sequence


def decode_step_s(stage_s: Sequence[float], microbatches: int, hop_s: float = 0.0) -> float:
    """Seconds between two tokens of one sequence.

    Parameters
    ----------
    stage_s : sequence of float
        Seconds of each stage for one microbatch, shape ``[pp]``.
    microbatches : int
        Microbatches in flight, at least 1.
    hop_s : float
        Seconds of one hop between stages; a token makes ``pp`` hops per step (the last
        returns the sampled token to the first stage), none when ``pp`` is 1.
    """
    num_hops = len(stage_s) if len(stage_s) > 1 else 0
    return max(sum(stage_s) + num_hops * hop_s, microbatches * max(stage_s))


def decode_idle_fraction(stage_s: Sequence[float], microbatches: int, hop_s: float = 0.0) -> float:
    """Mean share of a step in which a stage has nothing to do, in [0, 1)."""
    step = decode_step_s(stage_s, microbatches, hop_s)
    busy = microbatches * sum(stage_s) / len(stage_s)
    return 1.0 - busy / step
