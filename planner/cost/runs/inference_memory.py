"""HBM bytes of an inference run on its fullest chip: :mod:`planner.cost.memory` on even stages.

Assumptions
-----------
- Routing is balanced, and every expert group holds ``ceil(experts / ep)`` of them.
"""

from __future__ import annotations

from planner.cost.block import Tokens, ceil_div
from planner.cost.memory import activation_bytes, cache_bytes, layer_bytes, table_bytes
from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.inference_pass import stage_ranges
from planner.cost.runs.inference_setting import Serving
from planner.cost.runs.record import RunMemory
from planner.cost.step import layer_groups
from planner.domain.model import MoeFfn


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
    mesh, chip, split = serving.mesh, serving.chip, serving.split
    setting = serving.setting(Contexts(mean=context))
    first, last = table_bytes(setting, split, float(mesh.pp))
    tokens = Tokens(group=rows, stage=rows * mesh.cp * mesh.attn_dp)
    active = float(activation_bytes(setting, split, tokens, 1.0 / mesh.ep))
    ranges = stage_ranges(len(serving.model.layers), mesh.pp)
    weights = [0.0] * mesh.pp
    cache = [0.0] * mesh.pp
    for group in layer_groups(serving.model):
        own = layer_bytes(setting, group, split)
        held = float(cache_bytes(setting, group, split, sequences))
        ffn = group.layer.ffn
        slots = ceil_div(ffn.num_experts, mesh.ep) if isinstance(ffn, MoeFfn) else 0
        for stage, (start, end) in enumerate(ranges):
            count = sum(start <= index < end for index in group.indices)
            weights[stage] += count * float(own.fixed + own.per_slot * slots)
            cache[stage] += count * held
    weights[0] += float(first)
    weights[-1] += float(last)
    fullest = max(range(mesh.pp), key=lambda stage: weights[stage] + cache[stage])
    return RunMemory(
        weights_bytes=weights[fullest],
        activations_bytes=active,
        kv_bytes=cache[fullest],
        reserve_bytes=chip.hbm_usable_bytes * setting.reserve_fraction,
        capacity_bytes=chip.hbm_usable_bytes,
    )
