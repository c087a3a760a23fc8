"""Chapter 6: a price list says how large a model's cache is, and where it is kept.

The mathematics first. A token costs max(compute, weights / B + kv L): flat, then rising with the
context. A provider who doubles the price above L marks the kink, so

    kv = 2 N_act W / (C L)               about N_act / (300 L)

A cache that lies in a tier for h seconds costs price x (1 / bandwidth + h / capacity): the best
tier is the one whose drain time, capacity / bandwidth, is about h.

Run: python examples/06_what_prices_reveal.py
"""

from planner import DegreeLimits, Question
from planner.economics.kink import implied_kv_bytes, unique_kv_bytes
from planner.economics.question import CacheQuestion, Served
from planner.economics_api import cache_economics
from planner.studies.curve import Along, Span, curve

print(f"100 B parameters, a step at 200k: {implied_kv_bytes(100e9, 300, 200e3):,.1f} B per token")
print(f"one unique layer, 8 heads of 128: {unique_kv_bytes(1, 128, 8, 1):,.0f} B per token")

question = Question(
    model="deepseek-v3",
    machine="gb200-nvl72",
    context_tokens=2048,
    batch=4608,
    limits=DegreeLimits(tp=frozenset({1}), ep=frozenset({72}), pp=frozenset({1})),
)
found = curve(question, Along.CONTEXT, Span(low=512, high=32768, points=4))
for point in found.points:
    print(
        f"context {point.x:6,.0f}: ${point.usd_per_million_tokens:.3f} per million tokens "
        f"(ideal {point.ideal.usd_per_million_tokens:.3f})"
    )
mark = next(own for own in found.landmarks if own.name == "balanced context")
print(f"ideal kink at {mark.value:,.0f} tokens")

base = Served(model="llama-3.1-70b", machine="h100-hgx", context=32_768)
kept = cache_economics(CacheQuestion(base=base))
for tier in kept.tiers:
    print(f"{tier.label}: drained in {tier.drain_s:.3g} s")
for span in kept.spans:
    until = "for ever" if span.to_s is None else f"to {span.to_s:,.0f} s"
    print(f"cheapest from {span.from_s:,.0f} s {until}: {span.label}")
