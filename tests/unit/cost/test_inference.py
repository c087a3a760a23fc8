"""Decode steps, whole requests, memory and refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model, override_precision
from planner.cost.runs.inference import predict_inference
from planner.cost.runs.inference_engine import ENGINES, engine_of
from planner.cost.runs.record import RunPrediction
from planner.domain.dtypes import DType
from planner.domain.hardware import MachineSpec, ideal
from planner.domain.model import ModelSpec
from planner.domain.run import Mesh, Overlap, Run, RunKind
from planner.errors import SpecError
from planner.topology.build import build_topology
from planner.topology.graph import Topology


@dataclass(frozen=True, kw_only=True)
class EngineRun(Run):
    """A run that names its engine."""

    engine: str = "current"


def bf16(name: str) -> ModelSpec:
    return override_precision(load_model(name), DType.BF16, DType.BF16, DType.BF16)


def decode(
    mesh: Mesh, batch: int, context: float, engine: str = "current", overlap: bool = False
) -> Run:
    return EngineRun(
        kind=RunKind.DECODE,
        mesh=mesh,
        global_batch=batch,
        context_len=context,
        engine=engine,
        overlap=frozenset(Overlap) if overlap else frozenset(),
    )


def request(mesh: Mesh, batch: int, lengths: tuple[int, int], engine: str = "current") -> Run:
    return EngineRun(
        kind=RunKind.REQUEST,
        mesh=mesh,
        global_batch=batch,
        input_len=lengths[0],
        output_len=lengths[1],
        engine=engine,
    )


def term(prediction: RunPrediction, *names: str) -> float:
    return sum(t.seconds for t in prediction.terms if t.name in names)


def h100(nodes: int = 1) -> MachineSpec:
    return resize(load_machine("h100-hgx"), nodes=nodes)


@pytest.fixture(scope="module")
def llama() -> ModelSpec:
    return bf16("llama-3.1-70b")


@pytest.fixture(scope="module")
def perfect() -> Topology:
    return build_topology(ideal(h100(2)))


@pytest.fixture(scope="module")
def real() -> Topology:
    return build_topology(h100(2))


def test_batch_of_one_reads_every_weight_once(llama: ModelSpec, perfect: Topology) -> None:
    """80 layers of 855,638,016 weights and a head of 128256 x 8192: 69.502e9 of 2 B.

    Over eight chips of 3.35e12 B/s: 5.187 ms; sums in the switches take 16 KiB / 450 GB/s
    each, 6 us together, and small operations move 0.2 MB a layer.
    """
    floor = (80 * 855_638_016 + 128_256 * 8_192) * 2 / 8 / 3.35e12
    assert floor == pytest.approx(5.187e-3, rel=1e-3)
    found = predict_inference(llama, perfect, decode(Mesh(attn_tp=8), 1, 1.0))
    assert floor < found.seconds < 1.01 * floor


def test_theory_llama_70b_on_eight_v5e() -> None:
    """Scaling book, inference chapter: 17 ms for int8, B 32 and 8,192 tokens of context.

    KV: 32 x 8192 x 163840 B / (8 x 8.19e11 B/s) = 6.56 ms; layers: 68.45e9 B, 10.45 ms.
    """
    int8 = DType.INT8
    model = override_precision(load_model("llama-3.1-70b"), int8, int8, int8)
    spec = ideal(resize(load_machine("tpu-v5e"), shape=(4, 2)))
    found = predict_inference(model, build_topology(spec), decode(Mesh(attn_tp=8), 32, 8192.0))
    core = 32 * 8_192 * 163_840 / (8 * 8.19e11)
    assert term(found, "attention_core") == pytest.approx(core, rel=1e-9)
    matmuls = term(found, "attention_projections", "dense_ffn", "head")
    assert core + matmuls == pytest.approx(17.2e-3, rel=0.02)


@pytest.mark.parametrize(
    ("batch", "milliseconds"),
    [(1, 4.98), (8, 12.13), (16, 20.30), (32, 36.65), (64, 69.33), (240, 249.09)],
)
def test_theory_llama_13b_table(batch: int, milliseconds: float) -> None:
    """Scaling book: 26e9 B of weights (the embedding, 1.3 % of them, is not read here)."""
    spec = resize(load_machine("tpu-v5e"), shape=(4, 2))
    spec = replace(spec, chip=replace(spec.chip, hbm_bytes_per_s=8.2e11))
    topology = build_topology(ideal(spec))
    found = predict_inference(bf16("llama-2-13b"), topology, decode(Mesh(attn_tp=8), batch, 8192.0))
    local = term(found, "attention_core", "attention_projections", "dense_ffn", "head")
    assert local == pytest.approx(milliseconds * 1e-3, rel=0.013)


def test_request_is_its_prefill_and_every_step(llama: ModelSpec, perfect: Topology) -> None:
    """Fifteen steps after a prompt of 4,096 tokens, summed one by one."""
    mesh = Mesh(attn_tp=8)
    first = predict_inference(
        llama, perfect, Run(kind=RunKind.PREFILL, mesh=mesh, global_batch=2, seq_len=4096)
    )
    steps = [
        predict_inference(llama, perfect, decode(mesh, 2, 4096.0 + step)).seconds
        for step in range(1, 16)
    ]
    whole = predict_inference(llama, perfect, request(mesh, 2, (4096, 16)))
    assert whole.seconds == pytest.approx(first.seconds + sum(steps), rel=1e-9)
    assert whole.seconds == pytest.approx(sum(t.seconds for t in whole.terms), rel=1e-12)


def test_one_token_is_the_prefill(llama: ModelSpec, real: Topology) -> None:
    mesh = Mesh(attn_tp=8)
    prefill = Run(kind=RunKind.PREFILL, mesh=mesh, global_batch=1, seq_len=512)
    once = predict_inference(llama, real, request(mesh, 1, (512, 1)))
    assert once.seconds == predict_inference(llama, real, prefill).seconds


@settings(max_examples=25, deadline=None)
@given(
    hbm=st.floats(1.0, 4.0),
    links=st.floats(1.0, 4.0),
    batch=st.sampled_from([1, 8, 64]),
    mesh=st.sampled_from([Mesh(attn_tp=8), Mesh(attn_tp=8, pp=2), Mesh(attn_tp=8, cp=2)]),
    kind=st.sampled_from(["decode", "request"]),
)
def test_more_bandwidth_is_never_slower(
    hbm: float, links: float, batch: int, mesh: Mesh, kind: str
) -> None:
    model = bf16("llama-3.1-8b")
    spec = h100(2)
    assert spec.scale_out is not None
    chip = replace(spec.chip, hbm_bytes_per_s=spec.chip.hbm_bytes_per_s * hbm)
    fabric = replace(spec.scale_out, nic_bytes_per_s=spec.scale_out.nic_bytes_per_s * links)
    run = decode(mesh, batch, 4096.0) if kind == "decode" else request(mesh, batch, (512, 64))
    base = predict_inference(model, build_topology(spec), run).seconds
    faster = build_topology(replace(spec, chip=chip, scale_out=fabric))
    assert predict_inference(model, faster, run).seconds <= base * (1 + 1e-12)


def test_pipeline_of_decode_adds_no_bandwidth(llama: ModelSpec, perfect: Topology) -> None:
    """Theory, chapter 4: stages run one after another, one sequence takes as long as without."""
    one = predict_inference(llama, perfect, decode(Mesh(attn_tp=8), 1, 4096.0))
    two = predict_inference(llama, perfect, decode(Mesh(attn_tp=8, pp=2), 1, 4096.0))
    hops = 2 * 8_192 * 2 / 8 / 50e9
    assert term(two, "pipeline_hops") == pytest.approx(hops, rel=1e-9)
    assert two.seconds == pytest.approx(one.seconds + hops, rel=1e-9)


def test_touched_experts_are_read(perfect: Topology) -> None:
    """Mixtral-8x22B, one token on one node: its 2 of 8 experts, 3 x 6144 x 16384 weights each."""
    mesh = Mesh(attn_tp=8, expert_tp=8)
    found = predict_inference(bf16("mixtral-8x22b"), perfect, decode(mesh, 1, 1.0))
    read = 56 * 2 * 3 * 6144 * 16_384 * 2 / 8 / 3.35e12
    assert term(found, "routed_experts") == pytest.approx(read, rel=5e-3)


def test_copied_experts_serve_their_own_tokens(perfect: Topology) -> None:
    """Eight chips that each hold all experts do what one chip does with an eighth of the batch."""
    model = bf16("qwen3-30b-a3b")
    one = predict_inference(model, perfect, decode(Mesh(), 16, 1024.0))
    eight = predict_inference(model, perfect, decode(Mesh(attn_dp=8), 128, 1024.0))
    assert eight.seconds == pytest.approx(one.seconds, rel=1e-12)
    assert eight.memory == one.memory


def test_expert_exchange_hides_behind_the_other_half(real: Topology) -> None:
    """Overlapped steps are faster on a large batch, and never show more communication."""
    model = load_model("deepseek-v3")
    mesh = Mesh(attn_dp=16, ep=16)
    shown = predict_inference(model, real, decode(mesh, 16 * 256, 2048.0))
    hidden = predict_inference(model, real, decode(mesh, 16 * 256, 2048.0, overlap=True))
    assert term(hidden, "dispatch", "combine") < term(shown, "dispatch", "combine")
    assert hidden.seconds < shown.seconds


def test_context_ranks_share_the_cache(llama: ModelSpec, perfect: Topology) -> None:
    mesh = Mesh(attn_tp=8)
    one = predict_inference(llama, perfect, decode(mesh, 4, 131_072.0))
    two = predict_inference(llama, perfect, decode(replace(mesh, cp=2), 4, 131_072.0))
    assert term(two, "attention_core") == pytest.approx(term(one, "attention_core") / 2)
    assert term(two, "dense_ffn") == term(one, "dense_ffn")


def test_engines_order_a_step_of_one_token(real: Topology) -> None:
    """Kernels that are launched one by one, and a host that is waited for, cost time."""
    model = bf16("gpt3-20b")
    seconds = {
        name: predict_inference(model, real, decode(Mesh(attn_tp=8), 1, 128.0, name)).seconds
        for name in ENGINES
    }
    assert seconds["current"] <= seconds["2023"] < seconds["2024"]
    assert seconds["current"] < seconds["2022"]
    assert seconds["current"] < seconds["eager"]


def test_ungrouped_decode_reads_a_head_for_every_query(llama: ModelSpec, perfect: Topology) -> None:
    """64 query heads over 8 KV heads: eight times the bytes; the core is memory-bound."""
    mesh = Mesh(attn_tp=8)
    grouped = predict_inference(llama, perfect, decode(mesh, 8, 4096.0, "current"))
    every = predict_inference(llama, perfect, decode(mesh, 8, 4096.0, "2023"))
    assert term(every, "attention_core") == pytest.approx(8 * term(grouped, "attention_core"))


def test_queue_takes_as_many_steps_as_fit(real: Topology) -> None:
    """Sequences beyond the cache wait: four times too many take about four times the steps."""
    model = bf16("llama-3.1-8b")
    full = predict_inference(model, real, request(Mesh(), 4096, (1024, 512)))
    assert full.memory.fits
    static = predict_inference(model, real, request(Mesh(), 4096, (1024, 512), "2023"))
    assert not static.memory.fits
    assert full.memory.kv_bytes < static.memory.kv_bytes


def test_memory_by_hand(llama: ModelSpec, real: Topology) -> None:
    """Eighth of the split weights, norms whole: (68.45e9 + 2 x 1.0507e9) x 2 / 8 B + norms.

    Norms: (80 x 2 + 1) x 8192 x 2 B. KV of 4 sequences of 2,048 + 8 tokens: 40,960 B a chip.
    """
    found = predict_inference(llama, real, decode(Mesh(attn_tp=8), 4, 2048.0)).memory
    split = (80 * 855_638_016 + 2 * 128_256 * 8_192) * 2 / 8
    assert found.weights_bytes == pytest.approx(split + 161 * 8_192 * 2, rel=1e-9)
    assert found.kv_bytes == pytest.approx(4 * 2_056 * 80 * 2 * 128 * 2, rel=1e-9)
    assert found.reserve_bytes == pytest.approx(0.1 * found.capacity_bytes)
    assert found.fits


def test_multiquery_cache_is_split_over_sequences_on_a_torus() -> None:
    """PaLM-540B on 64 TPU v4: one KV head; every chip keeps one of 64 sequences, not all."""
    topology = build_topology(resize(load_machine("tpu-v4"), shape=(4, 4, 4)))
    found = predict_inference(bf16("palm-540b"), topology, decode(Mesh(attn_tp=64), 64, 2080.0))
    assert found.memory.kv_bytes == pytest.approx(118 * 2_088 * 2 * 256 * 2)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (decode(Mesh(attn_tp=32), 1, 128.0), "uses 32 chips"),
        (decode(Mesh(attn_tp=8), 0, 128.0), "batch is empty"),
        (decode(Mesh(attn_tp=8), 1, -1.0), "negative"),
        (decode(Mesh(attn_tp=8, ep=3), 1, 128.0), "do not divide"),
        (request(Mesh(), 1, (128, 0)), "no output_len"),
        (Run(kind=RunKind.PREFILL, mesh=Mesh(), global_batch=1), "no seq_len"),
        (Run(kind=RunKind.TRAIN, mesh=Mesh(), global_batch=1), "no inference run"),
        (decode(Mesh(), 1, 1.0, "1999"), "unknown engine"),
    ],
)
def test_refusals(run: Run, reason: str, llama: ModelSpec, real: Topology) -> None:
    with pytest.raises(SpecError, match=reason):
        predict_inference(llama, real, run)


def test_engine_defaults_to_current() -> None:
    run = Run(kind=RunKind.DECODE, mesh=Mesh(), global_batch=1)
    assert engine_of(run).name == "current"
    assert engine_of(replace(run, engine="2022")).captures is False
