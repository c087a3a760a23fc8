"""Layouts to export: random degrees on small machines, priced but not searched."""

import functools

from planner import Question
from planner.api import read_question
from planner.cost.routing import moe_layer_indices
from planner.deployment.assemble import Decisions, assignment_from, layout_from
from planner.deployment.maps import grouped, start_slots
from planner.deployment.ranks import engine_order
from planner.domain.degrees import Degrees
from planner.domain.deployment import Engine


@functools.cache
def case_for(model="deepseek-v3", machine="b300-hgx", nodes=4, **more):
    return read_question(
        Question(model=model, machine=machine, nodes=nodes, context_tokens=4096, **more)
    )


def layout_for(degrees, sequences=8, model="deepseek-v3", machine="b300-hgx", nodes=4, **more):
    """A layout of these degrees, ranks in the order of the machine, experts in order."""
    inputs, case = case_for(model, machine, nodes, **more)
    layers = len(case.setting.model.layers)
    base, rest = divmod(layers, degrees.pp)
    stages = tuple(base + (index < rest) for index in range(degrees.pp))
    size = degrees.stage_chips * degrees.pp
    names = case.topology.chip_names
    # Engine.SGLANG numbers ranks as layouts do: stage by stage.
    chips = tuple(names[r * size : (r + 1) * size] for r in range(degrees.replicas))
    maps = ()
    if degrees.num_slots:
        experts = case.loads.shape[1]
        moe = moe_layer_indices(case.setting.model)
        row = start_slots(experts, degrees.ep, degrees.num_slots)
        maps = grouped(moe, [row] * len(moe))
    decided = Decisions(
        engine=Engine.SGLANG,
        degrees=degrees,
        chips=chips,
        stage_layers=stages,
        slot_maps=maps,
        sequences=sequences,
    )
    assert len(engine_order(Engine.SGLANG, degrees)) == size
    return layout_from(inputs, case, assignment_from(decided, case.topology))


def degrees(**given):
    """Degrees of a model without experts, unless more is given."""
    base = {
        "attn_tp": 1,
        "attn_dp": 1,
        "pp": 1,
        "ep": 1,
        "expert_tp": 1,
        "num_slots": 0,
        "microbatches": given.get("pp", 1),
        "replicas": 1,
    }
    return Degrees(**{**base, **given})
