"""Seconds of one pass: every distinct layer, embedding and head, and what is drafted.

The same functions serve floats and arrays over strategies; see :mod:`planner.cost.step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from planner.cost.block import RoutedLoad, Split, Tokens
from planner.cost.price import FabricRates
from planner.cost.step import (
    NOTHING_HIDDEN,
    Hidden,
    LayerPrice,
    Load,
    RoutedOf,
    Setting,
    core_prices,
    decode_core_of,
    host_wait_s,
    layer_groups,
    layer_seconds,
    price_layer,
    price_tables,
    table_rows,
)
from planner.domain.work import Real


@dataclass(frozen=True, kw_only=True, slots=True)
class PassTimes:
    """Seconds of one microbatch: per layer group, of the tables, and of all drafts.

    ``groups[i]`` is a float when every layer of the group takes the same time, else an
    array over its layers.
    """

    groups: tuple[Real, ...]
    embedding: Real
    head: Real
    draft: Real = 0.0


def price_draft(
    setting: Setting, split: Split, tokens: Tokens, routed_of: RoutedOf | None, fabric: FabricRates
) -> tuple[tuple[LayerPrice, Hidden], LayerPrice]:
    """Price one drafted token of every sequence: one layer, and the output head.

    Assumptions
    -----------
    - The drafting layer is like the last one of the model (multi-token prediction of
      DeepSeek-V3, arXiv 2412.19437 section 2.2; heads of EAGLE are one layer, too), reads a
      cache of its own, and drafts token after token.
    """
    one = Tokens(
        group=tokens.group / tokens.queries,
        stage=tokens.stage / tokens.queries,
        sequences=tokens.sequences,
    )
    load = Load(
        tokens=one,
        routed_of=routed_of,
        core_of=decode_core_of(setting, split, one, fabric),
    )
    layer = price_layer(setting, setting.model.layers[-1], split, load, fabric)
    return layer, price_tables(setting, split, (one.group, one.group), fabric)[1]


def _routed_of(load: RoutedOf | RoutedLoad | None) -> RoutedOf | None:
    return (lambda tokens: load) if isinstance(load, RoutedLoad) else load


def pass_times(
    setting: Setting,
    split: Split,
    tokens: Tokens,
    routed: Mapping[int, RoutedOf | RoutedLoad],
    fabric: FabricRates,
) -> PassTimes:
    """Time every distinct layer and table for one microbatch of a decode step or prefill pass.

    ``routed`` maps the position of an MoE group in :func:`layer_groups` to where it sends the
    tokens of a stage: to a load, or to a function of the tokens where halves of a microbatch
    matter; -1 is that of a drafting layer.
    """
    seconds = []
    core_of = core_prices(setting, split, tokens, fabric)
    for position, group in enumerate(layer_groups(setting.model)):
        load = Load(tokens=tokens, routed_of=_routed_of(routed.get(position)), core_of=core_of)
        price, hidden = price_layer(setting, group.layer, split, load, fabric)
        busy = layer_seconds(price, hidden, setting.time_model)
        captured = not setting.is_prefill
        seconds.append(busy + host_wait_s(setting, price, hidden, busy, captured=captured))
    embedding, head = price_tables(setting, split, table_rows(setting, tokens), fabric)
    draft: Real = 0.0
    if np.any(np.greater(tokens.queries, 1)):
        own = _routed_of(routed.get(-1))
        (layer, hides), logits = price_draft(setting, split, tokens, own, fabric)
        once = layer_seconds(layer, hides, setting.time_model)
        once = once + layer_seconds(logits, NOTHING_HIDDEN, setting.time_model)
        draft = (tokens.queries - 1.0) * once
    return PassTimes(
        groups=tuple(seconds),
        embedding=layer_seconds(embedding, NOTHING_HIDDEN, setting.time_model),
        head=layer_seconds(head, NOTHING_HIDDEN, setting.time_model),
        draft=draft,
    )
