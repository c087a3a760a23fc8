"""Seconds of one pass of a microbatch through layers, embedding and head.

A prefill pass and a decode step do the same to a token but for the attention core. By time
model (theory: chapter 1, and the inference chapter's sum) a layer takes

    OVERLAP   max(sum compute + overhead, sum memory + overhead, sum network)
    SUM       sum of all operations, each alone, and of all collectives

Under SUM, collectives may run behind the computation of the other half of the microbatch:
every operation is then done twice with half of the tokens,

    layer = 2 compute(tokens / 2) + 2 exposed(tokens / 2) + what is not overlapped,

where :mod:`planner.cost.overlap` says what of a hidden collective shows.

Layers that are equal are priced once; what differs between equal layers (where routing
puts tokens) is an array over them. The same functions serve floats and arrays over strategies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from planner.cost.block import (
    WIRE_BYTES,
    RoutedLoad,
    Split,
    Tokens,
    expert_messages,
    layer_ops,
    tp_messages,
    weight_ops,
)
from planner.cost.core import CorePrice, CoreSetting, Queries, decode_core_price
from planner.cost.overlap import core_share, exposed_seconds
from planner.cost.price import FabricRates, PricedTerm, price_message, price_messages, price_op
from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.inference_engine import Engine, planned_engine
from planner.cost.small import small_op
from planner.cost.weights import table_weights
from planner.domain.curves import Op
from planner.domain.hardware import Chip
from planner.domain.model import Layer, ModelSpec, MoeFfn, WeightRole
from planner.domain.work import Message, OpWork, Real
from planner.domain.workload import TimeModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What stays the same over all strategies of one request, and all passes of one run.

    Parameters
    ----------
    context_tokens, context_spread : float
        Cached tokens of the sequences: mean and standard deviation.
    reserve_fraction : float
        Share of the usable HBM that is left to the engine.
    habits : Engine, optional
        The engine; that of plans for the chip when absent.
    on_torus : bool
        Whether compilers of a torus shard what engines of switched machines copy.
    acceptance : float
        Probability that a drafted token is accepted, given that those before it were.
    """

    model: ModelSpec
    chip: Chip
    context_tokens: float
    time_model: TimeModel
    reserve_fraction: float
    context_spread: float = 0.0
    habits: Engine | None = None
    on_torus: bool = False
    acceptance: float = 0.0

    @property
    def engine(self) -> Engine:
        """What is spent around the mathematics."""
        return planned_engine(self.chip) if self.habits is None else self.habits

    @property
    def core(self) -> CoreSetting:
        """The part that attention cores depend on."""
        return CoreSetting(
            chip=self.chip,
            engine=self.engine,
            contexts=Contexts(mean=float(self.context_tokens), spread=self.context_spread),
            kv=self.model.precision.kv,
            on_torus=self.on_torus,
        )


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Hidden:
    """Which collectives of a layer run behind its computation: 1 or 0, and parts of the pass.

    ``share`` is the part of the chip that they hold meanwhile.
    """

    tp: Real = 0.0
    ep: Real = 0.0
    parts: Real = 1.0
    share: float = 0.0


NOTHING_HIDDEN = Hidden()


def hidden_axes(setting: Setting, layer: Layer, split: Split, tokens: Tokens) -> Hidden:
    """Overlapped axes on which the layer communicates at all, where there are two halves.

    The time model OVERLAP hides everything already.
    """
    idle = not np.any(split.hide_tp) and not np.any(split.hide_ep)
    if idle or setting.time_model is TimeModel.OVERLAP:
        return NOTHING_HIDDEN
    halves = np.where(np.greater(tokens.group, 1), 1.0, 0.0)
    tp = split.hide_tp * np.where(np.greater(split.attn_tp, 1), halves, 0.0)
    ep: Real = 0.0
    if isinstance(layer.ffn, MoeFfn):
        ep = split.hide_ep * np.where(np.greater(split.token_ranks, 1), halves, 0.0)
    share = core_share(setting.chip, on_torus=setting.on_torus)
    return Hidden(tp=tp, ep=ep, parts=1.0 + np.maximum(tp, ep), share=share)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPrice:
    """One layer's computation, and its collectives by who may hide them, for one part.

    ``num_launches`` are the operations that a host submits.
    """

    compute: tuple[PricedTerm, ...]
    tp: tuple[PricedTerm, ...]
    ep: tuple[PricedTerm, ...] = ()
    num_launches: Real = 0.0


