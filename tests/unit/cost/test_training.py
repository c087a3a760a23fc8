"""Training steps: counts against the published formulas, messages and overlap by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model, override_precision
from planner.cost.runs.record import RunPrediction
from planner.cost.runs.training import predict_training
from planner.cost.runs.training_layer import head_size_share
from planner.cost.runs.training_pipeline import chunk_layers
from planner.domain.dtypes import DType, Precision
from planner.domain.hardware import MachineSpec, Sizing, ideal
from planner.domain.model import (
    DenseFfn,
    Ffn,
    GroupedQueryAttention,
    Layer,
    ModelSpec,
    MoeFfn,
)
from planner.domain.run import Mesh, Overlap, Recompute, Run, RunKind, ScheduleKind
from planner.errors import SpecError
from planner.machine_api import load_topology
from planner.topology.build import build_topology
from planner.topology.graph import Topology

H, L, V, S = 4096, 8, 51200, 2048
PEAK = 989.4e12  # H100, bf16
NVLINK = 450e9


def _precision() -> Precision:
    wide = DType.BF16
    return Precision(
        attention=wide,
        dense_ffn=wide,
        shared_expert=wide,
        routed_expert=wide,
        router=wide,
        embedding=wide,
        head=wide,
        norm=wide,
        activations=wide,
        kv=wide,
    )


def _gpt(layers: int = L, ffn: Ffn | None = None) -> ModelSpec:
    layer = Layer(
        attention=GroupedQueryAttention(num_heads=32, num_kv_heads=32, head_dim=128),
        ffn=ffn or DenseFfn(width=4 * H, gated=False),
        norm_bias=True,
    )
    return ModelSpec(
        name="gpt",
        architecture="gpt2",
        hidden_size=H,
        vocab_size=V,
        layers=(layer,) * layers,
        precision=_precision(),
    )


def _machine(nodes: int = 1, memory_bound: bool = False) -> MachineSpec:
    """HGX H100 as a pure roofline; unless ``memory_bound``, HBM costs nothing."""
    spec = replace(ideal(load_machine("h100-hgx")), num_domains=nodes)
    chip = spec.chip
    return spec if memory_bound else replace(spec, chip=replace(chip, hbm_bytes_per_s=1e30))


def _topology(nodes: int = 1) -> Topology:
    return build_topology(_machine(nodes))


def _run(mesh: Mesh, batch: int = 8, **fields: object) -> Run:
    base = Run(
        kind=RunKind.TRAIN,
        mesh=mesh,
        global_batch=batch,
        seq_len=S,
        microbatch=1,
        schedule=ScheduleKind.ONE_F_ONE_B if mesh.pp > 1 else ScheduleKind.NONE,
        overlap=frozenset(),
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def _terms(prediction: RunPrediction) -> dict[str, float]:
    return {term.name: term.seconds for term in prediction.terms}


def test_flop_of_a_step_are_those_of_korthikanti() -> None:
    # 72 B L s h^2 (1 + V / (12 h L)) for multiplies and head. The formula's attention counts
    # the whole square, 12 B L s^2 h; a causal core has s (s + 1) / 2 of s^2 pairs, and its
    # backward pass 5 multiplies for 2: forward 4 h s (s + 1) / 2, all 3.5 times that.
    terms = _terms(predict_training(_gpt(), _topology(), _run(Mesh())))
    assert terms["matmul"] * PEAK == pytest.approx(72 * 8 * L * S * H**2, rel=1e-9)
    assert terms["head"] * PEAK == pytest.approx(72 * 8 * L * S * H**2 * V / (12 * H * L), rel=1e-9)
    core = 4 * H * S * (S + 1) / 2
    assert terms["attention"] * PEAK == pytest.approx(8 * L * 3.5 * core, rel=1e-9)


def test_terms_add_up() -> None:
    mesh = Mesh(attn_tp=2, attn_dp=2, pp=2)
    prediction = predict_training(_gpt(), load_topology("h100-hgx"), _run(mesh))
    assert sum(term.seconds for term in prediction.terms) == pytest.approx(prediction.seconds)


def test_full_recompute_adds_one_forward_pass_of_the_layers() -> None:
    # A third of the multiplies and 1 / 3.5 of the core; selective recompute the latter alone.
    run = _run(Mesh())
    plain = _terms(predict_training(_gpt(), _topology(), run))
    full = _terms(predict_training(_gpt(), _topology(), replace(run, recompute=Recompute.FULL)))
    some = replace(run, recompute=Recompute.SELECTIVE)
    core = plain["attention"] / 3.5
    assert "recompute" not in plain
    assert full["recompute"] == pytest.approx(plain["matmul"] / 3 + core)
    selective = _terms(predict_training(_gpt(), _topology(), some))
    assert selective["recompute"] == pytest.approx(core)


def test_tensor_parallel_messages_by_hand() -> None:
    # Sequence parallelism, per layer and microbatch: 2 all-gathers and 2 reduce-scatters
    # forward, 4 and 2 backward: 10 messages of (n - 1) / n x 2 s h bytes over 450 GB/s.
    run = _run(Mesh(attn_tp=8), sequence_parallel=True)
    terms = _terms(predict_training(_gpt(), _topology(), run))
    message = 7 / 8 * 2 * S * H / NVLINK
    assert terms["tensor_parallel"] == pytest.approx(8 * L * 10 * message)


def test_gradients_travel_in_the_format_that_they_are_kept_in() -> None:
    # A ring's bytes double from 16 to 32 bits; weights return in 16 bits as before.
    run = _run(Mesh(attn_dp=8), batch=8, zero_stage=1)
    half = _terms(predict_training(_gpt(), _topology(), run))["gradients"]
    none = replace(run, zero_stage=0)
    wide, narrow = (
        _terms(predict_training(_gpt(), _topology(), replace(none, gradients=dtype)))["gradients"]
        for dtype in (DType.FP32, DType.BF16)
    )
    assert wide == pytest.approx(2.0 * narrow, rel=1e-6)
    shard = _terms(predict_training(_gpt(), _topology(), replace(run, gradients=DType.FP32)))
    # Reduce-scatter doubles, all-gather does not: 1.5 of both.
    assert shard["gradients"] == pytest.approx(1.5 * half, rel=1e-6)


def test_gradients_and_weights_of_zero_1_by_hand() -> None:
    # Parameters: 12 h^2 per layer (4 + 8) and 4 norms' vectors of h (weights and biases),
    # embedding and head of V h. Reduce-scatter and all-gather of 2 bytes each over 8 chips.
    terms = _terms(predict_training(_gpt(), _topology(), _run(Mesh(attn_dp=8), zero_stage=1)))
    params = L * (12 * H**2 + 4 * H) + 2 * V * H
    assert terms["gradients"] == pytest.approx(2 * 7 / 8 * 2 * params / NVLINK)


def test_sharded_weights_travel_three_times_per_microbatch() -> None:
    # Gathered forward and backward, gradients scattered: 3 x 7/8 x 2 bytes per parameter of
    # the layers and microbatch; two microbatches.
    run = _run(Mesh(attn_dp=8), batch=16, zero_stage=3)
    terms = _terms(predict_training(_gpt(), _topology(), run))
    params = L * (12 * H**2 + 4 * H)
    assert terms["weight_sharding"] == pytest.approx(2 * 3 * 7 / 8 * 2 * params / NVLINK)


def test_expert_exchange_runs_four_times_per_layer() -> None:
    # 8 groups of one chip, top-2: a token reaches 8 (1 - (7/8)^2) = 1.875 of them. Dispatch and
    # combine, forward and backward, each (n - 1) / n of 1.875 copies of 2 s h bytes.
    ffn = MoeFfn(num_experts=16, top_k=2, expert_width=H)
    run = _run(Mesh(attn_dp=8, ep=8), batch=8)
    terms = _terms(predict_training(_gpt(ffn=ffn), _topology(), run))
    message = 7 / 8 * 1.875 * 2 * S * H / NVLINK
    assert terms["expert_parallel"] == pytest.approx(L * 4 * message)


def test_routed_multiplies_count_top_k_experts() -> None:
    # Attention 4 h^2, router 16 h, 2 experts of 3 h w with w = h: per token and layer 6 x that.
    ffn = MoeFfn(num_experts=16, top_k=2, expert_width=H)
    run = _run(Mesh(attn_dp=8, ep=8), batch=8)
    terms = _terms(predict_training(_gpt(ffn=ffn), _topology(), run))
    active = 4 * H**2 + 16 * H + 2 * 3 * H**2
    assert terms["matmul"] * PEAK == pytest.approx(6 * S * L * active, rel=1e-9)


def test_bubble_of_even_stages() -> None:
    # 1F1B: (p - 1)(F + B); with the head on the last stage the step is sum t + (m - 1) max t.
    # 4 stages of 2 layers, 8 microbatches: t = 2 layers, the last one carries the head.
    terms = _terms(predict_training(_gpt(), _topology(), _run(Mesh(pp=4))))
    layers = 2 * (72 * S * H**2 + 3.5 * 4 * H * S * (S + 1) / 2) / PEAK
    hop = 2 * S * H / NVLINK
    assert terms["bubble"] == pytest.approx(3 * layers, rel=1e-9)
    # Two messages per microbatch beside filling and draining.
    assert terms["pipeline_hops"] == pytest.approx((2 * 3 + 2 * 8) * hop)


@pytest.fixture(params=[Overlap.TP, Overlap.DP, Overlap.EP])
def hidden(request: pytest.FixtureRequest) -> Iterator[Overlap]:
    yield request.param


def test_hiding_never_costs_more_than_waiting(hidden: Overlap) -> None:
    ffn = MoeFfn(num_experts=16, top_k=2, expert_width=H)
    run = _run(Mesh(attn_tp=2, attn_dp=8, ep=16), batch=32, zero_stage=1, sequence_parallel=True)
    topology = load_topology("h100-hgx", Sizing(nodes=2))
    exposed = predict_training(_gpt(ffn=ffn), topology, run).seconds
    other = replace(run, overlap=frozenset({hidden}))
    assert predict_training(_gpt(ffn=ffn), topology, other).seconds < exposed


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_faster_links_are_never_slower(zero_stage: int) -> None:
    run = _run(Mesh(attn_tp=4, attn_dp=4), batch=16, zero_stage=zero_stage)
    spec = replace(load_machine("h100-hgx"), num_domains=2)
    assert spec.scale_out is not None
    nic = 2 * spec.scale_out.nic_bytes_per_s
    faster = replace(spec, scale_out=replace(spec.scale_out, nic_bytes_per_s=nic))
    slow = predict_training(_gpt(), build_topology(spec), run).seconds
    assert predict_training(_gpt(), build_topology(faster), run).seconds < slow


def test_narrow_multiplies_are_faster_and_attention_is_not() -> None:
    model = override_precision(_gpt(), activations=DType.FP8)
    wide = _terms(predict_training(_gpt(), _topology(), _run(Mesh())))
    narrow = _terms(predict_training(model, _topology(), _run(Mesh())))
    assert narrow["matmul"] == pytest.approx(wide["matmul"] / 2, rel=1e-4)
    assert narrow["attention"] == wide["attention"]
    assert narrow["head"] == wide["head"]


def test_small_heads_slow_the_core_down() -> None:
    # 64 of 128: sqrt(1/2). Larger heads gain nothing.
    layer = _gpt().layers[0]
    assert isinstance(layer.attention, GroupedQueryAttention)
    small = replace(layer, attention=replace(layer.attention, head_dim=64))
    large = replace(layer, attention=replace(layer.attention, head_dim=256))
    assert head_size_share(small) == pytest.approx(0.5**0.5)
    assert head_size_share(large) == 1.0


@pytest.mark.parametrize(
    ("layers", "chunks", "extra", "ends"),
    [
        (24, 8, 0.0, (3, 3)),  # even
        (126, 64, 0.0, (1, 1)),  # Llama-3.1-405B: embedding and head are a layer each
        (22, 24, 0.0, (0, 0)),  # a chunk of embedding, a chunk of head
        (61, 16, 3.0, (4, 1)),  # DeepSeek-V3: 4, ..., 4, and 1 with MTP layer and heads
    ],
)
def test_layers_missing_for_equality_are_missing_at_the_ends(
    layers: int, chunks: int, extra: float, ends: tuple[int, int]
) -> None:
    counts = chunk_layers(layers, chunks, extra)
    assert sum(counts) == layers
    assert (counts[0], counts[-1]) == ends
    assert set(counts[1:-1]) == {-(-layers // chunks)}


def test_deepseek_v3_with_dualpipe() -> None:
    # 2,048 H800, 16 stages, 64 expert groups, 15,360 sequences of 4,096: 19.926 s per step
    # (arXiv 2505.09343, table 4).
    model = override_precision(load_model("deepseek-v3"), activations=DType.FP8)
    run = Run(
        kind=RunKind.TRAIN,
        mesh=Mesh(attn_dp=128, pp=16, ep=64),
        global_batch=15360,
        seq_len=4096,
        microbatch=1,
        schedule=ScheduleKind.DUALPIPE,
        recompute=Recompute.SELECTIVE,
        zero_stage=1,
        overlap=frozenset({Overlap.DP, Overlap.EP}),
    )
    topology = load_topology("h800-hgx", Sizing(nodes=256))
    prediction = predict_training(model, topology, run)
    assert prediction.seconds == pytest.approx(19.926, rel=0.1)
    assert prediction.memory.fits


def test_gpt_3_of_narayanan() -> None:
    # 96 h^2-counted: 175 B parameters on 768 A100, batch 1536: 39.4 s (Narayanan 2021, table 2).
    mesh = Mesh(attn_tp=8, attn_dp=8, pp=12)
    run = replace(
        _run(mesh, batch=1536),
        recompute=Recompute.FULL,
        overlap=None,
    )
    topology = load_topology("a100-80-hgx", Sizing(nodes=96))
    seconds = predict_training(load_model("megatron-175b"), topology, run).seconds
    assert seconds == pytest.approx(39.42, rel=0.2)


@pytest.mark.parametrize(
    ("mesh", "fields", "reason"),
    [
        (Mesh(attn_dp=16), {}, "uses 16 chips"),
        (Mesh(), {"microbatch": 0}, "microbatch"),
        (Mesh(pp=8, virtual_stages=2), {}, "pipeline chunks"),
        (Mesh(attn_dp=8, ep=3), {}, "expert groups"),
    ],
)
def test_impossible_runs_are_refused(mesh: Mesh, fields: dict[str, int], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        predict_training(_gpt(), _topology(), _run(mesh, **fields))


def test_engines_with_an_older_core_are_slower_on_newer_chips() -> None:
    # 315 TFLOP/s of 989.4 as a pure roofline; a small fraction of an A100's own 0.58 x 312
    # needs no limit.
    run = _run(Mesh())
    new = _terms(predict_training(_gpt(), _topology(), run))
    old = _terms(predict_training(_gpt(), _topology(), replace(run, engine="2023")))
    assert old["attention"] / new["attention"] == pytest.approx(989.4 / 315)
    assert old["matmul"] == new["matmul"]
    ampere = load_topology("a100-80-hgx")
    same = predict_training(_gpt(), ampere, replace(run, engine="2023"))
    assert same.seconds == predict_training(_gpt(), ampere, run).seconds


def test_norms_in_pieces_pass_memory_more_often() -> None:
    topology = build_topology(_machine(memory_bound=True))
    run = _run(Mesh())
    fused = _terms(predict_training(_gpt(), topology, run))
    pieces = _terms(predict_training(_gpt(), topology, replace(run, engine="eager")))
    assert pieces["elementwise"] == pytest.approx(2.25 * fused["elementwise"])
