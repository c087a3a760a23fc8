"""A joint model for CP-SAT as an oracle: strategy, cut and placement at once.

Sets        strategies s, cuts c of s, groups g of s, subsets k of experts that fill a group,
            levels i of the hottest share and j of the touched copies that a subset can have
Data        h_k, u_k    share of the routed tokens and touched copies of subset k
            p_scij      ticks of the objective when no group is above levels i and j, infinite
                        where memory or the TPOT limit forbids it
Variables   x_scij      the strategy, its cut and its levels: one of all is chosen
            z_sgk       group g of strategy s holds subset k
Objective   minimise sum p_scij x_scij
Constraints one       sum x = 1
            filled    sum_k z_sgk = sum_cij x_scij
            placed    each expert lies in one subset of the chosen strategy
            level     h_k z_sgk <= h_i and u_k z_sgk <= u_j where x_scij = 1

No expert has copies here: subsets then say both shares and touched copies.
"""

import itertools
import json
import math

import pytest
from oracle_brute import problem_of
from ortools.sat.python import cp_model

from planner import DegreeLimits, Question, api
from planner.cost.block import RoutedLoad
from planner.cost.evaluate import (
    ReplicaLoad,
    cached_sequences,
    evaluate,
    fullest_microbatch,
    on_machine,
    replica_times,
    stage_memory,
)
from planner.cost.fabric import replica_rates
from planner.cost.memory import budget_bytes
from planner.cost.routing import moe_layer_indices
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.workload import Objective
from planner.search.experts import TOLERANCE

TICKS = 1e12


def model_config(layers, experts):
    return {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "hidden_size": 1024,
        "intermediate_size": 2048,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_local_experts": experts,
        "num_experts_per_tok": 1,
        "vocab_size": 16000,
        "max_position_embeddings": 1 << 20,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        "sliding_window": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
    }


def sequences_of(degrees, batch):
    """The only split of a batch that divides evenly."""
    group = batch // (degrees.attn_dp * degrees.microbatches * degrees.replicas)
    return (((group,) * degrees.attn_dp,) * degrees.microbatches,) * degrees.replicas


def subsets(shares, degrees, tokens):
    """``(experts, share, touched)`` of every way to fill a group; top-1 routing."""
    base, extra = divmod(degrees.num_slots, degrees.ep)
    sizes = {base, base + (extra > 0)}
    for size in sorted(sizes):
        for chosen in itertools.combinations(range(len(shares)), size):
            hot = sum(shares[expert] for expert in chosen)
            touched = sum(1 - (1 - shares[expert]) ** tokens for expert in chosen)
            yield chosen, hot, touched


