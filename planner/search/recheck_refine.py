"""Sharper floors for the few strategies that rough ones cannot tell from the layout.

stages    cut exactly: fewest stages under a limit on seconds and bytes, taking layers
          greedily, and halving of that limit
experts   the floors of every layer under its own loads
links     on a wounded machine every cell as it really is; of the j fastest replicas of p
          stages one is no faster than the (j p)-th fastest cell
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

from planner.cost.block import RoutedLoad
from planner.cost.evaluate import Microbatch
from planner.cost.fabric import axis_groups, axis_ops, shape_rate
from planner.cost.memory import activation_bytes, budget_bytes
from planner.cost.price import FabricRates, LinkRate, merge_rates
from planner.cost.routing import moe_layer_indices
from planner.cost.step import RoutedOf
from planner.domain.curves import Op
from planner.domain.work import Real
from planner.domain.workload import Objective
from planner.errors import DisconnectedError
from planner.search.recheck_compare import Comparison, Held, Sizes, Strategy, largest
from planner.search.recheck_experts import hottest_floor, touched_floor
from planner.search.recheck_floor import as_split, chosen_chances
from planner.topology.groups import carve, group_shape

StepOf = Callable[..., float | None]
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
        fastest = self._steps(strategy, 1)
        slowest = self._steps(strategy, row[2]) if row[2] > 1 else fastest
        if comparison.pinned(row) is not None:
            # Whoever is the slowest has one sequence in every microbatch at least.
            seconds = slowest(row[1])
            value = comparison.pinned_value(split, row, fastest)
            if seconds is None:
                return math.inf
            if comparison.case.objective is Objective.LATENCY:
                return max(value, seconds, self._level_floor(strategy))
            return max(value, self._pinned_floor(strategy))
        total = self._all_rates(strategy)
        return math.inf if total is None else comparison.value(split, row, total / row[2], 1.0)

    def _steps(self, strategy: Strategy, replicas: int) -> StepOf:
        """Floor of the step of the slowest of so many replicas, as a function of its batch."""
        comparison, split, row = self.comparison, strategy.split, strategy.row
        links = self.links(strategy, replicas)

        def step(batch: int, room: int | None = None) -> float | None:
            """None beyond the limits; ``room`` sequences count in memory."""
            held = comparison.held(split, row, batch if room is None else room)
            microbatch = comparison.held(split, row, batch)[1]
            seconds = self.step_s(strategy, links, (held, microbatch))
            return None if seconds is None or comparison.late(seconds) else seconds

        return step

    def _pinned_floor(self, strategy: Strategy) -> float:
        """Objective if every replica had the better one of the two sizes, each as fast as it is."""
        comparison, row = self.comparison, strategy.row
        parts = comparison.pinned(row)
        assert parts is not None
        total = 0.0
        for count, step in self._runs(strategy, 1, row[2]):
            steps = {share: step(share) for _, share in parts}
            total += count * max((b / s for b, s in steps.items() if s is not None), default=0.0)
        if not total:
            return math.inf
        return comparison.value(strategy.split, row, total / row[2], 1.0)

    def _level_floor(self, strategy: Strategy) -> float:
        """The slowest step cannot be less if replicas together have no room for the batch then."""
        batch, row = self.comparison.case.batch, strategy.row
        runs = self._runs(strategy, 1, row[2])
        if batch is None or len(runs) == 1:
            return 0.0
        low, high = 0.0, runs[-1][1](-(-batch // row[2])) or math.inf
        if math.isinf(high):
            return low

        def room(step: StepOf, limit: float) -> float:
            def works(tried: int) -> bool:
                seconds = step(tried)
                return seconds is not None and seconds <= limit

            return largest(works, row[1]) or -math.inf

        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if sum(count * room(step, middle) for count, step in runs) >= batch:
                high = middle
            else:
                low = middle
        return low

    def _all_rates(self, strategy: Strategy) -> float | None:
        """Most sequences per second of all replicas; None where one has no batch in the limits."""
        row, total = strategy.row, 0.0
        sizes = Sizes(microbatches=row[1], groups=strategy.split.attn_dp)
        for count, step in self._runs(strategy, 1, row[2]):
            most: int | None = strategy.most
            if step(strategy.most) is None:
                most = largest(partial(_has, step), row[1])
            if most is None:
                return None
            total += count * most_rate(step, sizes, most)
        return total

    def _runs(self, strategy: Strategy, first: int, last: int) -> list[tuple[int, StepOf]]:
        """Replicas in order of speed: how many are alike, and their steps."""
        if self.links(strategy, first) == self.links(strategy, last):
            return [(last - first + 1, self._steps(strategy, first))]
        middle = (first + last) // 2
        parts = (self._runs(strategy, first, middle), self._runs(strategy, middle + 1, last))
        return [*parts[0], *parts[1]]

    def links(self, strategy: Strategy, replicas: int) -> FabricRates:
        """Price floors of the collectives of the slowest of so many replicas."""
        split, topology = strategy.split, self.floors.topology
        rates = dict(self.floors.links(split))
        if topology.wounded is None:
            return rates
        cells = carve(topology, split.size, split.unit)
        every: dict[tuple[str, Op], list[LinkRate]] = {}
        for axis, op in axis_ops(topology):
            own = every.setdefault((axis, op), [])
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
        # Replicas may each be slow in another way, unless one cell after the other is slower.
        count = strategy.row[0] * (replicas if one_after_another(every) else 1)
        place = min(count, len(cells)) - 1

        def needed(values: Sequence[Real]) -> Real:
            return sorted(float(value) for value in values)[place]

        for key, own in every.items():
            if len({len(rate.others) for rate in own}) == 1:
                rates[key] = merge_rates(own, needed)
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


def one_after_another(every: Mapping[tuple[str, Op], Sequence[LinkRate]]) -> bool:
    """Whether cells can be put in an order in which no collective gets faster."""
    columns = [
        [float(value) for value in column]
        for rates in every.values()
        for column in zip(
            *(
                [v for one in (rate, *rate.others) for v in (one.latency_s, one.s_per_byte)]
                for rate in rates
            ),
            strict=False,
        )
    ]
    cells = sorted(zip(*columns, strict=True), key=sum)
    return all(x <= y for a, b in pairwise(cells) for x, y in zip(a, b, strict=True))


def _has(step: StepOf, batch: int) -> bool:
    """Whether a batch is within the limits."""
    return step(batch) is not None


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
