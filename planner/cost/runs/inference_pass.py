"""One pass of a microbatch of a run through the layers of an inference engine, stage by stage.

Layers are counted and priced by :mod:`planner.cost.step`, as those of a plan are; here are the
host of an engine that captures no graphs, even stages, and balanced routing.

Assumptions
-----------
- Routing is balanced: every expert group receives the same number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.block import RoutedLoad, Tokens, ceil_div, uniform_touched
from planner.cost.runs.inference_setting import (
    Serving,
    Terms,
    merge_terms,
    scale_terms,
    sum_terms,
)
from planner.cost.runs.record import RunTerm
from planner.cost.step import (
    NOTHING_HIDDEN,
    CoreOf,
    Hidden,
    LayerGroup,
    LayerPrice,
    Load,
    RoutedOf,
    Setting,
    host_wait_s,
    layer_groups,
    price_hop,
    price_layer,
    price_tables,
    term_seconds,
)
from planner.domain.cost import Bound
from planner.domain.model import Layer, MoeFfn
from planner.domain.run import Mesh
from planner.domain.work import Real
from planner.domain.workload import TimeModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """One microbatch of one pass.

    Parameters
    ----------
    setting : Setting
        With the contexts of its sequences.
    tokens : Tokens
        Of one rank (of an attention group, divided by ``cp``), and of one copy of the experts.
    head_rows : float
        Tokens whose logits are wanted.
    core_of : callable
        Attention core of a layer for a fraction of the sequences.
    captured : bool
        Whether the pass is a captured graph: the host launches it once.
    """

    setting: Setting
    tokens: Tokens
    head_rows: float
    core_of: CoreOf
    captured: bool


def balanced_routing(layer: Layer, mesh: Mesh) -> RoutedOf | None:
    """Load of every expert group when routing and placement are even."""
    ffn = layer.ffn
    if not isinstance(ffn, MoeFfn):
        return None
    slots = float(ceil_div(ffn.num_experts, mesh.ep) * mesh.ep)

    def load(tokens: Real) -> RoutedLoad:
        touched = uniform_touched(ffn.num_experts, ffn.top_k, slots, tokens)
        return RoutedLoad(hot_share=1.0 / mesh.ep, touched_slots=touched / mesh.ep)

    return load


def layer_terms(serving: Serving, layer: Layer, work: Pass) -> Terms:
    """Time of one layer, term by term."""
    load = Load(
        tokens=work.tokens,
        routed_of=balanced_routing(layer, serving.mesh),
        core_of=work.core_of,
    )
    price, hidden = price_layer(work.setting, layer, serving.split, load, serving.fabric)
    terms = _run_terms(price, hidden)
    if work.captured:
        return terms
    wait = host_wait_s(work.setting, price, hidden, sum_terms(terms), captured=False)
    if wait > 0:
        terms += (RunTerm(name="host_launch", seconds=float(wait), bound=Bound.OVERHEAD),)
    return terms


def _run_terms(price: LayerPrice, hidden: Hidden = NOTHING_HIDDEN) -> Terms:
    timed = term_seconds(price, hidden, TimeModel.SUM)
    return merge_terms(
        RunTerm(name=term.name, seconds=float(seconds), bound=term.bound)
        for term, seconds in timed
        if float(seconds) > 0
    )


def stage_ranges(num_layers: int, pp: int) -> tuple[tuple[int, int], ...]:
    """Layers of each stage, as even as they divide, the longer stages first."""
    short, longer = divmod(num_layers, pp)
    ends = [short * (stage + 1) + min(stage + 1, longer) for stage in range(pp)]
    return tuple(zip([0, *ends[:-1]], ends, strict=True))


def stage_terms(serving: Serving, work: Pass) -> tuple[Terms, ...]:
    """Time of each pipeline stage for one microbatch."""
    by_group: list[tuple[LayerGroup, Terms]] = [
        (group, layer_terms(serving, group.layer, work)) for group in layer_groups(serving.model)
    ]
    rows = (work.tokens.group, work.head_rows)
    tables = price_tables(work.setting, serving.split, rows, serving.fabric)
    first, last = (_run_terms(table) for table in tables)
    ranges = stage_ranges(len(serving.model.layers), serving.mesh.pp)
    stages = []
    for stage, (start, end) in enumerate(ranges):
        found: list[RunTerm] = [*first] if stage == 0 else []
        for group, terms in by_group:
            count = sum(start <= index < end for index in group.indices)
            found += scale_terms(terms, float(count)) if count else ()
        if stage == len(ranges) - 1:
            found += last
        stages.append(merge_terms(found))
    return tuple(stages)


def hop_seconds(serving: Serving, rows: float) -> float:
    """A rank sends its slice of the microbatch's activations to the next stage."""
    if serving.mesh.pp == 1:
        return 0.0
    return float(price_hop(serving.model, serving.split, rows, serving.fabric))
