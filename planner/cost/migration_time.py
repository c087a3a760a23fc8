"""How long a migration takes on the machine's graph, and over which links it goes.

Assumptions
-----------
- Everything is sent at once, over shortest paths, at the bandwidth that an exchange of all
  with all achieves: the busiest link decides.
- What comes from host or storage comes through the chip's share of its NIC, at nameplate, after
  the exchange. Machines without NICs state no such rate: then it is not counted.
- Sequences that lost their caches are prefilled again at the rate of large matrix multiplies, on
  all chips of the new layout: ``2 x active parameters`` FLOP per token, attention left out.
- Nothing is decoded meanwhile.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from planner.cost.block import matmul_rate
from planner.cost.migration import STORAGE, CacheFate, Migration, Transition
from planner.cost.runs.gemm import achieved_flop_per_s
from planner.cost.weights import active_params
from planner.domain.curves import Op
from planner.topology.collectives import collective_rate
from planner.topology.graph import Topology
from planner.topology.graph_price import derates, link_loads
from planner.topology.groups import group_shape
from planner.topology.routing import busiest_link
from planner.topology.traffic import Matrix


@dataclass(frozen=True, kw_only=True, slots=True)
class MigrationTime:
    """Seconds between chips, from storage and for lost caches, and bytes by kind of link.

    ``storage_s`` is None where something is read from storage and the machine states no rate.
    """

    network_s: float
    storage_s: float | None
    refill_s: float
    link: str
    link_name: str
    tiers: tuple[tuple[str, float], ...]

    @property
    def seconds(self) -> float:
        """All three, one after the other."""
        return self.network_s + (self.storage_s or 0.0) + self.refill_s


def lost_tokens(step: Transition, caches: CacheFate) -> int:
    """Tokens of the sequences that start again."""
    return (caches.lost + caches.unplaced) * int(step.before.context_tokens)


def _refill_s(step: Transition, caches: CacheFate) -> float:
    model, chip = step.after.model, step.after.chip
    dtype = model.precision.activations
    rate = achieved_flop_per_s(chip, matmul_rate(chip, dtype, dtype))
    flop = 2.0 * active_params(model).core * lost_tokens(step, caches)
    return flop / (rate * step.new.degrees.chips_used)


def migration_time(step: Transition, migration: Migration) -> MigrationTime:
    """Route a migration.

    Raises
    ------
    SpecError
        Chips that must talk are not connected.
    """
    topology = step.topology
    storage_s = _storage_s(topology, migration)
    refill_s = _refill_s(step, migration.caches)
    pairs = migration.between_chips()
    if not pairs:
        return MigrationTime(
            network_s=0.0,
            storage_s=storage_s,
            refill_s=refill_s,
            link="",
            link_name="",
            tiers=(),
        )
    chips = sorted({chip for pair in pairs for chip in pair})
    at = {chip: row for row, chip in enumerate(chips)}
    table = np.zeros((len(chips), len(chips)))
    for (source, target), size in pairs.items():
        table[at[source], at[target]] = size
    network = topology.network
    traffic = Matrix(chips=np.array(chips, dtype=np.int64), num_bytes=table)
    loads = link_loads(topology, [traffic])
    inside, outside = derates(topology.spec, Op.ALL_TO_ALL)
    busiest = busiest_link(network, loads, inside, outside)
    rate = collective_rate(topology, Op.ALL_TO_ALL, group_shape(topology, chips))
    fill = 2 * math.sqrt(rate.fill_s * busiest.seconds)
    over = loads.forward + loads.backward
    tiers: dict[str, float] = defaultdict(float)
    for tier in np.unique(network.tiers[over > 0]).tolist():
        tiers[network.tier_names[tier]] += float(over[network.tiers == tier].sum())
    return MigrationTime(
        network_s=rate.latency_s + busiest.seconds + fill,
        storage_s=storage_s,
        refill_s=refill_s,
        link=busiest.tier,
        link_name=network.link_name(busiest.link),
        tiers=tuple(sorted(tiers.items(), key=lambda item: -item[1])),
    )


def _storage_s(topology: Topology, migration: Migration) -> float | None:
    reads: dict[int, float] = defaultdict(float)
    for (_, source, target), size in migration.flows.items():
        if source == STORAGE:
            reads[target] += size
    fabric = topology.spec.scale_out
    if not reads:
        return 0.0
    return None if fabric is None else max(reads.values()) / fabric.chip_bytes_per_s
