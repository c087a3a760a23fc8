"""Price of one complete assignment, recomputed from its decisions alone.

This is the second opinion on every plan: it shares the counting and pricing rules with the
search's bounds, but takes stages, expert slots, chips and batches as they stand in the
layout.

Assumptions
-----------
- The microbatch with the most sequences sets the pace of its replica.
- Replicas step independently; the slowest one is the step that is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.cost.block import WIRE_BYTES, RoutedLoad, Split, Tokens
from planner.cost.fabric import replica_rates
from planner.cost.memory import activation_bytes, budget_bytes, layer_bytes, table_bytes
from planner.cost.pipeline import decode_idle_fraction, decode_step_s
from planner.cost.price import FabricRates, PricedTerm, price_message
from planner.cost.routing import FloatArray, moe_layer_indices, routed_load
from planner.cost.step import (
    LayerGroup,
    Setting,
    layer_groups,
    pass_times,
    price_group,
    price_tables,
)
from planner.cost.terms import StepTerms, collect_terms
from planner.domain.assignment import Assignment
from planner.domain.cost import Memory, Prediction
from planner.domain.curves import Op
from planner.domain.degrees import Degrees
from planner.domain.work import Message
from planner.topology.graph import Topology
from planner.units import MILLION, usd_per_second


def degrees_split(degrees: Degrees) -> Split:
    """Degrees of one layout as the floats that the counting code takes."""
    return Split(
        attn_tp=float(degrees.attn_tp),
        attn_dp=float(degrees.attn_dp),
        ep=float(degrees.ep),
        expert_tp=float(degrees.expert_tp),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaTimes:
    """Seconds of one replica: per layer, table, stage and hop, and of the whole step."""

    layer_s: FloatArray
    embedding_s: float
    head_s: float
    stage_s: tuple[float, ...]
    hop_s: float
    step_s: float
    tokens: Tokens
    loads: dict[int, RoutedLoad]


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


def microbatch_tokens(sequences: Sequence[Sequence[int]]) -> Tokens:
    """Tokens of the fullest microbatch of ``sequences[microbatch][attn_dp_rank]``."""
    return Tokens(
        group=float(max(max(mb) for mb in sequences)),
        stage=float(max(sum(mb) for mb in sequences)),
    )


def hop_seconds(setting: Setting, split: Split, tokens: Tokens, fabric: FabricRates) -> float:
    """Seconds of one hop: a rank sends its slice of the microbatch's activations."""
    num_bytes = tokens.group * setting.model.hidden_size * WIRE_BYTES / split.attn_tp
    message = Message(term="pipeline_hop", op=Op.SEND_RECV, axis="pp", num_bytes=num_bytes)
    return float(price_message(message, fabric).network_s)


def replica_times(
    setting: Setting,
    assignment: Assignment,
    tokens: Tokens,
    by_layer: dict[int, RoutedLoad],
    fabric: FabricRates,
) -> ReplicaTimes:
    """Time one replica whose fullest microbatch is ``tokens`` and routes as ``by_layer``."""
    split = degrees_split(assignment.degrees)
    groups = layer_groups(setting.model)
    times = pass_times(setting, split, tokens, group_loads(groups, by_layer), fabric)
    layer_s = np.zeros(len(setting.model.layers))
    for group, seconds in zip(groups, times.groups, strict=True):
        layer_s[list(group.indices)] = seconds
    stage_s = [float(layer_s[first:end].sum()) for first, end in assignment.stage_ranges]
    stage_s[0] += float(times.embedding)
    stage_s[-1] += float(times.head)
    hop_s = hop_seconds(setting, split, tokens, fabric) if len(stage_s) > 1 else 0.0
    return ReplicaTimes(
        layer_s=layer_s,
        embedding_s=float(times.embedding),
        head_s=float(times.head),
        stage_s=tuple(stage_s),
        hop_s=hop_s,
        step_s=decode_step_s(stage_s, assignment.degrees.microbatches, hop_s),
        tokens=tokens,
        loads=by_layer,
    )


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
        kv[picked] = own.kv_per_sequence * sequences
    first, last = table_bytes(setting, split, float(assignment.degrees.pp))
    hot = max((float(load.hot_share) for load in times.loads.values()), default=0.0)
    active = float(activation_bytes(setting, split, times.tokens, hot))
    capacity = setting.chip.hbm_usable_bytes
    found = []
    ranges = assignment.stage_ranges
    for stage, (start, end) in enumerate(ranges):
        tables = float(first) * (stage == 0) + float(last) * (stage == len(ranges) - 1)
        found.append(
            Memory(
                weights_bytes=float(weights[start:end].sum()) + tables,
                kv_bytes=float(kv[start:end].sum()),
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
    groups = layer_groups(setting.model)
    stacked = group_loads(groups, times.loads)
    parts: list[tuple[int, list[PricedTerm]]] = []
    for position, group in enumerate(groups):
        load = (times.tokens, stacked.get(position))
        parts.append((len(group.indices), price_group(setting, group, split, load, fabric)))
    embedding, head = price_tables(setting, split, times.tokens, fabric)
    parts += [(1, embedding), (1, head)]
    return collect_terms(parts, setting.time_model)


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
    replicas = []
    every = [cell for cells in assignment.cells for cell in cells]
    for cells, sequences in zip(assignment.cells, assignment.sequences, strict=True):
        fabric = replica_rates(topology, cells, assignment.degrees, every)
        tokens = microbatch_tokens(sequences)
        routed = routed_load(assignment.slot_maps, loads, setting.model, float(tokens.stage))
        own = replica_times(setting, assignment, tokens, routed, fabric)
        replicas.append((own, fabric, sequences))
    times, fabric, _ = max(replicas, key=lambda item: item[0].step_s)
    most = max(cached_sequences(sequences) for sequences in assignment.sequences)
    memory = stage_memory(setting, assignment, times, float(most))
    step = _terms(setting, assignment, times, fabric)
    tokens_per_s = sum(
        sum(sum(mb) for mb in sequences) / own.step_s for own, _, sequences in replicas
    )
    cost = None
    chips = (chip for replica in assignment.cells for cell in replica for chip in cell)
    rented = sum(topology.rental_units(chips))
    if price_usd_per_hour is not None:
        usd_per_s = usd_per_second(price_usd_per_hour) * rented
        cost = usd_per_s / tokens_per_s * MILLION
    microbatches = assignment.degrees.microbatches
    return Prediction(
        step_s=times.step_s,
        batch=assignment.batch,
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_user=1.0 / times.step_s,
        tokens_per_s_per_chip=tokens_per_s / topology.num_chips,
        usd_per_million_tokens=cost,
        chips_rented=rented,
        terms=step.with_pipeline(times.stage_s, times.hop_s, times.step_s),
        stage_s=times.stage_s,
        memory=memory,
        bubble=decode_idle_fraction(times.stage_s, microbatches, times.hop_s),
        critical_batch=step.critical_batch(assignment.batch),
        largest_batch=largest_batch(setting, assignment, times, memory),
        expert_imbalance=_imbalance(setting, assignment, times),
    )


def _imbalance(setting: Setting, assignment: Assignment, times: ReplicaTimes) -> float:
    """Mean over MoE layers of the busiest group's tokens over the average group's."""
    layers = moe_layer_indices(setting.model)
    if not layers:
        return 1.0
    hot = [float(times.loads[layer].hot_share) for layer in layers]
    return float(np.mean(hot)) * assignment.degrees.ep
