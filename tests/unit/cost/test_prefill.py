"""A prefill pass on perfect machines, where every term is arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model, override_precision
from planner.cost.runs.inference import predict_inference
from planner.cost.runs.record import RunPrediction
from planner.domain.dtypes import DType
from planner.domain.hardware import ideal
from planner.domain.model import ModelSpec
from planner.domain.run import Mesh, Overlap, Run, RunKind
from planner.topology.build import build_topology
from planner.topology.graph import Topology

PEAK = 989.4e12  # H100, dense bf16
HBM = 3.35e12


@pytest.fixture(scope="module")
def llama() -> ModelSpec:
    """Llama-3.1-70B in bf16: 80 layers, hidden 8192, 64 heads of 128, 8 KV heads."""
    bf16 = DType.BF16
    return override_precision(load_model("llama-3.1-70b"), bf16, bf16, bf16)


@pytest.fixture(scope="module")
def perfect() -> Topology:
    """Two nodes of eight H100."""
    return build_topology(ideal(resize(load_machine("h100-hgx"), nodes=2)))


def prefill(
    model: ModelSpec,
    topology: Topology,
    mesh: Mesh,
    tokens: int,
    sequences: int = 1,
    **extra: object,
) -> RunPrediction:
    """Predict one pass over ``sequences`` prompts of ``tokens`` tokens."""
    run = Run(kind=RunKind.PREFILL, mesh=mesh, global_batch=sequences, seq_len=tokens)
    for name, value in extra.items():
        run = _with(run, name, value)
    return predict_inference(model, topology, run)


def _with(run: Run, name: str, value: object) -> Run:
    return replace(run, **{name: value})  # type: ignore[arg-type]


def term(prediction: RunPrediction, *names: str) -> float:
    """Seconds of some terms."""
    return sum(t.seconds for t in prediction.terms if t.name in names)


def test_matmuls_cost_two_flop_per_weight_and_token(llama: ModelSpec, perfect: Topology) -> None:
    """Layer: 2 x 8192^2 + 2 x 8192 x 1024 + 3 x 8192 x 28672 = 855,638,016 weights, 80 of them.

    65,536 tokens over eight chips: 2 x 68.451e9 x 65536 / 8 / 989.4e12 = 1.1335 s; reading the
    weights once takes 5 ms behind it.
    """
    found = prefill(llama, perfect, Mesh(attn_tp=8), 65_536)
    expected = 2 * 80 * 855_638_016 * 65_536 / 8 / PEAK
    assert expected == pytest.approx(1.1335, rel=1e-4)
    assert term(found, "attention_projections", "dense_ffn") == pytest.approx(expected, rel=1e-6)


def test_causal_core_counts_half_of_the_square(llama: ModelSpec, perfect: Topology) -> None:
    """Token i sees i tokens: 4 x 64 x 128 x S (S + 1) / 2 FLOP per layer, an eighth per chip."""
    size = 65_536
    found = prefill(llama, perfect, Mesh(attn_tp=8), size)
    expected = 80 * 4 * 64 * 128 * size * (size + 1) / 2 / 8 / PEAK
    assert term(found, "attention_core") == pytest.approx(expected, rel=1e-9)


def test_cached_prefix_is_seen_but_not_computed(llama: ModelSpec, perfect: Topology) -> None:
    """4,096 new tokens after 61,440: visible pairs are new x cached + new (new + 1) / 2."""
    new, cached = 4_096, 61_440
    found = prefill(llama, perfect, Mesh(attn_tp=8), new, context_len=float(cached))
    pairs = new * cached + new * (new + 1) / 2
    assert term(found, "attention_core") == pytest.approx(
        80 * 4 * 64 * 128 * pairs / 8 / PEAK, rel=1e-9
    )
    alone = prefill(llama, perfect, Mesh(attn_tp=8), new)
    assert term(found, "dense_ffn") == term(alone, "dense_ffn")


def test_head_multiplies_only_last_tokens(llama: ModelSpec, perfect: Topology) -> None:
    """One sequence: reading 128256 x 8192 weights in bf16, an eighth per chip, 78 us."""
    found = prefill(llama, perfect, Mesh(attn_tp=8), 8_192)
    read = 128_256 * 8_192 * 2 / 8 / HBM
    gathered = 7 / 8 * 128_256 * 2 / 450e9
    assert term(found, "head") == pytest.approx(read + gathered, rel=1e-3)


def test_overlapped_all_reduce_leaves_the_compute_part(llama: ModelSpec, perfect: Topology) -> None:
    """Two halves hide each other's sums; each half reads the weights again, 0.3 % here."""
    mesh = Mesh(attn_tp=8)
    exposed = prefill(llama, perfect, mesh, 16_384, overlap=frozenset())
    hidden = prefill(llama, perfect, mesh, 16_384, overlap=frozenset({Overlap.TP}))
    wire = 2 * 7 / 8 * 16_384 * 8_192 * 2 / 450e9
    assert term(exposed, "all_reduce") == pytest.approx(160 * wire, rel=1e-9)
    assert term(hidden, "all_reduce") == 0.0
    assert hidden.seconds == pytest.approx(exposed.seconds - 160 * wire, rel=5e-3)


