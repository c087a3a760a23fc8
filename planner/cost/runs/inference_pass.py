"""Seconds of one pass of a microbatch through the layers of an inference engine.

A prefill pass and a decode step do the same to a token but for the attention core. Every
operation runs alone (the scaling book's sum, theory: inference chapter):

    layer = sum of matmuls + core + small operations + collectives

Collectives that the run overlaps run behind the computation of the other half of the
microbatch: every operation is then done twice with half of the rows,

    layer = max(2 compute(rows / 2), 2 collectives(rows / 2)) + what is not overlapped.

Assumptions
-----------
- Routing is balanced: every expert group receives the same number of tokens.
- A parallel block (one norm per layer: attention and FFN read the same input) sums both
  outputs in one all-reduce.
- Experts whose groups do not fill a stage are copied over the rest of it, and every copy
  serves its own share of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from planner.cost.block import (
    WIRE_BYTES,
    RoutedLoad,
    Tokens,
    ceil_div,
    expert_messages,
    routed_op,
    tp_messages,
    uniform_touched,
    weight_ops,
)
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s, matmul_seconds
from planner.cost.runs.inference_links import weight_stationary_seconds
from planner.cost.runs.inference_setting import Serving, Terms, merge_terms, scale_terms, sum_terms
from planner.cost.runs.inference_small import small_operations
from planner.cost.runs.record import RunTerm
from planner.cost.step import LayerGroup, layer_groups
from planner.cost.weights import layer_weights, table_weights
from planner.domain.cost import Bound
from planner.domain.curves import Op
from planner.domain.hardware import Chip
from planner.domain.model import Layer, MoeFfn, WeightRole
from planner.domain.run import Mesh, Overlap
from planner.domain.work import Message, OpWork

LINK_AXIS = {"attn_tp": "tp", "ep": "ep", "expert_tp": "expert_tp"}


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreWork:
    """Attention core of one layer on the busiest chip: time, and messages it waits for."""

    seconds: float
    bound: Bound
    network_s: float = 0.0
    num_kernels: int = 1


CoreOf = Callable[[Layer, float], CoreWork]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """One microbatch of one pass.

    Parameters
    ----------
    rows : float
        Tokens of one rank: of an attention group, divided by ``cp``.
    head_rows : float
        Tokens whose logits are wanted.
    core_of : callable
        Attention core of a layer for a fraction of the sequences.
    captured : bool
        Whether the pass is a captured graph: the host launches it once.
    """

    rows: float
    head_rows: float
    core_of: CoreOf
    captured: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """One layer's computation and its collectives by who may hide them."""

    compute: Terms
    tp: Terms
    ep: Terms
    num_launches: int


def layer_terms(serving: Serving, layer: Layer, work: Pass) -> Terms:
    """Time of one layer, term by term."""
    hidden = _hidden_axes(serving, layer) if work.rows > 1 else frozenset()
    parts = 2.0 if hidden else 1.0
    one = _layer_work(serving, layer, work, parts)
    shown: list[RunTerm] = []
    behind: list[RunTerm] = []
    for axis, terms in ((Overlap.TP, one.tp), (Overlap.EP, one.ep)):
        (behind if axis in hidden else shown).extend(terms)
    compute, wait = sum_terms(one.compute), sum_terms(behind)
    if wait > compute:
        shown += scale_terms(behind, (wait - compute) / wait)
    terms = scale_terms((*one.compute, *shown), parts)
    if work.captured:
        return terms
    host = one.num_launches * parts * serving.engine.launch_s
    busy = sum_terms(terms)
    if host > busy:
        return (*terms, RunTerm(name="host_launch", seconds=host - busy, bound=Bound.OVERHEAD))
    return terms


def _hidden_axes(serving: Serving, layer: Layer) -> frozenset[Overlap]:
    """Overlapped axes on which the layer communicates at all."""
    mesh = serving.mesh
    found = set()
    if mesh.attn_tp > 1:
        found.add(Overlap.TP)
    if isinstance(layer.ffn, MoeFfn) and mesh.attn_dp * mesh.cp > 1:
        found.add(Overlap.EP)
    return serving.overlap & found


def _layer_work(serving: Serving, layer: Layer, work: Pass, parts: float) -> _Work:
    rows = work.rows / parts
    tokens = Tokens(group=rows, stage=rows * serving.tokens_ratio)
    matmuls, kernels = _matmul_terms(serving, layer, rows)
    compute, launches = [*matmuls], 0
    ep: list[RunTerm] = []
    if isinstance(layer.ffn, MoeFfn):
        routed = _balanced_load(layer.ffn, serving.mesh, float(tokens.stage))
        experts, num = _expert_term(serving, layer, tokens, routed)
        compute.append(experts)
        kernels += num
        launches = serving.engine.moe_launches
        messages = expert_messages(serving.model, layer, serving.split, tokens, routed)
        ep += _messages(serving, messages)
    core = work.core_of(layer, 1.0 / parts)
    compute.append(RunTerm(name="attention_core", seconds=core.seconds, bound=core.bound))
    small, num_small = small_operations(serving, layer, rows)
    compute.append(small)
    kernels += core.num_kernels + num_small
    tp = _tp_terms(serving, layer, tokens)
    if core.network_s:
        tp.append(RunTerm(name="context_parallel", seconds=core.network_s, bound=Bound.NETWORK))
    if serving.engine.gap_s:
        idle = kernels * serving.engine.gap_s
        compute.append(RunTerm(name="kernel_gaps", seconds=idle, bound=Bound.OVERHEAD))
    return _Work(
        compute=merge_terms(compute),
        tp=merge_terms(tp),
        ep=merge_terms(ep),
        num_launches=kernels + launches + len(tp) + len(ep),
    )


