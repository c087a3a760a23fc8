"""Seconds of one pass of a microbatch through layers, embedding and head.

Layers that are equal are priced once; what differs between equal layers (where routing
puts tokens) is an array over them. The same functions serve arrays over strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from planner.cost.block import (
    WIRE_BYTES,
    RoutedLoad,
    Split,
    Tokens,
    core_op,
    layer_messages,
    layer_ops,
    weight_ops,
)
from planner.cost.price import FabricRates, PricedTerm, layer_seconds, price_layer
from planner.cost.weights import table_weights
from planner.domain.curves import Op
from planner.domain.hardware import Chip
from planner.domain.model import Layer, ModelSpec, MoeFfn, WeightRole
from planner.domain.work import Message, OpWork, Real
from planner.domain.workload import TimeModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What stays the same over all strategies of one request.

    ``reserve_fraction`` of the usable HBM is left to the engine.
    """

    model: ModelSpec
    chip: Chip
    context_tokens: int
    time_model: TimeModel
    reserve_fraction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerGroup:
    """Equal layers and their indices in the model."""

    layer: Layer
    indices: tuple[int, ...]

    @property
    def is_moe(self) -> bool:
        """Whether these layers route tokens to experts."""
        return isinstance(self.layer.ffn, MoeFfn)


@lru_cache(maxsize=64)
def layer_groups(model: ModelSpec) -> tuple[LayerGroup, ...]:
    """Group equal layers, in order of first appearance."""
    found: dict[Layer, list[int]] = {}
    for index, layer in enumerate(model.layers):
        found.setdefault(layer, []).append(index)
    return tuple(LayerGroup(layer=layer, indices=tuple(ids)) for layer, ids in found.items())


def price_group(
    setting: Setting,
    group: LayerGroup,
    split: Split,
    load: tuple[Tokens, RoutedLoad | None],
    fabric: FabricRates,
) -> list[PricedTerm]:
    """Price one layer of ``group``; terms are floats or arrays shaped like the inputs."""
    tokens, routed = load
    model, chip = setting.model, setting.chip
    ops = layer_ops(model, chip, group.layer, split, (tokens, routed))
    ops.append(core_op(model, group.layer, split, tokens.group, setting.context_tokens))
    messages = layer_messages(model, group.layer, split, tokens, routed)
    return price_layer(ops, messages, chip, fabric)


def embedding_ops(setting: Setting, tokens: Tokens) -> list[OpWork]:
    """Table look-up of one microbatch: one row per token."""
    row_bytes = setting.model.hidden_size * WIRE_BYTES
    return [OpWork(term="embedding", rate="core", flop=0.0, hbm_bytes=tokens.group * row_bytes)]


def head_work(setting: Setting, split: Split, tokens: Tokens) -> tuple[list[OpWork], list[Message]]:
    """Output head: the vocabulary matmul, and the logits gathered over ``attn_tp``."""
    model = setting.model
    tables = tuple(w for w in table_weights(model) if w.role is WeightRole.HEAD)
    ops = weight_ops(model, setting.chip, tables, split.attn_tp, tokens.group)
    split_vocabulary = np.where(np.greater(split.attn_tp, 1), 1.0, 0.0)
    logits = tokens.group * model.vocab_size * WIRE_BYTES
    gather = Message(
        term="head", op=Op.ALL_GATHER, axis="attn_tp", num_bytes=logits, active=split_vocabulary
    )
    return ops, [gather]


def price_tables(
    setting: Setting, split: Split, tokens: Tokens, fabric: FabricRates
) -> tuple[list[PricedTerm], list[PricedTerm]]:
    """Price the embedding (first stage) and the head (last stage)."""
    embedding = price_layer(embedding_ops(setting, tokens), (), setting.chip, fabric)
    ops, messages = head_work(setting, split, tokens)
    return embedding, price_layer(ops, messages, setting.chip, fabric)


@dataclass(frozen=True, kw_only=True, slots=True)
class PassTimes:
    """Seconds of one microbatch: per layer group, and of the tables.

    ``groups[i]`` is a float when every layer of the group takes the same time, else an
    array over its layers.
    """

    groups: tuple[Real, ...]
    embedding: Real
    head: Real


def pass_times(
    setting: Setting,
    split: Split,
    tokens: Tokens,
    routed: Mapping[int, RoutedLoad],
    fabric: FabricRates,
) -> PassTimes:
    """Time every distinct layer and table for one microbatch.

    ``routed`` maps the position of an MoE group in :func:`layer_groups` to its load.
    """
    seconds = []
    for position, group in enumerate(layer_groups(setting.model)):
        load = (tokens, routed.get(position))
        terms = price_group(setting, group, split, load, fabric)
        seconds.append(layer_seconds(terms, setting.time_model))
    embedding, head = price_tables(setting, split, tokens, fabric)
    return PassTimes(
        groups=tuple(seconds),
        embedding=layer_seconds(embedding, setting.time_model),
        head=layer_seconds(head, setting.time_model),
    )
