"""Optimistic step time and memory of many strategies at once.

The bound runs the same counting and pricing code as ``evaluate``, on arrays, with every
decision that is still open replaced by something no assignment can beat:

hot share of experts      the optimum under uniform loads, else the mean ``1 / ep``
touched expert copies     a chord below a concave function (uniform), else the mean
slowest stage             max( sum / pp,  the ceil(layers / pp) cheapest layers )
links                     the best cell of that size on the machine
memory of a stage         like its time

so ``bound(strategy) <= evaluate(any assignment of it)``; tests check it by brute force.

Batches
-------
``b`` sequences of a replica over ``m`` microbatches and ``d`` groups: the fullest microbatch
has ``s = ceil(b / m)``, its fullest group ``g = ceil(s / d)``, and a group keeps ``ceil(b / d)``
cached. All three are least at once when sequences are dealt evenly. A step ``t(g, s)`` falls in
neither and grows no faster than its batch, so that

- the rate ``b / t`` never falls from one full batch ``m d g`` to the next, nor, within one
  ``g``, from one ``m s`` to the next, nor within one ``s``;
- the best batch within the limits is therefore the largest full one, the largest one that
  fills its microbatches, or the largest (:mod:`planner.search.batch_bounds`);
- the rate of the first full batch beyond the limits is above those of all within.

Replicas are independent where the batch is free. A pinned batch is dealt to them evenly, and
the rates of those with one sequence more and of the others add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.cost.block import RoutedLoad, Split, Tokens
from planner.cost.evaluate import Microbatch, on_machine
from planner.cost.memory import (
    activation_bytes,
    budget_bytes,
    cache_bytes,
    draft_bytes,
    layer_bytes,
    table_bytes,
)
from planner.cost.passes import pass_times
from planner.cost.price import FabricRates
from planner.cost.routing import moe_shape
from planner.cost.runs.serving_speculative import tokens_per_pass
from planner.cost.step import layer_groups, price_hop
from planner.domain.degrees import OverlapMode
from planner.domain.model import MoeFfn
from planner.domain.work import Real
from planner.search.copy_bounds import Copies, TouchedBound, hot_share_bound
from planner.search.objective import counted_chips, objective_value
from planner.search.rates import RateTable
from planner.search.request import PlanRequest
from planner.search.strategies import Strategies
from planner.search.survive_room import cached_after

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Probe:
    """A batch of every strategy: tokens of the fullest microbatch, and what a group keeps.

    ``replica`` are the sequences of one replica, ``cached`` those of its fullest attention
    group over all microbatches; arrays of shape ``[n]``.
    """

    replica: FloatArray
    tokens: Tokens
    cached: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySplit:
    """Strategies as the float arrays that the counting code takes."""

    split: Split
    pp: FloatArray
    num_slots: FloatArray
    microbatches: FloatArray
    replicas: FloatArray


def as_arrays(strategies: Strategies) -> ArraySplit:
    """Convert integer degrees to floats once."""
    return ArraySplit(
        split=Split(
            attn_tp=strategies.attn_tp.astype(float),
            attn_dp=strategies.attn_dp.astype(float),
            cp=strategies.cp.astype(float),
            ep=strategies.ep.astype(float),
            expert_tp=strategies.expert_tp.astype(float),
            hide_tp=((strategies.overlap & OverlapMode.TP) > 0).astype(float),
            hide_ep=((strategies.overlap & OverlapMode.EP) > 0).astype(float),
            draft=strategies.draft.astype(float),
        ),
        pp=strategies.pp.astype(float),
        num_slots=strategies.num_slots.astype(float),
        microbatches=strategies.microbatches.astype(float),
        replicas=strategies.replicas.astype(float),
    )


def ceil_div_array(a: IntArray, b: IntArray) -> IntArray:
    """``ceil(a / b)`` of whole numbers."""
    return -(-a // b)


def feasible(bound: StepBound, probe: Probe) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the limits on memory and on the step can hold at a batch, optimistically."""
    fits = bound.memory_bytes(probe) <= budget_bytes(bound.request.setting)
    limit = bound.request.step_limit_s
    meets = np.ones_like(fits) if limit is None else bound.step_s(probe) <= limit
    return fits, meets


