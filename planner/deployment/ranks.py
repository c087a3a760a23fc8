"""Which chip each rank of an engine runs on.

An engine numbers its ranks and gives equal, contiguous parts of them to its nodes (launch
processes); inside a node, local rank ``i`` takes device ``i`` of those it may see.

=============  =====================================================================
vLLM 0.33      DP slowest, then PP, then TP (``parallel_state.py``)
SGLang 0.5.23  PP slowest, then attention DP, CP, TP (``parallel_state.py``)
TensorRT-LLM   PP slowest, then CP, TP; inside TP the expert group runs fastest:
               ``moe_ep_rank = tp_rank % ep`` (``mapping.py``)
=============  =====================================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from planner.domain.degrees import Degrees
from planner.domain.deployment import Engine

_DEVICE = re.compile(r"c(\d+)")
ONLY_HOST = "n0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One launch process: a host, and the devices of it that its local ranks take in order."""

    host: str
    devices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """Nodes of one copy of the engine in the order of their ranks, equally many chips on each."""

    nodes: tuple[Node, ...]

    @property
    def node_chips(self) -> int:
        """Chips of every node."""
        return len(self.nodes[0].devices)

    @property
    def chips(self) -> int:
        """Chips of all nodes."""
        return sum(len(node.devices) for node in self.nodes)


def host_of(chip: str) -> str:
    """The host of a chip by its name: ``r0/t3/c2`` is on ``r0/t3``."""
    head, slash, _ = chip.rpartition("/")
    return head if slash else ONLY_HOST


def devices_of(chips: Sequence[str]) -> dict[str, int]:
    """Device number of every chip on its host.

    ``c3`` is device 3, whether or not ``c2`` is alive; chips that are named by coordinates are
    counted in the order of the machine.
    """
    seen: dict[str, int] = {}
    found = {}
    for chip in chips:
        host = host_of(chip)
        index = seen.get(host, 0)
        seen[host] = index + 1
        match = _DEVICE.fullmatch(chip.rpartition("/")[2])
        found[chip] = index if match is None else int(match.group(1))
    return found


def engine_order(engine: Engine, degrees: Degrees) -> tuple[tuple[int, int], ...]:
    """``(stage, place in the stage's cell)`` of every rank of one instance."""
    group = degrees.attn_tp * degrees.cp
    stages = range(degrees.pp)
    if engine is Engine.VLLM:
        return tuple(
            (stage, dp * group + tp)
            for dp in range(degrees.attn_dp)
            for stage in stages
            for tp in range(group)
        )
    places = list(range(degrees.stage_chips))
    if engine is Engine.TRTLLM and degrees.ep > 1:
        places = [
            rank % degrees.ep * degrees.expert_tp + rank // degrees.ep
            for rank in range(degrees.stage_chips)
        ]
    return tuple((stage, place) for stage in stages for place in places)


def cells_of(
    order: Sequence[tuple[int, int]], chips: Sequence[int], pp: int
) -> tuple[tuple[int, ...], ...]:
    """Cells ``[stage][place]`` when rank ``i`` of an instance runs on ``chips[i]``."""
    size = len(chips) // pp
    cells = [[0] * size for _ in range(pp)]
    for (stage, place), chip in zip(order, chips, strict=True):
        cells[stage][place] = chip
    return tuple(tuple(cell) for cell in cells)


def node_size(hosts: Sequence[str]) -> int:
    """The most ranks per node such that every node lies on one host."""
    runs: list[int] = []
    for index, host in enumerate(hosts):
        if index and hosts[index - 1] == host:
            runs[-1] += 1
        else:
            runs.append(1)
    # Nodes start at multiples of their size: every change of host must be one.
    size, end = 0, 0
    for run in runs:
        end += run
        size = gcd(size, end)
    return size


def by_host(chips: Sequence[str]) -> tuple[str, ...]:
    """The same chips, host by host as they first occur."""
    rank: dict[str, int] = {}
    for chip in chips:
        rank.setdefault(host_of(chip), len(rank))
    return tuple(sorted(chips, key=lambda chip: rank[host_of(chip)]))


def in_launch_order(chips: Sequence[str], planned: Sequence[str]) -> tuple[str, ...]:
    """Chips of the ranks of an instance, as nodes can be started.

    Parameters
    ----------
    chips : sequence of str
        In the engine's order of ranks, as the plan has them.
    planned : sequence of str
        The same chips in the order of the plan.

    Returns
    -------
    tuple of str
        ``chips``, where each host holds ranks in as few pieces as possible and every node sees
        its devices in one order; otherwise the hosts and their chips in the plan's order.
    """
    whole = by_host(planned)
    if node_size([host_of(chip) for chip in chips]) != node_size([host_of(c) for c in whole]):
        return whole
    devices = devices_of(sorted(chips))
    orders = {node.devices for node in instance_of(chips, devices).nodes}
    return tuple(chips) if len(orders) == 1 else whole


def instance_of(chips: Sequence[str], devices: dict[str, int]) -> Instance:
    """Nodes of an instance whose rank ``i`` runs on ``chips[i]``."""
    size = node_size([host_of(chip) for chip in chips])
    return Instance(
        nodes=tuple(
            Node(
                host=host_of(chips[start]),
                devices=tuple(devices[chip] for chip in chips[start : start + size]),
            )
            for start in range(0, len(chips), size)
        )
    )
