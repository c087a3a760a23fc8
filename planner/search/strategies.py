"""Every combination of degrees that the machine can hold, as arrays.

Sets
----
stage size ``S`` (chips of one stage) : every size up to a scale-up domain, and every
    multiple of equal pieces over several domains
``attn_tp`` : divisors of ``S`` up to the number of heads; on a torus, whose compilers shard any
    axis, all divisors
``cp`` : 1, and where :func:`shares_contexts` sees a use, always in prefill, every divisor of
    ``S / attn_tp``; ``attn_dp = S / (attn_tp cp)``
``ep`` : divisors of ``S`` up to the slots; ``expert_tp = S / ep``
``pp`` : 1 up to the number of layers
``num_slots`` : one copy of every expert, or every chip filled with ``c`` slots for ``c`` up
    to ``MAX_EXTRA_SLOTS`` above the least
``microbatches`` : 1 to ``pp + 1``, and ``2 pp``; thinned for long pipelines
    (:func:`microbatch_counts`)
``replicas`` : as many as fit and as a pinned batch has sequences for; also every smaller number
    when cost is the objective and the batch is fixed, since fewer nodes may then be rented
``overlap`` : nothing, or everything that communicates (:func:`overlap_modes`)
``draft`` : 0, and up to ``MAX_DRAFT`` where the acceptance of drafts is known
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from planner.cost.block import Split, ceil_div
from planner.cost.core import Queries, core_op
from planner.cost.evaluate import on_machine
from planner.cost.fabric import shape_rate
from planner.cost.memory import budget_bytes, cache_bytes
from planner.cost.price import price_op
from planner.cost.routing import moe_shape
from planner.cost.step import layer_groups
from planner.domain.curves import Op
from planner.domain.degrees import Degrees, OverlapMode
from planner.domain.model import LinearAttention
from planner.domain.question import permits
from planner.domain.workload import Objective, TimeModel
from planner.search.request import PlanRequest
from planner.topology.groups import group_shape

IntArray = NDArray[np.int64]

MAX_EXTRA_SLOTS = 3
MAX_STAGES = 64
MAX_EXPERT_TP = 16
MAX_DRAFT = 3
ALL_MICROBATCHES = 8
# Where a rank holds fewer sequences, fractions of a sequence are worth sharing its context: of
# more, a fraction is less than the gap that is proven if none is asked for.
FEW_SEQUENCES = 200
LONG_STEP = 4.0


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
    cp: IntArray
    overlap: IntArray
    draft: IntArray

    def __len__(self) -> int:
        return len(self.attn_tp)

    def select(self, picked: IntArray | NDArray[np.bool_]) -> Strategies:
        """Keep the strategies at ``picked``."""
        return Strategies(**{f.name: getattr(self, f.name)[picked] for f in fields(self)})

    def degrees(self, index: int) -> Degrees:
        """Degrees of one strategy."""
        numbers = {f.name: int(getattr(self, f.name)[index]) for f in fields(self)}
        mode = OverlapMode(numbers.pop("overlap"))
        return Degrees(**numbers, overlap=mode)


def join_strategies(parts: list[Strategies]) -> Strategies:
    """Strategies of several sets, behind each other."""
    return Strategies(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Strategies)}
    )


def divisors(number: int) -> list[int]:
    """All divisors of ``number``, ascending."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def max_attn_tp(request: PlanRequest) -> int:
    """Largest attention TP degree: the most heads of any layer, on a torus all chips.

    Beyond the heads, a torus splits feed-forward layers further, and caches over sequences
    (arXiv 2211.05102: PaLM 540B with 48 heads on 64 chips).
    """
    if request.topology.is_torus:
        return request.topology.num_chips
    heads = []
    for layer in request.setting.model.layers:
        attention = layer.attention
        if isinstance(attention, LinearAttention):
            heads.append(attention.num_value_heads)
        else:
            heads.append(attention.num_heads)
    return max(heads)


def stage_sizes(request: PlanRequest) -> list[int]:
    """Chips that one stage may have."""
    domains = [domain for domain in request.topology.open_domains if domain]
    largest = max(len(domain) for domain in domains)
    sizes = set(range(1, largest + 1))
    for num_domains in range(2, len(domains) + 1):
        for piece in range(ceil_div(largest, 2), largest + 1):
            sizes.add(num_domains * piece)
    total = request.topology.max_used
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


