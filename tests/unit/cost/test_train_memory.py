"""Training memory: Korthikanti's activations, ZeRO's bytes, microbatches in flight."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.catalog.machines import load_machine
from planner.cost.runs.mesh_links import MeshLinks
from planner.cost.runs.record import RunMemory
from planner.cost.runs.train_memory import in_flight, layer_activation_bytes
from planner.cost.runs.training import predict_training
from planner.cost.runs.training_layer import Site
from planner.cost.runs.training_links import TrainingLinks
from planner.cost.runs.training_pipeline import stage_layers
from planner.domain.dtypes import DType, Precision
from planner.domain.hardware import Sizing, ideal
from planner.domain.model import DenseFfn, GroupedQueryAttention, Layer, ModelSpec, MoeFfn
from planner.domain.run import Mesh, Recompute, Run, RunKind, ScheduleKind
from planner.machine_api import load_topology
from planner.topology.build import build_topology

H, A, S, B, L = 6144, 64, 2048, 4, 48  # the 22 B model of Korthikanti 2022
SBH = S * B * H
FULL_PRECISION = Precision(
    attention=DType.BF16,
    dense_ffn=DType.BF16,
    shared_expert=DType.BF16,
    routed_expert=DType.BF16,
    router=DType.BF16,
    embedding=DType.BF16,
    head=DType.BF16,
    norm=DType.BF16,
    activations=DType.BF16,
    kv=DType.BF16,
)
GPT_LAYER = Layer(
    attention=GroupedQueryAttention(num_heads=A, num_kv_heads=A, head_dim=H // A),
    ffn=DenseFfn(width=4 * H, gated=False),
    norm_bias=True,
)


def _gpt(layer: Layer = GPT_LAYER) -> ModelSpec:
    return ModelSpec(
        name="gpt-22b",
        architecture="gpt2",
        hidden_size=H,
        vocab_size=51200,
        layers=(layer,) * L,
        precision=FULL_PRECISION,
    )


def _run(mesh: Mesh, **fields: object) -> Run:
    base = Run(
        kind=RunKind.TRAIN,
        mesh=mesh,
        global_batch=16 * B * mesh.attn_dp,
        seq_len=S,
        microbatch=B,
        schedule=ScheduleKind.ONE_F_ONE_B if mesh.pp > 1 else ScheduleKind.NONE,
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def _site(run: Run, model: ModelSpec | None = None) -> Site:
    spec = replace(ideal(load_machine("h100-hgx")), num_domains=8)
    topology = build_topology(spec)
    model = model or _gpt()
    return Site(
        model=model,
        chip=topology.chip,
        links=TrainingLinks(links=MeshLinks(topology=topology, mesh=run.mesh)),
        run=run,
        stages=stage_layers(model, run),
    )


def _memory(run: Run, model: ModelSpec | None = None, nodes: int = 8) -> RunMemory:
    topology = load_topology("h100-hgx", Sizing(nodes=nodes))
    return predict_training(model or _gpt(), topology, run).memory


@pytest.mark.parametrize(
    ("tp", "sequence_parallel", "factor"),
    [
        (1, False, 34.0),
        (8, False, 10.0 + 24.0 / 8),
        (8, True, 34.0 / 8),
    ],
)
def test_activations_of_korthikanti(tp: int, sequence_parallel: bool, factor: float) -> None:
    # Table 2 without the scores 5 a s / h, which a fused core recomputes.
    site = _site(_run(Mesh(attn_tp=tp), sequence_parallel=sequence_parallel))
    assert layer_activation_bytes(site, GPT_LAYER) == pytest.approx(factor * SBH)


@pytest.mark.parametrize(("sequence_parallel", "share"), [(False, 0.494), (True, 0.161)])
def test_shares_of_figure_7(sequence_parallel: bool, share: float) -> None:
    # Of tensor parallelism with scores, 10 + 24/8 + 5 a s / (h t) = 26.33: selective
    # recomputation 49.4 %, with sequence parallelism 16.1 %.
    site = _site(_run(Mesh(attn_tp=8), sequence_parallel=sequence_parallel))
    whole = (10 + 24 / 8 + 5 * A * S / (H * 8)) * SBH
    assert layer_activation_bytes(site, GPT_LAYER) / whole == pytest.approx(share, abs=5e-4)


def test_full_recomputation_keeps_the_inputs_of_layers() -> None:
    # 2 s b h per layer against 10 + 24/8; what one layer needs at work is in both.
    mesh = Mesh(attn_tp=8)
    none = _memory(_run(mesh)).activations_bytes
    full = _memory(_run(mesh, recompute=Recompute.FULL)).activations_bytes
    assert none - full == pytest.approx(L * 13 * SBH - (2 * L * SBH + 13 * SBH))


def test_reversible_layers_keep_one_input() -> None:
    mesh = Mesh(attn_tp=8)
    full = _memory(_run(mesh, recompute=Recompute.FULL)).activations_bytes
    reversible = _memory(_run(mesh, recompute=Recompute.REVERSIBLE)).activations_bytes
    assert full - reversible == pytest.approx((L - 1) * 2 * SBH)


@pytest.mark.parametrize(
    ("zero_stage", "weights", "gradients", "optimizer"),
    [(0, 2.0, 2.0, 12.0), (1, 2.0, 2.0, 12.0 / 8), (2, 2.0, 2.0 / 8, 12.0 / 8)],
)
def test_bytes_per_parameter(
    zero_stage: int, weights: float, gradients: float, optimizer: float
) -> None:
    # 12 h^2 + 4 h per layer, two tables of V h; d = 8 data-parallel ranks: 4 + 12 / d.
    params = L * (12 * H**2 + 4 * H) + 2 * 51200 * H
    memory = _memory(_run(Mesh(attn_dp=8), zero_stage=zero_stage))
    assert memory.weights_bytes == pytest.approx(weights * params)
    assert memory.gradients_bytes == pytest.approx(gradients * params)
    assert memory.optimizer_bytes == pytest.approx(optimizer * params)


def test_sharded_weights_keep_two_gathered_layers() -> None:
    # 2 / d per parameter, and of one layer two copies of 2 bytes and a gradient of 2.
    layer = 12 * H**2 + 4 * H
    params = L * layer + 2 * 51200 * H
    memory = _memory(_run(Mesh(attn_dp=8), zero_stage=3))
    assert memory.weights_bytes == pytest.approx(2 * params / 8 + 6 * layer)
    assert memory.optimizer_bytes == pytest.approx(12 * params / 8)


def test_experts_are_shared_by_their_own_ranks() -> None:
    # 16 experts of 3 h w over 8 groups: 2 on a chip, whose optimizer nobody shares.
    ffn = MoeFfn(num_experts=16, top_k=2, expert_width=512)
    model = _gpt(replace(GPT_LAYER, ffn=ffn))
    memory = _memory(_run(Mesh(attn_dp=8, ep=8), zero_stage=1), model)
    dense = L * (4 * H**2 + 4 * H + 16 * H) + 2 * 51200 * H
    experts = L * 2 * 3 * H * 512
    assert memory.weights_bytes == pytest.approx(2 * (dense + experts))
    assert memory.optimizer_bytes == pytest.approx(12 * (dense / 8 + experts))


@pytest.mark.parametrize(
    ("schedule", "chunks", "first", "last"),
    [
        (ScheduleKind.ONE_F_ONE_B, 1, 4.0, 1.0),
        (ScheduleKind.GPIPE, 1, 16.0, 16.0),
        (ScheduleKind.INTERLEAVED, 2, 5.5, 2.5),  # p + (p - 1) / v on the first stage
        (ScheduleKind.ZB_H1, 1, 4.0, 4.0),
        (ScheduleKind.ZB_H2, 1, 7.0, 7.0),
        (ScheduleKind.DUALPIPE, 1, 5.0, 5.0),
    ],
)
def test_microbatches_in_flight(
    schedule: ScheduleKind, chunks: int, first: float, last: float
) -> None:
    site = _site(_run(Mesh(pp=4, virtual_stages=chunks), schedule=schedule))
    assert in_flight(site, 0) == first
    assert in_flight(site, 3) == last


def test_fewer_microbatches_than_stages_bound_the_flight() -> None:
    site = _site(_run(Mesh(pp=8), global_batch=2 * B))
    assert in_flight(site, 0) == 2.0


def test_more_sharding_never_needs_more() -> None:
    few = _memory(_run(Mesh(attn_dp=8), zero_stage=1)).needed_bytes
    many = _memory(_run(Mesh(attn_dp=32), zero_stage=1)).needed_bytes
    assert many < few


def test_an_unsharded_model_does_not_fit() -> None:
    # 22 B parameters x 16 bytes = 350 GB on 80 GB; over 8 x 8 chips it does.
    assert not _memory(_run(Mesh())).fits
    fitting = _run(Mesh(attn_tp=8, attn_dp=8), zero_stage=1, sequence_parallel=True)
    assert _memory(fitting).fits


def test_norms_in_pieces_keep_six_bytes_more() -> None:
    # Two norms, each with 4 bytes of its input in 32 bits and 2 of what it normalised.
    run = _run(Mesh())
    fused = layer_activation_bytes(_site(run), GPT_LAYER)
    pieces = layer_activation_bytes(_site(replace(run, engine="eager")), GPT_LAYER)
    assert pieces - fused == pytest.approx(2 * 6 * SBH)
