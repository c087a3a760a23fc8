"""What every chip of a layout holds, part by part, so that two layouts can be compared.

A weight that tensor parallelism splits into ``ways`` equal parts lies in consecutive parts:
rank ``j`` of ``tp`` holds the ``ceil(ways / min(tp, ways))`` parts from ``j ways // tp`` on
(:func:`planner.cost.block.shard_share` counts the same bytes). Experts are split alike over
their width, caches over heads and, under context parallelism, over tokens.

Assumptions
-----------
- Ranks hold consecutive parts, as the engines load them: a rank whose number is the same in a
  finer split keeps the parts that both splits give it.
- What a chip holds is known by its name; weights are read once, and kept in place as they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cost.attention import kv_shard_ways
from planner.cost.block import Split, expert_bytes
from planner.cost.memory import sequence_bytes
from planner.cost.routing import moe_layer_indices, moe_shape
from planner.cost.step import Setting, layer_groups
from planner.cost.weights import layer_weights, table_weights, weight_bytes
from planner.domain.assignment import Assignment
from planner.domain.degrees import Degrees
from planner.domain.model import ModelSpec, MoeFfn, Shard, Weight, WeightRole

# A chip of the layout that the machine does not have any more.
GONE = -1
# Parts of contexts: more than any degree of context parallelism divides unevenly.
TOKEN_PARTS = 1 << 20

BoolArray = NDArray[np.bool_]
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """Place of one rank on every axis; see :class:`planner.domain.layout.Rank`."""

    replica: int
    stage: int
    dp: int
    cp: int
    tp: int
    ep: int
    expert_tp: int


def roles_of(assignment: Assignment) -> dict[int, Role]:
    """The role of every chip that the machine has, by chip."""
    d = assignment.degrees
    found = {}
    for replica, cells in enumerate(assignment.cells):
        for stage, cell in enumerate(cells):
            for index, chip in enumerate(cell):
                if chip != GONE:
                    found[chip] = role_at(d, replica, stage, index)
    return found


def role_at(degrees: Degrees, replica: int, stage: int, index: int) -> Role:
    """Role of rank ``index`` of a stage."""
    return Role(
        replica=replica,
        stage=stage,
        dp=index // (degrees.attn_tp * degrees.cp),
        cp=index // degrees.attn_tp % degrees.cp,
        tp=index % degrees.attn_tp,
        ep=index // degrees.expert_tp,
        expert_tp=index % degrees.expert_tp,
    )


def span(ways: int, degree: int, rank: int) -> Span:
    """Parts ``start .. end - 1`` of ``ways`` equal ones that ``rank`` of ``degree`` holds."""
    each = -(-ways // min(degree, ways))
    start = min(rank * ways // degree, ways - each)
    return start, start + each


def common(one: Span, other: Span) -> int:
    """Parts that two spans share."""
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Equal pieces of a model that lie on the same stages, before and after.

    Parameters
    ----------
    kind : str
        ``layers``, ``tables`` or ``draft``.
    count : int
        Layers.
    weights : tuple of (int, float)
        Ways of each kind of split, and the bytes of one layer that are split so; routed
        experts are left out.
    cached : tuple of (int, float)
        Ways that the cache of one layer is split by heads, and bytes of one sequence unsplit.
    old_stages, new_stages : frozenset of int
    """

    kind: str
    count: int
    weights: tuple[tuple[int, float], ...]
    cached: tuple[int, float]
    old_stages: frozenset[int]
    new_stages: frozenset[int]


def _by_ways(model: ModelSpec, weights: tuple[Weight, ...]) -> tuple[tuple[int, float], ...]:
    found: dict[int, float] = defaultdict(float)
    for weight in weights:
        if weight.role is not WeightRole.ROUTED_EXPERT:
            ways = 1 if weight.shard is Shard.REPLICATED else weight.shard_ways
            found[ways] += weight_bytes(weight, model.precision)
    return tuple(sorted(found.items()))


def _stage_of(assignment: Assignment) -> list[int]:
    return [stage for stage, (a, b) in enumerate(assignment.stage_ranges) for _ in range(a, b)]


