"""The cheapest filling of a pipeline again: plain loops, one device after another.

The same question as :mod:`~planner.search.training.fillings`, written from its statement: devices
that may hold anything but common layers take every content in turn, all others ever fewer
layers, those with most room first. Fillings are priced by the functions that price a layout, one
at a time: schedules by :func:`planner.cost.schedules.schedule_time`, memory by
:func:`planner.cost.runs.train_memory.training_memory`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from planner.cost.overlap import exposed_seconds, hides
from planner.cost.price import chip_flop_per_s
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s
from planner.cost.runs.optimizer import layer_update_flop, traffic_bytes
from planner.cost.runs.train_memory import training_memory
from planner.cost.runs.training import STEP_KERNELS
from planner.cost.runs.training_matmul import PassTimes
from planner.cost.runs.training_pipeline import bubble_seconds, chunks_of
from planner.cost.runs.training_shards import LocalParams, dense_ranks, layer_local, table_local
from planner.cost.schedules.kinds import chunk_devices
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.model import Layer
from planner.domain.run import Optimizer, Overlap, ScheduleKind
from planner.search.training.scalar import ScalarBound

Content = tuple[int, ...]
MOST_PRICED = 6_000
MOST_SPECIAL = 6


class TooManyError(Exception):
    """There are more fillings than are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Device:
    """A device with a content: seconds of a microbatch, parameters, layers, update."""

    times: PassTimes
    params: LocalParams
    layers: int
    flop: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ScalarFillings:
    """Fillings of one run; not of DualPipe, whose devices hold two stages."""

    scalar: ScalarBound

    @cached_property
    def _kinds(self) -> list[tuple[list[Layer], int]]:
        """Layers that cost and hold the same, with their number; the most common first."""
        model, mesh = self.scalar.model, self.scalar.run.mesh
        found: dict[object, list[Layer]] = {}
        for layer in dict.fromkeys(model.layers):
            own = self._layer_times[layer]
            key = (
                (own.forward, own.input_grad, own.weight_grad),
                layer_local(model, layer, mesh),
                layer_update_flop(model, layer, mesh),
            )
            found.setdefault(key, []).append(layer)
        counted = [(same, sum(map(model.layers.count, same))) for same in found.values()]
        return sorted(counted, key=lambda one: -one[1])

    @cached_property
    def _layer_times(self) -> dict[Layer, PassTimes]:
        return dict(zip(self.scalar.distinct, self.scalar.priced[1:-1], strict=True))

    @cached_property
    def _owners(self) -> list[int]:
        run = self.scalar.run
        return list(chunk_devices(run.schedule, run.mesh.pp, chunks_of(run) // run.mesh.pp))

    def _device(self, device: int, content: Content) -> _Device:
        model, mesh = self.scalar.model, self.scalar.run.mesh
        times, params, flop = PassTimes(), LocalParams(), 0.0
        layers: list[tuple[Layer, int]] = [
            (same[0], count) for (same, _), count in zip(self._kinds, content, strict=True) if count
        ]
        last = device == self._owners[-1]
        layers += Counter(model.mtp_layers).items() if last else ()
        for layer, count in layers:
            times += self._layer_times[layer].times(count)
            params += layer_local(model, layer, mesh).times(count)
            flop += layer_update_flop(model, layer, mesh) * count
        if device == self._owners[0]:
            times += self.scalar.priced[0]
            params += table_local(model, mesh, head=False)
        if last:
            times += self.scalar.priced[-1]
            params += table_local(model, mesh, head=True)
        number = sum(count for _, count in layers)
        return _Device(times=times, params=params, layers=max(1, number), flop=flop)

    def _fits(self, device: int, content: Content) -> bool:
        """Memory of one device, all others empty."""
        run, model = self.scalar.run, self.scalar.model
        layers = Counter({same[0]: n for (same, _), n in zip(self._kinds, content, strict=True)})
        if device == self._owners[-1]:
            layers.update(model.mtp_layers)
        own = tuple((layer, count) for layer, count in layers.items() if count)
        stages = tuple(own if d == device else () for d in range(run.mesh.pp))
        params = tuple(
            self._device(d, content).params if d == device else LocalParams()
            for d in range(run.mesh.pp)
        )
        site = replace(self.scalar.site, run=run, stages=stages)
        return training_memory(site, params).fits

    # Contents.

    def _limits(self, device: int) -> tuple[int, int]:
        """Fewest and most layers of a device."""
        num_layers, chunks = len(self.scalar.model.layers), len(self._owners)
        inner = [d for d in self._owners[1:-1] if d == device]
        low = len(inner) * max(1, num_layers // chunks - 1)
        return low, min(num_layers, -(-num_layers // self.scalar.run.mesh.pp) + 1)

    def _quick(self, own: _Device, limit_s: float) -> bool:
        return self.scalar.with_slowest_s(own.times.total) <= limit_s

    def _contents(self, device: int, mixed: bool, limit_s: float) -> list[Content]:
        low, high = self._limits(device)
        others = [range(min(count, high) + 1 if mixed else 1) for _, count in self._kinds[1:]]
        found = []
        for rest in itertools.product(*others):
            for total in range(max(low, sum(rest)), high + 1):
                content = (total - sum(rest), *rest)
                if self._quick(self._device(device, content), limit_s) and self._fits(
                    device, content
                ):
                    found.append(content)
            if len(found) > MOST_PRICED:
                raise TooManyError
        return found

    def seconds(self, limit_s: float) -> float:
        """The cheapest filling, or the limit where none is cheaper.

        Raises
        ------
        TooManyError
            There are too many fillings.
        """
        model, p = self.scalar.model, self.scalar.run.mesh.pp
        main = self._kinds[0][0]
        num_others = sum(count for _, count in self._kinds[1:])
        ahead = not any(layer in main for layer in model.layers[:num_others])
        reach = self._owners[: num_others + 1] if ahead else self._owners
        places = set(reach) if num_others else set()
        special = sorted({*places, self._owners[0], self._owners[-1]})
        if len(special) > MOST_SPECIAL:
            raise TooManyError
        contents = {d: self._contents(d, d in places, limit_s) for d in special}
        alike = [d for d in range(p) if d not in special]
        rooms = {d: self._contents(d, mixed=False, limit_s=limit_s) for d in alike}
        best = limit_s
        totals = tuple(count for _, count in self._kinds)
        for number, filling in enumerate(self._fillings(contents, rooms, totals)):
            if number == MOST_PRICED:
                raise TooManyError
            best = min(best, self._step_s(filling))
        return best

    def _fillings(
        self,
        contents: dict[int, list[Content]],
        rooms: dict[int, list[Content]],
        totals: Content,
    ) -> Iterator[dict[int, Content]]:
        if any(not own for own in (*contents.values(), *rooms.values())):
            return
        alike = sorted(rooms, key=lambda d: (-rooms[d][-1][0], d))
        low = sum(rooms[d][0][0] for d in alike)
        high = sum(rooms[d][-1][0] for d in alike)
        for chosen in self._chosen(list(contents.items()), totals, (low, high)):
            left = totals[0] - sum(content[0] for content in chosen.values())
            for numbers in self._falling([rooms[d] for d in alike], left, left):
                shared = {
                    d: (n, *([0] * (len(totals) - 1))) for d, n in zip(alike, numbers, strict=True)
                }
                yield chosen | shared

    def _chosen(
        self, contents: list[tuple[int, list[Content]]], left: Content, rest: tuple[int, int]
    ) -> Iterator[dict[int, Content]]:
        """Contents of the special devices that leave the others between ``rest`` layers."""
        if not contents:
            if rest[0] <= left[0] <= rest[1] and not any(left[1:]):
                yield {}
            return
        (device, own), *others = contents
        for content in own:
            after = tuple(a - b for a, b in zip(left, content, strict=True))
            most = sum(max(one[0] for one in menu) for _, menu in others) + rest[1]
            least = sum(min(one[0] for one in menu) for _, menu in others) + rest[0]
            if min(after) < 0 or not least <= after[0] <= most:
                continue
            for tail in self._chosen(others, after, rest):
                yield {device: content} | tail

    def _falling(self, rooms: list[list[Content]], left: int, most: int) -> Iterator[list[int]]:
        """Numbers of layers of alike devices, none more than the one before."""
        if not rooms:
            if left == 0:
                yield []
            return
        own, later = rooms[0], rooms[1:]
        for number, *_ in reversed(own):
            if number > most or number > left:
                continue
            if number + sum(min(number, menu[-1][0]) for menu in later) < left:
                return
            for tail in self._falling(later, left - number, number):
                yield [number, *tail]

    # Prices.

    def _step_s(self, filling: dict[int, Content]) -> float:
        run, scalar = self.scalar.run, self.scalar
        devices = [self._device(d, filling[d]) for d in range(run.mesh.pp)]
        times = tuple(own.times for own in devices)
        slowest = max(devices, key=lambda own: own.times.total)
        fullest = max(devices, key=lambda own: own.params.total)
        step = run.num_microbatches * slowest.times.total
        if run.schedule is ScheduleKind.ONE_F_ONE_B:
            # The order of the devices matters; the path through all of them does not.
            step += sum(own.total for own in times) - slowest.times.total
        else:
            step += bubble_seconds(run, times)
        rest = self._gradients_s(fullest.params, slowest) + self._update_s(devices, fullest)
        return step + rest + scalar.hops_s(scalar.site)

    def _gradients_s(self, params: LocalParams, slowest: _Device) -> float:
        run, site = self.scalar.run, self.scalar.site
        zero, links = run.zero_stage, site.links
        if zero == 3:
            return 0.0

        def over_ranks(op: Op, dense: float, expert: float) -> float:
            return links.seconds("cp_dp", op, dense) + links.seconds("expert_dp", op, expert)

        size = BYTES_PER_ELEMENT[run.gradients]
        kept = params if zero < 2 else LocalParams(dense=params.tables)
        op = Op.REDUCE_SCATTER if zero else Op.ALL_REDUCE
        reduce, gather = over_ranks(op, kept.dense * size, kept.expert * size), 0.0
        if zero:
            size = BYTES_PER_ELEMENT[self.scalar.model.precision.attention]
            gather = over_ranks(Op.ALL_GATHER, params.dense * size, params.expert * size)
        if not hides(run, Overlap.DP):
            return reduce + gather
        late = 1.0 / slowest.layers
        times = slowest.times
        backward = (times.input_grad + times.weight_grad) * (1.0 - late)
        return (
            (reduce + gather) * late
            + exposed_seconds(reduce * (1.0 - late), backward, site.core_share)
            + exposed_seconds(gather * (1.0 - late), times.forward * (1.0 - late), site.core_share)
        )

    def _update_s(self, devices: list[_Device], fullest: _Device) -> float:
        run, chip = self.scalar.run, self.scalar.site.chip
        sharded = run.zero_stage >= 1
        found = STEP_KERNELS * chip.efficiency.kernel_s
        found += traffic_bytes(run, fullest.params, sharded) / achieved_hbm_bytes_per_s(chip)
        if run.optimizer is Optimizer.MUON:
            shares = dense_ranks(run.mesh) if sharded else 1
            flop = max(own.flop for own in devices)
            found += flop / shares / chip_flop_per_s(chip, "bf16")
        return found


def filled_s(scalar: ScalarBound, limit_s: float) -> float | None:
    """The cheapest filling of a run, or the limit if that is less; None where nobody knows."""
    if scalar.run.schedule in (ScheduleKind.NONE, ScheduleKind.DUALPIPE):
        return None
    if math.isinf(limit_s):
        return None
    try:
        return ScalarFillings(scalar=scalar).seconds(limit_s)
    except TooManyError:
        return None
