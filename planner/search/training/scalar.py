"""The bound of one mesh with one policy, again: plain numbers, one strategy at a time.

The same relaxation as :mod:`~planner.search.training.bounds`, written from its proof without its
tables and arrays: layers are priced as stages of their own by the functions that price a layout
(:func:`planner.cost.runs.training_stage.stage_costs`), bubbles are lists of linear functions,
and what the fullest device holds is found by trying. What the slowest device takes at least
is given: it comes from the cuts (:mod:`~planner.search.training.rooms`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from planner.cost.overlap import exposed_seconds, hides
from planner.cost.price import chip_flop_per_s
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s, sustained_chip
from planner.cost.runs.mesh_links import MeshLinks
from planner.cost.runs.optimizer import layer_update_flop, traffic_per_param
from planner.cost.runs.training import STEP_KERNELS
from planner.cost.runs.training_layer import WIRE, Site
from planner.cost.runs.training_links import TrainingLinks
from planner.cost.runs.training_matmul import PassTimes
from planner.cost.runs.training_shards import (
    LocalParams,
    dense_ranks,
    expert_ranks,
    layer_local,
    table_local,
)
from planner.cost.runs.training_stage import stage_costs
from planner.cost.schedules.forms import Work, bubble_seconds
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.model import Layer, ModelSpec
from planner.domain.run import Optimizer, Overlap, Run, ScheduleKind
from planner.search.training.rooms import Slowest
from planner.topology.graph import Topology

Line = tuple[float, float, float]
Cost = Callable[[LocalParams], float]


def _convex_pieces(kind: ScheduleKind, p: float, m: float, v: float) -> list[Line]:
    """Linear functions of ``(F, B, W)`` whose largest is the convex bubble."""
    q, n = p - 1.0, p / 2.0 - 1.0
    if kind is ScheduleKind.ZB_H1:
        c = min(m, p) - 1.0
        return [(q, 0.0, 0.0), (q - c, q, 0.0), (q, q, -c)]
    if kind is ScheduleKind.DUALPIPE:
        fill, drain = ((2 * n, 0.0), (n - 1, n)), ((0.0, 0.0), (n, -n))
        return [(f, b + extra, w) for f, b in fill for extra, w in drain]
    if kind is ScheduleKind.ZB_V:
        k, late = min(m, p) - 1.0, max(0.0, p - m)
        turns = ((k, 0.0), (0.0, k))
        fills = ((0.0, -k / 2, 0.0), (-0.5, 0.0, -k), (0.0, 0.0, -k - 0.5))
        return [(late + f + a, late + b + c, w) for f, b in turns for a, c, w in fills]
    each = q if kind is not ScheduleKind.INTERLEAVED else (q + (v - 1) * max(0.0, p - m)) / v
    return [(each, each, each)]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScalarBound:
    """Bound of one run over all of its cuts."""

    model: ModelSpec
    topology: Topology
    run: Run

    @cached_property
    def site(self) -> Site:
        """The run with every distinct layer as a stage of its own, between the tables."""
        kinds = self.distinct
        mesh = replace(self.run.mesh, pp=len(kinds) + 2, virtual_stages=1)
        plain = replace(self.run, mesh=mesh, schedule=ScheduleKind.ONE_F_ONE_B)
        links = TrainingLinks(links=MeshLinks(topology=self.topology, mesh=self.run.mesh))
        return Site(
            model=self.model,
            chip=sustained_chip(self.topology.chip),
            links=links,
            run=plain,
            stages=((), *(((layer, 1),) for layer in kinds), ()),
        )

    @cached_property
    def distinct(self) -> list[Layer]:
        """Distinct layers of the model."""
        return list(dict.fromkeys((*self.model.layers, *self.model.mtp_layers)))

    @cached_property
    def priced(self) -> list[PassTimes]:
        """One microbatch of the embedding, of every distinct layer, of the head."""
        return [stage.times for stage in stage_costs(self.site)]

    @property
    def _layers(self) -> dict[Layer, PassTimes]:
        return dict(zip(self.distinct, self.priced[1:-1], strict=True))

    @cached_property
    def _mean(self) -> PassTimes:
        layers = self._layers
        whole = self.priced[0] + self.priced[-1]
        for layer in (*self.model.layers, *self.model.mtp_layers):
            whole += layers[layer]
        return whole.times(1.0 / self.run.mesh.pp)

    def with_slowest_s(self, slowest_s: float) -> float:
        """Optimistic seconds of microbatches, bubble and hops, given the slowest device."""
        x = max(slowest_s, self._mean.total)
        step, _ = self._pipeline_s(self.site, self._mean, x, (self.priced, self._layers))
        return step + self.hops_s(self.site)

    def seconds(self, slowest: Slowest) -> float:
        """Optimistic seconds of a step, given what the slowest device is."""
        site, p = self.site, self.run.mesh.pp
        stages, layers, mean = self.priced, self._layers, self._mean
        fixed = self.hops_s(site) + self._optimizer_s(site)
        few = -(-len(self.model.layers) // p)
        most = min(len(self.model.layers), few + 1)
        devices = slowest.devices or tuple(
            (max(slowest.seconds, self._cheapest_s(layers, count)), count, False)
            for count in (few, most)
        )
        found = []
        for seconds, count, plain in devices:
            parts = [*layers.values()] if plain else [*layers.values(), stages[0], stages[-1]]
            x = max(seconds, mean.total)
            step, behind = self._pipeline_s(site, mean, x, (stages, layers))
            shares = [part.forward / part.total for part in parts]
            hidden = max(shares) * behind, (1.0 - min(shares)) * behind
            found.append(step + self._gradients_s(site, hidden, max(1, count)) + fixed)
        return min(found)

    def _cheapest_s(self, layers: dict[Layer, PassTimes], count: int) -> float:
        if self.run.schedule is ScheduleKind.DUALPIPE:
            return 0.0
        return sum(sorted(layers[layer].total for layer in self.model.layers)[:count])

    def _pipeline_s(
        self,
        site: Site,
        mean: PassTimes,
        x: float,
        priced: tuple[list[PassTimes], dict[Layer, PassTimes]],
    ) -> tuple[float, float]:
        """Microbatches and bubble, and the time that messages hide behind."""
        kind, p, m = self.run.schedule, float(self.run.mesh.pp), float(self.run.num_microbatches)
        if kind is ScheduleKind.NONE:
            return m * x, x
        if kind is ScheduleKind.ZB_H2:
            return m * x + self._validated_idle_s(x, *priced), x
        v = float(self.run.mesh.virtual_stages)
        work = (mean.forward, mean.input_grad, mean.weight_grad)
        even = m * mean.total + max(0.0, float(bubble_seconds(kind, p, m, v, Work(*work))))
        pieces = _convex_pieces(kind, p, m, v)
        value, slope = max(
            (sum(a * b for a, b in zip(piece, work, strict=True)), piece) for piece in pieces
        )
        limits = [1.0, 1.0 + min(slope) / m]
        if kind is not ScheduleKind.DUALPIPE:
            limits.append(1.0 - max(slope) / (m * (p - 1.0)))
        elif p > 2:
            limits.append((p - 1.0 - max(slope) / m) / (p / 2.0 - 1.0))
        theta = min(limits)
        joint = m * (theta * x + (1.0 - theta) * mean.total) + value if theta >= 0 else 0.0
        step = max(m * x, even, joint)
        if theta * m < 1.0:
            return step, step / m
        return step, min(step / m, x + (step - joint) / (theta * m))

    def _validated_idle_s(
        self, x: float, stages: list[PassTimes], layers: dict[Layer, PassTimes]
    ) -> float:
        """ZB-H2 idles by what its slowest device does."""

        def idle(times: PassTimes) -> float:
            return times.forward + times.input_grad - 2.0 * times.weight_grad

        least = min(idle(times) / times.total for times in layers.values())
        options = [x * least]
        for table in (stages[0], stages[-1]):
            options.append(idle(table) + max(0.0, x - table.total) * least)
        return (self.run.mesh.pp - 1) * max(0.0, min(options))

    def hops_s(self, site: Site) -> float:
        """Messages between devices."""
        run, mesh = self.run, self.run.mesh
        if mesh.pp == 1:
            return 0.0
        interleaved = run.schedule is ScheduleKind.INTERLEAVED
        num_bytes = WIRE * site.tokens * self.model.hidden_size
        if run.sequence_parallel or interleaved:
            num_bytes /= mesh.attn_tp
        hop = site.links.links.hop_seconds(num_bytes)
        share = site.core_share if interleaved else 1.0
        each = 2.0 * hop * mesh.virtual_stages
        return 2.0 * (mesh.pp - 1) * hop + share * run.num_microbatches * each

    # The fullest device.

    def _local(self) -> tuple[list[tuple[LocalParams, int]], list[LocalParams], LocalParams]:
        """Layers of every kind with their number, tables of both ends, prediction layers."""
        mesh, model = self.run.mesh, self.model
        kinds = [
            (layer_local(model, layer, mesh), model.layers.count(layer)) for layer in self.distinct
        ]
        ends = [table_local(model, mesh, head=head) for head in (False, True)]
        ahead = LocalParams()
        for layer in model.mtp_layers:
            ahead += layer_local(model, layer, mesh)
        return kinds, ends, ahead

    def _fullest(self) -> float:
        kinds, ends, ahead = self._local()
        p, model = self.run.mesh.pp, self.model
        whole = sum(own.total * count for own, count in kinds)
        whole += ahead.total + ends[0].total + ends[1].total
        few = math.ceil(len(model.layers) / p)
        every = sorted(own.total for own, count in kinds for _ in range(count))
        alike = max(math.ceil(count / p) * own.total for own, count in kinds)
        return max(whole / p, sum(every[:few]), alike)

    def _held(self) -> Iterator[LocalParams]:
        """What the fullest device may hold beside layers of the model."""
        _, (first, last), ahead = self._local()
        yield LocalParams()
        yield first
        yield last + ahead
        if self.run.schedule is ScheduleKind.ZB_V:
            yield first + last + ahead

    def _least(self, cost: Cost) -> float:
        """Smallest cost of what the fullest device may hold."""
        kinds, (first, last), ahead = self._local()
        if self.run.mesh.pp == 1:
            tables = cost(first) + cost(last) + cost(ahead)
            return sum(cost(own) * count for own, count in kinds) + tables
        options = []
        ranked = sorted(
            (one for one in kinds if one[1]), key=lambda one: cost(one[0]) / one[0].total
        )
        for held in self._held():
            left, total = max(0.0, self._fullest() - held.total), cost(held)
            for own, count in ranked:
                taken = min(left, own.total * count)
                total += taken * cost(own) / own.total
                left -= taken
            options.append(total)
        return min(options)

    def _message_s(self, site: Site, op: Op, size: float) -> float:
        most = self._fullest()
        dense, expert = self._least(lambda own: own.dense), self._least(lambda own: own.expert)
        splits = ((dense, max(most - dense, expert)), (max(most - expert, dense), expert))
        return min(
            site.links.seconds("cp_dp", op, one * size)
            + site.links.seconds("expert_dp", op, other * size)
            for one, other in splits
        )

    def _gradients_s(self, site: Site, hidden: tuple[float, float], layers: int) -> float:
        zero = self.run.zero_stage
        if zero >= 3:
            return 0.0
        stored = BYTES_PER_ELEMENT[self.model.precision.attention]
        if zero == 2:
            small = self._least(lambda own: own.tables)
            reduce = site.links.seconds("cp_dp", Op.REDUCE_SCATTER, small * site.grad_bytes)
        else:
            op = Op.REDUCE_SCATTER if zero else Op.ALL_REDUCE
            reduce = self._message_s(site, op, site.grad_bytes)
        gather = self._message_s(site, Op.ALL_GATHER, stored) if zero else 0.0
        if not hides(self.run, Overlap.DP):
            return reduce + gather
        held = layers + len(self.model.mtp_layers)
        rest = 1.0 - 1.0 / held
        return (
            (reduce + gather) / held
            + exposed_seconds(reduce * rest, hidden[1], site.core_share)
            + exposed_seconds(gather * rest, hidden[0], site.core_share)
        )

    def _optimizer_s(self, site: Site) -> float:
        run, mesh, model = self.run, self.run.mesh, self.model
        sharded = run.zero_stage >= 1
        first = dense_ranks(mesh) if sharded else 1
        second = expert_ranks(mesh) if sharded else 1
        small, others = traffic_per_param(run.optimizer, run.optimizer_state, run.gradients)

        def moved(own: LocalParams) -> float:
            dense = own.tables * small + (own.dense - own.tables) * others
            return dense / first + own.expert * others / second

        seconds = self._least(moved) / achieved_hbm_bytes_per_s(site.chip)
        if run.optimizer is Optimizer.MUON:
            flop = sum(
                layer_update_flop(model, layer, mesh)
                for layer in (*model.layers, *model.mtp_layers)
            )
            seconds += flop / mesh.pp / first / chip_flop_per_s(site.chip, "bf16")
        return STEP_KERNELS * site.chip.efficiency.kernel_s + seconds