def test_overlap_cannot_hide_more_than_there_is_to_compute(
    llama: ModelSpec, perfect: Topology
) -> None:
    """Two chips on different nodes wait for the network whatever they overlap."""
    spec = perfect.spec
    assert spec.scale_out is not None
    slow = build_topology(replace(spec, scale_out=replace(spec.scale_out, nic_bytes_per_s=1e9)))
    mesh = Mesh(attn_tp=16)
    hidden = prefill(llama, slow, mesh, 8_192, overlap=frozenset({Overlap.TP}))
    exposed = prefill(llama, slow, mesh, 8_192, overlap=frozenset())
    # Everything but the head waits: the collectives alone.
    assert hidden.seconds == pytest.approx(
        term(exposed, "all_reduce") + term(hidden, "head", "embedding"), rel=1e-6
    )


def test_context_parallelism_splits_tokens_and_core(llama: ModelSpec, perfect: Topology) -> None:
    """Two ranks hold half of the tokens and half of the causal work each; the ring is hidden.

    It moves 80 layers x 4096 B x 65536 / 8 tokens x 1/2 over 50 GB/s: 27 ms behind 0.33 s.
    """
    one = prefill(llama, perfect, Mesh(attn_tp=8), 65_536)
    two = prefill(llama, perfect, Mesh(attn_tp=8, cp=2), 65_536)
    for name in ("attention_core", "dense_ffn", "attention_projections"):
        assert term(two, name) == pytest.approx(term(one, name) / 2, rel=1e-6)
    assert term(two, "context_parallel") == 0.0


def test_ring_waits_where_the_core_is_short(llama: ModelSpec, perfect: Topology) -> None:
    """Eight new tokens after 131,064: the ring moves all keys and values for almost no work.

    Per layer and chip 131072 x 2 x 128 x 2 B x 1/2 over 50 GB/s = 671 us.
    """
    found = prefill(llama, perfect, Mesh(attn_tp=8, cp=2), 8, context_len=131_064.0)
    wire = 80 * 131_072 * 2 * 128 * 2 / 2 / 50e9
    core = term(found, "attention_core")
    assert term(found, "context_parallel") == pytest.approx(wire - core / 2, rel=1e-6)


def test_pipeline_fills_once(llama: ModelSpec, perfect: Topology) -> None:
    """Two stages, four microbatches: five slots of half a model against four of a whole one."""
    whole = prefill(llama, perfect, Mesh(attn_tp=8), 16_384, sequences=4)
    staged = prefill(llama, perfect, Mesh(attn_tp=8, pp=2), 16_384, sequences=4, microbatch=1)
    hop = term(staged, "pipeline_hops")
    assert hop == pytest.approx(16_384 * 8_192 * 2 / 8 / 50e9, rel=1e-9)
    assert staged.seconds - hop == pytest.approx(5 / 8 * whole.seconds, rel=2e-3)


def test_short_prompts_wait_for_the_host(perfect: Topology) -> None:
    """A layer of Llama-2-7B is nine launches of 22 us: qkv, o, up and down, the core, two norms,
    the rotation and the activation; its weights take 121 us, less than 198.
    """
    model = load_model("llama-2-7b")
    found = prefill(model, perfect, Mesh(), 16)
    tables = term(found, "head", "embedding")
    assert found.seconds - tables == pytest.approx(32 * 9 * 22e-6, rel=1e-9)
    assert term(found, "host_launch") > 0
