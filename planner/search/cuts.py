"""Stages for a batch of one replica: layers cut under the limits on memory and on the step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from planner.cost.block import ceil_div
from planner.cost.evaluate import (
    Microbatch,
    ReplicaLoad,
    ReplicaTimes,
    Routing,
    degrees_split,
    on_machine,
    replica_times,
    staged,
)
from planner.cost.memory import (
    activation_bytes,
    budget_bytes,
    cache_bytes,
    draft_bytes,
    layer_bytes,
    table_bytes,
)
from planner.cost.price import FabricRates
from planner.cost.step import layer_groups
from planner.domain.assignment import Assignment
from planner.domain.degrees import Degrees
from planner.search.request import PlanRequest
from planner.search.stages import Ends, StageCosts, cut_stages
from planner.search.survive_room import cached_after


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaCase:
    """What a replica's step depends on beside its batch: degrees, routing, link prices."""

    degrees: Degrees
    routing: Routing
    fabric: FabricRates


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Stages for a batch of one replica, and the step they give."""

    batch: int
    ends: Ends
    step_s: float

    @property
    def rate(self) -> float:
        """Sequences per second of the replica."""
        return self.batch / self.step_s


def fullest(degrees: Degrees, batch: int) -> tuple[Microbatch, int]:
    """Fullest microbatch of ``batch`` sequences dealt evenly, and most that a group caches."""
    stage = ceil_div(batch, degrees.microbatches)
    group = ceil_div(stage, degrees.attn_dp)
    microbatch = Microbatch(group=float(group), stage=float(stage))
    return microbatch, ceil_div(batch, degrees.attn_dp)


class Cutter:
    """Cuts stages of one request."""

    def __init__(self, request: PlanRequest) -> None:
        self.request = request
        self.setting = on_machine(request.setting, request.topology)

    def cut(self, case: ReplicaCase, batch: int, room: int | None = None) -> Cut | None:
        """Fastest stages for ``batch`` sequences; None when memory or the limit on the step fails.

        Parameters
        ----------
        room : int, optional
            Sequences whose memory counts, where fewer than ``batch`` shall.
        """
        times, costs = self._times(case, batch), self._stage_costs(case, room or batch)
        if costs is None:
            return None
        tables = (times.embedding_s, times.head_s + times.draft_s)
        ends = cut_stages(replace(costs, layer_s=times.layer_s, table_s=tables), case.degrees.pp)
        return None if ends is None else self._within(case, (batch, ends), times)

    def priced(self, case: ReplicaCase, batch: int, ends: Ends) -> Cut | None:
        """The step of ``batch`` sequences in given stages; None beyond the limits."""
        costs = self._stage_costs(case, batch)
        if costs is None:
            return None
        start = 0
        for stage, end in enumerate(ends):
            tables = costs.table_bytes[0] * (stage == 0)
            tables += costs.table_bytes[1] * (stage == len(ends) - 1)
            held = float(costs.layer_bytes[start:end].sum()) + tables
            if held > costs.capacity_bytes * (1 + 1e-12):
                return None
            start = end
        return self._within(case, (batch, ends), self._times(case, batch))

    def _within(
        self, case: ReplicaCase, chosen: tuple[int, Ends], times: ReplicaTimes
    ) -> Cut | None:
        batch, ends = chosen
        whole = replace(_undecided(case.degrees), stage_ends=ends)
        step_s = staged(self.setting, whole, times).step_s
        limit = self.request.step_limit_s
        if limit is not None and step_s > limit:
            return None
        return Cut(batch=batch, ends=ends, step_s=step_s)

    def _times(self, case: ReplicaCase, batch: int) -> ReplicaTimes:
        load = ReplicaLoad(microbatch=fullest(case.degrees, batch)[0], routing=case.routing)
        whole = replace(_undecided(case.degrees), stage_ends=(len(self.setting.model.layers),))
        return replica_times(self.setting, whole, load, case.fabric)

    def _stage_costs(self, case: ReplicaCase, batch: int) -> StageCosts | None:
        """Bytes of every layer on the fullest chip, and what is left for a stage."""
        degrees, setting = case.degrees, self.setting
        split = degrees_split(degrees)
        microbatch, held = fullest(degrees, batch)
        slots = float(ceil_div(degrees.num_slots, degrees.ep))
        sizes = (degrees.attn_dp, degrees.replicas, degrees.num_slots)
        cached = float(cached_after(self.request, sizes, batch, held))
        layer_b = np.zeros(len(setting.model.layers))
        for group in layer_groups(setting.model):
            own = layer_bytes(setting, group, split)
            kept = cache_bytes(setting, group, split, cached)
            moe = slots if group.is_moe else 0.0
            layer_b[list(group.indices)] = own.fixed + own.per_slot * moe + kept
        tokens = microbatch.tokens(setting, split)
        routed = case.routing(float(tokens.stage))
        first, last = table_bytes(setting, split, float(degrees.pp))
        if degrees.draft:
            drafting = draft_bytes(setting, split, (slots, cached))
            last = last + drafting[0] + drafting[1]
        hot = max((float(load.hot_share) for load in routed.values()), default=0.0)
        free = budget_bytes(setting) - float(activation_bytes(setting, split, tokens, hot))
        if free <= 0:
            return None
        return StageCosts(
            layer_s=layer_b,
            layer_bytes=layer_b,
            table_s=(0.0, 0.0),
            table_bytes=(float(first), float(last)),
            capacity_bytes=free,
        )


def _undecided(degrees: Degrees) -> Assignment:
    return Assignment(degrees=degrees, stage_ends=(), cells=(), slot_maps=(), sequences=())