@dataclass(frozen=True, kw_only=True, slots=True)
class PassParts:
    """Optimistic seconds of one pass, before it is cut into stages.

    ``layers`` has shape ``[groups, n]``: one layer of each group; ``tables_s`` are embedding,
    head and drafts, ``hop_s`` one hop between stages, shape ``[n]`` each.
    """

    layers: FloatArray
    tables_s: FloatArray
    hop_s: FloatArray

    def pick(self, picked: IntArray) -> PassParts:
        """Those of some strategies, or of more with the parts of some."""
        return PassParts(
            layers=self.layers[:, picked],
            tables_s=self.tables_s[picked],
            hop_s=self.hop_s[picked],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Resident:
    """Optimistic resident bytes of a chip, before layers are cut into stages.

    ``weights`` and ``caches`` have shape ``[groups, n]``: one layer of each group; ``ends`` are
    tables and drafting weights, ``tied`` a head that several stages hold once more,
    ``draft_caches`` the caches of drafts, shape ``[n]`` each.
    """

    weights: FloatArray
    caches: FloatArray
    ends: FloatArray
    tied: FloatArray
    draft_caches: FloatArray

    def pick(self, picked: IntArray) -> Resident:
        """Those of some strategies, or of more with the bytes of some."""
        return Resident(
            weights=self.weights[:, picked],
            caches=self.caches[:, picked],
            ends=self.ends[picked],
            tied=self.tied[picked],
            draft_caches=self.draft_caches[picked],
        )


def stage_sums(
    rows: FloatArray, counts: FloatArray, per_stage: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Sum over all layers, and over the ``per_stage`` cheapest ones, shape ``[n]`` each.

    ``rows`` has shape ``[groups, n]``, of ``counts`` layers each. Some stage holds
    ``ceil(layers / pp)`` layers, and no set of them costs less than the cheapest ones.
    """
    total = (rows * counts[:, None]).sum(axis=0)
    if len(rows) == 1:
        return total, per_stage * rows[0]
    if len(rows) == 2:
        # The cheaper group first; sorting is dear.
        first, second = np.minimum(rows[0], rows[1]), np.maximum(rows[0], rows[1])
        taken = np.minimum(per_stage, np.where(rows[0] <= rows[1], counts[0], counts[1]))
        return total, taken * first + (per_stage - taken) * second
    order = np.argsort(rows, axis=0, kind="stable")
    left = per_stage.copy()
    cheapest = np.zeros_like(total)
    for position in range(len(rows)):
        index = order[position]
        taken = np.minimum(left, counts[index])
        cheapest += taken * np.take_along_axis(rows, index[None], axis=0)[0]
        left = left - taken
    return total, cheapest


def circulating_s(
    parts: PassParts, counts: FloatArray, pipeline: tuple[FloatArray, Real, FloatArray]
) -> FloatArray:
    """Optimistic seconds of one pass of all microbatches through a pipeline, shape ``[n]``.

    ``pipeline`` are its stages, the hops of a microbatch and the microbatches:
    ``max(sum + hops, m slowest)``.
    """
    pp, num_hops, microbatches = pipeline
    total, cheapest = stage_sums(parts.layers, counts, np.ceil(counts.sum() / pp))
    total = total + parts.tables_s
    slowest = np.maximum(total / pp, cheapest)
    return np.asarray(np.maximum(total + num_hops * parts.hop_s, microbatches * slowest))


def fullest_bytes(
    held: Resident, counts: FloatArray, pipeline: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """Optimistic resident bytes of the fullest stage, shape ``[n]``.

    ``pipeline`` are the stages, and by how much the caches of ``held`` are multiplied.
    """
    pp, times = pipeline
    rows = held.weights + held.caches * times
    total, cheapest = stage_sums(rows, counts, np.ceil(counts.sum() / pp))
    ends = held.ends + np.where(pp > 1, held.tied, 0.0) + held.draft_caches * times
    return np.asarray(np.maximum((total + ends) / pp, cheapest))


class StepBound:
    """Lower bounds of one set of strategies; calling it with a batch per group prices them."""

    def __init__(
        self,
        request: PlanRequest,
        strategies: Strategies,
        rates: RateTable,
        copies: Copies = Copies.COUNTED,
    ) -> None:
        self.request = request
        self.copies = copies
        self.setting = on_machine(request.setting, request.topology)
        # Least objective seen at a batch within the limits; shared by all parts.
        self._best = [np.inf]
        self._priced: tuple[Probe, FloatArray] | None = None
        self.strategies = strategies
        self._rates = rates
        self._groups = layer_groups(request.setting.model)
        self.layer_counts = np.array([len(group.indices) for group in self._groups], dtype=float)

    # Millions of strategies are only ever priced in parts: arrays are made when needed.
    @cached_property
    def arrays(self) -> ArraySplit:
        """The strategies as floats."""
        return as_arrays(self.strategies)

    @cached_property
    def fabric(self) -> FabricRates:
        """Prices of every axis, arrays over the strategies."""
        return self._rates.expand()

    @cached_property
    def hot(self) -> FloatArray:
        """Lower bound on the hottest group's share, shape ``[n]``."""
        ep = self.arrays.split.ep
        if self.copies is Copies.FEWEST:
            return np.asarray(1.0 / ep)
        shape = moe_shape(self.request.setting.model)
        if self.copies is Copies.MOST and self.request.uniform and shape is not None:
            return np.asarray(np.minimum(1.0, np.ceil(self.arrays.num_slots / ep) / shape[0]))
        return hot_share_bound(self.request, self.strategies)

    @cached_property
    def _touched(self) -> TouchedBound:
        return TouchedBound(self.request, self.strategies, self.copies)

    @cached_property
    def tokens_per_pass(self) -> FloatArray:
        """Tokens of a sequence that a pass yields, shape ``[n]``."""
        draft = self.strategies.draft
        gains = [
            tokens_per_pass(k, self.setting.acceptance)
            for k in range(int(draft.max(initial=0)) + 1)
        ]
        return np.array(gains)[draft]

    def select(self, picked: IntArray | NDArray[np.bool_]) -> StepBound:
        """Bounds of a subset of the strategies."""
        strategies, rates = self.strategies.select(picked), self._rates.select(picked)
        part = StepBound(self.request, strategies, rates, self.copies)
        part._best = self._best
        return part

    def share(self, best: list[float]) -> None:
        """Look at, and keep in ``best[0]``, the least objective that was seen anywhere."""
        self._best = best

    @property
    def best_seen(self) -> float:
        """Least objective seen so far at a batch within the limits."""
        return self._best[0]

    def note(self, values: FloatArray) -> None:
        """Remember the least of objectives at batches within the limits."""
        if len(values):
            self._best[0] = min(self._best[0], float(values.min()))

    @cached_property
    def chips(self) -> tuple[Real, FloatArray]:
        """Chips of the machine, and fewest that must be rented, shape ``[n]``."""
        own = self.strategies
        used = own.attn_tp * own.cp * own.attn_dp * own.pp * own.replicas
        return counted_chips(self.request, used)

    def objective(self, step_s: FloatArray, tokens_per_s: FloatArray) -> FloatArray:
        """What the search minimises, of the slowest step and the rate of all replicas."""
        request = self.request
        return np.asarray(
            objective_value(
                request.objective, step_s, tokens_per_s, self.chips, request.price_usd_per_hour
            )
        )

    def value(self, probe: Probe) -> FloatArray:
        """The same when every replica decodes the batch of ``probe``, shape ``[n]``."""
        step_s = self.step_s(probe)
        tokens = self.setting.sequence_tokens * probe.replica * self.arrays.replicas
        return self.objective(step_s, tokens / step_s)

    @cached_property
    def full(self) -> IntArray:
        """Sequences of a replica with one per microbatch and group, shape ``[n]``."""
        return self.strategies.microbatches * self.strategies.attn_dp

    @cached_property
    def least(self) -> IntArray:
        """Fewest sequences of a replica: one per microbatch."""
        return self.strategies.microbatches

    def probe(self, replica: IntArray) -> Probe:
        """Replicas of so many sequences each, shape ``[n]``, dealt evenly."""
        own, split = self.strategies, self.arrays.split
        stage = ceil_div_array(replica, own.microbatches)
        group = ceil_div_array(stage, own.attn_dp)
        microbatch = Microbatch(group=group.astype(float), stage=stage.astype(float))
        return Probe(
            replica=replica.astype(float),
            tokens=microbatch.tokens(self.setting, split),
            cached=ceil_div_array(replica, own.attn_dp).astype(float),
        )

    def smallest(self) -> Probe:
        """The smallest batch that the request allows; the fullest replica of a pinned one."""
        batch = self.request.batch
        if batch is None:
            return self.probe(self.least)
        pinned = np.full(len(self.strategies), batch, dtype=np.int64)
        return self.probe(ceil_div_array(pinned, self.strategies.replicas))

    def step_s(self, probe: Probe) -> FloatArray:
        """Optimistic seconds per token of a sequence, shape ``[n]``."""
        if self._priced is None or self._priced[0] is not probe:
            self._priced = probe, self.token_s(self.parts(probe.tokens))
        return self._priced[1]

    def parts(self, tokens: Tokens) -> PassParts:
        """Optimistic times of one pass."""
        arrays, setting = self.arrays, self.setting

        def load(stage: Real) -> RoutedLoad:
            return RoutedLoad(hot_share=self.hot, touched_slots=self._touched(stage))

        routed = {i: load for i, group in enumerate(self._groups) if group.is_moe}
        if isinstance(setting.model.layers[-1].ffn, MoeFfn):
            routed[-1] = load
        times = pass_times(setting, arrays.split, tokens, routed, self.fabric)
        layers = np.empty((len(times.groups), len(arrays.pp)))
        for row, seconds in zip(layers, times.groups, strict=True):
            row[:] = seconds
        nothing = np.zeros_like(arrays.pp)
        return PassParts(
            layers=layers,
            tables_s=nothing + times.embedding + times.head + times.draft,
            hop_s=nothing + price_hop(setting.model, arrays.split, tokens.group, self.fabric),
        )

    def token_s(self, parts: PassParts) -> FloatArray:
        """Seconds per token of a sequence from the parts of a pass, shape ``[n]``."""
        arrays = self.arrays
        pipeline = (arrays.pp, self.setting.num_hops(arrays.pp), arrays.microbatches)
        step = circulating_s(parts, self.layer_counts, pipeline)
        return np.asarray((step + self.setting.engine.step_s) / self.tokens_per_pass, dtype=float)

    def resident(self, cached: Real) -> Resident:
        """Weights and caches of a chip with ``cached`` sequences of its attention group."""
        arrays, setting = self.arrays, self.setting
        slots = np.ceil(arrays.num_slots / arrays.split.ep)
        weights = np.empty((len(self._groups), len(arrays.pp)))
        caches = np.empty_like(weights)
        for row, group in enumerate(self._groups):
            own = layer_bytes(setting, group, arrays.split)
            weights[row] = own.fixed + own.per_slot * (slots if group.is_moe else 0.0)
            caches[row] = cache_bytes(setting, group, arrays.split, cached)
        nothing = np.zeros_like(arrays.pp)
        first, alone = table_bytes(setting, arrays.split, 1.0)
        tied = table_bytes(setting, arrays.split, 2.0)[1] - alone
        ends, drafting = nothing + first + alone, nothing
        if self.strategies.draft.any():
            has = arrays.split.draft > 0
            held, cache = draft_bytes(setting, arrays.split, (slots, cached))
            ends, drafting = ends + np.where(has, held, 0.0), np.where(has, cache, 0.0)
        return Resident(
            weights=weights, caches=caches, ends=ends, tied=nothing + tied, draft_caches=drafting
        )

    def memory_bytes(self, probe: Probe) -> FloatArray:
        """Optimistic bytes on the fullest chip, reserve left out, shape ``[n]``."""
        arrays = self.arrays
        sizes = (arrays.split.attn_dp, arrays.replicas, arrays.num_slots)
        cached = cached_after(self.request, sizes, probe.replica, probe.cached)
        whole = np.ones_like(arrays.pp)
        fullest = fullest_bytes(self.resident(cached), self.layer_counts, (arrays.pp, whole))
        return np.asarray(fullest + self.active_bytes(probe.tokens), dtype=float)

    def active_bytes(self, tokens: Tokens) -> FloatArray:
        """Optimistic bytes of the working buffers of one microbatch, shape ``[n]``."""
        return np.asarray(
            activation_bytes(self.setting, self.arrays.split, tokens, self.hot), dtype=float
        )
