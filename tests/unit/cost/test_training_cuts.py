"""Training steps of given cuts; what ZeRO-2 and V-shaped pipelines do; memory of inner stages."""

from dataclasses import replace

import pytest

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.cost.runs.training import predict_training
from planner.cost.runs.training_pipeline import head_stage, stage_layers
from planner.domain.hardware import Sizing, ideal
from planner.domain.run import Mesh, Recompute, Run, RunKind, ScheduleKind
from planner.topology.build import build_topology

MODEL = load_model("llama-3.1-8b")  # 32 equal layers
SPEC = sized(load_machine("h100-hgx"), Sizing(nodes=2))
NODES = build_topology(SPEC)
# No overlap with computation, so that every message shows.
BASE = Run(
    kind=RunKind.TRAIN,
    mesh=Mesh(attn_dp=4, pp=4),
    global_batch=32,
    seq_len=2048,
    microbatch=1,
    schedule=ScheduleKind.ONE_F_ONE_B,
    overlap=frozenset(),
)


def terms(run, counts=None, topology=NODES):
    return {
        term.name: term.seconds for term in predict_training(MODEL, topology, run, counts).terms
    }


def test_layers_lie_where_the_cut_says():
    stages = stage_layers(MODEL, BASE, (7, 9, 10, 6))
    assert [sum(count for _, count in stage) for stage in stages] == [7, 9, 10, 6]
    with pytest.raises(ValueError):
        stage_layers(MODEL, BASE, (16, 16))


def test_the_slowest_device_of_a_cut_binds():
    # Matmul seconds are those of m = 8 microbatches on the slowest device: 12 against 8 layers.
    even, uneven = terms(BASE, (8, 8, 8, 8)), terms(BASE, (8, 8, 12, 4))
    assert uneven["matmul"] == pytest.approx(even["matmul"] * 12 / 8)
    assert "head" in even and "head" not in uneven


def test_the_default_cut_is_the_even_one():
    # 32 layers on 4 stages divide evenly.
    assert predict_training(MODEL, NODES, BASE) == predict_training(MODEL, NODES, BASE, (8,) * 4)


def test_a_v_puts_embedding_and_head_on_the_first_device():
    run = replace(BASE, schedule=ScheduleKind.ZB_V)
    assert head_stage(run) == 0
    assert head_stage(BASE) == 3
    # Chunks 0 .. 7 lie on devices 0 1 2 3 3 2 1 0.
    stages = stage_layers(MODEL, run, (1, 2, 3, 4, 5, 6, 7, 4))
    assert [sum(count for _, count in stage) for stage in stages] == [5, 9, 9, 9]
    found = terms(run, (4, 4, 4, 4, 4, 4, 4, 4))
    assert found["head"] > 0 and found["embedding"] > 0


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_zero_2_reduces_gradients_of_every_microbatch(zero):
    once = replace(BASE, zero_stage=zero)
    twice = replace(once, global_batch=64)  # 16 microbatches instead of 8
    first, second = terms(once), terms(twice)
    sharding = first.get("weight_sharding", 0.0)
    assert (sharding > 0) == (zero >= 2)
    # Messages of microbatches grow with their number, those of a step do not.
    assert second.get("weight_sharding", 0.0) == pytest.approx(2 * sharding)
    assert second.get("gradients", 0.0) == pytest.approx(first.get("gradients", 0.0))


def test_zero_2_leaves_tables_and_the_return_of_weights_to_the_step():
    # ZeRO-1 reduces all gradients of the step at once; ZeRO-2 those of tables and norms alone,
    # and gathers the same weights after the update. Its microbatches reduce what ZeRO-3's do,
    # which also gather weights, twice.
    first, second, third = (terms(replace(BASE, zero_stage=zero)) for zero in (1, 2, 3))
    assert 0 < second["gradients"] < first["gradients"]
    assert second["weight_sharding"] < third["weight_sharding"]
    assert "gradients" not in third


def test_memory_counts_inner_stages():
    # Equal parameters but for the tables of the ends: a second stage of 12 layers with full
    # activations holds 3 microbatches of 12 layers, the first one 4 of 4: the second is fullest.
    run = replace(BASE, recompute=Recompute.NONE)
    found = predict_training(MODEL, NODES, run, (4, 12, 10, 6)).memory
    alone = predict_training(MODEL, NODES, run, (4, 10, 10, 8)).memory
    assert found.needed_bytes > alone.needed_bytes
    # A device with most parameters but few microbatches in flight is not the fullest: 12 layers
    # on the last but one hold 2, 11 on the second hold 3.
    long = replace(run, seq_len=16384)
    late = predict_training(MODEL, NODES, long, (3, 11, 12, 6)).memory
    same = predict_training(MODEL, NODES, long, (3, 11, 11, 7)).memory
    assert late.activations_bytes == same.activations_bytes


def test_ideal_machines_price_cuts_too():
    topology = build_topology(ideal(SPEC))
    assert terms(BASE, (8, 8, 8, 8), topology)["matmul"] < terms(BASE, (8, 8, 8, 8))["matmul"]
