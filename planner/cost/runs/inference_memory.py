"""HBM bytes of an inference run on its fullest chip.

Assumptions
-----------
- Weights and caches stay resident; activations live for one operation.
- Caches come in blocks: the last block of a sequence is half empty on average.
- An engine leaves a tenth of the usable HBM alone (vLLM's default
  ``gpu_memory_utilization`` of 0.90; runtime, graphs, fragmentation).
"""

from __future__ import annotations

from planner.cost.attention import kv_shard_ways
from planner.cost.block import Tokens, ceil_div
from planner.cost.memory import activation_bytes, layer_bytes, table_bytes
from planner.cost.runs.inference_links import splits_sequences
from planner.cost.runs.inference_pass import stage_ranges
from planner.cost.runs.inference_setting import Serving
from planner.cost.runs.record import RunMemory
from planner.cost.step import Setting, layer_groups
from planner.domain.model import MoeFfn
from planner.domain.workload import TimeModel

BLOCK_TOKENS = 16  # vLLM's default block_size


def serving_memory(serving: Serving, sequences: float, context: float, rows: float) -> RunMemory:
    """Bytes on the fullest chip.

    Parameters
    ----------
    sequences : float
        Sequences that one attention group keeps cached.
    context : float
        Tokens cached of each at the end.
    rows : float
        Tokens of one pass of one rank.
    """
    mesh, chip = serving.mesh, serving.chip
    reserve = serving.engine.reserve_fraction
    setting = Setting(
        model=serving.model,
        chip=chip,
        context_tokens=int(context / mesh.cp + BLOCK_TOKENS / 2),
        time_model=TimeModel.SUM,
        reserve_fraction=reserve,
    )
    split = serving.split
    first, last = table_bytes(setting, split, float(mesh.pp))
    tokens = Tokens(group=rows, stage=rows * mesh.cp * mesh.attn_dp)
    active = float(activation_bytes(setting, split, tokens, 1.0 / mesh.ep))
    ranges = stage_ranges(len(serving.model.layers), mesh.pp)
    weights = [0.0] * mesh.pp
    cache = [0.0] * mesh.pp
    for group in layer_groups(serving.model):
        own = layer_bytes(setting, group, split)
        ffn = group.layer.ffn
        slots = ceil_div(ffn.num_experts, mesh.ep) if isinstance(ffn, MoeFfn) else 0
        for stage, (start, end) in enumerate(ranges):
            count = sum(start <= index < end for index in group.indices)
            weights[stage] += count * float(own.fixed + own.per_slot * slots)
            held = _cache_copies(serving, kv_shard_ways(group.layer.attention), sequences)
            cache[stage] += count * float(own.kv_per_sequence) * held
    weights[0] += float(first)
    weights[-1] += float(last)
    fullest = max(range(mesh.pp), key=lambda stage: weights[stage] + cache[stage])
    return RunMemory(
        weights_bytes=weights[fullest],
        activations_bytes=active,
        kv_bytes=cache[fullest],
        reserve_bytes=chip.hbm_usable_bytes * reserve,
        capacity_bytes=chip.hbm_usable_bytes,
    )


def _cache_copies(serving: Serving, ways: int, sequences: float) -> float:
    """Sequences whose share of the cache the fullest chip holds."""
    attn_tp = serving.mesh.attn_tp
    if splits_sequences(serving.links.topology, attn_tp, ways):
        return max(1.0, sequences * ways / attn_tp)
    return sequences