def prices(problem, degrees, cells, levels, sequences):
    """Objective of every ``(cut, i, j)`` within the limits."""
    setting = on_machine(problem.setting, problem.topology)
    placed = tuple(
        tuple(cells[replica * degrees.pp + stage] for stage in range(degrees.pp))
        for replica in range(degrees.replicas)
    )
    every = [cell for replica in placed for cell in replica]
    fabric = replica_rates(problem.topology, placed[0], degrees, every)
    layers = moe_layer_indices(problem.model)
    slots = tuple((0,) * count for count in [-(-degrees.num_slots // degrees.ep)] * degrees.ep)
    for ends in problem.cuts(degrees.pp):
        frame = Assignment(
            degrees=degrees,
            stage_ends=ends,
            cells=placed,
            slot_maps=(SlotMap(layers=layers, slots=slots),),
            sequences=sequences,
        )
        for i, j in itertools.product(range(len(levels[0])), range(len(levels[1]))):
            own = RoutedLoad(hot_share=levels[0][i], touched_slots=levels[1][j])
            load = ReplicaLoad(
                microbatch=fullest_microbatch(sequences[0]),
                routing=lambda tokens, own=own: dict.fromkeys(layers, own),
            )
            times = replica_times(setting, frame, load, fabric)
            memory = stage_memory(setting, frame, times, float(cached_sequences(sequences[0])))
            if memory.used_bytes - memory.reserve_bytes > budget_bytes(setting):
                continue
            if problem.is_fast(times):
                yield (ends, i, j), times.step_s


def joint_optimum(problem, shares):
    """Optimum of the joint model and the assignment that it stands for."""
    model = cp_model.CpModel()
    chosen, objective, strategies = [], [], {}
    for degrees, cells in problem.strategies():
        parts = degrees.attn_dp * degrees.microbatches * degrees.replicas
        if degrees.num_slots != len(shares) or problem.batch % parts:
            continue
        sequences = sequences_of(degrees, problem.batch)
        tokens = sum(sequences[0][0])
        kinds = list(subsets(shares, degrees, tokens))
        levels = [sorted({kind[axis] for kind in kinds}) for axis in (1, 2)]
        own = list(prices(problem, degrees, cells, levels, sequences))
        used = model.new_bool_var("")
        z = {(g, k): model.new_bool_var("") for g in range(degrees.ep) for k in range(len(kinds))}
        for g in range(degrees.ep):
            model.add(sum(z[g, k] for k in range(len(kinds))) == used)
        for expert in range(len(shares)):
            holders = [z[g, k] for (g, k) in z if expert in kinds[k][0]]
            model.add(sum(holders) == used)
        mine = []
        for (ends, i, j), step_s in own:
            x = model.new_bool_var("")
            mine.append(x)
            objective.append(round(step_s * TICKS) * x)
            for (g, k), var in z.items():
                del g
                if kinds[k][1] > levels[0][i] or kinds[k][2] > levels[1][j]:
                    model.add_implication(x, var.negated())
            strategies[x.index] = (degrees, cells, ends, sequences, z, kinds)
        model.add(sum(mine) == used)
        chosen += mine
    model.add(sum(chosen) == 1)
    model.minimize(sum(objective))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    assert solver.solve(model) == cp_model.OPTIMAL
    (winner,) = [x for x in chosen if solver.value(x)]
    degrees, cells, ends, sequences, z, kinds = strategies[winner.index]
    slots = tuple(
        next(kinds[k][0] for k in range(len(kinds)) if solver.value(z[g, k]))
        for g in range(degrees.ep)
    )
    assignment = Assignment(
        degrees=degrees,
        stage_ends=ends,
        cells=tuple(
            tuple(cells[r * degrees.pp + s] for s in range(degrees.pp))
            for r in range(degrees.replicas)
        ),
        slot_maps=(SlotMap(layers=moe_layer_indices(problem.model), slots=slots),),
        sequences=sequences,
    )
    return solver.objective_value / TICKS, assignment


@pytest.mark.parametrize(
    ("layers", "experts", "chips", "weights", "tpot"),
    [
        (2, 4, 2, (5, 3, 2, 1), math.inf),
        (3, 4, 4, (4, 4, 3, 1), math.inf),
        (2, 6, 3, (6, 5, 4, 3, 2, 1), math.inf),
        (3, 5, 4, (9, 3, 3, 2, 2), math.inf),
    ],
)
def test_joint_model_agrees(tmp_path, layers, experts, chips, weights, tpot):
    (tmp_path / "model.json").write_text(json.dumps(model_config(layers, experts)))
    (tmp_path / "box.toml").write_text(
        'extends = "h100-hgx"\n[chip]\nhbm_GB = 0.4\nhbm_usable_GiB = 0.37\n'
        f"[scale_up]\nchips = {chips}\nlinks_per_switch = [18]\n"
    )
    shares = [weight / sum(weights) for weight in weights]
    (tmp_path / "loads.json").write_text(json.dumps([shares] * layers))
    one = frozenset({1})
    question = Question(
        model=str(tmp_path / "model.json"),
        machine=str(tmp_path / "box.toml"),
        context_tokens=2048,
        objective=Objective.LATENCY,
        batch=24,
        gap=0.0,
        tpot_s=None if math.isinf(tpot) else tpot,
        loads=str(tmp_path / "loads.json"),
        limits=DegreeLimits(cp=one, slots=frozenset({experts})),
    )
    problem, _ = problem_of(question)
    joint_s, assignment = joint_optimum(problem, shares)
    # Its placement is priced at what its levels promise, and nothing found by hand is better.
    priced = evaluate(problem.setting, problem.topology, assignment, problem.loads, problem.price)
    assert priced.step_s == pytest.approx(joint_s, rel=1e-6)
    answer = api.plan(question)
    assert answer.certificate.bound <= joint_s * (1 + 1e-6)
    assert answer.certificate.objective <= joint_s * (1 + TOLERANCE)
