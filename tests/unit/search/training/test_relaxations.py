"""Bounds of real models on real machines are never above what a layout is priced at."""

import random

import pytest
from train_attack import violations_of

from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model, override_precision
from planner.domain.dtypes import DType
from planner.domain.hardware import Sizing, ideal
from planner.domain.run import Optimizer, Overlap, Recompute, ScheduleKind
from planner.domain.training import TrainLimits
from planner.domain.workload import Objective
from planner.search.training.request import TrainRequest
from planner.topology.build import build_topology

KINDS = [kind for kind in ScheduleKind if kind is not ScheduleKind.NONE]
MACHINES = {
    "nodes": ("h100-hgx", Sizing(nodes=12)),
    "slow nodes": ("h800-hgx", Sizing(nodes=16)),
    "racks": ("gb200-nvl72", Sizing(racks=2)),
    "one slice": ("tpu-v5p", Sizing(shape=(4, 4, 4))),
    "slices": ("tpu-v5e", Sizing(slices=2)),
}
MODELS = ("llama-3.1-8b", "llama-3.1-405b", "mixtral-8x7b", "deepseek-v3")


def request_of(rng, machine, model):
    name, sizing = MACHINES[machine]
    spec = sized(load_machine(name), sizing)
    if rng.random() < 0.25:
        spec = ideal(spec)
    formats = [None] if spec.chip.name.startswith("TPU") else [None, DType.BF16, DType.FP8]
    precise = override_precision(load_model(model), None, rng.choice(formats), None)
    return TrainRequest(
        model=precise,
        topology=build_topology(spec),
        global_batch=rng.choice([32, 96, 512, 1024]),
        seq_len=rng.choice([2048, 4096, 32768]),
        objective=rng.choice([Objective.LATENCY, Objective.COST]),
        limits=TrainLimits(
            recompute=frozenset(rng.sample(list(Recompute), 2)),
            schedules=frozenset(rng.sample(KINDS, 2)),
            microbatch=frozenset({1, 2, 4}),
        ),
        overlap=frozenset(rng.sample(list(Overlap), rng.randint(0, 3))),
        optimizer=rng.choice(list(Optimizer)),
        optimizer_state=rng.choice([DType.FP32, DType.BF16]),
        gradients=rng.choice([DType.FP32, DType.BF16]),
        price_usd_per_hour=2.0,
    )


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("model", MODELS)
def test_no_relaxation_is_above_a_price(machine, model):
    rng = random.Random(f"{machine} {model}")
    checks = 0
    for _ in range(2):
        counted, broken = violations_of(request_of(rng, machine, model), rng, (6, 6, 3))
        assert not broken, broken
        checks += counted
    assert checks > 30