def units_of(attn_tp: IntArray, expert_tp: IntArray, largest_domain: int) -> IntArray:
    """:func:`unit_of` of many pairs, 0 where the two groups cannot share a domain."""
    unit = np.lcm(attn_tp, expert_tp)
    near = attn_tp <= largest_domain, expert_tp <= largest_domain
    one = np.where(near[0], attn_tp, np.where(near[1], expert_tp, 1))
    return np.where(unit <= largest_domain, unit, np.where(near[0] & near[1], 0, one))


def slot_counts(num_experts: int, ep: int, copies: int = 1) -> list[int]:
    """Slots per MoE layer worth trying: ``copies`` of each expert, or every group equally full."""
    fewest = copies * num_experts
    least = ceil_div(fewest, ep)
    full = {ep * (least + extra) for extra in range(MAX_EXTRA_SLOTS + 1)}
    # More copies than one of every expert per group cannot be placed apart.
    return sorted(slots for slots in {fewest, *full} if slots <= num_experts * ep)


def shares_contexts(request: PlanRequest, attn_tp: int) -> bool:
    """Whether ranks may gain from sharing the contexts of their sequences (``cp > 1``).

    Take a layout with ``cp`` ranks for ``s`` sequences, and one that gives each rank whole
    sequences, as data parallelism does; everything but the attention core is alike. With ``s``
    divisible by ``cp`` both read and hold the same, and sharing pays two collectives a layer
    besides: it is dominated. Otherwise it gains a fraction of one sequence per rank at most:

    - in time less than one sequence's core takes, so nothing unless that is more than the
      latency of the two collectives (``s < cp`` is the case of long contexts);
    - in memory a fraction of the ``n`` sequences that a rank has room for. That is worth
      ``t / n`` of a step ``t`` at most, so nothing unless that is more than the latency, and
      little unless ``n`` is below ``FEW_SEQUENCES``. Without a limit on the step, ``t`` is
      taken to be at most ``LONG_STEP`` times what it takes to read the whole memory.

    Prompts are shared to be computed sooner, all their layers: that may always pay. So may
    sharing under the time model OVERLAP, where the collectives may be hidden, and with a batch
    that is given: it may leave ranks no whole sequences.

    Without experts data parallelism is replicas. These use as many chips, as long as the ranks
    of tensor parallelism stay within a domain; larger ones take domains of their own.
    """
    if request.setting.is_prefill or request.setting.time_model is TimeModel.OVERLAP:
        return True
    if request.batch is not None:
        return True
    if moe_shape(request.setting.model) is None and attn_tp > request.topology.largest_open:
        return True
    setting = on_machine(request.setting, request.topology)
    split = Split(attn_tp=float(attn_tp), attn_dp=1.0, ep=1.0, expert_tp=1.0)
    domain = max(request.topology.open_domains, key=len)
    if len(domain) < 2:
        return False
    pair = group_shape(request.topology, domain[:2])
    wait = 0.0
    for op in (Op.ALL_GATHER, Op.ALL_REDUCE):
        rate = shape_rate(request.topology, op, pair)
        wait += min(float(own.latency_s) for own in (rate, *rate.others))
    core_s, wait_s, cached = 0.0, 0.0, 0.0
    for group in layer_groups(setting.model):
        core = core_op(setting.core, group.layer.attention, split, Queries(sequences=1.0))
        core_s += len(group.indices) * float(price_op(core, setting.chip).busy_s)
        wait_s += len(group.indices) * wait
        cached += len(group.indices) * float(cache_bytes(setting, group, split, 1.0))
    longest_s = request.step_limit_s
    if longest_s is None:
        longest_s = LONG_STEP * setting.chip.hbm_usable_bytes / setting.chip.hbm_bytes_per_s
    held = budget_bytes(setting) / max(cached, 1.0)
    return core_s > wait_s or (held < FEW_SEQUENCES and held * wait_s < longest_s)


