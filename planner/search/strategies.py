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
from planner.domain.model import LinearAttention, MoeFfn
from planner.domain.question import permits
from planner.domain.workload import Objective, TimeModel
from planner.search.request import PlanRequest
from planner.topology.groups import group_shape, max_cells

IntArray = NDArray[np.int64]

SPLIT_FIELDS = (
    "attn_tp",
    "attn_dp",
    "ep",
    "expert_tp",
    "num_slots",
    "cp",
    "overlap",
    "draft",
)
PIPELINE_FIELDS = ("pp", "microbatches", "replicas")

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

    Prompts are shared to be computed sooner, all their layers: that may always pay.

    Without experts data parallelism is replicas. These use as many chips, as long as the ranks
    of tensor parallelism stay within a domain; larger ones take domains of their own.
    """
    if request.setting.is_prefill:
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
        counts = {
            *slot_counts(shape[0], ep),
            *(slot_counts(shape[0], ep, 2) if request.units else ()),
        }
        for slots in sorted(counts):
            if permits(limits.slots, slots) and slots >= ep:
                yield ep, expert_tp, slots


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


def _pipeline_choices(request: PlanRequest, cells: int) -> Iterator[tuple[int, int, int]]:
    """``(pp, microbatches, replicas)`` for ``cells`` stages on the machine."""
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
                if permits(limits.replicas, replicas):
                    yield pp, microbatches, replicas


def _splits(request: PlanRequest) -> dict[int, list[tuple[int, ...]]]:
    """Every way to split a stage, with what overlaps and drafts, by cells that the machine holds.

    Values are in the order of ``SPLIT_FIELDS``.
    """
    dense = not any(isinstance(layer.ffn, MoeFfn) for layer in request.setting.model.layers)
    most_tp = max_attn_tp(request)
    largest = request.topology.largest_open
    drafts = draft_lengths(request)
    most_halved = request.setting.new_tokens or math.inf
    shares: dict[int, bool] = {}
    cells: dict[tuple[int, int], int] = {}
    modes = {axes: overlap_modes(request, axes) for axes in OverlapMode}
    found: dict[int, list[tuple[int, ...]]] = {}
    for size in stage_sizes(request):
        experts = list(_expert_choices(request, size))
        for attn_tp in divisors(size):
            if attn_tp > most_tp or not permits(request.limits.tp, attn_tp):
                continue
            if request.limits.cp is None and attn_tp not in shares:
                shares[attn_tp] = shares_contexts(request, attn_tp)
            ways = context_ways(request, size, attn_tp, shares.get(attn_tp, False))
            if dense:
                ways = [cp for cp in ways if cp * attn_tp == size]
            for ep, expert_tp, slots in experts:
                unit = unit_of(attn_tp, expert_tp, largest)
                if unit is None or size % unit:
                    continue
                if (size, unit) not in cells:
                    cells[size, unit] = max_cells(request.topology, size, unit)
                rows = found.setdefault(cells[size, unit], [])
                for cp in ways:
                    attn_dp = size // (attn_tp * cp)
                    given = (attn_tp, attn_dp, ep, expert_tp, slots, cp)
                    axes = OverlapMode.TP if attn_tp > 1 else OverlapMode.NONE
                    if not dense and attn_dp * cp > 1:
                        axes = OverlapMode(axes | OverlapMode.EP)
                    for mode in modes[axes]:
                        # Halves of a rank's fraction of a prompt's token would make steps jump.
                        if cp == 1 or mode is OverlapMode.NONE or cp < most_halved:
                            rows += [(*given, int(mode), draft) for draft in drafts]
    return found


def enumerate_strategies(request: PlanRequest) -> Strategies:
    """All strategies of the request's space.

    Returns
    -------
    Strategies
        Possibly empty, when the limits exclude everything.
    """
    columns: dict[str, list[IntArray]] = {f.name: [] for f in fields(Strategies)}
    for cells, splits in _splits(request).items():
        rows = list(_pipeline_choices(request, cells))
        own = np.array(splits, dtype=np.int64).reshape(-1, len(SPLIT_FIELDS))
        pipelines = np.array(rows, dtype=np.int64).reshape(-1, len(PIPELINE_FIELDS))
        for place, name in enumerate(SPLIT_FIELDS):
            columns[name].append(np.repeat(own[:, place], len(pipelines)))
        for place, name in enumerate(PIPELINE_FIELDS):
            columns[name].append(np.tile(pipelines[:, place], len(own)))
    nothing = np.empty(0, dtype=np.int64)
    found = Strategies(
        **{name: np.concatenate([nothing, *columns.pop(name)]) for name in [*columns]}
    )
    dp = request.limits.dp
    if dp is not None:
        found = found.select(np.isin(found.attn_dp * found.replicas, sorted(dp)))
    return found.select(_may_survive(request, found)) if request.units else found


def _may_survive(request: PlanRequest, found: Strategies) -> NDArray[np.bool_]:
    """Strategies with two attention groups, and two copies of all experts or two replicas."""
    shape = moe_shape(request.setting.model)
    copies = found.num_slots >= 2 * shape[0] if shape else np.zeros(len(found), dtype=np.bool_)
    return np.asarray((copies | (found.replicas > 1)) & (found.attn_dp * found.replicas > 1))


def space_description(strategies: Strategies) -> dict[str, str]:
    """Values that each degree takes in the space, for the certificate.

    Contexts are shared under some values of ``attn_tp`` alone: those are named too.
    """
    found = {
        f.name: _ranges(np.unique(getattr(strategies, f.name)).tolist()) for f in fields(Strategies)
    }
    modes = [OverlapMode(mode).label for mode in np.unique(strategies.overlap).tolist()]
    sharing = np.unique(strategies.attn_tp[strategies.cp > 1]).tolist()
    return {**found, "overlap": " | ".join(modes), "attn_tp with cp": _ranges(sharing)}


def _ranges(values: list[int]) -> str:
    """Write ascending values as ``1..8,12,16``."""
    parts: list[str] = []
    start = 0
    for position in range(1, len(values) + bool(values)):
        ends_run = position == len(values) or values[position] != values[position - 1] + 1
        if not ends_run:
            continue
        run = values[start:position]
        parts.append(f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run)))
        start = position
    return ",".join(parts)
