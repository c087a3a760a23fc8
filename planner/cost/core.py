"""The attention core of a decode step: one pass of a few query tokens over each cache.

Assumptions
-----------
- Costs of the core are linear in the context but for the bends of windows and selections of
  tokens; where contexts differ, their expectation counts
  (:mod:`planner.cost.runs.inference_contexts`).
- A cache that tensor parallelism cannot split (fewer KV heads than ranks) is copied; on a
  torus, whose compilers shard any axis, it is split over the sequences instead where that
  is faster (arXiv 2211.05102, section 3.3): queries and outputs then travel by all-to-all.
- Under context parallelism each rank reads its part of every cache; queries are gathered and
  partial outputs summed.
- The query tokens of one sequence (a token and its drafts) read the cache once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from planner.cost.attention import AttentionCore, decode_core, kv_bytes_read, kv_shard_ways
from planner.cost.block import LEAST_2D_CHIPS, WIRE_BYTES, Split, Tokens
from planner.cost.price import FabricRates, PricedTerm, price_message, price_op
from planner.cost.runs.inference_contexts import Contexts, context_bends
from planner.cost.runs.inference_engine import Engine
from planner.domain.curves import Op
from planner.domain.dtypes import DType
from planner.domain.hardware import Chip
from planner.domain.model import Attention, GroupedQueryAttention
from planner.domain.work import Message, OpWork, Real

# Eager operations of one round of a ring of context parallelism: send, receive, core, merge.
RING_LAUNCHES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Queries:
    """What one attention group asks of its caches in one pass of a microbatch.

    ``sequences`` are all of the group, over its ``cp`` ranks; each has ``per_sequence`` query
    tokens.
    """

    sequences: Real
    per_sequence: Real = 1.0

    @classmethod
    def of(cls, tokens: Tokens, cp: Real) -> Queries:
        """Those of the busiest attention group of a pass."""
        sequences = tokens.sequences
        if sequences is None:
            sequences = tokens.group * cp / tokens.queries
        return cls(sequences=sequences, per_sequence=tokens.queries)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorePrice:
    """Attention core of one layer on the busiest chip, and the collectives around it."""

    term: PricedTerm
    network: PricedTerm | None = None
    num_kernels: Real = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreSetting:
    """What the core of a layer depends on beside split and sequences."""

    chip: Chip
    engine: Engine
    contexts: Contexts
    kv: DType
    on_torus: bool


@lru_cache(maxsize=4096)
def expected_core(attention: Attention, contexts: Contexts) -> AttentionCore:
    """Attention core of one query, in the mean over the sequences."""
    bends = context_bends(attention)

    def mean(name: str) -> float:
        def cost(context: float) -> float:
            return float(getattr(decode_core(attention, context), name))

        return contexts.expected(cost, bends)

    core = decode_core(attention, contexts.mean)
    if not contexts.spread or not bends:
        return core
    return replace(
        core,
        flop=mean("flop"),
        read_elements=mean("read_elements"),
        replicated_flop=mean("replicated_flop"),
    )


@lru_cache(maxsize=4096)
def expected_read(attention: Attention, contexts: Contexts, kv: DType) -> float:
    """Cache bytes that a step moves of one sequence, in the mean over the sequences."""
    return contexts.expected(
        lambda context: kv_bytes_read(attention, context, kv), context_bends(attention)
    )


def busiest_share(ways: float, degree: Real) -> Real:
    """Fraction of ``ways`` equal parts on the fullest of ``degree`` chips."""
    return np.ceil(ways / np.minimum(degree, ways)) / ways


def core_width(attention: Attention) -> float:
    """Elements of the core's output of one token."""
    if isinstance(attention, GroupedQueryAttention):
        return float(attention.num_heads * attention.head_dim)
    heads = decode_core(attention, 0.0).num_heads
    return float(heads * getattr(attention, "v_head_dim", 128))


