"""Tiny random questions about training: 1 to 8 chips, 1 to 5 layers, up to 4 experts.

Widths are those of real models, so that no term drowns in the fixed cost of a step; memory is
set so that it binds now and then, and most axes are pinned, so that brute force can price every
strategy and every cut.
"""

import random

from oracle_tiny import config_of, machine_text, sizes_of

from planner.catalog.machines import load_machine
from planner.catalog.model_config import model_from_facts
from planner.domain.dtypes import DType
from planner.domain.run import Optimizer, Overlap, Recompute, ScheduleKind
from planner.domain.training import TrainLimits
from planner.domain.workload import Objective
from planner.search.training.request import TrainRequest
from planner.topology.build import build_topology

# Chips of a domain, domains.
MACHINES = [
    *[(1, 1), (2, 1), (2, 1), (1, 2), (4, 1), (4, 1), (2, 2), (1, 3), (2, 3), (4, 2), (2, 4)],
    *[(3, 2), (6, 1), (3, 3)],
]


def train_config(rng):
    """A model of up to five layers; some predict further tokens."""
    config = config_of(rng)
    config["num_hidden_layers"] = rng.randint(1, 5)
    if config["model_type"] == "deepseek_v3":
        config["first_k_dense_replace"] = rng.randint(0, config["num_hidden_layers"] - 1)
        config["num_nextn_predict_layers"] = rng.choice([0, 0, 1, 2])
    return config


def _sample(rng, values, most):
    return frozenset(rng.sample(values, rng.randint(1, min(most, len(values)))))


def random_limits(rng, chips, moe):
    """A few values of every choice, all values of most degrees."""
    kinds = [kind for kind in ScheduleKind if kind is not ScheduleKind.NONE]
    limits = {
        "schedules": _sample(rng, kinds, 2),
        "virtual_stages": frozenset({1, rng.randint(2, 4)}),
        "recompute": _sample(rng, list(Recompute), 2),
        "zero": _sample(rng, [0, 1, 2, 3], 2),
    }
    if rng.random() < 0.7:
        limits["sequence_parallel"] = frozenset({rng.random() < 0.5})
    if rng.random() < 0.7:
        limits["microbatch"] = _sample(rng, [1, 2, 3, 4], 2)
    for name in rng.sample(["tp", "cp", "dp", "pp", "ep", "expert_tp"], rng.randint(0, 2)):
        if name in ("ep", "expert_tp") and not moe:
            continue
        limits[name] = (
            frozenset({1, 2, 3})
            if rng.random() < 0.5
            else _sample(rng, list(range(1, chips + 1)), chips)
        )
    return limits


def tiny_request(seed, folder, **fixed):
    """The request of ``seed``; its machine file is written to ``folder``."""
    rng = random.Random(seed)
    config = train_config(rng)
    model = model_from_facts(config, f"tiny {seed}", "tiny")
    chips, domains = rng.choice(MACHINES)
    states = 16.0 * sizes_of(config)[0] / (chips * domains)
    hbm_gb = (2e9 + states * rng.choice([0.8, 1.5, 2.5, 4.0, 10.0])) / 0.96e9 + rng.choice(
        [0.3, 1.0, 3.0]
    )
    path = folder / f"machine_{seed}.toml"
    path.write_text(machine_text(rng, chips, domains, hbm_gb))
    topology = build_topology(load_machine(str(path)))
    overlaps = rng.sample(list(Overlap), rng.randint(0, 3))
    values = {
        "model": model,
        "topology": topology,
        "global_batch": rng.choice([1, 2, 3, 4, 6, 8, 8, 12, 16, 24, 32]),
        "seq_len": rng.choice([256, 1024, 2048, 4096]),
        "objective": rng.choice([Objective.LATENCY, Objective.LATENCY, Objective.COST]),
        "limits": TrainLimits(**random_limits(rng, chips * domains, len(model.layers) > 0)),
        "overlap": frozenset(overlaps),
        "optimizer": rng.choice([Optimizer.ADAM, Optimizer.ADAM, Optimizer.MUON]),
        "optimizer_state": rng.choice([DType.FP32, DType.BF16]),
        "gradients": rng.choice([DType.FP32, DType.BF16]),
        "price_usd_per_hour": 2.0,
        "gap": 0.0,
    }
    return TrainRequest(**(values | fixed))
