"""Branch and bound over meshes, policies and cuts; see the package."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.cost.runs.record import RunPrediction
from planner.cost.runs.training import predict_training
from planner.cost.runs.training_pipeline import chunks_of
from planner.cost.schedules.kinds import chunk_devices
from planner.domain.run import Overlap, Recompute, Run, ScheduleKind
from planner.search.control import SearchControl, UnfinishedError
from planner.search.objective import objective_value, rented_bound
from planner.search.training.bounds import StepBound
from planner.search.training.cases import Cases
from planner.search.training.cuts import candidate_cuts, cuts_of_filling
from planner.search.training.filling_bound import FillingBound
from planner.search.training.policies import KINDS, Policies, admits, hides_experts, menu
from planner.search.training.relaxed import MeshTable, mesh_table
from planner.search.training.request import TrainRequest
from planner.search.training.rooms import Counts, Pipeline, slowest_device
from planner.search.training.space import enumerate_meshes
from planner.search.training.tables import base_run

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Meshes that are expanded together.
BATCH = 64
# What the bound of a leaf has looked at.
LOOSE, SLOWEST, FILLED = range(3)
# Fillings of a policy that are made into cuts.
TRIED = 6
# Policies of each schedule that are remembered for comparison.
SHOWN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class SolvedRun:
    """A complete training layout and its price."""

    run: Run
    counts: Counts
    prediction: RunPrediction
    value: float


class Leaf(NamedTuple):
    """One policy of one mesh, in the order of its bound.

    ``level`` says how much of its cuts the bound has looked at: nothing, the slowest device,
    every filling of the devices.
    """

    bound: float
    row: int
    place: int
    level: int


def pipeline_of(bound: StepBound, case: Cases, num_chunks: int) -> Pipeline:
    """What a cut of one case into chunks is judged by; see :class:`Pipeline`."""
    model, tables = bound.request.model, bound.tables
    row = case.rows[0]
    p = int(bound.meshes.pp[row])
    kind = KINDS[int(case.policies.kind[0])]
    passes = bound.layer_passes(case, hides_experts(bound.request, case.policies.kind))
    kinds = {layer: place for place, (layer, _, _) in enumerate(tables.kinds)}
    which = np.array([kinds[layer] for layer in model.layers])
    ahead = [kinds[layer] for layer in model.mtp_layers]
    entry, shard = tables.block.inverse[row], tables.dense_shard.inverse[row]
    total = passes.total[0]
    last_s = (1 + bound.num_mtp) * float(tables.blocks.head[entry].sum()) + float(
        total[ahead].sum()
    )
    held = bound.held(case, np.arange(p))
    layer_bytes = bound.layer_state_bytes(case) + np.outer(held, bound.activation_bytes(case)[0])
    devices = np.array(chunk_devices(kind, p, num_chunks // p))
    fixed = np.full(p, bound.reserve_bytes + float(bound.input_bytes(case)[0]))
    ends = (tables.tied[shard], 0.0) if p == 1 else (tables.first[shard], tables.last[shard])
    for device, held_there in zip((devices[0], devices[-1]), ends, strict=True):
        params = (np.array([held_there]), np.zeros(1), np.array([held_there]))
        fixed[device] += float(bound.state_bytes(case, params)[0])
    fixed[devices[-1]] += tables.blocks.logits[entry] + layer_bytes[devices[-1], ahead].sum()
    return Pipeline(
        layer_s=total[which],
        layer_bytes=layer_bytes[:, which],
        ends_s=(float(tables.blocks.embedding[entry].sum()), last_s),
        fixed_bytes=fixed,
        work_bytes=float(bound.work_bytes(case)[0]),
        budget_bytes=bound.chip.hbm_usable_bytes,
        devices=devices,
        mirrored=kind is ScheduleKind.DUALPIPE,
    )


class TrainSearch:
    """State of one search: bounds, incumbent, counts."""

    def __init__(self, request: TrainRequest) -> None:
        self.request = request
        self.meshes = enumerate_meshes(request)
        self.menu = menu(request)
        self.best: SolvedRun | None = None
        self.done: set[tuple[int, int]] = set()
        self.memory_infeasible = 0
        self.unplaceable = 0
        self.queue: list[Leaf] = []
        self.table: MeshTable | None = None
        self.values = np.empty(0)
        self.order = np.empty(0, dtype=np.int64)
        self.position = 0
        self.bound: StepBound | None = None
        self.closed: list[Leaf] = []
        self.by_kind: dict[int, list[Leaf]] = {}
        self.cuts: dict[tuple[int, int], tuple[Counts, ...]] = {}

    @property
    def solved(self) -> int:
        """Strategies that were solved."""
        return len(self.done)

    # Objective.

    def value(self, rows: IntArray, step_s: FloatArray) -> FloatArray:
        """Objective of steps, smaller is better."""
        request = self.request
        used = self.meshes.tp[rows] * self.meshes.cp[rows] * self.meshes.dp[rows]
        rented = rented_bound(request.topology, used * self.meshes.pp[rows])
        rented = rented * request.rented_share
        tokens = request.global_batch * request.seq_len
        chips = (float(request.topology.num_chips), rented)
        price = request.price_usd_per_hour
        with np.errstate(divide="ignore"):
            # A step that does not fit takes forever.
            value = objective_value(request.objective, step_s, tokens / step_s, chips, price)
        return np.asarray(value)

    # Levels.

    def expand(self, rows: IntArray, limit: float) -> None:
        """Bound every policy of some meshes and queue those that may fit and beat a limit."""
        assert self.bound is not None
        cases = self.cases(rows)
        if not len(cases):
            return
        memory = self.bound.memory_bytes(cases)
        fits = np.flatnonzero(memory <= self.bound.chip.hbm_usable_bytes)
        self.memory_infeasible += len(cases) - len(fits)
        picked = Cases(rows=cases.rows[fits], policies=cases.policies.select(fits))
        if not len(picked):
            return
        values = self.value(picked.rows, self.bound.step_s(picked))
        codes = self.menu_places(picked.policies)
        for kind in np.unique(picked.policies.kind).tolist():
            own = np.flatnonzero(picked.policies.kind == kind)
            first = own[np.argsort(values[own], kind="stable")[:SHOWN]]
            leaves = [
                Leaf(float(values[i]), int(picked.rows[i]), int(codes[i]), LOOSE) for i in first
            ]
            self.by_kind[kind] = sorted([*self.by_kind.get(kind, []), *leaves])[:SHOWN]
        able = np.flatnonzero(values < limit)
        room = self.bound.has_room(
            Cases(rows=picked.rows[able], policies=picked.policies.select(able))
        )
        self.memory_infeasible += int((~room).sum())
        for index in able[room]:
            leaf = Leaf(float(values[index]), int(picked.rows[index]), int(codes[index]), LOOSE)
            heapq.heappush(self.queue, leaf)

    def cases(self, rows: IntArray) -> Cases:
        """All policies that some meshes admit."""
        assert self.bound is not None
        size = len(self.menu)
        every = self.menu.select(np.tile(np.arange(size), len(rows)))
        repeated = np.repeat(rows, size)
        good = admits(
            every,
            self.meshes.pp[repeated],
            self.bound.microbatches[repeated],
            self.bound.ranks(repeated)[0].astype(np.int64),
            self.bound.num_layers,
        )
        return Cases(rows=repeated[good], policies=every.select(np.flatnonzero(good)))

    def menu_places(self, policies: Policies) -> IntArray:
        """Position of each policy in the menu."""
        order = self.menu.code()
        found = np.searchsorted(order, policies.code())
        return found.astype(np.int64)

    def run_of(self, row: int, place: int) -> Run:
        """A mesh with a policy."""
        policy = {f.name: int(getattr(self.menu, f.name)[place]) for f in fields(Policies)}
        kind = KINDS[policy["kind"]]
        overlap = self.request.overlap
        if not hides_experts(self.request, np.array([policy["kind"]]))[0]:
            overlap = overlap - {Overlap.EP}
        mesh = self.meshes.mesh(row, policy["virtual_stages"])
        size = int(self.meshes.microbatch[row])
        split = bool(self.meshes.sequence_parallel[row])
        return replace(
            base_run(self.request, mesh, size, split),
            schedule=kind,
            recompute=list(Recompute)[policy["recompute"]],
            zero_stage=policy["zero"],
            overlap=overlap,
        )

    def tightened(self, row: int, place: int) -> float:
        """Objective that no cut of a policy beats; infinite where none fits."""
        assert self.bound is not None
        case = self.case(row, place)
        slowest = slowest_device(self.pipeline(row, place))
        if slowest.seconds == np.inf:
            return slowest.seconds
        step = self.bound.tight_step_s(case, slowest.seconds, slowest.devices)
        return float(self.value(case.rows, np.array([step]))[0])

    def case(self, row: int, place: int) -> Cases:
        """One mesh with one policy."""
        return Cases(rows=np.array([row]), policies=self.menu.select(np.array([place])))

    def solve(self, row: int, place: int) -> SolvedRun | None:
        """Cut the model into chunks and price the result; None where it does not fit."""
        run, model = self.run_of(row, place), self.request.model
        cuts = candidate_cuts(model, self.pipeline(row, place))
        cuts = tuple(dict.fromkeys((*self.cuts.pop((row, place), ()), *cuts)))
        priced = [
            (counts, predict_training(model, self.request.topology, run, counts)) for counts in cuts
        ]
        fitting = [one for one in priced if one[1].memory.fits]
        if not fitting:
            return None
        counts, found = min(fitting, key=lambda one: one[1].seconds)
        value = float(self.value(np.array([row]), np.array([found.seconds]))[0])
        return SolvedRun(run=run, counts=counts, prediction=found, value=value)

    def pipeline(self, row: int, place: int) -> Pipeline:
        """What the cut of one policy is judged by."""
        assert self.bound is not None
        return pipeline_of(self.bound, self.case(row, place), chunks_of(self.run_of(row, place)))

    # The loop.

    def prepare(self) -> None:
        """Bound every mesh; none is expanded yet."""
        self.bound = StepBound(self.request, self.meshes)
        self.table = mesh_table(self.bound)
        self.values = self.value(np.arange(len(self.meshes)), self.table.step_s)
        fitting = int(np.isfinite(self.values).sum())
        self.order = np.argsort(self.values, kind="stable")[:fitting]

    @property
    def next_mesh(self) -> float:
        """Smallest bound of a mesh that is not expanded yet."""
        if self.position >= len(self.order):
            return float("inf")
        return float(self.values[self.order[self.position]])

    @property
    def next_bound(self) -> float:
        """Smallest bound of what is left."""
        return min(self.next_mesh, self.queue[0].bound if self.queue else float("inf"))

    def advance(self, control: SearchControl) -> None:
        """Expand, tighten or solve what has the smallest bound.

        Raises
        ------
        UnfinishedError
            It was left unfinished, and is in the queue again.
        """
        if self.next_mesh <= self.next_bound:
            limit = control.incumbent * (1.0 - self.request.gap)
            self.expand(self.order[self.position : self.position + BATCH], limit)
            self.position += BATCH
            return
        leaf = heapq.heappop(self.queue)
        if leaf.level == LOOSE:
            self.tighten(leaf)
            return
        if leaf.level == SLOWEST and control.incumbent < float("inf"):
            self.fill(leaf, control.incumbent)
            return
        try:
            solved = control.attempt(lambda: self.solve(leaf.row, leaf.place))
        except UnfinishedError:
            heapq.heappush(self.queue, leaf)
            raise
        if solved is not None and (self.best is None or solved.value < self.best.value):
            self.best = solved
            control.offer(solved.value)
        if leaf.level == SLOWEST:
            # No layout yet, so no limit for the fillings but that of the first one.
            self.done |= {(leaf.row, leaf.place)} if solved is not None else set()
            self.fill(leaf, control.incumbent)
            return
        self.done.add((leaf.row, leaf.place))
        self.closed.append(leaf)
        self.unplaceable += solved is None

    @property
    def solved_bound(self) -> float:
        """Smallest bound of a strategy that was solved."""
        return min((leaf.bound for leaf in self.closed), default=float("inf"))

    def settle(self, control: SearchControl) -> None:
        """Look at the fillings of solved strategies again, now that the limit is lower."""
        for place, leaf in enumerate(self.closed):
            pipeline = self.pipeline(leaf.row, leaf.place)
            settled = leaf.bound >= control.incumbent * (1.0 - self.request.gap)
            if settled or pipeline.num_devices == 1 or control.stopped():
                continue
            found = self.filled(leaf.row, leaf.place, pipeline, control.incumbent)
            solved = self.solve(leaf.row, leaf.place) if found < control.incumbent else None
            if solved is not None and (self.best is None or solved.value < self.best.value):
                self.best = solved
                control.offer(solved.value)
            self.closed[place] = leaf._replace(bound=max(leaf.bound, found))

    def tighten(self, leaf: Leaf) -> None:
        """Queue a policy again with the bound of its cuts, unless none fits."""
        bound = self.tightened(leaf.row, leaf.place)
        if bound == float("inf"):
            self.memory_infeasible += 1
            return
        again = Leaf(max(leaf.bound, bound), leaf.row, leaf.place, SLOWEST)
        heapq.heappush(self.queue, again)

    def fill(self, leaf: Leaf, limit: float) -> None:
        """Queue a policy again with the bound of its fillings, unless there is none.

        The best fillings become cuts. A pipeline of one device has one cut, whose price it is.
        """
        bound, pipeline = leaf.bound, self.pipeline(leaf.row, leaf.place)
        if pipeline.num_devices == 1:
            alone = self.solve(leaf.row, leaf.place)
            bound = float("inf") if alone is None else max(bound, alone.value)
        else:
            bound = max(bound, self.filled(leaf.row, leaf.place, pipeline, limit))
        if bound == float("inf"):
            self.memory_infeasible += 1
            return
        heapq.heappush(self.queue, Leaf(bound, leaf.row, leaf.place, FILLED))

    def filled(self, row: int, place: int, pipeline: Pipeline, limit: float) -> float:
        """Objective of the cheapest filling, or the limit; 0 where nobody knows."""
        assert self.bound is not None
        case = self.case(row, place)
        scale = float(self.value(case.rows, np.ones(1))[0])
        found = FillingBound(self.bound, case, pipeline).bounded(limit / scale)
        if found is None:
            return 0.0
        tried = [
            cut
            for index in range(min(TRIED, len(found.fillings)))
            for cut in cuts_of_filling(pipeline, found.devices, found.fillings.filling(index))
        ]
        self.cuts[row, place] = tuple(dict.fromkeys(tried))
        return found.bound_s * scale


def search_all(searches: list[TrainSearch], control: SearchControl) -> float:
    """Run until nothing is left that could improve; return the smallest bound left."""
    for search in searches:
        search.prepare()
    control.begin(sum(len(search.order) for search in searches))
    while True:
        search = min(searches, key=lambda own: own.next_bound)
        following = search.next_bound
        if control.enough(following) or control.stopped():
            for own in searches:
                own.settle(control)
            return following
        solved = search.solved
        try:
            search.advance(control)
        except UnfinishedError:
            return following
        if search.solved > solved:
            control.report(min(own.next_bound for own in searches))
