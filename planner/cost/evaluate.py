"""Price of one complete assignment, recomputed from its decisions alone.

This is the second opinion on every plan: it shares the counting and pricing rules with the
search's bounds, but takes stages, expert slots, chips and batches as they stand in the
layout.

Assumptions
-----------
- The microbatch with the most sequences sets the pace of its replica.
- Ranks of context parallelism share the tokens of their group evenly.
- Replicas step independently; the slowest one is the step that is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from planner.cost.block import RoutedLoad, Split, Tokens
from planner.cost.fabric import replica_rates
from planner.cost.memory import (
    activation_bytes,
    budget_bytes,
    cache_bytes,
    draft_bytes,
    layer_bytes,
    table_bytes,
)
from planner.cost.passes import pass_times, price_draft
from planner.cost.pipeline import idle_fraction, stream_step_s
from planner.cost.price import FabricRates
from planner.cost.routing import FloatArray, moe_layer_indices, routed_load
from planner.cost.runs.serving_speculative import tokens_per_pass
from planner.cost.step import (
    NOTHING_HIDDEN,
    LayerGroup,
    Load,
    RoutedOf,
    Setting,
    core_prices,
    host_wait_s,
    layer_groups,
    layer_seconds,
    price_hop,
    price_layer,
    price_tables,
    table_rows,
)
from planner.cost.terms import PricedPart, StepTerms, collect_terms, per_token
from planner.domain.assignment import Assignment
from planner.domain.cost import Memory, Prediction
from planner.domain.degrees import Degrees
from planner.domain.model import MoeFfn
from planner.domain.work import Real
from planner.topology.graph import Topology
from planner.units import MILLION, usd_per_second


def degrees_split(degrees: Degrees) -> Split:
    """Degrees of one layout as the floats that the counting code takes."""
    return Split(
        attn_tp=float(degrees.attn_tp),
        attn_dp=float(degrees.attn_dp),
        cp=float(degrees.cp),
        ep=float(degrees.ep),
        expert_tp=float(degrees.expert_tp),
        hide_tp=float(degrees.overlap.hides_tp),
        hide_ep=float(degrees.overlap.hides_ep),
        draft=float(degrees.draft),
    )


Routing = Callable[[float], dict[int, RoutedLoad]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Microbatch:
    """The fullest microbatch of a replica.

    Parameters
    ----------
    group, stage : float or array
        Sequences of its busiest attention group, and of all groups of a stage.
    """

    group: Real
    stage: Real

    def tokens(self, setting: Setting, split: Split) -> Tokens:
        """Tokens of its busiest rank and of a stage.

        A rank of context parallelism takes its share of every prompt; in decode its share of
        its group's sequences, at least one.
        """
        if setting.is_prefill:
            return Tokens(
                group=self.group * setting.new_tokens / split.cp,
                stage=self.stage * setting.new_tokens,
                sequences=self.group,
            )
        rank = np.maximum(np.minimum(1.0, self.group), self.group / split.cp)
        queries = 1.0 + split.draft
        return Tokens(
            group=rank * queries,
            stage=self.stage * queries,
            sequences=self.group,
            queries=queries,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaTimes:
    """Seconds of one replica: per layer, table, stage and hop, and of the whole step.

    ``hops_s`` are all hops of a microbatch, ``pass_s`` is one pass of all microbatches,
    ``step_s`` its share of one token of a sequence, of a prefill the whole pass.
    """

    layer_s: FloatArray
    embedding_s: float
    head_s: float
    draft_s: float
    stage_s: tuple[float, ...]
    hop_s: float
    hops_s: float
    pass_s: float
    step_s: float
    load: ReplicaLoad


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaLoad:
    """What one replica works on: its fullest microbatch, and where routing puts tokens."""

    microbatch: Microbatch
    routing: Routing


def group_loads(
    groups: Sequence[LayerGroup], by_layer: dict[int, RoutedLoad]
) -> dict[int, RoutedLoad]:
    """Stack per-layer loads into arrays over the layers of each MoE group."""
    stacked = {}
    for position, group in enumerate(groups):
        if group.is_moe:
            picked = [by_layer[index] for index in group.indices]
            stacked[position] = RoutedLoad(
                hot_share=np.array([load.hot_share for load in picked]),
                touched_slots=np.array([load.touched_slots for load in picked]),
            )
    return stacked


def group_routing(setting: Setting, routing: Routing) -> dict[int, RoutedOf]:
    """Where the tokens of a stage go, by the position of each MoE group of layers."""
    groups = layer_groups(setting.model)
    known: dict[float, dict[int, RoutedLoad]] = {}

    def of_group(position: int) -> RoutedOf:
        def load(tokens: Real) -> RoutedLoad:
            stage = float(tokens)
            if stage not in known:
                known[stage] = group_loads(groups, routing(stage))
            return known[stage][position]

        return load

    last = len(setting.model.layers) - 1

    def of_last(tokens: Real) -> RoutedLoad:
        return routing(float(tokens))[last]

    found = {position: of_group(position) for position, group in enumerate(groups) if group.is_moe}
    if isinstance(setting.model.layers[-1].ffn, MoeFfn):
        found[-1] = of_last
    return found


def fullest_microbatch(sequences: Sequence[Sequence[int]]) -> Microbatch:
    """The fullest microbatch of ``sequences[microbatch][attn_dp_rank]``."""
    return Microbatch(
        group=float(max(max(mb) for mb in sequences)),
        stage=float(max(sum(mb) for mb in sequences)),
    )


def replica_times(
    setting: Setting, assignment: Assignment, load: ReplicaLoad, fabric: FabricRates
) -> ReplicaTimes:
    """Time one replica whose fullest microbatch and routing are those of ``load``."""
    split = degrees_split(assignment.degrees)
    groups = layer_groups(setting.model)
    tokens = load.microbatch.tokens(setting, split)
    routed = group_routing(setting, load.routing)
    times = pass_times(setting, split, tokens, routed, fabric)
    layer_s = np.zeros(len(setting.model.layers))
    for group, seconds in zip(groups, times.groups, strict=True):
        layer_s[list(group.indices)] = seconds
    hop_s = float(price_hop(setting.model, split, tokens.group, fabric))
    whole = ReplicaTimes(
        layer_s=layer_s,
        embedding_s=float(times.embedding),
        head_s=float(times.head),
        draft_s=float(times.draft),
        stage_s=(),
        hop_s=hop_s,
        hops_s=0.0,
        pass_s=0.0,
        step_s=0.0,
        load=load,
    )
    return staged(setting, assignment, whole)


def staged(setting: Setting, assignment: Assignment, times: ReplicaTimes) -> ReplicaTimes:
    """Times of the same layers cut into the stages of ``assignment``."""
    ranges = assignment.stage_ranges
    stage_s = [float(times.layer_s[first:end].sum()) for first, end in ranges]
    stage_s[0] += times.embedding_s
    stage_s[-1] += times.head_s + times.draft_s
    hops_s = float(setting.num_hops(float(len(stage_s)))) * times.hop_s
    circulating = stream_step_s(stage_s, assignment.degrees.microbatches, hops_s)
    pass_s = circulating + setting.engine.step_s
    step_s = pass_s / tokens_per_pass(assignment.degrees.draft, setting.acceptance)
    return replace(times, stage_s=tuple(stage_s), hops_s=hops_s, pass_s=pass_s, step_s=step_s)


def stage_memory(
    setting: Setting, assignment: Assignment, times: ReplicaTimes, sequences: float
) -> Memory:
    """Bytes on the fullest chip over all stages.

    ``sequences`` is the largest number that one attention group keeps cached, over all
    microbatches.
    """
    split = degrees_split(assignment.degrees)
    num_layers = len(setting.model.layers)
    slots = np.zeros(num_layers)
    for slot_map in assignment.slot_maps:
        slots[list(slot_map.layers)] = max(len(group) for group in slot_map.slots)
    weights, kv = np.zeros(num_layers), np.zeros(num_layers)
    for group in layer_groups(setting.model):
        own = layer_bytes(setting, group, split)
        picked = list(group.indices)
        weights[picked] = own.fixed + own.per_slot * slots[picked]
        kv[picked] = cache_bytes(setting, group, split, sequences)
    first, last = table_bytes(setting, split, float(assignment.degrees.pp))
    tokens = times.load.microbatch.tokens(setting, split)
    loads = times.load.routing(float(tokens.stage))
    hot = max((float(load.hot_share) for load in loads.values()), default=0.0)
    active = float(activation_bytes(setting, split, tokens, hot))
    capacity = setting.chip.hbm_usable_bytes
    drafting: tuple[Real, Real] = (0.0, 0.0)
    if assignment.degrees.draft:
        drafting = draft_bytes(setting, split, (float(slots[-1]), sequences))
    found = []
    ranges = assignment.stage_ranges
    for stage, (start, end) in enumerate(ranges):
        is_last = stage == len(ranges) - 1
        tables = float(first) * (stage == 0) + (float(last) + float(drafting[0])) * is_last
        found.append(
            Memory(
                weights_bytes=float(weights[start:end].sum()) + tables,
                kv_bytes=float(kv[start:end].sum()) + float(drafting[1]) * is_last,
                activations_bytes=active,
                reserve_bytes=capacity * setting.reserve_fraction,
                capacity_bytes=capacity,
                stage=stage,
            )
        )
    return max(found, key=lambda memory: memory.used_bytes)


def cached_sequences(sequences: Sequence[Sequence[int]]) -> int:
    """Most sequences that one attention group of a replica keeps cached."""
    cached: list[int] = [sum(column) for column in zip(*sequences, strict=True)]
    return max(cached)


def largest_batch(
    setting: Setting, assignment: Assignment, times: ReplicaTimes, memory: Memory
) -> int:
    """Largest batch on the whole machine whose KV cache fits, degrees unchanged.

    KV and activations grow linearly with the sequences of a group, so the free bytes
    divided by the bytes per sequence is exact up to rounding.
    """
    degrees = assignment.degrees
    per_group = max(cached_sequences(replica) for replica in assignment.sequences)
    growing = memory.kv_bytes + memory.activations_bytes
    free = budget_bytes(setting) - memory.weights_bytes
    groups = degrees.attn_dp * degrees.replicas
    return max(0, int(per_group * free / growing)) * groups


def _terms(
    setting: Setting, assignment: Assignment, times: ReplicaTimes, fabric: FabricRates
) -> StepTerms:
    split = degrees_split(assignment.degrees)
    tokens = times.load.microbatch.tokens(setting, split)
    routed = group_routing(setting, times.load.routing)
    core_of = core_prices(setting, split, tokens, fabric)
    parts = []
    for position, group in enumerate(layer_groups(setting.model)):
        load = Load(tokens=tokens, routed_of=routed.get(position), core_of=core_of)
        price, hidden = price_layer(setting, group.layer, split, load, fabric)
        busy = layer_seconds(price, hidden, setting.time_model)
        wait = host_wait_s(setting, price, hidden, busy, captured=not setting.is_prefill)
        own = PricedPart(count=len(group.indices), price=price, hidden=hidden, host_wait_s=wait)
        parts.append(own)
    for table in price_tables(setting, split, table_rows(setting, tokens), fabric):
        parts.append(PricedPart(count=1, price=table, hidden=NOTHING_HIDDEN))
    found = collect_terms(parts, setting.time_model)
    if not assignment.degrees.draft:
        return found
    (layer, hides), logits = price_draft(setting, split, tokens, routed.get(-1), fabric)
    drafted = [
        PricedPart(count=1, price=layer, hidden=hides),
        PricedPart(count=1, price=logits, hidden=NOTHING_HIDDEN),
    ]
    once = collect_terms(drafted, setting.time_model)
    return found.with_draft(once, assignment.degrees.draft)


def on_machine(setting: Setting, topology: Topology) -> Setting:
    """The setting with what the kind of machine decides."""
    return replace(setting, on_torus=topology.is_torus)


def evaluate(
    setting: Setting,
    topology: Topology,
    assignment: Assignment,
    loads: FloatArray,
    price_usd_per_hour: float | None,
) -> Prediction:
    """Predict step time, throughput, cost and memory of an assignment.

    Parameters
    ----------
    loads : array, shape ``[num MoE layers, num_experts]``
        Share of the routed tokens of each expert; empty for a dense model.

    Returns
    -------
    Prediction
        ``terms`` add up to ``step_s``.
    """
    setting = on_machine(setting, topology)

    @cache
    def routing(tokens: float) -> dict[int, RoutedLoad]:
        return routed_load(assignment.slot_maps, loads, setting.model, tokens)

    priced: dict[object, tuple[ReplicaTimes, FabricRates, Memory]] = {}
    tokens_per_s = 0.0
    every = [cell for cells in assignment.cells for cell in cells]
    for cells, sequences in zip(assignment.cells, assignment.sequences, strict=True):
        fabric = replica_rates(topology, cells, assignment.degrees, every)
        # Replicas with the same prices, which are one object, differ by what they decode.
        key = (id(fabric), sequences)
        if key not in priced:
            load = ReplicaLoad(microbatch=fullest_microbatch(sequences), routing=routing)
            own = replica_times(setting, assignment, load, fabric)
            held = stage_memory(setting, assignment, own, float(cached_sequences(sequences)))
            priced[key] = own, fabric, held
        batch = sum(sum(microbatch) for microbatch in sequences)
        tokens_per_s += setting.sequence_tokens * batch / priced[key][0].step_s
    times, fabric, _ = max(priced.values(), key=lambda item: item[0].step_s)
    memory = max((held for *_, held in priced.values()), key=lambda held: held.used_bytes)
    step = _terms(setting, assignment, times, fabric)
    cost = None
    chips = (chip for replica in assignment.cells for cell in replica for chip in cell)
    rented = sum(topology.rental_units(chips))
    if price_usd_per_hour is not None:
        usd_per_s = usd_per_second(price_usd_per_hour) * rented
        cost = usd_per_s / tokens_per_s * MILLION
    microbatches = assignment.degrees.microbatches
    terms = step.with_pipeline(times.stage_s, times.hops_s, times.pass_s, setting.engine.step_s)
    circulating = times.pass_s - setting.engine.step_s
    return Prediction(
        step_s=times.step_s,
        batch=assignment.batch,
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_user=setting.sequence_tokens / times.step_s,
        tokens_per_s_per_chip=tokens_per_s / topology.num_chips,
        usd_per_million_tokens=cost,
        chips_rented=rented,
        terms=per_token(terms, times.pass_s / times.step_s),
        stage_s=times.stage_s,
        memory=memory,
        bubble=idle_fraction(times.stage_s, microbatches, circulating),
        critical_batch=step.critical_batch(assignment.batch),
        largest_batch=largest_batch(setting, assignment, times, memory),
        expert_imbalance=_imbalance(setting, assignment, times),
        tokens_per_pass=times.pass_s / times.step_s,
    )


def _imbalance(setting: Setting, assignment: Assignment, times: ReplicaTimes) -> float:
    """Mean over MoE layers of the busiest group's tokens over the average group's."""
    layers = moe_layer_indices(setting.model)
    if not layers:
        return 1.0
    loads = times.load.routing(float(times.load.microbatch.stage))
    hot = [float(loads[layer].hot_share) for layer in layers]
    return float(np.mean(hot)) * assignment.degrees.ep