def core_op(setting: CoreSetting, attention: Attention, split: Split, queries: Queries) -> OpWork:
    """Count the core of one layer on the busiest chip."""
    core = expected_core(attention, setting.contexts)
    read = expected_read(attention, setting.contexts, setting.kv)
    if not setting.engine.groups_queries and isinstance(attention, GroupedQueryAttention):
        read *= core.num_heads / attention.num_kv_heads
    share = busiest_share(float(core.num_heads), split.attn_tp)
    cache_share = busiest_share(float(kv_shard_ways(attention)), split.attn_tp)
    flop = (core.flop - core.replicated_flop) * share + core.replicated_flop
    own = queries.sequences / split.cp
    return OpWork(
        term="attention_core",
        rate="core",
        flop=own * queries.per_sequence * flop,
        hbm_bytes=own * read * cache_share,
    )


def splits_cache(setting: CoreSetting, attention: Attention, attn_tp: Real) -> Real:
    """1 where a cache that tensor parallelism cannot split is split over the sequences."""
    if not setting.on_torus:
        return 0.0
    least = max(LEAST_2D_CHIPS, kv_shard_ways(attention))
    return np.where(np.greater(attn_tp, least), 1.0, 0.0)


def decode_core_price(
    setting: CoreSetting, attention: Attention, split: Split, queries: Queries, fabric: FabricRates
) -> CorePrice:
    """Price the core of one layer, with what travels for it."""
    op = core_op(setting, attention, split, queries)
    term = price_op(op, setting.chip)
    network: Real | None = None
    splits = splits_cache(setting, attention, split.attn_tp)
    if np.any(splits):
        term, network = _over_sequences(setting, attention, split, (queries, term), fabric)
    if np.any(np.greater(split.cp, 1)):
        tokens = queries.sequences * queries.per_sequence
        heads = busiest_share(float(decode_core(attention, 0.0).num_heads), split.attn_tp)
        partial = tokens * core_width(attention) * heads * WIRE_BYTES
        active = np.where(np.greater(split.cp, 1), 1.0, 0.0)
        price = _cp_price(partial, active, fabric)
        network = price if network is None else network + price
    kernels = np.where(np.greater(split.cp, 1), split.cp * RING_LAUNCHES, 1.0)
    if network is None:
        return CorePrice(term=term, num_kernels=kernels)
    around = PricedTerm(name="context_parallel", network_s=network)
    return CorePrice(term=term, network=around, num_kernels=kernels)


def _cp_price(num_bytes: Real, active: Real, fabric: FabricRates) -> Real:
    """Queries gathered over the ranks of a context, partial outputs summed."""
    messages = (
        Message(term="context_parallel", op=op, axis="cp", num_bytes=num_bytes, active=active)
        for op in (Op.ALL_GATHER, Op.ALL_REDUCE)
    )
    total: Real = 0.0
    for message in messages:
        total = total + price_message(message, fabric).network_s
    return total


def _over_sequences(
    setting: CoreSetting,
    attention: Attention,
    split: Split,
    own: tuple[Queries, PricedTerm],
    fabric: FabricRates,
) -> tuple[PricedTerm, Real]:
    """The core where caches of a torus may be split over sequences, and its exchanges.

    Each sequence is then read by one rank of its tensor-parallel group, whole.
    """
    queries, term = own
    splits = splits_cache(setting, attention, split.attn_tp)
    read = expected_read(attention, setting.contexts, setting.kv)
    whole = OpWork(
        term="attention_core",
        rate="core",
        flop=0.0,
        hbm_bytes=np.maximum(1.0, queries.sequences / split.attn_tp) * read,
    )
    spread = price_op(whole, setting.chip).memory_s
    tokens = queries.sequences * queries.per_sequence
    moved = tokens * core_width(attention) / split.attn_tp * WIRE_BYTES
    exchange = Message(
        term="context_parallel", op=Op.ALL_TO_ALL, axis="attn_tp", num_bytes=moved, active=splits
    )
    travel = 2.0 * price_message(exchange, fabric).network_s
    better = np.greater(splits, 0) & (spread + travel < term.busy_s)

    def chosen(then: Real, now: Real) -> Real:
        return np.where(better, then, now)

    return (
        replace(
            term,
            compute_s=chosen(np.minimum(term.compute_s, spread), term.compute_s),
            memory_s=chosen(spread, term.memory_s),
            busy_s=chosen(spread, term.busy_s),
        ),
        chosen(travel, 0.0),
    )
