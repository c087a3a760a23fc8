"""Chapter 1: why a batch makes tokens cheap, and where that ends.

The mathematics first. A decode step of B sequences multiplies 2 B N_act numbers and reads all
weights once, and the cache of every sequence:

    t = max( 2 B N_act / C,  (N_tot beta + B L kv) / W )
    B* = (C / 2W) N_tot beta / N_act       matmuls take as long as the weight reads
    floor = N_tot beta / W                 no batch steps faster

Below B* a token costs as 1/B, above it no less than its matmuls and its cache. The full model
adds attention FLOP, collectives, kernels and what chips really reach; its curve has the same
shape above the ideal one.

Run: python examples/01_a_batch_and_its_price.py
"""

from planner import DegreeLimits, Question
from planner.cost.roofline import critical_batch, drain_s
from planner.studies.curve import Along, Span, curve

print(f"B* of 256 experts, 32 active, at a ratio of 300: {critical_batch(300, 256, 32):,.0f}")
print(f"a train every {drain_s(288e9, 20e12) * 1e3:.1f} ms: 288 GB of HBM at 20 TB/s")

question = Question(
    model="llama-3.1-70b",
    machine="h100-hgx",
    context_tokens=2048,
    limits=DegreeLimits(tp=frozenset({8}), overlap=frozenset({0})),
)
found = curve(question, Along.BATCH, Span(low=1, high=512, points=4))
for point in found.points:
    print(
        f"batch {point.batch:4d}: step {point.step_s * 1e3:6.2f} ms (ideal "
        f"{point.ideal.step_s * 1e3:5.2f}), ${point.usd_per_million_tokens:7.3f} per million "
        f"tokens (ideal {point.ideal.usd_per_million_tokens:7.3f})"
    )
for mark in found.landmarks:
    value = mark.value * 1e3 if "step" in mark.of and mark.axis == "y" else mark.value
    print(f"{mark.name}: {value:.4g}")
