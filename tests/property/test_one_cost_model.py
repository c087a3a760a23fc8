"""One cost model: the price of a layout is the price of the same run given to ``estimate``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model, override_precision
from planner.cost.evaluate import evaluate
from planner.cost.routing import moe_layer_indices, moe_shape, uniform_loads
from planner.cost.runs.gemm import sustained_chip
from planner.cost.runs.inference_pass import stage_ranges
from planner.cost.runs.predict import predict_run
from planner.cost.step import Setting
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.degrees import Degrees, OverlapMode
from planner.domain.dtypes import DType
from planner.domain.hardware import ideal
from planner.domain.model import GroupedQueryAttention, LatentAttention, Layer, MoeFfn
from planner.domain.run import Mesh, Overlap, Run, RunKind
from planner.domain.workload import TimeModel
from planner.topology.build import build_topology

MODELS = (
    "llama-3.1-8b",
    "llama-2-13b",
    "gemma-3-27b",
    "mixtral-8x7b",
    "qwen3-30b-a3b",
    "deepseek-v2",
    "deepseek-v3",
    "gpt-oss-120b",
    "palm-540b",
    "minimax-m1",
    "qwen3-next-80b-a3b",
)
MACHINES = (
    ("h100-hgx", {"nodes": 2}),
    ("h800-hgx", {"nodes": 4}),
    ("gb200-nvl72", {"racks": 1}),
    ("mi300x-hgx", {"nodes": 1}),
    ("tpu-v5e", {"shape": (4, 4)}),
    ("tpu-v4", {"shape": (4, 4, 4)}),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layout with even stages and balanced experts, and its workload."""

    mesh: Mesh
    microbatches: int
    per_group: int
    context: int
    new: int = 0
    overlap: OverlapMode = OverlapMode.NONE


def shrunk(model, heads, width):
    """The same architecture with fewer heads and narrower experts, so that degrees divide oddly."""

    def smaller(layer: Layer) -> Layer:
        attention, ffn = layer.attention, layer.ffn
        if isinstance(attention, GroupedQueryAttention):
            kv = max(1, min(attention.num_kv_heads, heads))
            attention = replace(attention, num_heads=kv * heads, num_kv_heads=kv)
        elif isinstance(attention, LatentAttention):
            attention = replace(attention, num_heads=heads * 4)
        if isinstance(ffn, MoeFfn):
            ffn = replace(ffn, expert_width=width)
        return replace(layer, attention=attention, ffn=ffn)

    return replace(model, layers=tuple(smaller(layer) for layer in model.layers))


def whole_experts(model, ep):
    """Every group holds as many whole experts, one copy of each."""
    layers, shape = moe_layer_indices(model), moe_shape(model)
    if shape is None:
        return (), 0
    per_group = shape[0] // ep
    slots = tuple(tuple(range(group * per_group, (group + 1) * per_group)) for group in range(ep))
    return (SlotMap(layers=layers, slots=slots),), shape[0]


def both(model, topology, case):
    """Prediction of the layout, and of the run."""
    mesh = case.mesh
    maps, num_slots = whole_experts(model, mesh.ep)
    degrees = Degrees(
        attn_tp=mesh.attn_tp,
        attn_dp=mesh.attn_dp,
        cp=mesh.cp,
        pp=mesh.pp,
        ep=mesh.ep,
        expert_tp=mesh.expert_tp,
        num_slots=num_slots,
        microbatches=case.microbatches,
        replicas=1,
        overlap=case.overlap,
    )
    size = mesh.stage_chips
    per_microbatch = case.per_group // case.microbatches
    assignment = Assignment(
        degrees=degrees,
        stage_ends=tuple(end for _, end in stage_ranges(len(model.layers), mesh.pp)),
        cells=(tuple(tuple(range(s * size, (s + 1) * size)) for s in range(mesh.pp)),),
        slot_maps=maps,
        sequences=(((per_microbatch,) * mesh.attn_dp,) * case.microbatches,),
    )
    shape = moe_shape(model)
    loads = uniform_loads(len(moe_layer_indices(model)), shape[0] if shape else 1)
    setting = Setting(
        model=model,
        chip=sustained_chip(topology.chip),
        context_tokens=case.context,
        time_model=TimeModel.SUM,
        reserve_fraction=0.1,
        new_tokens=float(case.new),
    )
    priced = evaluate(setting, topology, assignment, loads, None)
    run = Run(
        kind=RunKind.PREFILL if case.new else RunKind.DECODE,
        seq_len=case.new,
        mesh=mesh,
        global_batch=case.per_group * mesh.attn_dp,
        context_len=float(case.context),
        microbatch=per_microbatch,
        overlap=frozenset(
            axis
            for axis, hides in (
                (Overlap.TP, case.overlap.hides_tp),
                (Overlap.EP, case.overlap.hides_ep),
            )
            if hides
        ),
        engine=setting.engine.name,
    )
    return priced, predict_run(model, topology, run)


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