def blocks(setting: Setting, old: Assignment, new: Assignment) -> tuple[Block, ...]:
    """Everything but routed experts, in as few blocks as differ.

    ``setting`` is the one whose caches there are: that of the old layout.
    """
    model = setting.model
    before, after = _stage_of(old), _stage_of(new)
    whole = Split(attn_tp=1.0, attn_dp=1.0, ep=1.0, expert_tp=1.0)
    found = []
    for group in layer_groups(model):
        weights = _by_ways(model, layer_weights(model, group.layer))
        ways = kv_shard_ways(group.layer.attention)
        cached = ways, float(sequence_bytes(setting, group, whole))
        runs = Counter((before[layer], after[layer]) for layer in group.indices)
        found += [
            Block(
                kind="layers",
                count=count,
                weights=weights,
                cached=cached,
                old_stages=frozenset({a}),
                new_stages=frozenset({b}),
            )
            for (a, b), count in runs.items()
        ]
        if group.indices[-1] == len(model.layers) - 1 and new.degrees.draft:
            drafts = {old.degrees.pp - 1} if old.degrees.draft else set()
            found.append(
                Block(
                    kind="draft",
                    count=1,
                    weights=weights,
                    cached=cached,
                    old_stages=frozenset(drafts),
                    new_stages=frozenset({new.degrees.pp - 1}),
                )
            )
    return (*found, *_tables(model, old, new))


def _tables(model: ModelSpec, old: Assignment, new: Assignment) -> Iterator[Block]:
    tied = any(weight.tied for weight in table_weights(model))
    for weight in table_weights(model):
        if weight.tied:
            continue
        is_first = weight.role is WeightRole.EMBEDDING
        stages = []
        for side in (old, new):
            last = side.degrees.pp - 1
            own = {0} if is_first else {last}
            stages.append(frozenset(own | ({last} if tied and is_first else set())))
        yield Block(
            kind="tables",
            count=1,
            weights=_by_ways(model, (weight,)),
            cached=(1, 0.0),
            old_stages=stages[0],
            new_stages=stages[1],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpertRows:
    """Layers with routed experts that either side holds, the drafting layer last.

    Parameters
    ----------
    layers : tuple of int
        Model layer of each row; the drafting layer has that of the layer it is like.
    drafts : tuple of bool
        Whether the row is the drafting layer.
    copy_bytes : array, shape ``[rows]``
        Bytes of one expert.
    widths : tuple of int
        Elements over which an expert is split.
    """

    layers: tuple[int, ...]
    drafts: tuple[bool, ...]
    copy_bytes: NDArray[np.float64]
    widths: tuple[int, ...]


def expert_rows(model: ModelSpec, with_draft: bool) -> ExpertRows:
    """Rows of the expert tables of a model."""
    layers = list(moe_layer_indices(model))
    drafts = [False] * len(layers)
    if with_draft and layers and layers[-1] == len(model.layers) - 1:
        layers.append(layers[-1])
        drafts.append(True)
    sizes, widths = [], []
    for index in layers:
        layer = model.layers[index]
        assert isinstance(layer.ffn, MoeFfn)
        sizes.append(expert_bytes(model, layer))
        widths.append(layer.ffn.expert_width)
    return ExpertRows(
        layers=tuple(layers),
        drafts=tuple(drafts),
        copy_bytes=np.array(sizes, dtype=np.float64),
        widths=tuple(widths),
    )


def experts_held(
    model: ModelSpec, rows: ExpertRows, assignment: Assignment, num_chips: int
) -> BoolArray:
    """Whether each chip holds (its part of) each expert, shape ``[chips, rows, experts]``."""
    shape = moe_shape(model)
    held = np.zeros((num_chips, len(rows.layers), shape[0] if shape else 0), dtype=np.bool_)
    maps = {layer: m.slots for m in assignment.slot_maps for layer in m.layers}
    stage_of = _stage_of(assignment)
    on_stage: dict[int, list[int]] = defaultdict(list)
    for row, (layer, is_draft) in enumerate(zip(rows.layers, rows.drafts, strict=True)):
        if is_draft and not assignment.degrees.draft:
            continue
        on_stage[assignment.degrees.pp - 1 if is_draft else stage_of[layer]].append(row)
    for chip, role in roles_of(assignment).items():
        for row in on_stage[role.stage]:
            held[chip, row, list(maps[rows.layers[row]][role.ep])] = True
    return held
