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
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.cost.block import RoutedLoad, Split, Tokens, uniform_touched
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
from planner.search.experts import uniform_imbalance
from planner.search.mesh import RateTable
from planner.search.objective import counted_chips, objective_value
from planner.search.request import PlanRequest
from planner.search.strategies import Strategies
from planner.search.survive_room import cached_after, even_twice_touched

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_imbalance = lru_cache(maxsize=1 << 16)(uniform_imbalance)


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


def hot_share_bound(request: PlanRequest, strategies: Strategies) -> FloatArray:
    """Lower bound on the hottest group's share of routed tokens, shape ``[n]``."""
    shape = moe_shape(request.setting.model)
    if shape is None:
        return np.zeros(len(strategies))
    mean = 1.0 / strategies.ep
    if not request.uniform:
        return mean
    keys = strategies.ep * (1 << 32) + strategies.num_slots
    unique, inverse = np.unique(keys, return_inverse=True)
    values = [_imbalance(shape[0], int(k >> 32), int(k & 0xFFFFFFFF)) for k in unique]
    return np.array(values)[inverse] * mean


@lru_cache(maxsize=4)
def least_touched(loads: bytes, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Touched experts of the layer that touches fewest, over a grid of tokens of a stage.

    They grow with the tokens, so the value at the grid point below is a bound.
    """
    num_experts, top_k = shape
    table = np.frombuffer(loads).reshape(-1, num_experts)
    grid = np.unique(np.geomspace(1, 1 << 24, 400).astype(np.int64)).astype(float)
    miss = np.log1p(-np.minimum(top_k * table, 1.0 - 1e-12))
    touched = [(1.0 - np.exp(miss * tokens)).sum(axis=1).min() for tokens in grid]
    return grid, np.array(touched)


class TouchedBound:
    """Lower bound on the touched copies of the busiest group, as a function of tokens."""

    def __init__(self, request: PlanRequest, strategies: Strategies) -> None:
        shape = moe_shape(request.setting.model)
        self._shape = shape
        self._slots = strategies.num_slots.astype(float)
        self._ep = strategies.ep.astype(float)
        self._uniform = request.uniform
        if shape is not None and not request.uniform:
            self._grid, self._touched = least_touched(request.loads.tobytes(), shape)
        # One replica that survives failures holds two copies of every expert.
        self._apart = bool(request.units) and shape is not None
        if self._apart and shape is not None:
            self._is_apart = strategies.replicas == 1
            self._halves = least_touched((request.loads / 2).tobytes(), shape)

    def __call__(self, tokens: Real) -> Real:
        """Touched copies of the busiest group when a stage decodes ``tokens`` tokens."""
        found = self._any_copies(tokens)
        if not self._apart:
            return found
        grid, halves = self._halves
        position = np.searchsorted(grid, tokens, side="right") - 1
        twice = 2 * halves[np.maximum(position, 0)] / self._ep
        if self._uniform and self._shape is not None:
            twice = even_twice_touched(self._shape, (self._slots, self._ep), tokens)
        return np.where(self._is_apart, np.maximum(found, twice), found)

    def _any_copies(self, tokens: Real) -> Real:
        if self._shape is None:
            return 0.0
        num_experts, top_k = self._shape
        if not self._uniform:
            position = np.searchsorted(self._grid, tokens, side="right") - 1
            return np.asarray(self._touched[np.maximum(position, 0)] / self._ep)
        mean = uniform_touched(num_experts, top_k, self._slots, tokens) / self._ep
        mean = np.maximum(mean, self._whole_copies(num_experts, top_k / num_experts, tokens))
        # Without copies the fullest group holds ceil(E / ep) whole experts.
        whole = np.ceil(num_experts / self._ep)
        alone = 1.0 - (1.0 - top_k / num_experts) ** tokens
        return np.where(self._slots == num_experts, whole * alone, mean)

    def _whole_copies(self, num_experts: int, chance: float, tokens: Real) -> Real:
        """:func:`planner.cost.routing.busiest_touched` where all experts are alike."""
        most = np.ceil(num_experts / self._ep)
        once = 1.0 - (1.0 - chance) ** tokens
        twice = 2.0 * (1.0 - (1.0 - chance / 2.0) ** tokens)
        split = num_experts - (most - 1.0) * self._ep
        mean = (num_experts * once + split * (twice - once)) / self._ep
        mean = np.where(split > self._slots - num_experts, np.inf, mean)
        return np.minimum(most * once, mean)


class StepBound:
    """Lower bounds of one set of strategies; calling it with a batch per group prices them."""

    def __init__(self, request: PlanRequest, strategies: Strategies, rates: RateTable) -> None:
        self.request = request
        self.setting = on_machine(request.setting, request.topology)
        # Least objective seen at a batch within the limits; shared by all parts.
        self._best = [np.inf]
        self._priced: tuple[Probe, FloatArray] | None = None
        self.strategies = strategies
        self._rates = rates
        self._groups = layer_groups(request.setting.model)
        self._counts = np.array([len(group.indices) for group in self._groups], dtype=float)

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
        return hot_share_bound(self.request, self.strategies)

    @cached_property
    def _touched(self) -> TouchedBound:
        return TouchedBound(self.request, self.strategies)

    @cached_property
    def _tokens_per_pass(self) -> FloatArray:
        draft = self.strategies.draft
        gains = [
            tokens_per_pass(k, self.setting.acceptance)
            for k in range(int(draft.max(initial=0)) + 1)
        ]
        return np.array(gains)[draft]

    @cached_property
    def _per_stage(self) -> FloatArray:
        return np.asarray(np.ceil(self._counts.sum() / self.arrays.pp))

    def select(self, picked: IntArray | NDArray[np.bool_]) -> StepBound:
        """Bounds of a subset of the strategies."""
        part = StepBound(self.request, self.strategies.select(picked), self._rates.select(picked))
        part._best = self._best
        return part

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
            self._priced = probe, self._step_s(probe.tokens)
        return self._priced[1]

    def _step_s(self, tokens: Tokens) -> FloatArray:
        arrays, setting = self.arrays, self.setting

        def load(stage: Real) -> RoutedLoad:
            return RoutedLoad(hot_share=self.hot, touched_slots=self._touched(stage))

        routed = {i: load for i, group in enumerate(self._groups) if group.is_moe}
        if isinstance(setting.model.layers[-1].ffn, MoeFfn):
            routed[-1] = load
        times = pass_times(setting, arrays.split, tokens, routed, self.fabric)
        layers = [
            np.broadcast_to(np.asarray(t, dtype=float), arrays.pp.shape) for t in times.groups
        ]
        total, cheapest = self._stage_sums(np.stack(layers))
        total = total + times.embedding + times.head + times.draft
        slowest = np.maximum(total / arrays.pp, cheapest)
        hops = setting.num_hops(arrays.pp)
        hop_s = hops * price_hop(setting.model, arrays.split, tokens.group, self.fabric)
        step = np.maximum(total + hop_s, arrays.microbatches * slowest)
        return np.asarray((step + setting.engine.step_s) / self._tokens_per_pass, dtype=float)

    def memory_bytes(self, probe: Probe) -> FloatArray:
        """Optimistic bytes on the fullest chip, reserve left out, shape ``[n]``."""
        arrays, setting = self.arrays, self.setting
        sizes = (arrays.split.attn_dp, arrays.replicas, arrays.num_slots)
        cached = cached_after(self.request, sizes, probe.replica, probe.cached)
        slots = np.ceil(arrays.num_slots / arrays.split.ep)
        rows = []
        for group in self._groups:
            own = layer_bytes(setting, group, arrays.split)
            moe = slots if group.is_moe else 0.0
            row = own.fixed + own.per_slot * moe
            row = row + cache_bytes(setting, group, arrays.split, cached)
            rows.append(np.broadcast_to(np.asarray(row, dtype=float), arrays.pp.shape))
        total, cheapest = self._stage_sums(np.stack(rows))
        first, last = table_bytes(setting, arrays.split, arrays.pp)
        if self.strategies.draft.any():
            weights, cache = draft_bytes(setting, arrays.split, (slots, cached))
            last = last + np.where(arrays.split.draft > 0, weights + cache, 0.0)
        fullest = np.maximum((total + first + last) / arrays.pp, cheapest)
        active = activation_bytes(setting, arrays.split, probe.tokens, self.hot)
        return np.asarray(fullest + active, dtype=float)

    def _stage_sums(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Sum over all layers, and over the ``ceil(layers / pp)`` cheapest ones.

        ``rows`` has shape ``[groups, n]``. Some stage holds that many layers, and no set of
        them costs less than the cheapest ones.
        """
        total = (rows * self._counts[:, None]).sum(axis=0)
        order = np.argsort(rows, axis=0, kind="stable")
        left = self._per_stage.copy()
        cheapest = np.zeros_like(total)
        for position in range(len(rows)):
            index = order[position]
            taken = np.minimum(left, self._counts[index])
            cheapest += taken * np.take_along_axis(rows, index[None], axis=0)[0]
            left = left - taken
        return total, cheapest
