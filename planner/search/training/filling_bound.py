"""The bound of one mesh with one policy over all of its cuts: the cheapest filling.

See :mod:`~planner.search.training.fillings`. Contents of a device that would make the step longer
than a limit, by the bound of :mod:`~planner.search.training.joint`, are left out: so the bound is
the cheapest filling, or the limit where none is cheaper. Gradients and the update are those of
the fullest device, exactly; of DualPipe, whose fillings do not tell its two stages apart, those
of :mod:`~planner.search.training.weights`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from planner.cost.overlap import exposed_seconds
from planner.cost.price import chip_flop_per_s
from planner.cost.runs.gemm import achieved_hbm_bytes_per_s
from planner.cost.runs.optimizer import layer_update_flop, traffic_per_param
from planner.cost.runs.training import STEP_KERNELS
from planner.domain.curves import Op
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.run import Optimizer, ScheduleKind
from planner.search.training.bounds import StepBound
from planner.search.training.cases import Cases, FloatArray, IntArray, most_layers
from planner.search.training.filling_price import Shape, pipeline_s
from planner.search.training.fillings import (
    MOST_SPECIAL,
    MOST_TRIED,
    Devices,
    Fillings,
    enumerate_fillings,
)
from planner.search.training.policies import KINDS, hides_experts
from planner.search.training.rooms import Pipeline, limits_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Filled:
    """The bound of a case in seconds, and the fillings below the limit, cheapest first.

    Parameters
    ----------
    seconds : array, shape ``[fillings]``
    """

    bound_s: float
    seconds: FloatArray
    devices: Devices
    fillings: Fillings


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kinds:
    """Kinds of layers, the most common one first: arrays over them.

    Parameters
    ----------
    times : array, shape ``[kinds, 3]``
    params : array, shape ``[kinds, 3]``
        Dense, expert, and small ones among the dense.
    update_flop : array, shape ``[kinds]``
    num_bytes : array, shape ``[devices, kinds]``
    """

    counts: IntArray
    times: FloatArray
    params: FloatArray
    update_flop: FloatArray
    num_bytes: FloatArray
    ahead: bool


class FillingBound:
    """Fillings of one case, and their prices."""

    def __init__(self, bound: StepBound, case: Cases, pipeline: Pipeline) -> None:
        self.bound, self.case, self.pipeline = bound, case, pipeline
        self.row = int(case.rows[0])
        self.kind = KINDS[int(case.policies.kind[0])]
        self.dual = self.kind is ScheduleKind.DUALPIPE
        self.p = pipeline.num_devices
        self.v = len(pipeline.devices) // self.p
        self.m = int(bound.microbatches[self.row])
        passes = bound.layer_passes(case, hides_experts(bound.request, case.policies.kind))
        self.whole = bound.whole_model(case, passes)
        self.layer_times = np.stack(
            [passes.forward[0], passes.input_grad[0], passes.weight_grad[0]], axis=1
        )
        self.layer_params = np.stack([own[0] for own in bound.layer_params(case.rows)], axis=1)
        mesh = bound.meshes.mesh(self.row)
        self.update_flop = np.array(
            [
                [layer_update_flop(bound.request.model, layer, mesh)]
                for layer, _, _ in bound.tables.kinds
            ]
        )
        self.kinds = self._kinds()
        self.ends_s, self.ends_params = self._ends()

    def _kinds(self) -> _Kinds:
        """Kinds that differ in something; others are one."""
        model = self.bound.request.model
        known = {layer: place for place, (layer, _, _) in enumerate(self.bound.tables.kinds)}
        figures = np.concatenate([self.layer_times, self.layer_params, self.update_flop], axis=1)
        _, alike = np.unique(figures, axis=0, return_inverse=True)
        which = alike.reshape(-1)[[known[layer] for layer in model.layers]]
        values, first, counts = np.unique(which, return_index=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        others = int(counts[order[1:]].sum())
        places = np.array([known[model.layers[place]] for place in first[order]])
        return _Kinds(
            counts=counts[order],
            times=self.layer_times[places],
            params=self.layer_params[places],
            update_flop=self.update_flop[places, 0],
            num_bytes=self.pipeline.layer_bytes[:, first[order]],
            ahead=bool((which[:others] != values[order[0]]).all()),
        )

    def _ends(self) -> tuple[FloatArray, FloatArray]:
        """Seconds and parameters that come with every device, ``[devices, 3]`` each."""
        bound, tables, row = self.bound, self.bound.tables, self.row
        entry, shard = tables.block.inverse[row], tables.dense_shard.inverse[row]
        first, last = int(self.pipeline.devices[0]), int(self.pipeline.devices[-1])
        times, params = np.zeros((self.p, 3)), np.zeros((self.p, 3))
        times[first] += tables.blocks.embedding[entry]
        times[last] += (1 + bound.num_mtp) * tables.blocks.head[entry]
        times[last] += bound.ends @ self.layer_times
        ends = (tables.first[shard], tables.last[shard])
        for device, own in zip((first, last), ends, strict=True):
            params[device, [0, 2]] += own
        params[last] += bound.ends @ self.layer_params
        return times, params

    # Devices.

    def devices(self, limit_s: float) -> Devices | None:
        """Contents of the devices that may make a step below the limit; None if too many."""
        kinds, pipeline, p = self.kinds, self.pipeline, self.p
        others = int(kinds.counts[1:].sum())
        chunks = pipeline.devices[: others + 1] if kinds.ahead else pipeline.devices
        places = {int(device) for device in chunks} if others else set()
        special = sorted(places | {int(pipeline.devices[0]), int(pipeline.devices[-1])})
        num_layers = len(pipeline.layer_s)
        low, _ = limits_of(num_layers, len(pipeline.devices))
        least = np.bincount(pipeline.devices, weights=low, minlength=p).astype(int)
        most = num_layers if p == 1 else int(most_layers(num_layers, np.array(p)))
        if self.dual:
            special = sorted({min(device, p - 1 - device) for device in special})
        if len(special) > MOST_SPECIAL:
            return None
        contents: list[IntArray] = []
        seconds: list[FloatArray] = []
        for device in special:
            own = self._contents(self._both(device), device in places or self.dual, least, most)
            if own is None:
                return None
            times = self._times(own, device)
            quick = self._quick(times, limit_s)
            contents.append(own[quick])
            seconds.append(times[quick].sum(axis=1) * len(self._both(device)))
        common = [d for d in range(p // 2 if self.dual else p) if d not in special]
        values, able = self._common(common, least, most)
        common_s = np.empty(0)
        if len(values):
            alone = np.zeros((len(values), len(kinds.counts)), dtype=np.int64)
            alone[:, 0] = values
            times = self._times(alone, common[0])
            quick = self._quick(times, limit_s)
            values, able = values[quick], able[quick]
            common_s = times[quick].sum(axis=1) * len(self._both(common[0]))
        return Devices(
            ahead=kinds.ahead,
            totals=tuple(kinds.counts.tolist()),
            special=tuple(special),
            contents=tuple(contents),
            num_common=len(common),
            common=values,
            able=able,
            seconds=tuple(seconds),
            common_s=common_s,
            total_s=float(self.whole.sum()),
        )

    def _both(self, device: int) -> list[int]:
        return [device, self.p - 1 - device] if self.dual else [device]

    def _contents(
        self, both: list[int], mixed: bool, least: IntArray, most: int
    ) -> IntArray | None:
        """Contents that fit on a device, or on the two stages of a pair together."""
        kinds, pipeline = self.kinds, self.pipeline
        low, high = int(least[both].sum()), most * len(both)
        ranges = [range(min(int(n), high) + 1 if mixed else 1) for n in kinds.counts[1:]]
        if np.prod([len(one) for one in ranges]) * (high - low + 1) > MOST_TRIED:
            return None
        found = [
            (total - sum(others), *others)
            for others in itertools.product(*ranges)
            for total in range(max(low, sum(others)), high + 1)
            if total - sum(others) <= kinds.counts[0]
        ]
        table = np.array(found, dtype=np.int64).reshape(-1, len(kinds.counts))
        held = table @ kinds.num_bytes[both].min(axis=0) + pipeline.fixed_bytes[both].sum()
        held = held + pipeline.work_bytes * (table.sum(axis=1) > 0)
        budget = len(both) * pipeline.budget_bytes * (1 + 1e-9)
        return np.asarray(table[held <= budget])

    def _common(self, common: list[int], least: IntArray, most: int) -> tuple[IntArray, IntArray]:
        """Numbers of layers of the devices that are alike, and how many have room for each."""
        if not common:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        room = np.minimum(self.pipeline.rooms(self.kinds.num_bytes[:, 0]), most)
        rooms = np.array([room[self._both(device)].sum() for device in common])
        low = min(int(least[self._both(device)].sum()) for device in common)
        values = np.arange(low, int(rooms.max()) + 1, dtype=np.int64)
        return values, np.array([int((rooms >= value).sum()) for value in values], dtype=np.int64)

    def _times(self, contents: IntArray, device: int) -> FloatArray:
        """Seconds of one microbatch with some contents, ``[contents, 3]``."""
        own = contents @ self.kinds.times + self.ends_s[self._both(device)].sum(axis=0)
        return np.asarray(own / len(self._both(device)))

    def _quick(self, times: FloatArray, limit_s: float) -> FloatArray:
        """Contents that the bound of the slowest device alone does not rule out."""
        n = len(times)
        cases = Cases(
            rows=np.repeat(self.case.rows, n),
            policies=self.case.policies.select(np.zeros(n, dtype=np.int64)),
        )
        slowest = np.maximum(times.sum(axis=1), self.whole.sum() / self.p)
        found, _ = self.bound.pipeline_s(cases, np.repeat(self.whole, n, axis=1), slowest)
        return np.asarray(found + self._fixed_s() <= limit_s)

    # Prices.

    def _fixed_s(self) -> float:
        kernels = STEP_KERNELS * self.bound.chip.efficiency.kernel_s
        return float(self.bound.hops_s(self.case)[0]) + kernels

    def bounded(self, limit_s: float) -> Filled | None:
        """The cheapest filling; None where fillings are too many to look at."""
        devices = self.devices(limit_s)
        fillings = None if devices is None else enumerate_fillings(devices)
        if devices is None or fillings is None:
            return None
        seconds = self._seconds(devices, fillings, limit_s)
        order = np.argsort(seconds, kind="stable")
        return Filled(
            bound_s=float(min(limit_s, seconds.min(initial=np.inf))),
            seconds=seconds[order],
            devices=devices,
            fillings=Fillings(
                special=fillings.special[order],
                common=fillings.common[order],
            ),
        )

    def _seconds(self, devices: Devices, fillings: Fillings, limit_s: float) -> FloatArray:
        if not len(fillings):
            return np.empty(0)
        n, num_kinds = len(fillings), len(self.kinds.counts)
        shared = np.zeros((len(devices.common), num_kinds), dtype=np.int64)
        shared[:, 0] = devices.common
        contents = np.concatenate(
            [fillings.special, np.broadcast_to(shared, (n, *shared.shape))], axis=1
        )
        number = np.concatenate(
            [np.ones((n, len(devices.special))), fillings.common.astype(float)], axis=1
        )
        apart = [self.ends_s[self._both(device)].sum(axis=0) for device in devices.special]
        ends = np.array([*apart, *np.zeros((len(devices.common), 3))])
        times = (contents @ self.kinds.times + ends[None]) / (2.0 if self.dual else 1.0)
        shape = Shape(kind=self.kind, p=self.p, m=self.m, v=self.v)
        found = pipeline_s(shape, times, number) + self._fixed_s()
        if self.dual:
            return found + self._least_rest_s(limit_s)
        return found + self._rest_s(devices, contents, number, times)

    def _least_rest_s(self, limit_s: float) -> float:
        """Gradients and update, whatever lies on which stage of a pair."""
        return self.bound.least_rest_s(self.case, limit_s / self.m)

    def _rest_s(
        self, devices: Devices, contents: IntArray, number: FloatArray, times: FloatArray
    ) -> FloatArray:
        """Gradients and update of the fullest device of every filling."""
        bound, kinds = self.bound, self.kinds
        apart = [self.ends_params[device] for device in devices.special]
        ends = np.array([*apart, *np.zeros((len(devices.common), 3))])
        params = contents @ kinds.params + ends[None]
        every = np.arange(len(contents))
        absent = number == 0
        fullest = np.where(absent, -1.0, params[..., 0] + params[..., 1]).argmax(axis=1)
        slowest = np.where(absent, -1.0, times.sum(axis=2)).argmax(axis=1)
        own = params[every, fullest]
        last = devices.special.index(int(self.pipeline.devices[-1]))
        layers = contents.sum(axis=2)
        layers[:, last] += bound.num_mtp
        held = np.maximum(1, layers[every, slowest]).astype(float)
        found = self._gradients_s(own, times[every, slowest], held)
        # Types that no device is of do not update.
        present = np.where(absent[..., None], 0, contents)
        return found + self._update_s(own, present, last)

    def _gradients_s(self, params: FloatArray, times: FloatArray, layers: FloatArray) -> FloatArray:
        """:func:`planner.cost.runs.training._gradient_seconds` on arrays."""
        bound, zero = self.bound, int(self.case.policies.zero[0])
        if zero >= 3:
            return np.zeros(len(params))
        rows = np.repeat(self.case.rows, len(params))
        op = Op.REDUCE_SCATTER if zero else Op.ALL_REDUCE
        size = BYTES_PER_ELEMENT[bound.request.gradients]
        dense, expert = params[:, 0], params[:, 1]
        kept = (dense, expert) if zero < 2 else (params[:, 2], np.zeros(len(params)))
        reduce = bound.weight_links_s(rows, op, kept[0] * size, kept[1] * size)
        gather = np.zeros(len(params))
        if zero:
            stored = BYTES_PER_ELEMENT[bound.request.model.precision.attention]
            gather = bound.weight_links_s(rows, Op.ALL_GATHER, dense * stored, expert * stored)
        if not bound.hides_dp:
            return reduce + gather
        rest = 1.0 - 1.0 / layers
        backward, forward = (times[:, 1] + times[:, 2]) * rest, times[:, 0] * rest
        ends = (reduce + gather) / layers
        ends = ends + exposed_seconds(reduce * rest, backward, bound.share)
        return np.asarray(ends + exposed_seconds(gather * rest, forward, bound.share))

    def _update_s(self, params: FloatArray, contents: IntArray, last: int) -> FloatArray:
        bound, request = self.bound, self.bound.request
        zero = int(self.case.policies.zero[0])
        first, second = (float(own[0]) if zero else 1.0 for own in bound.ranks(self.case.rows))
        small_bytes, other_bytes = traffic_per_param(
            request.optimizer, request.optimizer_state, request.gradients
        )
        dense, expert, small = params.T
        moved = (small * small_bytes + (dense - small) * other_bytes) / first
        moved = moved + expert * other_bytes / second
        seconds = moved / achieved_hbm_bytes_per_s(bound.chip)
        if request.optimizer is Optimizer.MUON:
            own = contents @ self.kinds.update_flop
            own[:, last] += bound.ends @ self.update_flop[:, 0]
            seconds = seconds + own.max(axis=1) / first / chip_flop_per_s(bound.chip, "bf16")
        return np.asarray(seconds)
