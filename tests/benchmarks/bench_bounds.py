"""Strategies bounded per second on one core, and what a single evaluation of the bound costs.

Run with the interpreter that has planner installed: python tests/benchmarks/bench_bounds.py
"""

import time

import numpy as np

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.cost.routing import moe_layer_indices, uniform_loads
from planner.cost.runs.gemm import sustained_chip
from planner.cost.step import Setting
from planner.domain.question import DegreeLimits
from planner.domain.workload import Objective, TimeModel
from planner.search.bounds import StepBound, feasible
from planner.search.frontier import CHUNK, Frontier
from planner.search.mesh import MeshMapper
from planner.search.rates import strategy_rates
from planner.search.request import PlanRequest
from planner.search.space import runs, strategy_space
from planner.topology.build import build_topology


def request(racks):
    topology = build_topology(resize(load_machine("gb200-nvl72"), racks=racks))
    model = load_model("deepseek-v3")
    return PlanRequest(
        setting=Setting(
            model=model,
            chip=sustained_chip(topology.chip),
            context_tokens=8192,
            time_model=TimeModel.SUM,
            reserve_fraction=0.1,
        ),
        topology=topology,
        loads=uniform_loads(len(moe_layer_indices(model)), 256),
        uniform=True,
        objective=Objective.THROUGHPUT,
        limits=DegreeLimits(),
        step_limit_s=0.02,
    )


if __name__ == "__main__":
    for racks in (1, 8, 64):
        asked = request(racks)
        start = time.process_time()
        space = strategy_space(asked)
        enumerated = time.process_time()
        frontier = Frontier(asked, MeshMapper.of(asked.topology), space)
        bounded = time.process_time()
        counted = sum(frontier.infeasible)
        done = time.process_time()
        rates = strategy_rates(MeshMapper.of(asked.topology), space.families)
        run = next(runs(space.counts, CHUNK))
        strategies, family = space.expand(np.arange(run.stop))
        bound = StepBound(asked, strategies, rates.select(family))
        feasible(bound, bound.probe(64 * bound.full))
        once = time.process_time()
        for sequences in range(65, 75):
            feasible(bound, bound.probe(sequences * bound.full))
        evaluated = (time.process_time() - once) / 10 / len(strategies)
        n = len(space)
        print(
            f"{racks} racks: {n:,} strategies in {len(space.families):,} families, listed in "
            f"{enumerated - start:.2f} s, best batches {bounded - enumerated:.2f} s "
            f"({n / (bounded - enumerated) / 1e6:.1f} M/s), {counted:,} infeasible ones counted "
            f"in {done - bounded:.2f} s, one evaluation alone {1e-6 / evaluated:.2f} M/s"
        )
