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
from planner.search.mesh import MeshMapper, strategy_rates
from planner.search.plan import CHUNK, bound_table
from planner.search.request import PlanRequest
from planner.search.strategies import enumerate_strategies
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
        tpot_s=0.02,
    )


if __name__ == "__main__":
    for racks in (1, 8):
        asked = request(racks)
        start = time.process_time()
        strategies = enumerate_strategies(asked)
        enumerated = time.process_time()
        rates = strategy_rates(MeshMapper.of(asked.topology), strategies)
        priced = time.process_time()
        bound = StepBound(asked, strategies, rates)
        bound_table(asked, bound)
        bounded = time.process_time()
        part = bound.select(np.arange(min(len(strategies), CHUNK)))
        feasible(part, part.tokens(np.full(1, 64.0)))
        once = time.process_time()
        for sequences in range(65, 75):
            feasible(part, part.tokens(np.full(1, float(sequences))))
        evaluated = (time.process_time() - once) / 10 / len(part.strategies)
        n = len(strategies)
        print(
            f"{racks} racks: {n:,} strategies, enumerated in {enumerated - start:.2f} s, links "
            f"{priced - enumerated:.2f} s, best batches {bounded - priced:.2f} s "
            f"({n / (bounded - priced) / 1e6:.2f} M/s), one evaluation {1e-6 / evaluated:.2f} M/s"
        )
