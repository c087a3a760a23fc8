"""Pipelines of inference: the end of one pass starts the next.

The step of ``m`` microbatches over stages ``t_s`` with hops ``h`` between them takes exactly

    max( sum t_s + hops,  m * max t_s )

(checked by event simulation; (p-1)/m bubbles belong to a pipeline that drains). With one
microbatch in flight ``1 - 1/p`` of each stage is idle, with ``m >= p`` equal ones none is.

In decode the microbatches circulate: the token of one step is the input of the next, so each
returns to the first stage. In a stream of prompts a microbatch that leaves makes room for a new
one, which does not wait for it to return: one hop less, and the step is the time of a prompt in
the pipeline.
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
    return stream_step_s(stage_s, microbatches, num_hops * hop_s)


def stream_step_s(stage_s: Sequence[float], microbatches: int, hops_s: float) -> float:
    """Seconds of a step whose microbatches make hops of ``hops_s`` altogether on their way."""
    return max(sum(stage_s) + hops_s, microbatches * max(stage_s))


def decode_idle_fraction(stage_s: Sequence[float], microbatches: int, hop_s: float = 0.0) -> float:
    """Mean share of a step in which a stage has nothing to do, in [0, 1)."""
    step = decode_step_s(stage_s, microbatches, hop_s)
    return idle_fraction(stage_s, microbatches, step)


def idle_fraction(stage_s: Sequence[float], microbatches: int, step_s: float) -> float:
    """Mean share of a step of ``step_s`` in which a stage has nothing to do, in [0, 1)."""
    busy = microbatches * sum(stage_s) / len(stage_s)
    return 1.0 - busy / step_s
