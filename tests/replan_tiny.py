"""Tiny layouts and changes of what they were planned for; what a replan must keep, counted anew."""

import json

import numpy as np

from planner import Question, Sizing, Wounds
from planner.api import case_of_layout
from planner.catalog.model_config import load_model
from planner.cost.weights import layer_weights, table_weights, weight_bytes
from planner.domain.model import Shard, WeightRole
from planner.replan_api import Changes


def changed(rng, question, layout, folder):
    """A random change: ``(Changes, the question that asks for a plan of the changed machine)``."""
    experts = bool(layout.experts)
    kinds = ["dead", "dead", "context", "tpot", "batch", "grow", *(["loads"] * 3 * experts)]
    kind = rng.choice(kinds)
    wounds, options, sizing = Wounds(), {}, {}
    if kind == "dead":
        chips = [*layout.idle_chips, *(rank.chip for rank in layout.ranks)]
        if len(chips) > 1:
            wounds = Wounds(without=(f"chip:{rng.choice(chips)}",))
    elif kind == "context":
        options["context_tokens"] = max(1, int(question.context_tokens * rng.choice([0.5, 1.5])))
    elif kind == "tpot":
        options["tpot_s"] = layout.prediction.step_s * rng.choice([0.9, 1.2])
    elif kind == "batch":
        options["batch"] = rng.choice([1, 2, 4, 6])
    elif kind == "grow":
        nodes = len({name.partition("/")[0] for name in all_chips(layout)})
        sizing["nodes"] = rng.choice([nodes + 1, max(1, nodes - 1)])
    else:
        widths = {len(row) for row in case_of_layout(layout).loads.tolist()}
        rows = len(case_of_layout(layout).loads)
        top_k = top_k_of(question)
        path = folder / f"new{rng.randrange(1 << 30)}.json"
        table = []
        while len(table) < rows:
            row = np.array([rng.uniform(0.2, 3.0) for _ in range(max(widths))])
            if (row / row.sum()).max() <= 1 / top_k:
                table.append((row / row.sum()).tolist())
        path.write_text(json.dumps(table))
        options["loads"] = str(path)
    given = Changes(
        sizing=Sizing(wounds=wounds, **sizing),
        loads=options.get("loads"),
        context_tokens=options.get("context_tokens"),
        tpot_s=options.get("tpot_s"),
        batch=options.get("batch"),
    )
    fields = {f: getattr(question, f) for f in Question.__dataclass_fields__}
    return given, Question(**(fields | options | sizing | {"wounds": wounds}))


def all_chips(layout):
    """Names of every chip of a layout's machine."""
    return [*layout.idle_chips, *(rank.chip for rank in layout.ranks)]


def top_k_of(question):
    """Experts that a token picks."""
    from planner.cost.routing import moe_shape

    return moe_shape(load_model(question.model))[1]


def contents(layout):
    """What every chip of a layout holds: ``{chip: {what: (bytes of a part, parts as booleans)}}``.

    Written against the layout's file alone, weight by weight and part by part.
    """
    model = case_of_layout(layout).setting.model
    d = layout.degrees
    held = {}
    slots = {layer: m.slots for m in layout.experts for layer in m.layers}
    for rank in layout.ranks:
        mine = held.setdefault(rank.chip, {})
        stage = layout.stages[rank.stage]

        def put(name, weight, degree, place, mine=mine):
            ways = 1 if weight.shard is Shard.REPLICATED else weight.shard_ways
            each = -(-ways // min(degree, ways))
            first = min(place * ways // degree, ways - each)
            parts = np.zeros(ways, dtype=bool)
            parts[first : first + each] = True
            mine[name] = (weight_bytes(weight, model.precision) / ways, parts)

        for index in range(stage.first_layer, stage.end_layer):
            for number, weight in enumerate(layer_weights(model, model.layers[index])):
                if weight.role is WeightRole.ROUTED_EXPERT:
                    for expert in slots[index][rank.ep_rank]:
                        width = model.layers[index].ffn.expert_width
                        each = -(-width // min(d.expert_tp, width))
                        first = min(rank.expert_tp_rank * width // d.expert_tp, width - each)
                        parts = np.zeros(width, dtype=bool)
                        parts[first : first + each] = True
                        size = weight_bytes(weight, model.precision) / width
                        mine[index, number, expert] = (size, parts)
                else:
                    put((index, number), weight, d.attn_tp, rank.attn_tp_rank)
        for number, weight in enumerate(table_weights(model)):
            is_first = weight.role is WeightRole.EMBEDDING
            tied = any(w.tied for w in table_weights(model))
            if weight.tied:
                continue
            if (is_first and stage.has_embedding) or (stage.has_head and (tied or not is_first)):
                put(("table", number), weight, d.attn_tp, rank.attn_tp_rank)
    return held


def missing_bytes(old, new):
    """Weights that each chip of ``new`` lacks when it keeps what it holds in ``old``."""
    before, after = contents(old), contents(new)
    lacks = {}
    for chip, needed in after.items():
        have = before.get(chip, {})
        total = 0.0
        for name, (size, parts) in needed.items():
            own = have[name][1] if name in have else np.zeros_like(parts)
            total += size * float((parts & ~own).sum())
        lacks[chip] = total
    return lacks
