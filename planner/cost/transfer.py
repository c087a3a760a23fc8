"""The caches of prompts on their way from prefill workers to decode workers.

Decisions
---------
- Every chip of an attention rank sends its own part, all at the same time; per chip the larger
  of what one sends and one receives counts, as the layouts may differ.
- The whole prompt is sent when its prefill has ended, its cached prefix too.
- A prompt may go from any worker to any other: seconds are the mean over pairs of first chips
  of workers, a few of each pool.
- An attention rank sends and receives one cache at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from planner.cost.attention import kv_bytes_per_sequence
from planner.cost.evaluate import degrees_split
from planner.cost.memory import sequence_bytes
from planner.cost.step import Setting, layer_groups
from planner.domain.assignment import Assignment
from planner.topology.collectives import send_recv_rate
from planner.topology.graph import Topology

# Workers of each pool between which a transfer is priced.
_SAMPLED = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheTransfer:
    """One prompt's cache on its way.

    Parameters
    ----------
    num_bytes : float
        Of the whole prompt.
    chip_bytes : float
        That the busiest chip sends or receives.
    seconds : float
        Of sending it.
    requests_per_s : float
        Most prompts per second that the ranks of both pools send and receive.
    """

    num_bytes: float
    chip_bytes: float
    seconds: float
    requests_per_s: float


def spread(count: int) -> list[int]:
    """At most a few of so many workers, evenly."""
    few = min(count, _SAMPLED)
    return [place * count // few for place in range(few)]


def path_seconds(
    topology: Topology, senders: Sequence[int], receivers: Sequence[int]
) -> Callable[[float], float]:
    """Seconds of bytes per chip, the mean over pairs of chips."""
    rates = [send_recv_rate(topology, a, b) for a, b in product(senders, receivers)]
    return lambda num_bytes: sum(rate.seconds(num_bytes) for rate in rates) / len(rates)


def chip_bytes(setting: Setting, assignment: Assignment, tokens: float) -> float:
    """Cached bytes of one prompt of ``tokens`` on the busiest chip of its attention group."""
    split = degrees_split(assignment.degrees)
    held = replace(setting, context_tokens=tokens, new_tokens=0.0)
    of_layer = {
        index: float(sequence_bytes(held, group, split))
        for group in layer_groups(setting.model)
        for index in group.indices
    }
    return max(
        sum(of_layer[index] for index in range(first, end))
        for first, end in assignment.stage_ranges
    )


def first_chips(assignment: Assignment) -> list[int]:
    """The first chip of a few workers."""
    return [assignment.cells[place][0][0] for place in spread(len(assignment.cells))]


def cache_transfer(
    topology: Topology,
    setting: Setting,
    pools: tuple[Assignment, Assignment],
    tokens: float,
) -> CacheTransfer:
    """Price the transfer between two pools, whose replicas are their workers.

    Parameters
    ----------
    pools : (Assignment, Assignment)
        Prefill, decode.
    tokens : float
        Of a prompt.
    """
    prefill, decode = pools
    part = max(chip_bytes(setting, pool, tokens) for pool in pools)
    seconds = path_seconds(topology, first_chips(prefill), first_chips(decode))(part)
    kv = setting.model.precision.kv
    whole = sum(
        kv_bytes_per_sequence(layer.attention, tokens, kv) for layer in setting.model.layers
    )
    ranks = min(pool.degrees.attn_dp * pool.degrees.replicas for pool in pools)
    return CacheTransfer(
        num_bytes=whole,
        chip_bytes=part,
        seconds=seconds,
        requests_per_s=ranks / seconds if seconds else float("inf"),
    )
