"""Chapter 4: stages solve capacity, the size of the scale-up domain solves bandwidth.

The mathematics first, with E chips per stage, P stages, and P microbatches of b sequences:

    memory per chip = N_tot beta / (E P) + b L kv / E      P cancels in the cache
    weight reads    = N_tot beta / (S W)                   stages run one after another
    latency        += P hops

So: expert parallelism up to the scale-up size, one stage, perhaps two. The full model agrees on
four racks, and disagrees where the weights exceed a domain: 671 GB on a node of 640.

Run: python examples/04_pipelining_is_not_wise.py
"""

from planner import DegreeLimits, Question
from planner.cost.roofline import memory_per_chip_bytes, token_latency_s, weight_read_s
from planner.studies.compare import compare

for stages in (1, 2, 4, 8):
    weights, cache = memory_per_chip_bytes(700e9, 100_000 * 2048, (64, stages), 2400)
    print(f"P = {stages}: weights {weights / 1e9:5.2f} GB, KV cache {cache / 1e9:.2f} GB per chip")
print(f"1 TB of weights over 8 chips of 3.35 TB/s: {weight_read_s(1e12, 8, 3.35e12) * 1e3:.1f} ms")
print(f"1 TB of weights over 72 chips of 8 TB/s: {weight_read_s(1e12, 72, 8e12) * 1e3:.2f} ms")
print(f"four hops of 2.5 ms on 20 ms: {token_latency_s(20e-3, 4, 2.5e-3) * 1e3:.0f} ms")

racks = Question(
    model="deepseek-v3",
    machine="gb200-nvl72",
    context_tokens=8192,
    racks=4,
    limits=DegreeLimits(overlap=frozenset({0}), microbatches=frozenset({1, 2, 4})),
)
found = compare(racks, ("ep72", "ep72+pp2", "ep72+pp4"), break_evens=False)
for one in found.ranked:
    figures = one.figures
    print(
        f"{one.name:8s}: {figures.tokens_per_s_per_chip:,.0f} tokens/s/chip, weights "
        f"{figures.memory.weights_bytes / 1e9:.1f} GB per chip"
    )

nodes = Question(model="deepseek-v3", machine="h100-hgx", context_tokens=4096, nodes=4)
found = compare(nodes, ("ep", "ep8+pp2"), break_evens=False)
for one in found.candidates:
    text = one.infeasible.message if one.figures is None else f"PP{one.figures.degrees.pp}"
    print(f"on nodes of 640 GB, {one.name}: {text}")
