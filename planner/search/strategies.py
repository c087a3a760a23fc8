"""Every combination of degrees that the machine can hold, as arrays.

Sets
----
stage size ``S`` (chips of one stage) : every size up to a scale-up domain, and every
    multiple of equal pieces over several domains
``attn_tp`` : divisors of ``S`` up to the number of heads; ``attn_dp = S / attn_tp``
``ep`` : divisors of ``S`` up to the slots; ``expert_tp = S / ep``
``pp`` : 1 up to the number of layers
``num_slots`` : one copy of every expert, or every chip filled with ``c`` slots for ``c`` up
    to ``MAX_EXTRA_SLOTS`` above the least
``microbatches`` : 1 to ``pp + 1``, and ``2 pp``
``replicas`` : as many as fit; also every smaller number when cost is the objective and the
    batch is fixed, since fewer nodes may then be rented
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from planner.cost.block import ceil_div
from planner.cost.routing import moe_shape
from planner.domain.degrees import Degrees
from planner.domain.model import LinearAttention, ModelSpec, MoeFfn
from planner.domain.question import permits
from planner.domain.workload import Objective
from planner.search.request import PlanRequest
from planner.topology.groups import max_cells

IntArray = NDArray[np.int64]

MAX_EXTRA_SLOTS = 3
MAX_STAGES = 64
MAX_EXPERT_TP = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategies:
    """Degrees of ``n`` strategies, one int array of shape ``[n]`` per degree."""

    attn_tp: IntArray
    attn_dp: IntArray
    pp: IntArray
    ep: IntArray
    expert_tp: IntArray
    num_slots: IntArray
    microbatches: IntArray
    replicas: IntArray

    def __len__(self) -> int:
        return len(self.attn_tp)

    def select(self, picked: IntArray | NDArray[np.bool_]) -> Strategies:
        """Keep the strategies at ``picked``."""
        return Strategies(**{f.name: getattr(self, f.name)[picked] for f in fields(self)})

    def degrees(self, index: int) -> Degrees:
        """Degrees of one strategy."""
        return Degrees(**{f.name: int(getattr(self, f.name)[index]) for f in fields(self)})


def divisors(number: int) -> list[int]:
    """All divisors of ``number``, ascending."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def max_attn_tp(model: ModelSpec) -> int:
    """Largest useful attention TP degree: the most heads of any layer."""
    heads = []
    for layer in model.layers:
        attention = layer.attention
        if isinstance(attention, LinearAttention):
            heads.append(attention.num_value_heads)
        else:
            heads.append(attention.num_heads)
    return max(heads)


def stage_sizes(request: PlanRequest) -> list[int]:
    """Chips that one stage may have."""
    domains = request.topology.domains
    largest = max(len(domain) for domain in domains)
    sizes = set(range(1, largest + 1))
    for num_domains in range(2, len(domains) + 1):
        for piece in range(ceil_div(largest, 2), largest + 1):
            sizes.add(num_domains * piece)
    total = request.topology.num_chips
    return sorted(size for size in sizes if size <= total)


def unit_of(attn_tp: int, expert_tp: int, largest_domain: int) -> int | None:
    """Consecutive ranks that must share a domain; None when the two groups cannot.

    A group larger than a domain spans whole domains, which the unit of the other group
    must then divide.
    """
    unit = math.lcm(attn_tp, expert_tp)
    if unit <= largest_domain:
        return unit
    inner = [degree for degree in (attn_tp, expert_tp) if degree <= largest_domain]
    return max(inner, default=1) if len(inner) < 2 else None


def slot_counts(num_experts: int, ep: int) -> list[int]:
    """Slots per MoE layer worth trying: no copies, or every group equally full."""
    least = ceil_div(num_experts, ep)
    full = {ep * (least + extra) for extra in range(MAX_EXTRA_SLOTS + 1)}
    # More copies than one of every expert per group cannot be placed apart.
    return sorted(slots for slots in {num_experts, *full} if slots <= num_experts * ep)