def context_ways(request: PlanRequest, size: int, attn_tp: int, shares: bool) -> list[int]:
    """Values of ``cp`` for a stage of ``size`` chips."""
    allowed = request.limits.cp
    if allowed is None:
        return divisors(size // attn_tp) if shares else [1]
    return [ways for ways in divisors(size // attn_tp) if ways in allowed]


def overlap_modes(request: PlanRequest, communicates: OverlapMode) -> list[OverlapMode]:
    """Overlap modes worth trying where ``communicates`` are the axes that communicate at all.

    Halving a microbatch costs as much for one hidden axis as for two, so of the modes that hide
    anything only those that hide most are left: the others are dominated. Modes that hide
    nothing here are one mode. Under the time model OVERLAP everything is hidden already.
    """
    allowed = request.limits.overlap
    permitted = [mode for mode in OverlapMode if permits(allowed, int(mode))]
    hidden: dict[int, OverlapMode] = {}
    for mode in permitted:
        hidden.setdefault(int(mode & communicates), mode)
    if request.setting.time_model is TimeModel.OVERLAP:
        return permitted[:1]
    return [
        mode
        for hides, mode in hidden.items()
        if not hides or not any(hides != more and hides & more == hides for more in hidden)
    ]


def draft_lengths(request: PlanRequest) -> list[int]:
    """Tokens to draft for every sequence: none unless their acceptance is given."""
    if not request.setting.acceptance:
        return [0] if permits(request.limits.draft, 0) else []
    allowed = request.limits.draft
    return sorted(range(MAX_DRAFT + 1) if allowed is None else allowed)


def microbatch_counts(num_layers: int, pp: int, every: bool = False) -> frozenset[int]:
    """Microbatches in flight that are worth trying in a pipeline of ``pp`` stages.

    A step of ``m`` microbatches of ``b`` sequences takes ``max(S(b) + hops, m t(b))`` with the
    sum ``S`` over stages and the slowest stage ``t``; neither grows faster than ``b``. While
    ``(m + 1) t <= S + hops``, the same sequences in ``m + 1`` microbatches step no slower; once
    ``m t`` is the larger, the same in fewer do. Apart from rounding of ``b`` the best ``m`` is
    therefore next to ``(S + hops) / t``, which lies from ``layers / ceil(layers / pp)`` (even
    layers) to ``pp`` and a little more. Up to ``ALL_MICROBATCHES`` stages, and ``every`` time
    when the batch is given, all are kept; else that range in eighths of ``pp``, and powers of
    two below it.
    """
    if pp == 1:
        return frozenset({1})
    if every or pp <= ALL_MICROBATCHES:
        return frozenset({*range(1, pp + 2), 2 * pp})
    low = num_layers // ceil_div(num_layers, pp)
    few = {1 << power for power in range(low.bit_length())}
    return frozenset({*few, *range(low, pp, pp // 8), pp, pp + 1, 2 * pp})


def pipelines(request: PlanRequest, cells: int, attn_dp: int = 0) -> Iterator[tuple[int, int, int]]:
    """``(pp, microbatches, replicas)`` for ``cells`` stages on the machine.

    ``attn_dp`` counts where the product with the replicas is limited. Every microbatch of every
    replica holds at least one sequence of a batch that is given.
    """
    limits = request.limits
    num_layers = len(request.setting.model.layers)
    fewer = request.objective is Objective.COST and request.batch is not None
    # A strategy that pins dp may need fewer replicas than fit.
    fewer = fewer or limits.replicas is not None or limits.dp is not None
    for pp in range(1, min(cells, num_layers, MAX_STAGES) + 1):
        if not permits(limits.pp, pp):
            continue
        chosen = limits.microbatches
        if chosen is None:
            pinned = request.batch is not None or request.objective is Objective.LATENCY
            chosen = microbatch_counts(num_layers, pp, every=pinned)
        for microbatches in sorted(chosen):
            most = cells // pp
            if request.batch is not None:
                # Every microbatch of every replica must hold at least one sequence.
                most = min(most, request.batch // microbatches)
            for replicas in range(1 if fewer else max(most, 1), most + 1):
                if limits.dp is not None and attn_dp * replicas not in limits.dp:
                    continue
                if permits(limits.replicas, replicas):
                    yield pp, microbatches, replicas
