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

from collections.abc import Callable
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
from planner.cost.prefill_core import Prompts, prefill_core_price
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
    new_tokens : float
        Tokens of every sequence that a prefill pass computes over the cached ones; 0 for a
        decode step.
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
    new_tokens: float = 0.0

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

    @property
    def is_prefill(self) -> bool:
        """Whether a pass computes prompts, not one token of every sequence."""
        return self.new_tokens > 0

    @property
    def held_tokens(self) -> float:
        """Tokens of a sequence that are cached when the pass ends."""
        return self.context_tokens + self.new_tokens

    @property
    def sequence_tokens(self) -> float:
        """Tokens that a step yields of a sequence, drafts left out."""
        return self.new_tokens if self.is_prefill else 1.0

    def num_hops(self, pp: Real) -> Real:
        """Hops of a microbatch over ``pp`` stages; see :mod:`planner.cost.pipeline`."""
        if self.is_prefill:
            return pp - 1.0
        return np.where(np.greater(pp, 1), pp, 0.0)


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
    halved = tokens.group
    if tokens.sequences is not None and not setting.is_prefill:
        halved = tokens.sequences
    halves = np.where(np.greater(halved, 1), 1.0, 0.0)
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


def prefill_core_of(setting: Setting, split: Split, tokens: Tokens, fabric: FabricRates) -> CoreOf:
    """Attention cores of a prefill pass over ``setting.new_tokens`` of every sequence."""
    assert tokens.sequences is not None
    whole, core = tokens.sequences, setting.core

    def price(layer: Layer, fraction: Real) -> CorePrice:
        own = Prompts(sequences=whole * fraction, new=setting.new_tokens)
        return prefill_core_price(core, layer.attention, split, own, fabric)

    return price


def core_prices(setting: Setting, split: Split, tokens: Tokens, fabric: FabricRates) -> CoreOf:
    """Attention cores of the phase of ``setting``."""
    of_phase = prefill_core_of if setting.is_prefill else decode_core_of
    return of_phase(setting, split, tokens, fabric)


def table_rows(setting: Setting, tokens: Tokens) -> tuple[Real, Real]:
    """Tokens of a rank that are looked up, and those whose logits are wanted.

    Of a prompt that is its last token, on the rank of its attention group that samples it.
    """
    if not setting.is_prefill:
        return tokens.group, tokens.group
    assert tokens.sequences is not None
    return tokens.group, tokens.sequences


def host_wait_s(
    setting: Setting, price: LayerPrice, hidden: Hidden, busy_s: Real, *, captured: bool
) -> Real:
    """Seconds that a layer of ``busy_s`` waits for the host, which submits every operation.

    A captured graph is submitted at once.
    """
    if captured or not setting.engine.launch_s:
        return 0.0
    host = price.num_launches * hidden.parts * setting.engine.launch_s
    return np.maximum(0.0, host - busy_s)


def part_of(setting: Setting, tokens: Tokens, split: Split, fraction: Real) -> Tokens:
    """Tokens of a part of a microbatch.

    In decode a rank of context parallelism works on one token of a part at least, as it does
    of a whole microbatch.
    """
    group = tokens.group * fraction
    shares_sequences = tokens.sequences is not None and not setting.is_prefill
    if shares_sequences and np.any(np.greater(split.cp, 1)):
        assert tokens.sequences is not None
        own = tokens.sequences * fraction
        shares = (np.maximum(np.minimum(1.0, s), s / split.cp) for s in (own, tokens.sequences))
        group = tokens.group * next(shares) / next(shares)
    return Tokens(group=group, stage=tokens.stage * fraction)


def price_part(
    setting: Setting, layer: Layer, split: Split, load: Load, fabric: FabricRates, fraction: Real
) -> LayerPrice:
    """Price one layer for ``fraction`` of a microbatch."""
    model, chip, engine = setting.model, setting.chip, setting.engine
    tokens = part_of(setting, load.tokens, split, fraction)
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