@st.composite
def cases(draw, num_chips, num_layers, num_experts, heads):
    """Degrees that divide the machine, groups of tensor parallelism within a node of 8."""
    pp = draw(st.sampled_from([p for p in (1, 2, 3, 4) if p <= min(num_layers, num_chips)]))
    sizes = [s for s in (1, 2, 4, 8, 16, 32, 64) if s * pp <= num_chips]
    stage = draw(st.sampled_from(sizes))
    attn_tp = draw(st.sampled_from([d for d in divisors(stage) if d <= min(8, heads)]))
    rest = stage // attn_tp
    cp = draw(st.sampled_from([d for d in divisors(rest) if d <= 4]))
    ep = 1
    if num_experts:
        fitting = [d for d in divisors(stage) if num_experts % d == 0 and stage // d <= 8]
        assume(fitting)
        ep = draw(st.sampled_from(fitting))
    else:
        cp = rest
    microbatches = draw(st.integers(1, 2 * pp)) if pp > 1 else 1
    return Case(
        mesh=Mesh(
            attn_tp=attn_tp,
            cp=cp,
            attn_dp=rest // cp,
            pp=pp,
            ep=ep,
            expert_tp=stage // ep if num_experts else 1,
        ),
        microbatches=microbatches,
        per_group=microbatches * cp * draw(st.integers(1, 200)),
        context=draw(st.integers(1, 200_000)),
        overlap=draw(st.sampled_from(OverlapMode)),
    )


def drawn(data):
    """A model, a machine and a layout."""
    model = load_model(data.draw(st.sampled_from(MODELS)))
    narrow = data.draw(st.sampled_from([None, DType.BF16, DType.FP8]))
    cache = data.draw(st.sampled_from([None, DType.BF16]))
    model = override_precision(model, narrow, narrow, cache)
    if data.draw(st.booleans()):
        model = shrunk(model, data.draw(st.integers(1, 12)), data.draw(st.integers(64, 3000)))
    machine, size = data.draw(st.sampled_from(MACHINES))
    spec = resize(load_machine(machine), **size)
    if data.draw(st.booleans()):
        spec = ideal(spec)
    topology = build_topology(spec)
    shape = moe_shape(model)
    heads = min(getattr(layer.attention, "num_heads", 1) for layer in model.layers)
    case = data.draw(cases(topology.num_chips, len(model.layers), shape[0] if shape else 0, heads))
    return model, topology, case


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_layout_costs_what_its_run_costs(data):
    priced, run = both(*drawn(data))
    assert priced.step_s == pytest.approx(run.seconds, rel=1e-9)
    assert math.fsum(t.seconds for t in priced.terms) == pytest.approx(priced.step_s, rel=1e-9)
    names = {t.name: t.seconds for t in run.terms}
    for term in priced.terms:
        if term.seconds:
            assert names.get(term.name, 0.0) == pytest.approx(term.seconds, rel=1e-9, abs=1e-15)
    memory = priced.memory
    assert memory.weights_bytes == pytest.approx(run.memory.weights_bytes, rel=1e-9)
    assert memory.kv_bytes == pytest.approx(run.memory.kv_bytes, rel=1e-9)
    assert memory.activations_bytes == pytest.approx(run.memory.activations_bytes, rel=1e-9)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_prefill_costs_what_its_run_costs(data):
    model, topology, case = drawn(data)
    case = replace(
        case,
        new=data.draw(st.integers(1, 100_000)),
        context=data.draw(st.sampled_from([0, case.context])),
    )
    priced, run = both(model, topology, case)
    names = {t.name: t.seconds for t in run.terms}
    # The run fills the pipeline once and drains it, the layout serves a stream: the same stages
    # and hops, which a lone microbatch passes alike.
    m, stages = case.microbatches, priced.stage_s
    hops = names.get("pipeline_hops", 0.0)
    assert sum(stages) + hops + (m - 1) * max(stages) == pytest.approx(run.seconds, rel=1e-9)
    assert priced.step_s == pytest.approx(max(sum(stages) + hops, m * max(stages)), rel=1e-9)
    assert math.fsum(t.seconds for t in priced.terms) == pytest.approx(priced.step_s, rel=1e-9)
    tokens = case.per_group * case.mesh.attn_dp * case.new
    assert priced.tokens_per_s == pytest.approx(tokens / priced.step_s, rel=1e-9)
    if m == 1:
        for term in priced.terms:
            if term.seconds:
                expected = pytest.approx(term.seconds, rel=1e-9, abs=1e-15)
                assert names.get(term.name, 0.0) == expected, term.name
    memory = priced.memory
    assert memory.weights_bytes == pytest.approx(run.memory.weights_bytes, rel=1e-9)
    assert memory.kv_bytes == pytest.approx(run.memory.kv_bytes, rel=1e-9)
    assert memory.activations_bytes == pytest.approx(run.memory.activations_bytes, rel=1e-9)


def test_a_large_group_of_a_torus_costs_what_its_run_costs():
    # PaLM-540B on 64 chips: weights on two axes, the one KV head split over sequences.
    model = override_precision(load_model("palm-540b"), DType.BF16, DType.BF16, DType.BF16)
    topology = build_topology(resize(load_machine("tpu-v4"), shape=(4, 4, 4)))
    case = Case(mesh=Mesh(attn_tp=64), microbatches=1, per_group=64, context=2080)
    priced, run = both(model, topology, case)
    assert priced.step_s == pytest.approx(run.seconds, rel=1e-9)
    assert priced.memory.kv_bytes == pytest.approx(run.memory.kv_bytes, rel=1e-9)
    assert np.isfinite(priced.step_s)


def test_drafts_pay_for_what_they_yield():
    # One draft at 0.8: 1.8 tokens per pass. Two queries read each cache once, so the core
    # takes as long as with one; the draft is one more layer, and the head once more.
    model = load_model("deepseek-v3")
    topology = build_topology(ideal(load_machine("gb200-nvl72")))
    maps, num_slots = whole_experts(model, 64)
    degrees = Degrees(
        attn_tp=1, attn_dp=64, pp=1, ep=64, expert_tp=1, num_slots=256, microbatches=1, replicas=1
    )
    plain = Assignment(
        degrees=degrees,
        stage_ends=(61,),
        cells=((tuple(range(64)),),),
        slot_maps=maps,
        sequences=(((2,) * 64,),),
    )
    drafted = replace(plain, degrees=replace(degrees, draft=1))
    setting = Setting(
        model=model,
        chip=topology.chip,
        context_tokens=64_000,
        time_model=TimeModel.SUM,
        reserve_fraction=0.0,
        acceptance=0.8,
    )
    loads = uniform_loads(58, num_slots)
    one, two = (evaluate(setting, topology, a, loads, None) for a in (plain, drafted))
    assert two.tokens_per_pass == pytest.approx(1.8)
    assert math.fsum(t.seconds for t in two.terms) == pytest.approx(two.step_s, rel=1e-9)
    seconds = [{t.name: t.seconds for t in found.terms} for found in (one, two)]
    reads = 64_000 * 576 * 2 * 61 / 8e12
    core = [own["attention_core"] for own in seconds]
    assert core[1] * 1.8 >= core[0] >= reads * 0.5
    assert seconds[1]["draft"] > 0
    assert two.tokens_per_s == pytest.approx(128 / two.step_s)
    # A layer of weights and its cache on top: the drafting layer.
    assert two.memory.weights_bytes > one.memory.weights_bytes
    assert two.memory.kv_bytes == pytest.approx(one.memory.kv_bytes * 62 / 61)
