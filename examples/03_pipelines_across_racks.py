"""Chapter 3: a pipeline sends little, and wants as many microbatches as stages.

The mathematics first. A stage boundary carries one activation per token, an expert layer `n`
copies there and back, so with L layers per stage

    t_scaleup / t_scaleout = (W_out / W_up) n L 2        at 1 or more the boundary is free
    decode:    1 - 1/P of the stages wait with one microbatch in flight, none with P
    training:  (P - 1) / (M + P - 1) of a step is the bubble

The full model, on two racks: a second stage halves the weights of a chip, leaves its cache and
the step as they are.

Run: python examples/03_pipelines_across_racks.py
"""

from planner import DegreeLimits, Question
from planner.cost.pipeline import decode_idle_fraction
from planner.cost.roofline import stage_boundary_ratio, training_bubble
from planner.studies.compare import compare

for top_k, layers in ((8, 1), (1, 1), (1, 4), (32, 1)):
    ratio = stage_boundary_ratio(1 / 8, top_k, layers)
    print(f"{top_k} experts per token, {layers} layers per stage: boundary ratio {ratio:g}")
for flying in (1, 4):
    idle = decode_idle_fraction([1.0] * 4, flying)
    print(f"decode, 4 stages, {flying} in flight: {idle:.0%} idle")
for microbatches in (4, 8, 16):
    print(
        f"training, 4 stages, {microbatches} microbatches: {training_bubble(4, microbatches):.2%}"
    )

question = Question(
    model="deepseek-v3",
    machine="gb200-nvl72",
    context_tokens=8192,
    racks=2,
    batch=4608,
    limits=DegreeLimits(overlap=frozenset({0}), slots=frozenset({360})),
)
found = compare(question, ("ep72", "ep72+pp2"), break_evens=False)
for one in sorted(found.ranked, key=lambda one: one.name):
    figures = one.figures
    print(
        f"{one.name:8s}: step {figures.step_s * 1e3:5.2f} ms, weights "
        f"{figures.memory.weights_bytes / 1e9:4.1f} GB, KV cache "
        f"{figures.memory.kv_bytes / 1e9:4.1f} GB, idle {figures.bubble:.1%}"
    )
