"""Times expert placement: ``python tests/benchmarks/bench_experts.py``.

58 layers of 256 experts with seeded synthetic loads; columns are seconds for all layers,
the worst and mean ratio of the hottest chip to the mean, and the worst proven gap.
"""

from __future__ import annotations

import time

import numpy as np

from planner.search import experts as module
from planner.search.expert_bounds import even_caps

LAYERS, EXPERTS, TOP_K = 58, 256, 8
CASES = (
    (256, 8), (256, 32), (256, 64), (288, 8), (288, 32), (320, 64), (384, 64),
    (288, 72), (320, 72), (384, 72), (288, 144), (320, 144), (288, 288),
)  # fmt: skip


def _clip(loads):
    """Distribute what exceeds 1 / top_k over the other experts."""
    for _ in range(50):
        capped = np.minimum(loads, 1 / TOP_K)
        rest = 1 - capped.sum(axis=1, keepdims=True)
        room = np.where(capped < 1 / TOP_K, capped, 0.0)
        loads = capped + room * rest / room.sum(axis=1, keepdims=True)
    return loads


def synthetic_loads(kind, seed=0):
    """Rows that add up to 1, shape ``[LAYERS, EXPERTS]``."""
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        raw = np.ones((LAYERS, EXPERTS))
    elif kind == "near-uniform":
        raw = rng.multinomial(1_000_000, np.full(EXPERTS, 1 / EXPERTS), LAYERS).astype(float)
    elif kind == "lognormal":
        raw = rng.lognormal(0.0, 1.0, (LAYERS, EXPERTS))
    else:
        base = np.arange(1, EXPERTS + 1) ** -float(kind.removeprefix("zipf"))
        raw = np.array([rng.permutation(base) for _ in range(LAYERS)])
        raw = raw * rng.uniform(0.9, 1.1, raw.shape)
    return _clip(raw / raw.sum(axis=1, keepdims=True))


def main():
    print(f"{'loads':13}{'slots':>6}{'chips':>6}{'s':>8}{'worst':>9}{'mean':>9}{'gap %':>8}")
    for kind in ("uniform", "near-uniform", "zipf0.5", "zipf0.8", "zipf1.2", "lognormal"):
        loads = synthetic_loads(kind)
        for num_slots, chips in CASES:
            module._place_row.cache_clear()
            module._solve_sorted.cache_clear()
            start = time.perf_counter()
            placed = module.place_experts(loads, chips, even_caps(num_slots, chips))
            seconds = time.perf_counter() - start
            ratio = np.array([p.max_load for p in placed]) * chips
            gap = max(p.gap for p in placed)
            print(
                f"{kind:13}{num_slots:6}{chips:6}{seconds:8.3f}{ratio.max():9.4f}"
                f"{ratio.mean():9.4f}{100 * gap:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
