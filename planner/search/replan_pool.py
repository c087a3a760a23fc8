"""Candidates of a replan: layouts of one strategy that leave much in place, each priced once.

Chips are put to places first (``replan_cells``), then experts to chips (``replan_experts``): all
layers at one price of a new copy, from a price that nothing is worth to none. Where moves are
limited, the price whose copies fit is found by halving, and what is left of the limit goes to
one layer after another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from planner.cost.holdings import GONE, expert_rows, experts_held
from planner.cost.migration import migrate
from planner.cost.migration_time import migration_time
from planner.cost.routing import moe_layer_indices
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.degrees import Degrees
from planner.errors import DisconnectedError
from planner.search.batches import split_evenly
from planner.search.mesh import Cells
from planner.search.objective import objective_value
from planner.search.replan_cells import arrangements
from planner.search.replan_experts import Placement, placements
from planner.search.replan_request import Candidate, ReplanRequest, transition
from planner.search.replan_solve import solve_given, still_valid
from planner.search.solve import Solved
from planner.search.survive import places, untouched_replica

# What one new copy of an expert may cost, in parts of the mean load of a chip.
COPY_PRICES = (np.inf, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 0.0)
_HALVINGS = 12
# Batches that are tried, in those of the old layout and of the best.
MOST_GROWTH = 2

Maps = tuple[SlotMap, ...]


class Pool:
    """Candidates found so far, each priced once."""

    def __init__(self, request: ReplanRequest, batch: int) -> None:
        self.request = request
        self.batch = MOST_GROWTH * max(batch, request.old.batch)
        self.found: list[Candidate] = []
        self._seen: set[Assignment] = set()

    def value(self, solved: Solved) -> float:
        """Objective of a layout."""
        plan, prediction = self.request.plan, solved.prediction
        chips = (float(plan.topology.num_chips), float(prediction.chips_rented))
        return float(
            objective_value(
                plan.objective,
                prediction.step_s,
                prediction.tokens_per_s,
                chips,
                plan.price_usd_per_hour,
            )
        )

    def add(self, solved: Solved | None) -> Candidate | None:
        """Price a layout and its migration."""
        if solved is None or solved.assignment in self._seen:
            return None
        self._seen.add(solved.assignment)
        request, value = self.request, self.value(solved)
        step = transition(request, solved.assignment)
        migration = migrate(step)
        time = migration_time(step, migration)
        horizon = request.moves.amortise_s
        total = value
        if horizon is not None:
            left = horizon - time.seconds
            total = value * horizon / left if left > 0 else np.inf
        one = Candidate(
            solved=solved, value=value, migration=migration, time=time, total=float(total)
        )
        self.found.append(one)
        return one

    def stay(self) -> Candidate | None:
        """The old layout as it is, or with another batch; None where it cannot stay."""
        request = self.request
        if any(chip == GONE for stages in request.old.cells for cell in stages for chip in cell):
            return None
        solved = still_valid(request.plan, request.limits, request.old)
        if solved is None:
            old = request.old
            solved = self._solved(old.degrees, old.cells, old.slot_maps)
        return self.add(solved)

    def _solved(self, degrees: Degrees, cells: Cells, maps: Maps) -> Solved | None:
        try:
            most = -(-self.batch // degrees.replicas)
            return solve_given(self.request.plan, self.request.limits, (degrees, cells, maps), most)
        except DisconnectedError:
            return None

    def extend(self, degrees: Degrees, cells: Cells, maps: Maps) -> None:
        """Candidates of one strategy: chips in several orders, experts from few moves to many."""
        request = self.request
        known: set[Cells] = set()
        expected = Assignment(
            degrees=degrees,
            stage_ends=_ends(request.old, degrees, len(request.plan.setting.model.layers)),
            cells=cells,
            slot_maps=maps,
            sequences=tuple(
                ((1,) * degrees.attn_dp,) * degrees.microbatches for _ in range(degrees.replicas)
            ),
        )
        for own in arrangements(transition(request, expected)):
            if own in known:
                continue
            known.add(own)
            arranged = replace(expected, cells=own)
            for chosen in self._maps(arranged):
                self.add(self._solved(degrees, own, chosen))

    def _maps(self, arranged: Assignment) -> Iterator[Maps]:
        """Expert maps for cells, from fewest new copies to best balance."""
        if arranged.slot_maps == self.request.old.slot_maps or not arranged.slot_maps:
            yield arranged.slot_maps
        model = self.request.plan.setting.model
        layers = moe_layer_indices(model)
        if not layers:
            return
        ways = self._ways(arranged)
        if not all(ways):
            return
        seen = set()
        for price in COPY_PRICES:
            picked = tuple(_cheapest(own, price) for own in ways)
            if picked not in seen:
                seen.add(picked)
                yield _slot_maps(layers, [own[k] for own, k in zip(ways, picked, strict=True)])
        limit = self.request.moves.most_bytes
        if limit is not None and len(seen) > 1:
            yield _slot_maps(layers, self._fitted(arranged, ways, limit))

    def _ways(self, arranged: Assignment) -> list[tuple[Placement, ...]]:
        """Placements of every MoE layer."""
        request, d = self.request, arranged.degrees
        model = request.plan.setting.model
        rows = expert_rows(model, with_draft=False)
        held = experts_held(model, rows, request.old, request.plan.topology.num_chips)
        caps = np.array(split_evenly(d.num_slots, d.ep), dtype=np.int64)
        stage_of = [s for s, (a, b) in enumerate(arranged.stage_ranges) for _ in range(a, b)]
        place = None
        units = request.plan.units
        if units and not untouched_replica(arranged.cells, units):
            place = places(d, arranged.cells, units)
        found = []
        for row, layer in enumerate(rows.layers):
            chips = np.array([stages[stage_of[layer]] for stages in arranged.cells])
            groups = chips.reshape(d.replicas, d.ep, d.expert_tp)
            mean = held[groups, row].mean(axis=(0, 2))
            found.append(placements(request.plan.loads[row], caps, mean >= 0.5, place))
        return found

    def _fitted(
        self, arranged: Assignment, ways: list[tuple[Placement, ...]], limit: float
    ) -> list[Placement]:
        """The best balance that fits into the limit, by the price of a copy, then greedily."""
        d = arranged.degrees
        rows = expert_rows(self.request.plan.setting.model, with_draft=False)
        sizes = [float(size) * d.replicas for size in rows.copy_bytes]
        layers = rows.layers
        fewest = [own[0] for own in ways]
        base = replace(arranged, slot_maps=_slot_maps(layers, fewest))
        # What moves besides; caches and weights do not depend on experts.
        fixed = migrate(transition(self.request, self._sized(base))).moved_bytes
        fixed -= sum(one.new_copies * size for one, size in zip(fewest, sizes, strict=True))

        def moved(picked: Sequence[int]) -> float:
            return fixed + sum(
                own[k].new_copies * size for own, k, size in zip(ways, picked, sizes, strict=True)
            )

        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low * high) ** 0.5 if low > 0 else high / 32
            if moved([_cheapest(own, middle) for own in ways]) <= limit:
                high = middle
            else:
                low = middle
        picked = [_cheapest(own, high) for own in ways]
        for layer, own in enumerate(ways):
            for further in range(picked[layer] + 1, len(own)):
                tried = [*picked[:layer], further, *picked[layer + 1 :]]
                if moved(tried) > limit:
                    break
                picked = tried
        return [own[k] for own, k in zip(ways, picked, strict=True)]

    def _sized(self, arranged: Assignment) -> Assignment:
        """With the batch that it would have, for the caches that travel."""
        solved = self._solved(arranged.degrees, arranged.cells, arranged.slot_maps)
        return arranged if solved is None else solved.assignment


def _cheapest(own: tuple[Placement, ...], price: float) -> int:
    """Placement with the least load when a new copy costs ``price`` mean loads."""
    chips = len(own[0].slots)
    if price == np.inf:
        return 0
    costs = [one.max_load * chips + price * one.new_copies for one in own]
    return int(np.argmin(costs))


def _slot_maps(layers: Sequence[int], chosen: Sequence[Placement]) -> Maps:
    """Equal placements become one map."""
    grouped: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
    for layer, one in zip(layers, chosen, strict=True):
        grouped[one.groups].append(layer)
    return tuple(SlotMap(layers=tuple(own), slots=slots) for slots, own in grouped.items())


def _ends(old: Assignment, degrees: Degrees, num_layers: int) -> tuple[int, ...]:
    """Stage ends to expect: the old ones, or even ones."""
    if degrees.pp == old.degrees.pp:
        return old.stage_ends
    counts = split_evenly(num_layers, degrees.pp)
    return tuple(int(end) for end in np.cumsum(counts))
