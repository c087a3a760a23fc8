"""Contexts that differ: expectations by hand, against many quantiles, and in whole runs."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.cost.prefill_core import expected_sequence_core
from planner.cost.runs.inference import pipeline_idle, predict_inference
from planner.cost.runs.inference_contexts import Contexts, context_bends
from planner.cost.runs.record import RunPrediction
from planner.cost.sequence_attention import sequence_core, visible_tokens
from planner.domain.hardware import ideal
from planner.domain.model import Attention, GroupedQueryAttention, LatentAttention, SparseIndexer
from planner.domain.run import Mesh, Run, RunKind
from planner.errors import SpecError
from planner.topology.build import build_topology
from planner.topology.graph import Topology

QUANTILES = 20_000


def quantiles(contexts: Contexts) -> list[float]:
    """Contexts in the middle of equally likely intervals."""
    sigma = math.sqrt(math.log1p((contexts.spread / contexts.mean) ** 2))
    mu = math.log(contexts.mean) - sigma**2 / 2
    normal = NormalDist(mu, sigma)
    return [math.exp(normal.inv_cdf((i + 0.5) / QUANTILES)) for i in range(QUANTILES)]


def test_window_at_the_mean_with_a_spread_of_the_mean() -> None:
    """sigma^2 = ln 2; E min(X, mean) = 2 mean Phi(-sigma / 2) = 0.67721 mean.

    sigma / 2 = 0.416277; Phi(-0.416277) = 0.338604.
    """
    found = Contexts(mean=1000.0, spread=1000.0).expected(lambda x: min(x, 1000.0), [1000.0])
    assert found == pytest.approx(677.21, abs=0.01)


@pytest.mark.parametrize(("window", "expected"), [(100.0, 100.0), (40_000.0, 4000.0)])
def test_windows_far_below_and_far_above_do_not_feel_the_spread(
    window: float, expected: float
) -> None:
    contexts = Contexts(mean=4000.0, spread=1000.0)
    found = contexts.expected(lambda x: min(x, window), [window])
    assert found == pytest.approx(expected, rel=1e-9)


def test_what_is_linear_needs_only_the_mean() -> None:
    contexts = Contexts(mean=4000.0, spread=3000.0)
    assert contexts.expected(lambda x: 3.0 + 2.0 * x) == 8003.0
    # A bend that is none changes nothing.
    assert contexts.expected(lambda x: 3.0 + 2.0 * x, [500.0]) == pytest.approx(8003.0)


@given(
    mean=st.floats(100.0, 1e5),
    ratio=st.floats(0.01, 1.5),
    window=st.floats(50.0, 1e5),
    new=st.sampled_from([1.0, 100.0, 5000.0]),
)
@settings(max_examples=25, deadline=None)
def test_expectation_is_the_mean_over_quantiles(
    mean: float, ratio: float, window: float, new: float
) -> None:
    """Quadratic pieces of a prefill under a window; the tail beyond it is a constant."""
    contexts = Contexts(mean=mean, spread=ratio * mean)

    def cost(cached: float) -> float:
        return visible_tokens(new, cached, window)

    found = contexts.expected(cost, [window - new, window])
    expected = sum(cost(x) for x in quantiles(contexts)) / QUANTILES
    assert found == pytest.approx(expected, rel=2e-3)


INDEXER = SparseIndexer(top_k_tokens=2048, num_heads=4, head_dim=64, query_rank=512)
WINDOWED = GroupedQueryAttention(num_heads=8, num_kv_heads=2, head_dim=64, window_tokens=1024)
SPARSE = LatentAttention(
    num_heads=8,
    q_lora_rank=None,
    kv_lora_rank=256,
    qk_nope_head_dim=64,
    qk_rope_head_dim=32,
    v_head_dim=64,
    indexer=INDEXER,
)


@pytest.mark.parametrize("attention", [WINDOWED, SPARSE])
@pytest.mark.parametrize("new", [64.0, 700.0, 4000.0])
def test_bends_of_a_prefill_are_all_known(attention: Attention, new: float) -> None:
    """With a bend missing, a quadratic would be fitted across it."""
    contexts = Contexts(mean=1500.0, spread=900.0)
    found = expected_sequence_core(attention, new, contexts)
    sampled = [sequence_core(attention, new, x) for x in quantiles(contexts)]
    assert found.flop == pytest.approx(sum(s.flop for s in sampled) / QUANTILES, rel=5e-4)
    moved = sum(s.moved_elements for s in sampled) / QUANTILES
    assert found.moved_elements == pytest.approx(moved, rel=5e-4)


def test_bends_of_a_decode_step() -> None:
    assert set(context_bends(WINDOWED)) == {1024.0}
    assert set(context_bends(SPARSE)) == {2048.0}


def test_room_for_one_sequence_is_a_quantile_and_for_many_the_mean() -> None:
    """z(0.99) = 2.32635; one: 1000 exp(2.32635 s - s^2 / 2) with s^2 = ln 1.25 = 0.22314.

    2.32635 x 0.47238 - 0.11157 = 0.98735: 2684. Of 10,000: 1000 + 2.32635 x 500 / 100 = 1011.6.
    """
    contexts = Contexts(mean=1000.0, spread=500.0)
    assert contexts.held(1) == pytest.approx(2684, abs=1)
    assert contexts.held(10_000) == pytest.approx(1011.6, abs=0.1)
    assert Contexts(mean=1000.0).held(1) == 1000.0


@pytest.mark.parametrize(
    ("mean", "spread", "message"),
    [
        (-1.0, 0.0, "context_len: -1 is negative"),
        (10.0, -2.0, "context_spread: -2 is negative"),
        (0.0, 5.0, "contexts of no tokens"),
        (math.inf, 0.0, "is not a number of tokens"),
    ],
)
def test_contexts_that_cannot_be(mean: float, spread: float, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Contexts(mean=mean, spread=spread)


# Whole runs on a perfect node, where a core takes its bytes over the HBM rate.


@pytest.fixture(scope="module")
def node() -> Topology:
    return build_topology(ideal(load_machine("h100-hgx")))


def decode(context: float, spread: float, batch: int = 64) -> Run:
    return Run(
        kind=RunKind.DECODE,
        mesh=Mesh(attn_tp=8),
        global_batch=batch,
        context_len=context,
        context_spread=spread,
        engine="ideal",
    )


def term(found: RunPrediction, name: str) -> float:
    return next(t.seconds for t in found.terms if t.name == name)


def test_full_attention_does_not_feel_the_spread(node: Topology) -> None:
    model = load_model("llama-3.1-70b")
    even = predict_inference(model, node, decode(4096.0, 0.0))
    spread = predict_inference(model, node, decode(4096.0, 2000.0))
    assert spread.seconds == even.seconds
    assert spread.memory.kv_bytes > even.memory.kv_bytes


def test_windows_cut_long_contexts(node: Topology) -> None:
    """gpt-oss: every other layer sees 128 tokens, the others everything.

    With mean = spread = 128, a windowed layer reads 0.67721 x 128 tokens of a mean sequence:
    the core reads (1 + 0.67721) / 2 of what equal contexts read.
    """
    model = load_model("gpt-oss-120b")
    even = predict_inference(model, node, decode(128.0, 0.0))
    spread = predict_inference(model, node, decode(128.0, 128.0))
    ratio = term(spread, "attention_core") / term(even, "attention_core")
    assert ratio == pytest.approx((1 + 0.67721) / 2, rel=1e-4)
    # Long contexts fill the window whatever their spread.
    long = [predict_inference(model, node, decode(8192.0, s)).seconds for s in (0.0, 2000.0)]
    assert long[1] == pytest.approx(long[0], rel=1e-6)


def test_memory_holds_the_quantile_of_the_batch(node: Topology) -> None:
    """64 sequences of 4,096 +- 4,096: 4096 + 8 of half a block, and 4096 x q for the spread.

    s^2 = ln(1 + 1/64) = 0.015504, s = 0.124515; q = exp(2.32635 s - s^2 / 2) = 1.3257.
    """
    model = load_model("llama-3.1-70b")
    even, spread = (
        predict_inference(model, node, decode(4096.0, s)).memory.kv_bytes for s in (0.0, 4096.0)
    )
    assert spread / even == pytest.approx((4096 * 1.3257 + 8) / (4096 + 8), rel=1e-3)


def test_requests_have_no_spread_of_contexts(node: Topology) -> None:
    run = Run(
        kind=RunKind.REQUEST,
        mesh=Mesh(attn_tp=8),
        global_batch=1,
        input_len=10,
        output_len=10,
        context_spread=5.0,
    )
    with pytest.raises(SpecError, match="context_spread"):
        predict_inference(load_model("llama-3.1-70b"), node, run)


def test_one_microbatch_leaves_all_but_one_stage_idle(node: Topology) -> None:
    """p = 4 stages of 20 layers, one sequence: 1 - 1/4, and hops; head and embedding aside."""
    model = load_model("llama-3.1-70b")
    mesh = Mesh(attn_tp=2, pp=4)
    step = Run(kind=RunKind.DECODE, mesh=mesh, global_batch=1, context_len=100.0, engine="ideal")
    assert pipeline_idle(model, node, step) == pytest.approx(0.75, abs=1e-3)
    # A prefill of m = 12 chunks: 1 - m / (m + p - 1) = 3 / 15, the head's stage slower.
    prefill = Run(
        kind=RunKind.PREFILL,
        mesh=mesh,
        global_batch=12,
        seq_len=2048,
        microbatch=1,
        engine="ideal",
    )
    assert pipeline_idle(model, node, prefill) == pytest.approx(0.2, abs=0.01)
    flat = Run(kind=RunKind.DECODE, mesh=Mesh(attn_tp=8), global_batch=1, context_len=100.0)
    assert pipeline_idle(model, node, flat) is None


def test_ideal_engine_has_no_host_and_no_reserve(node: Topology) -> None:
    found = predict_inference(load_model("mixtral-8x22b"), node, decode(100.0, 0.0, batch=1))
    assert found.memory.reserve_bytes == 0.0
    assert {t.bound.value for t in found.terms} <= {"compute", "memory", "network"}