CoreOf = Callable[[Layer, Real], CorePrice]
RoutedOf = Callable[[Real], RoutedLoad]


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Tokens of one pass, where routing puts them, and the attention core of a layer.

    ``routed_of`` says where the tokens of a stage go, None in a dense layer; ``core_of`` prices
    the core of a layer for a fraction of the sequences.
    """

    tokens: Tokens
    routed_of: RoutedOf | None
    core_of: CoreOf


def decode_core_of(setting: Setting, split: Split, tokens: Tokens, fabric: FabricRates) -> CoreOf:
    """Attention cores of a decode step."""
    whole, core = Queries.of(tokens, split.cp), setting.core

    def price(layer: Layer, fraction: Real) -> CorePrice:
        own = Queries(sequences=whole.sequences * fraction, per_sequence=whole.per_sequence)
        return decode_core_price(core, layer.attention, split, own, fabric)

    return price


def price_part(
    setting: Setting, layer: Layer, split: Split, load: Load, fabric: FabricRates, fraction: Real
) -> LayerPrice:
    """Price one layer for ``fraction`` of a microbatch."""
    model, chip, engine = setting.model, setting.chip, setting.engine
    tokens = Tokens(group=load.tokens.group * fraction, stage=load.tokens.stage * fraction)
    routed = None if load.routed_of is None else load.routed_of(tokens.stage)
    core = load.core_of(layer, fraction)
    ops = layer_ops(model, chip, layer, split, (tokens, routed))
    ops.append(small_op(model, engine, layer, split, (tokens, routed)))
    compute = [price_op(op, chip) for op in ops]
    compute.append(core.term)
    kernels = sum(op.num_kernels for op in ops) + core.num_kernels
    if engine.gap_s:
        compute.append(PricedTerm(name="kernel_gaps", overhead_s=kernels * engine.gap_s))
    sums = tp_messages(model, layer, split, tokens, setting.on_torus)
    tp = price_messages(sums, fabric)
    exchanges: list[Message] = []
    if routed is not None:
        exchanges = expert_messages(model, layer, split, tokens, routed)
        kernels = kernels + engine.moe_launches
    if core.network is not None:
        tp.append(core.network)
        kernels = kernels + 1
    for message in (*sums, *exchanges):
        kernels = kernels + message.active
    return LayerPrice(
        compute=tuple(compute),
        tp=tuple(tp),
        ep=tuple(price_messages(exchanges, fabric)),
        num_launches=kernels,
    )


def price_layer(
    setting: Setting, layer: Layer, split: Split, load: Load, fabric: FabricRates
) -> tuple[LayerPrice, Hidden]:
    """Price one layer of one pass: one of its equal parts, and how many they are."""
    hidden = hidden_axes(setting, layer, split, load.tokens)
    fraction = 1.0 / hidden.parts
    return price_part(setting, layer, split, load, fabric, fraction), hidden


def _alone(terms: tuple[PricedTerm, ...]) -> Real:
    total: Real = 0.0
    for term in terms:
        total = total + term.alone_s
    return total


def layer_seconds(price: LayerPrice, hidden: Hidden, time_model: TimeModel) -> Real:
    """Seconds of one layer under a time model; see the module's equations."""
    if time_model is TimeModel.SUM:
        compute, tp, ep = _alone(price.compute), _alone(price.tp), _alone(price.ep)
        if hidden is NOTHING_HIDDEN:
            return compute + tp + ep
        behind = tp * hidden.tp + ep * hidden.ep
        exposed = exposed_seconds(behind, compute, hidden.share)
        return hidden.parts * (compute + exposed + (tp + ep - behind))
    compute, memory, network = _resources(price)
    return np.maximum(np.maximum(compute, memory), network)