def _expert_choices(request: PlanRequest, size: int) -> Iterator[tuple[int, int, int]]:
    """``(ep, expert_tp, num_slots)`` that fit a stage of ``size`` chips."""
    limits = request.limits
    shape = moe_shape(request.setting.model)
    if shape is None:
        if permits(limits.ep, 1) and permits(limits.expert_tp, 1):
            yield 1, 1, 0
        return
    for ep in divisors(size):
        expert_tp = size // ep
        if not (permits(limits.ep, ep) and permits(limits.expert_tp, expert_tp)):
            continue
        if expert_tp > MAX_EXPERT_TP:
            continue
        for slots in slot_counts(shape[0], ep):
            if permits(limits.slots, slots) and slots >= ep:
                yield ep, expert_tp, slots


def _pipeline_choices(request: PlanRequest, cells: int) -> Iterator[tuple[int, int, int]]:
    """``(pp, microbatches, replicas)`` for ``cells`` stages on the machine."""
    limits = request.limits
    num_layers = len(request.setting.model.layers)
    fewer = request.objective is Objective.COST and request.batch is not None
    for pp in range(1, min(cells, num_layers, MAX_STAGES) + 1):
        if not permits(limits.pp, pp):
            continue
        most = cells // pp
        counts = range(1, most + 1) if fewer or limits.replicas else (most,)
        # A strategy that pins dp may need fewer replicas than fit.
        counts = range(1, most + 1) if limits.dp else counts
        free = {*range(1, pp + 2), 2 * pp} if pp > 1 else {1}
        chosen = free if limits.microbatches is None else limits.microbatches
        for microbatches in sorted(chosen):
            for replicas in counts:
                if permits(limits.replicas, replicas):
                    yield pp, microbatches, replicas


def enumerate_strategies(request: PlanRequest) -> Strategies:
    """All strategies of the request's space.

    Returns
    -------
    Strategies
        Possibly empty, when the limits exclude everything.
    """
    dense = not any(isinstance(layer.ffn, MoeFfn) for layer in request.setting.model.layers)
    heads = max_attn_tp(request.setting.model)
    largest = max(len(domain) for domain in request.topology.domains)
    pipelines: dict[int, IntArray] = {}
    blocks: list[IntArray] = []
    for size in stage_sizes(request):
        experts = list(_expert_choices(request, size))
        for attn_tp in divisors(size):
            attn_dp = size // attn_tp
            if attn_tp > heads or not permits(request.limits.tp, attn_tp):
                continue
            if dense and attn_dp > 1:
                continue
            for ep, expert_tp, slots in experts:
                unit = unit_of(attn_tp, expert_tp, largest)
                if unit is None or size % unit:
                    continue
                cells = max_cells(request.topology, size, unit)
                if cells not in pipelines:
                    rows = list(_pipeline_choices(request, cells))
                    pipelines[cells] = np.array(rows, dtype=np.int64).reshape(-1, 3)
                rows_here = pipelines[cells]
                block = np.empty((len(rows_here), 8), dtype=np.int64)
                block[:, :6] = (attn_tp, attn_dp, 0, ep, expert_tp, slots)
                block[:, 2] = rows_here[:, 0]
                block[:, 6:] = rows_here[:, 1:]
                blocks.append(block)
    table = np.concatenate(blocks) if blocks else np.empty((0, 8), dtype=np.int64)
    dp = request.limits.dp
    if dp is not None:
        table = table[np.isin(table[:, 1] * table[:, 7], sorted(dp))]
    if request.batch is not None:
        # Every microbatch of every replica must hold at least one sequence.
        table = table[table[:, 6] * table[:, 7] <= request.batch]
    names = [f.name for f in fields(Strategies)]
    return Strategies(**{name: table[:, column] for column, name in enumerate(names)})


def space_description(strategies: Strategies) -> dict[str, str]:
    """Values that each degree takes in the space, for the certificate."""
    return {
        f.name: _ranges(np.unique(getattr(strategies, f.name)).tolist()) for f in fields(Strategies)
    }


def _ranges(values: list[int]) -> str:
    """Write ascending values as ``1..8,12,16``."""
    parts: list[str] = []
    start = 0
    for position in range(1, len(values) + 1):
        ends_run = position == len(values) or values[position] != values[position - 1] + 1
        if not ends_run:
            continue
        run = values[start:position]
        parts.append(f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run)))
        start = position
    return ",".join(parts)
