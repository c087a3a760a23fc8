"""Bytes per class of links, against what the layout sends by hand."""

import pytest

from planner import DegreeLimits, Question, plan
from planner.api import machine_of
from planner.domain.hardware import Sizing
from planner.domain.training import TrainLimits, TrainQuestion
from planner.studies.links import decode_bytes, train_bytes
from planner.train_api import plan_training


def one(*values):
    return frozenset(values)


def sent(layout):
    found = decode_bytes(layout, machine_of(layout.inputs.machine))
    return {own.name: own.bytes_per_chip for own in found}


def test_dispatch_and_combine_of_a_rack():
    # 64 chips, one group each, 10 sequences per group: of 10 x 8 copies, 64 (1 - (63/64)^8) / 8
    # distinct destinations; 7168 wide, fp8 there and bf16 back, 58 MoE layers; 63/64 leave a chip.
    limits = DegreeLimits(
        tp=one(1), pp=one(1), ep=one(64), expert_tp=one(1), slots=one(256), replicas=one(1)
    )
    question = Question(
        model="deepseek-v3", machine="gb200-nvl72", context_tokens=4096, batch=640, limits=limits
    )
    copies = 64 * (1 - (63 / 64) ** 8)
    expected = 10 * copies * 7168 * (1 + 2) * 58 * 63 / 64
    assert sent(plan(question)) == pytest.approx({"scale-up": expected})


def test_two_racks_send_half_of_it_out():
    # 2 x 64 chips: of the 127 other ranks 64 are in the other rack, so 64/128 of a full exchange.
    limits = DegreeLimits(
        tp=one(1), pp=one(1), ep=one(128), expert_tp=one(1), slots=one(256), replicas=one(1)
    )
    question = Question(
        model="deepseek-v3",
        machine="gb200-nvl72",
        racks=2,
        context_tokens=4096,
        batch=1280,
        limits=limits,
    )
    copies = 128 * (1 - (127 / 128) ** 8)
    each = 10 * copies * 7168 * (1 + 2) * 58
    found = sent(plan(question))
    assert found["scale-out"] == pytest.approx(each * 64 / 128, rel=1e-6)
    assert found["scale-up"] <= each * 64 / 128


def test_a_pipeline_sends_one_activation_per_microbatch():
    # 8 nodes of one chip each would be odd: 2 stages of 8 chips, tensor parallel 8, 2 microbatches
    # of 4 sequences. A rank sends its eighth of 4 x 8192 x 2 B, in each of the 2 microbatches.
    limits = DegreeLimits(tp=one(8), pp=one(2), microbatches=one(2), replicas=one(1))
    question = Question(
        model="llama-3.1-70b",
        machine="h100-hgx",
        nodes=2,
        context_tokens=4096,
        batch=8,
        limits=limits,
    )
    found = sent(plan(question))
    assert found["scale-out"] == pytest.approx(2 * 4 * 8192 * 2 / 8)
    # Ring all-reduces of 4 x 8192 x 2 B, 7/8 of it twice, two in each of 40 layers of a stage.
    assert found["scale-up"] >= 2 * 40 * 2 * (4 * 8192 * 2) * 7 / 8


def test_gradients_of_data_parallel_nodes():
    # Llama-3.1-8B, tensor parallel 8 within each of 2 nodes: a chip reduces and gathers its
    # eighth of the weights over two nodes, half of it each way.
    limits = TrainLimits(
        tp=one(8), cp=one(1), dp=one(2), pp=one(1), zero=one(0), sequence_parallel=one(False)
    )
    question = TrainQuestion(
        model="llama-3.1-8b",
        machine="h100-hgx",
        global_batch=16,
        seq_len=4096,
        sizing=Sizing(nodes=2),
        limits=limits,
    )
    layout = plan_training(question)
    found = {
        own.name: own.bytes_per_chip
        for own in train_bytes(layout, machine_of(layout.inputs.machine))
    }
    params = 8.03e9 / 8
    assert found["scale-out"] == pytest.approx(2 * params * 2 / 2, rel=0.02)
    assert found["scale-up"] > found["scale-out"]