def _matmul_terms(serving: Serving, layer: Layer, rows: float) -> tuple[list[RunTerm], int]:
    """Multiplies outside the experts, and how many kernels they are."""
    model, chip = serving.model, serving.chip
    found, kernels = [], 0
    weights = layer_weights(model, layer)
    for op in weight_ops(model, chip, weights, serving.split.attn_tp, rows):
        num = _fused_kernels(op.term, op.num_kernels)
        found.append(_matmul_term(chip, replace(op, num_kernels=num), rows))
        kernels += num
    return found, kernels


def _expert_term(
    serving: Serving, layer: Layer, tokens: Tokens, routed: RoutedLoad
) -> tuple[RunTerm, int]:
    """Grouped multiplies of the routed experts; their rows are the tokens of one expert."""
    assert isinstance(layer.ffn, MoeFfn)
    op = routed_op(serving.model, serving.chip, layer, serving.split, (tokens, routed))
    pairs = float(tokens.stage) * layer.ffn.top_k / serving.mesh.ep
    rows = pairs / float(routed.touched_slots)
    return _matmul_term(serving.chip, op, rows), op.num_kernels


def _fused_kernels(term: str, num_weights: int) -> int:
    """Queries, keys and values are one multiply in every engine."""
    return max(1, num_weights - 1) if term == "attention_projections" else num_weights


def _matmul_term(chip: Chip, op: OpWork, rows: float) -> RunTerm:
    flop, num_bytes = float(op.flop), float(op.hbm_bytes)
    seconds = matmul_seconds(chip, op.rate, flop, num_bytes, rows, op.num_kernels)
    memory = num_bytes / achieved_hbm_bytes_per_s(chip)
    bound = Bound.MEMORY if memory > seconds / 2 else Bound.COMPUTE
    return RunTerm(name=op.term, seconds=seconds, bound=bound)


def _balanced_load(ffn: MoeFfn, mesh: Mesh, tokens: float) -> RoutedLoad:
    """Load of every expert group when routing and placement are even."""
    slots = ceil_div(ffn.num_experts, mesh.ep) * mesh.ep
    touched = float(uniform_touched(ffn.num_experts, ffn.top_k, float(slots), tokens))
    return RoutedLoad(hot_share=1.0 / mesh.ep, touched_slots=touched / mesh.ep)


def is_parallel_block(layer: Layer) -> bool:
    """Whether attention and FFN read the same input, under one norm."""
    return layer.num_norms == 1


def _tp_terms(serving: Serving, layer: Layer, tokens: Tokens) -> list[RunTerm]:
    messages = tp_messages(serving.model, layer, serving.split, tokens)
    if is_parallel_block(layer):
        messages = messages[:1]
    found = _messages(serving, messages)
    ffn = layer.ffn
    width = float(ffn.width if not isinstance(ffn, MoeFfn) else ffn.shared_width)
    both = weight_stationary_seconds(
        serving.links,
        float(tokens.group) * WIRE_BYTES,
        (float(serving.model.hidden_size), width),
    )
    if both is None:
        return found
    # Attention and FFN each gather and scatter; a parallel block does so once.
    seconds = both * len(messages)
    return [RunTerm(name="all_reduce", seconds=seconds, bound=Bound.NETWORK)]


def _messages(serving: Serving, messages: Iterable[Message]) -> list[RunTerm]:
    found = []
    for message in messages:
        if not float(message.active):
            continue
        axis = LINK_AXIS[message.axis]
        seconds = serving.collective_seconds(axis, message.op, float(message.num_bytes))
        if seconds:
            found.append(RunTerm(name=message.term, seconds=seconds, bound=Bound.NETWORK))
    return found


def table_terms(serving: Serving, work: Pass) -> tuple[Terms, Terms]:
    """Embedding (first stage) and output head (last stage) of one microbatch."""
    model, chip = serving.model, serving.chip
    row_bytes = model.hidden_size * WIRE_BYTES
    looked_up = work.rows * row_bytes / achieved_hbm_bytes_per_s(chip)
    first = (RunTerm(name="embedding", seconds=looked_up, bound=Bound.MEMORY),)
    heads = tuple(w for w in table_weights(model) if w.role is WeightRole.HEAD)
    last: list[RunTerm] = []
    rows = work.head_rows
    for op in weight_ops(model, chip, heads, serving.split.attn_tp, rows):
        last.append(_matmul_term(chip, op, rows))
    gathered = rows * model.vocab_size * WIRE_BYTES
    network = serving.collective_seconds("tp", Op.ALL_GATHER, gathered)
    if network:
        last.append(RunTerm(name="head", seconds=network, bound=Bound.NETWORK))
    return first, merge_terms(last)


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
    first, last = table_terms(serving, work)
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
    hidden = serving.model.hidden_size * WIRE_BYTES
    return serving.links.hop_seconds(rows * hidden / serving.mesh.attn_tp)
