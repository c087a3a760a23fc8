"""Times the mapping of stages to chips: ``python tests/benchmarks/bench_mapping.py``.

First the counting model: cells over racks and nodes that have lost 3 % of their chips, with
the smallest piece found, what is proved about it, and seconds of processor time. Then pricing:
seconds to price every replica of a layout from 72 to 32,768 chips, which must grow with the
number of different replicas, not with the number of chips.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.cost.fabric import replica_rates
from planner.domain.degrees import Degrees
from planner.domain.hardware import Wounds
from planner.search.mapping_case import MappingCase, piece_bound
from planner.search.mapping_model import solve_mapping
from planner.search.mesh import MeshMapper
from planner.topology.build import build_topology
from planner.topology.groups import max_cells

RACK_CELLS = (34, 36, 64, 68, 72, 100, 136, 144)
NODE_CELLS = (12, 14, 15, 16, 24, 32, 64)
FILLS = (1.0, 0.95)


def hurt(domains, chips, fraction=0.03):
    """Chips left in each domain after a fixed pseudo-random loss."""
    left = [chips] * domains
    for chip in random.Random(5).sample(range(domains * chips), round(fraction * domains * chips)):
        left[chip // chips] -= 1
    return tuple(left)


def counting(name, capacities, cells):
    """One line per size of cell and share of the machine that is used."""
    for need in cells:
        for fill in FILLS:
            num_cells = int(fill * sum(capacities)) // need
            case = MappingCase(capacities=capacities, need=need, num_cells=num_cells)
            solve_mapping.cache_clear()
            start = time.process_time()
            found = solve_mapping(case)
            seconds = time.process_time() - start
            proved = f"{found.smallest:6} of {found.bound:4} (closed form {piece_bound(case):3})"
            print(f"{name:12}{need:6}{num_cells:7}{proved}{seconds * 1e3:9.0f} ms")


def pricing(machine, size, wounds=0.0):
    """Seconds to assign and price one layout of expert groups of 16 chips."""
    spec = resize(load_machine(machine), **size)
    if wounds:
        names = build_topology(spec).chip_names
        dead = random.Random(5).sample(names, round(wounds * len(names)))
        spec = replace(spec, wounds=Wounds(without=tuple(f"chip:{name}" for name in sorted(dead))))
    start = time.process_time()
    topology = build_topology(spec)
    degrees = Degrees(
        attn_tp=1,
        attn_dp=16,
        pp=1,
        ep=16,
        expert_tp=1,
        num_slots=256,
        microbatches=1,
        replicas=max_cells(topology, 16, 1),
    )
    built = time.process_time()
    cells = MeshMapper.of(topology).assign(degrees)
    every = [cell for stages in cells for cell in stages]
    kinds = {id(replica_rates(topology, stages, degrees, every)) for stages in cells}
    seconds = time.process_time() - built
    label = f"{machine} {wounds:.0%} dead"
    print(
        f"{label:24}{topology.num_chips:8}{len(cells):8}{len(kinds):7}"
        f"{(built - start) * 1e3:9.0f} ms{seconds * 1e3:9.0f} ms"
    )


def main():
    """Print both tables."""
    print(f"{'machine':12}{'cell':>6}{'cells':>7}  smallest piece, bound{'cpu':>22}")
    counting("16 racks", hurt(16, 72), RACK_CELLS)
    counting("4,096 nodes", hurt(4096, 8), NODE_CELLS)
    print(f"\n{'machine':24}{'chips':>8}{'cells':>8}{'kinds':>7}{'build':>12}{'price':>12}")
    for racks in (1, 8, 32, 128):
        pricing("gb200-nvl72", {"racks": racks})
    for nodes in (9, 64, 512, 4096):
        pricing("h100-hgx", {"nodes": nodes})
        pricing("h100-hgx", {"nodes": nodes}, wounds=0.03)


if __name__ == "__main__":
    main()