def _resources(price: LayerPrice) -> tuple[Real, Real, Real]:
    """Seconds of a layer on each resource: compute, memory, network."""
    compute: Real = 0.0
    memory: Real = 0.0
    network: Real = 0.0
    for term in (*price.compute, *price.tp, *price.ep):
        compute = compute + term.compute_s + term.overhead_s
        memory = memory + term.memory_s + term.overhead_s
        network = network + term.network_s
    return compute, memory, network


def term_seconds(
    price: LayerPrice, hidden: Hidden, time_model: TimeModel
) -> list[tuple[PricedTerm, Real]]:
    """Every term with its contribution to its layer; contributions add up to the layer."""
    every = (*price.compute, *price.tp, *price.ep)
    if time_model is TimeModel.OVERLAP:
        compute, memory, network = _resources(price)
        by_network = (network > compute) & (network > memory)
        by_compute = ~by_network & (compute > memory)
        return [
            (
                term,
                np.where(
                    by_network,
                    term.network_s,
                    np.where(by_compute, term.compute_s, term.memory_s) + term.overhead_s,
                ),
            )
            for term in every
        ]
    busy = _alone(price.compute)
    behind = _alone(price.tp) * hidden.tp + _alone(price.ep) * hidden.ep
    # What shows of hidden collectives, each in proportion.
    exposed = exposed_seconds(behind, busy, hidden.share) / np.maximum(behind, 1e-300)
    found = [(term, term.alone_s * hidden.parts) for term in price.compute]
    for terms, hides in ((price.tp, hidden.tp), (price.ep, hidden.ep)):
        shown = hidden.parts * (1.0 - hides + hides * exposed)
        found += [(term, term.alone_s * shown) for term in terms]
    return found


def price_tables(
    setting: Setting, split: Split, rows: tuple[Real, Real], fabric: FabricRates
) -> tuple[LayerPrice, LayerPrice]:
    """Price the embedding (first stage) and the head (last stage).

    Parameters
    ----------
    rows : (float, float)
        Tokens that are looked up, and tokens whose logits are wanted, of one rank. Logits are
        gathered over ``attn_tp``.
    """
    model, chip = setting.model, setting.chip
    looked_up, wanted = rows
    row_bytes = model.hidden_size * WIRE_BYTES
    table = OpWork(
        term="embedding", rate="core", flop=0.0, hbm_bytes=looked_up * row_bytes, num_kernels=0
    )
    heads = tuple(w for w in table_weights(model) if w.role is WeightRole.HEAD)
    ops = weight_ops(model, chip, heads, split.attn_tp, wanted)
    gather = Message(
        term="head",
        op=Op.ALL_GATHER,
        axis="attn_tp",
        num_bytes=wanted * model.vocab_size * WIRE_BYTES,
        active=np.where(np.greater(split.attn_tp, 1), 1.0, 0.0),
    )
    return (
        LayerPrice(compute=(price_op(table, chip),), tp=()),
        LayerPrice(
            compute=tuple(price_op(op, chip) for op in ops), tp=(price_message(gather, fabric),)
        ),
    )


def price_hop(model: ModelSpec, split: Split, rows: Real, fabric: FabricRates) -> Real:
    """Seconds of one hop: a rank sends its slice of the microbatch's activations."""
    num_bytes = rows * model.hidden_size * WIRE_BYTES / split.attn_tp
    message = Message(term="pipeline_hop", op=Op.SEND_RECV, axis="pp", num_bytes=num_bytes)
    return price_message(message, fabric).network_s


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
    """Time every distinct layer and table for one microbatch of a decode step.

    ``routed`` maps the position of an MoE group in :func:`layer_groups` to where it sends the
    tokens of a stage: to a load, or to a function of the tokens where halves of a microbatch
    matter; -1 is that of a drafting layer.
    """
    seconds = []
    core_of = decode_core_of(setting, split, tokens, fabric)
    for position, group in enumerate(layer_groups(setting.model)):
        load = Load(tokens=tokens, routed_of=_routed_of(routed.get(position)), core_of=core_of)
        price, hidden = price_layer(setting, group.layer, split, load, fabric)
        seconds.append(layer_seconds(price, hidden, setting.time_model))
    embedding, head = price_tables(setting, split, (tokens.group, tokens.group), fabric)
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
