"""Times expert placement: ``python tests/benchmarks/bench_experts.py [noise]``.

58 layers of 256 experts, 288 slots, seeded loads. Zipf layers are one vector in 58 orders,
and solved once; with ``noise`` every load is scaled by 0.9 .. 1.1, so that all differ.
Columns: mean and worst balance (mean over hottest chip), mean bound, mean and largest gap,
layers whose gap is above 0.5 %, the greedy rule's mean balance, layers in which it is ahead,
CPU seconds of all processes and wall seconds.
"""

from __future__ import annotations

import math
import resource
import sys
import time

import numpy as np

from planner.search.expert_bounds import even_caps
from planner.search.expert_greedy import greedy_slots
from planner.search.expert_layers import place_layers
from planner.search.experts import chip_loads, place_experts

LAYERS, EXPERTS, SLOTS, GAP = 58, 256, 288, 0.005
KINDS = ("uniform", "lognormal", "zipf0.5", "zipf0.8", "zipf1.0", "zipf1.2")
CHIPS = (32, 64, 72, 144)
JOBS = 2


def synthetic_loads(kind, noise=False, seed=0):
    """Rows that add up to 1, shape ``[LAYERS, EXPERTS]``."""
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        raw = rng.uniform(0, 200, (LAYERS, EXPERTS))
    elif kind == "lognormal":
        raw = rng.lognormal(0.0, 1.0, (LAYERS, EXPERTS))
    else:
        base = np.arange(1, EXPERTS + 1) ** -float(kind.removeprefix("zipf"))
        raw = np.stack([rng.permutation(base) for _ in range(LAYERS)])
    if noise:
        raw = raw * np.random.default_rng(seed + 1).uniform(0.9, 1.1, raw.shape)
    # fsum: the same sum in any order, so that equal layers stay equal.
    return np.stack([row / math.fsum(row) for row in raw])


def cpu_seconds():
    """CPU time of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main():
    noise = "noise" in sys.argv[1:]
    names = ("loads", "chips", "balance", "worst", "bound", "gap %", "max", "open", "greedy")
    print(*(f"{name:>9}" for name in (*names, "ahead", "CPU s", "wall s")))
    # The first call pays for imports.
    place_experts(np.ones((1, 4)), 2, 2)
    for kind in KINDS:
        loads = synthetic_loads(kind, noise)
        for chips in CHIPS:
            caps = even_caps(SLOTS, chips)
            used, start = cpu_seconds(), time.perf_counter()
            placed = place_layers(loads, caps, gap=GAP, jobs=JOBS)
            used, wall = cpu_seconds() - used, time.perf_counter() - start
            balance = np.array([1 / (one.max_load * chips) for one in placed])
            bound = np.mean([1 / (one.bound * chips) for one in placed])
            gap = np.array([one.gap for one in placed])
            greedy = np.array(
                [1 / (chip_loads(greedy_slots(row, caps), row).max() * chips) for row in loads]
            )
            print(
                f"{kind:>9} {chips:9} {balance.mean():9.4f} {balance.min():9.4f} {bound:9.4f} "
                f"{100 * gap.mean():9.3f} {100 * gap.max():9.3f} {(gap > GAP).sum():9} "
                f"{greedy.mean():9.4f} {(balance < greedy - 1e-9).sum():9} {used:9.2f} {wall:9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
