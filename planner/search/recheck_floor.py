"""Seconds and bytes that no assignment of a strategy can beat, one strategy at a time.

The cost model's counting and pricing rules are called with plain numbers; what an assignment
may still decide is replaced by a floor of its own:

expert copies   :mod:`planner.search.recheck_experts`
links           the first group of every axis, priced as if nothing around it were hurt, on
                the best kind of cell; the fastest hop that two stages of the size can have
slowest stage   the mean stage, and the ceil(layers / pp) cheapest layers
fullest stage   likewise

Every floor grows with the sequences of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from planner.cost.block import RoutedLoad, Split
from planner.cost.evaluate import Microbatch, degrees_split, on_machine
from planner.cost.fabric import axis_groups, axis_key, axis_ops, shape_rate
from planner.cost.memory import (
    activation_bytes,
    budget_bytes,
    cache_bytes,
    draft_bytes,
    layer_bytes,
    table_bytes,
)
from planner.cost.passes import pass_times
from planner.cost.price import NO_LINK, FabricRates, LinkRate, merge_rates
from planner.cost.routing import FloatArray, moe_shape
from planner.cost.runs.serving_speculative import tokens_per_pass
from planner.cost.step import LayerGroup, RoutedOf, Setting, layer_groups, price_hop
from planner.domain.curves import Op
from planner.domain.degrees import Degrees, OverlapMode
from planner.domain.work import Real
from planner.search.recheck_experts import hottest_floor, touched_floor
from planner.search.recheck_space import SplitChoice
from planner.topology.collectives import send_recv_rate
from planner.topology.graph import Topology
from planner.topology.groups import Cell, carve, healthy_shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """One microbatch through all layers: seconds of a layer by group, and of the tables."""

    layer_s: tuple[float, ...]
    counts: tuple[int, ...]
    tables_s: tuple[float, float]

    @property
    def total_s(self) -> float:
        """All layers and tables."""
        layers = sum(s * n for s, n in zip(self.layer_s, self.counts, strict=True))
        return layers + sum(self.tables_s)

    def slowest_s(self, num_stages: int) -> float:
        """Floor of the slowest of ``num_stages`` stages."""
        most = -(-sum(self.counts) // num_stages)
        return max(self.total_s / num_stages, cheapest(self.layer_s, self.counts, most))


def cheapest(values: tuple[float, ...], counts: tuple[int, ...], most: int) -> float:
    """Sum of the ``most`` smallest values, of which each occurs ``counts`` times."""
    total = 0.0
    for value, count in sorted(zip(values, counts, strict=True)):
        taken = min(count, most)
        total += value * taken
        most -= taken
    return total


@dataclass(kw_only=True, slots=True)
class Floors:
    """Floors of one question, remembered by what they depend on.

    Parameters
    ----------
    loads : array, shape ``[num MoE layers, num_experts]``
    """

    setting: Setting
    topology: Topology
    loads: FloatArray
    _cells: dict[tuple[int, int], tuple[Cell, ...]] = field(default_factory=dict)
    _links: dict[object, LinkRate] = field(default_factory=dict)
    _passes: dict[object, Pass] = field(default_factory=dict)
    _hot: dict[tuple[int, int], float] = field(default_factory=dict)
    _once: dict[int, float] = field(default_factory=dict)
    _layers: tuple[tuple[float, ...], ...] = ()
    _bytes: dict[object, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    groups: tuple[LayerGroup, ...] = ()
    groups_last: LayerGroup = field(init=False)
    counts: tuple[int, ...] = ()
    num_experts: int = 0

    def __post_init__(self) -> None:
        self.setting = on_machine(self.setting, self.topology)
        shape = moe_shape(self.setting.model)
        self.num_experts = 0 if shape is None else shape[0]
        self.groups = layer_groups(self.setting.model)
        self.counts = tuple(len(group.indices) for group in self.groups)
        last = len(self.setting.model.layers) - 1
        self.groups_last = next(group for group in self.groups if last in group.indices)
        rows = [tuple(map(float, row)) for row in self.loads.tolist()] if self.loads.size else []
        self._layers = tuple(dict.fromkeys(rows))

    def kinds(self, split: SplitChoice) -> tuple[Cell, ...]:
        """One cell of every form that stages of this split can have."""
        key = (split.size, split.unit)
        if key not in self._cells:
            forms: dict[object, Cell] = {}
            for cell in carve(self.topology, split.size, split.unit):
                forms.setdefault((cell.pieces, cell.box), cell)
            self._cells[key] = tuple(forms.values())
        return self._cells[key]

    def links(self, split: SplitChoice) -> FabricRates:
        """Price floor of every collective of the split."""
        degrees = degrees_of(split)
        found: dict[tuple[str, Op], LinkRate] = {}
        for axis, op in axis_ops(self.topology):
            key = (split.size, split.unit, axis, op, axis_key(degrees, axis))
            if key not in self._links:
                rates = [
                    self._rate(op, axis_groups(cell.chips, degrees, axis)[0])
                    for cell in self.kinds(split)
                ]
                self._links[key] = merge_rates(rates, min)
            found[axis, op] = self._links[key]
        found["pp", Op.SEND_RECV] = self._hop(split.size)
        return found

    def _rate(self, op: Op, group: tuple[int, ...]) -> LinkRate:
        shape = healthy_shape(self.topology, group)
        key = (op, shape)
        if key not in self._links:
            self._links[key] = shape_rate(self.topology, op, shape)
        return self._links[key]

    def _hop(self, size: int) -> LinkRate:
        """Fastest hop between two stages of ``size`` chips."""
        key = ("hop", size)
        if key not in self._links:
            domains = sorted(self.topology.open_domains, key=len, reverse=True)
            pair = None
            if 2 * size <= len(domains[0]):
                pair = domains[0][0], domains[0][1]
            elif len(domains) > 1 and domains[1]:
                pair = domains[0][0], domains[1][0]
            rate = None if pair is None else send_recv_rate(self.topology, *pair)
            self._links[key] = (
                NO_LINK
                if rate is None
                else LinkRate(
                    latency_s=rate.latency_s, s_per_byte=rate.s_per_byte, fill_s=rate.fill_s
                )
            )
        return self._links[key]

    def hop_s(self, split: SplitChoice, group: float) -> float:
        """Seconds of one hop with ``group`` sequences per attention group."""
        own = as_split(split)
        rows = Microbatch(group=group, stage=group * split.attn_dp).tokens(self.setting, own).group
        links = {("pp", Op.SEND_RECV): self._hop(split.size)}
        return float(price_hop(self.setting.model, own, rows, links))

    def hops_s(self, split: SplitChoice, pp: int, group: float) -> float:
        """Seconds of all hops of a microbatch over ``pp`` stages."""
        if pp == 1:
            return 0.0
        return float(self.setting.num_hops(float(pp))) * self.hop_s(split, group)

    def hot_share(self, split: SplitChoice, num_slots: int) -> float:
        """Floor of the hottest group's share, in the layer where it is lowest."""
        if not num_slots or len(self._layers) > 1:
            return 1.0 / split.ep
        key = (split.ep, num_slots)
        if key not in self._hot:
            self._hot[key] = hottest_floor(self._layers[0], split.ep, num_slots)
        return self._hot[key]

    def _touched(self, split: SplitChoice, num_slots: int, tokens: float) -> float:
        """Floor of the copies that the busiest group reads, in the layer where it is lowest."""
        if num_slots and len(self._layers) == 1:
            chances = chosen_chances(self.setting, self._layers[0])
            return touched_floor(chances, split.ep, num_slots, tokens)
        # Every further copy is read too: the mean over one copy of each expert is a floor.
        point = grid_below(tokens)
        if point not in self._once:
            self._once[point] = min(
                sum(1.0 - (1.0 - chance) ** point for chance in chosen_chances(self.setting, row))
                for row in self._layers
            )
        return self._once[point] / split.ep

    def one_pass(self, split: SplitChoice, num_slots: int, microbatch: Microbatch) -> Pass:
        """Seconds of one microbatch; ``num_slots`` 0 speaks for every number of slots."""
        key = (split, num_slots, microbatch)
        if key not in self._passes:

            def load(tokens: Real) -> RoutedLoad:
                return RoutedLoad(
                    hot_share=self.hot_share(split, num_slots),
                    touched_slots=self._touched(split, num_slots, float(tokens)),
                )

            self._passes[key] = self.price_pass(split, load, self.links(split), microbatch)
        return self._passes[key]

    def price_pass(
        self, split: SplitChoice, load: RoutedOf, links: FabricRates, microbatch: Microbatch
    ) -> Pass:
        """One microbatch whose tokens go to the same ``load`` in every MoE layer."""
        own = as_split(split)
        routed = {place: load for place, group in enumerate(self.groups) if group.is_moe}
        if self.groups_last.is_moe:
            routed[-1] = load
        times = pass_times(self.setting, own, microbatch.tokens(self.setting, own), routed, links)
        return Pass(
            layer_s=tuple(float(s) for s in times.groups),
            counts=self.counts,
            tables_s=(float(times.embedding), float(times.head) + float(times.draft)),
        )

    def token_s(self, split: SplitChoice, pass_s: float, whole: bool = True) -> float:
        """Seconds per token of a pass, with what an engine spends around it if ``whole``."""
        around = self.setting.engine.step_s if whole else 0.0
        return (pass_s + around) / tokens_per_pass(split.draft, self.setting.acceptance)

    def fits(
        self, split: SplitChoice, num_slots: int, num_stages: int, held: tuple[float, Microbatch]
    ) -> bool:
        """Whether the mean and the leanest fullest stage leave room.

        Parameters
        ----------
        held : (float, Microbatch)
            Sequences that a group keeps cached, and one microbatch.
        """
        cached, microbatch = held
        own = as_split(split)
        slots = -(-(num_slots or self.num_experts) // split.ep)
        bytes_of = self.layer_bytes(split, float(slots), cached)
        whole = sum(b * n for b, n in zip(bytes_of, self.counts, strict=True))
        whole += sum(self.table_bytes(split, num_stages, float(slots), cached))
        most = -(-sum(self.counts) // num_stages)
        fullest = max(whole / num_stages, cheapest(bytes_of, self.counts, most))
        free = budget_bytes(self.setting) * (1 + 1e-12) - fullest
        if free < 0:
            return False
        hot = self.hot_share(split, num_slots) if self.num_experts else 0.0
        tokens = microbatch.tokens(self.setting, own)
        return float(activation_bytes(self.setting, own, tokens, hot)) <= free

    def layer_bytes(self, split: SplitChoice, slots: float, cached: float) -> tuple[float, ...]:
        """Resident bytes of a layer of every group with ``slots`` expert copies."""
        own = as_split(split)
        key = (replace(split, overlap=OverlapMode.NONE, draft=0), cached)
        if key not in self._bytes:
            found = []
            for group in self.groups:
                held = layer_bytes(self.setting, group, own)
                cache = float(cache_bytes(self.setting, group, own, cached))
                per_slot = float(held.per_slot) if group.is_moe else 0.0
                found.append((float(held.fixed) + cache, per_slot))
            self._bytes[key] = tuple(found)
        return tuple(fixed + per_slot * slots for fixed, per_slot in self._bytes[key])

    def table_bytes(
        self, split: SplitChoice, num_stages: int, slots: float, cached: float
    ) -> tuple[float, float]:
        """Bytes beside layers on the first and on the last stage."""
        own = as_split(split)
        first, last = table_bytes(self.setting, own, float(num_stages))
        drafting = 0.0
        if split.draft:
            drafting = float(sum(map(float, draft_bytes(self.setting, own, (slots, cached)))))
        return float(first), float(last) + drafting


def chosen_chances(setting: Setting, shares: Sequence[float]) -> list[float]:
    """Probability that one token picks each expert, from shares of the routed tokens."""
    shape = moe_shape(setting.model)
    assert shape is not None
    return [min(shape[1] * share, 1.0) for share in shares]


def as_split(split: SplitChoice) -> Split:
    """The split as the cost model reads it."""
    return degrees_split(degrees_of(split))


def degrees_of(split: SplitChoice) -> Degrees:
    """Degrees of one stage of the split."""
    return Degrees(
        attn_tp=split.attn_tp,
        attn_dp=split.attn_dp,
        pp=1,
        ep=split.ep,
        expert_tp=split.expert_tp,
        num_slots=0,
        microbatches=1,
        replicas=1,
        cp=split.cp,
        overlap=split.overlap,
        draft=split.draft,
    )


def grid_below(value: float) -> int:
    """Largest number of a fixed grid, about 3 % apart, that is at most ``value``."""
    whole = math.floor(value)
    if whole <= 32:
        return whole
    step = 1 << max(0, whole.bit_length() - 6)
    return whole // step * step
