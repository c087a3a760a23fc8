"""Sharper floors for the few strategies that rough ones cannot tell from the layout.

stages    cut exactly: fewest stages under a limit on seconds and bytes, taking layers
          greedily, and halving of that limit
experts   the floors of every layer under its own loads
links     on a wounded machine every cell as it really is; a layout of n cells is no faster
          than the n-th fastest
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from planner.cost.block import RoutedLoad
from planner.cost.evaluate import Microbatch
from planner.cost.fabric import axis_groups, axis_ops, shape_rate
from planner.cost.memory import activation_bytes, budget_bytes
from planner.cost.price import FabricRates, LinkRate, merge_rates
from planner.cost.routing import moe_layer_indices
from planner.cost.step import RoutedOf
from planner.domain.work import Real
from planner.errors import DisconnectedError
from planner.search.recheck_compare import Comparison, Held, Sizes, Strategy, largest
from planner.search.recheck_experts import hottest_floor, touched_floor
from planner.search.recheck_floor import as_split, chosen_chances
from planner.topology.groups import carve, group_shape

_HALVINGS = 60
_MOST_RANGES = 64
_ROUNDING = 1e-12


class Refinement:
    """Refines the floors of a comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.floors = comparison.floors
        self._hot: dict[object, float] = {}

    def floor(self, strategy: Strategy) -> float:
        """Sharper floor of the objective; infinite when no batch meets the limits."""
        comparison, split, row = self.comparison, strategy.split, strategy.row
        links = self.links(strategy)

        def step(batch: int, room: int | None = None) -> float | None:
            """Floor of the step, None beyond the limits; ``room`` sequences count in memory."""
            held = comparison.held(split, row, batch if room is None else room)
            microbatch = comparison.held(split, row, batch)[1]
            seconds = self.step_s(strategy, links, (held, microbatch))
            return None if seconds is None or comparison.late(seconds) else seconds

        if comparison.pinned(row) is not None:
            return comparison.pinned_value(split, row, step)
        sizes = Sizes(microbatches=row[1], groups=split.attn_dp)
        most = strategy.most
        if step(most) is None:
            reached = largest(lambda batch: step(batch) is not None, sizes.microbatches)
            if reached is None:
                return math.inf
            most = reached
        return comparison.value(split, row, most_rate(step, sizes, most), 1.0)

    def links(self, strategy: Strategy) -> FabricRates:
        """Price floors of the strategy's collectives."""
        split, topology = strategy.split, self.floors.topology
        rates = dict(self.floors.links(split))
        if topology.wounded is None:
            return rates
        cells = carve(topology, split.size, split.unit)
        place = min(strategy.row[0] * strategy.row[2], len(cells)) - 1

        def needed(values: Sequence[Real]) -> Real:
            return sorted(float(value) for value in values)[place]

        for axis, op in axis_ops(topology):
            own = []
            for cell in cells:
                shapes = {
                    group_shape(topology, group)
                    for group in axis_groups(cell.chips, strategy.degrees, axis)
                }
                try:
                    found = [shape_rate(topology, op, shape) for shape in shapes]
                except DisconnectedError:
                    found = [LinkRate(latency_s=math.inf, s_per_byte=math.inf)]
                own.append(merge_rates(found, max))
            if len({len(rate.others) for rate in own}) == 1:
                rates[axis, op] = merge_rates(own, needed)
        return rates

    def step_s(
        self, strategy: Strategy, links: FabricRates, load: tuple[Held, Microbatch]
    ) -> float | None:
        """Floor of the step, or None when no cut of the layers leaves room in memory.

        Parameters
        ----------
        load : (Held, Microbatch)
            What memory must hold, and the microbatch whose step counts.
        """
        split, (pp, microbatches, _) = strategy.split, strategy.row
        (cached, kept), microbatch = load
        seconds, hottest = self.layer_floors(strategy, links, microbatch)
        slots = float(-(-strategy.num_slots // split.ep))
        of_group = self.floors.layer_bytes(split, slots, cached)
        held_bytes = [0.0] * len(seconds)
        for group, own in zip(self.floors.groups, of_group, strict=True):
            for layer in group.indices:
                held_bytes[layer] = own
        tables = self.floors.table_bytes(split, pp, slots, cached)
        own_split = as_split(split)
        tokens = kept.tokens(self.floors.setting, own_split)
        active = float(activation_bytes(self.floors.setting, own_split, tokens, hottest))
        free = (budget_bytes(self.floors.setting) - active) * (1 + 1e-12)
        slowest = slowest_stage(seconds, _with_tables(held_bytes, tables), free, pp)
        if slowest is None:
            return None
        hops = self.floors.hops_s(split, pp, float(microbatch.group))
        circulating = max(sum(seconds) + hops, microbatches * slowest)
        return self.floors.token_s(split, circulating)

    def layer_floors(
        self, strategy: Strategy, links: FabricRates, microbatch: Microbatch
    ) -> tuple[list[float], float]:
        """Seconds of every layer, tables with the first and the last, and the hottest share."""
        split, model = strategy.split, self.floors.setting.model
        moe_layers = moe_layer_indices(model)
        rows = {
            layer: tuple(float(share) for share in self.floors.loads[row])
            for row, layer in enumerate(moe_layers)
        }
        distinct = list(dict.fromkeys(rows.values())) or [()]
        # Drafting layers are like the last layer, tables like in every pass.
        passes = {
            row: self.floors.price_pass(split, self._load_of(strategy, row), links, microbatch)
            for row in distinct
        }
        last = rows.get(len(model.layers) - 1, distinct[0])
        seconds = [0.0] * len(model.layers)
        for place, group in enumerate(self.floors.groups):
            for layer in group.indices:
                seconds[layer] = passes[rows.get(layer, distinct[0])].layer_s[place]
        hottest = max((self._hottest(strategy, row) for row in distinct if row), default=0.0)
        return _with_tables(seconds, passes[last].tables_s), hottest

    def _hottest(self, strategy: Strategy, shares: tuple[float, ...]) -> float:
        key = (shares, strategy.split.ep, strategy.num_slots)
        if key not in self._hot:
            self._hot[key] = hottest_floor(shares, strategy.split.ep, strategy.num_slots)
        return self._hot[key]

    def _load_of(self, strategy: Strategy, shares: tuple[float, ...]) -> RoutedOf:
        ep, slots = strategy.split.ep, strategy.num_slots

        def load(tokens: Real) -> RoutedLoad:
            key = (shares, ep, slots, float(tokens))
            if key not in self._hot:
                chances = chosen_chances(self.floors.setting, shares)
                self._hot[key] = touched_floor(chances, ep, slots, float(tokens))
            return RoutedLoad(
                hot_share=self._hottest(strategy, shares), touched_slots=self._hot[key]
            )

        return load


def most_rate(step: Callable[[int, int], float | None], sizes: Sizes, most: int) -> float:
    """No batch up to ``most`` has more sequences per second.

    Smaller batches leave room for stages that may be faster: the batches of a range are no
    better than its largest ones in the stages that its smallest one leaves room for. Ranges
    that may hold a better batch than was seen are halved, a few times.

    Parameters
    ----------
    step : callable
        Seconds of a batch, with memory as if it were another one.
    """

    def rate(batch: int, room: int) -> float:
        seconds = step(batch, min(room, batch))
        return 0.0 if seconds is None else batch / seconds

    def within(low: int, high: int) -> float:
        return max(rate(batch, low) for batch in sizes.best(high))

    best = max(rate(batch, batch) for batch in sizes.best(most))
    ranges = [(sizes.microbatches, most)]
    for _ in range(_MOST_RANGES):
        if not ranges:
            return best
        low, high = ranges.pop()
        if within(low, high) <= best * (1 + _ROUNDING):
            continue
        middle = (low + high) // 2
        best = max(best, *(rate(batch, batch) for batch in sizes.best(middle)))
        ranges += [(low, middle), (middle + 1, high)]
    return max([best, *(within(*part) for part in ranges)])


def _with_tables(values: list[float], tables: tuple[float, float]) -> list[float]:
    """The first layer with the embedding's part, the last with the head's."""
    found = list(values)
    found[0] += tables[0]
    found[-1] += tables[1]
    return found


def fewest_stages(
    seconds: Sequence[float], bytes_of: Sequence[float], limits: tuple[float, float]
) -> int | None:
    """Fewest contiguous stages within limits on seconds and bytes; None when a layer exceeds them.

    Taking layers as long as they fit is optimal: a stage that ends earlier leaves more to
    the next.
    """
    stages, time, held = 0, math.inf, math.inf
    for own_s, own_b in zip(seconds, bytes_of, strict=True):
        if own_s > limits[0] or own_b > limits[1]:
            return None
        if time + own_s > limits[0] or held + own_b > limits[1]:
            stages, time, held = stages + 1, 0.0, 0.0
        time, held = time + own_s, held + own_b
    return stages


def slowest_stage(
    seconds: Sequence[float], bytes_of: Sequence[float], most_bytes: float, num_stages: int
) -> float | None:
    """Floor of the slowest stage of the best cut; None when no cut fits in memory.

    Fewer stages than ``num_stages`` can always be cut further, since there are at least as
    many layers.
    """

    def cuts(limit: float) -> bool:
        found = fewest_stages(seconds, bytes_of, (limit, most_bytes))
        return found is not None and found <= num_stages

    high = sum(seconds) * (1 + 1e-9)
    if not cuts(high):
        return None
    low = max(sum(seconds) / num_stages, *seconds) * (1 - 1e-12)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if cuts(middle) else (middle, high)
    return low
