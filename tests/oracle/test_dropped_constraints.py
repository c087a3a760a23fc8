"""Every constraint is needed: without it an invalid layout passes, or beats brute force.

The first half drops one function of the specification at a time, the second one constraint of
the search at a time; the specification then catches what the search returns.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from oracle_brute import TooManyError, problem_of
from oracle_tiny import tiny

import planner.search.batch_bounds
import planner.search.bounds
import planner.search.cuts
import planner.search.solve
import planner.search.validate as specification
from planner import Infeasible, ModelBugError, Question, api
from planner.domain.assignment import Assignment, SlotMap
from planner.domain.degrees import Degrees
from planner.domain.workload import Objective
from planner.search.cuts import Cutter
from planner.search.mesh import MeshMapper
from planner.search.validate import Limits, limit_violations, structure_violations

MOST = 200
MIXTRAL = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 8000,
    "max_position_embeddings": 1 << 20,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "sliding_window": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
}


@pytest.fixture
def asked(tmp_path):
    """Four layers of four experts on one node of four chips of 1 GB, eight sequences."""
    (tmp_path / "model.json").write_text(json.dumps(MIXTRAL))
    (tmp_path / "box.toml").write_text(
        'extends = "h100-hgx"\n[chip]\nhbm_GB = 1\nhbm_usable_GiB = 0.93\n'
        "[scale_up]\nchips = 4\nlinks_per_switch = [18]\n"
    )
    return Question(
        model=str(tmp_path / "model.json"),
        machine=str(tmp_path / "box.toml"),
        context_tokens=4096,
        objective=Objective.LATENCY,
        batch=8,
        gap=0.0,
    )


@pytest.fixture
def valid(asked):
    """A valid assignment of that question: two stages of two chips, one expert copy each."""
    problem, _ = problem_of(asked)
    assignment = Assignment(
        degrees=Degrees(
            attn_tp=1, attn_dp=2, pp=2, ep=2, expert_tp=1, num_slots=4, microbatches=2, replicas=1
        ),
        stage_ends=(2, 4),
        cells=(((0, 1), (2, 3)),),
        slot_maps=(SlotMap(layers=(0, 1, 2, 3), slots=((0, 1), (2, 3))),),
        sequences=(((2, 2), (2, 2)),),
    )
    limits = Limits(num_chips=4, step_limit_s=None, batch=8)
    assert structure_violations(assignment, problem.model, limits) == ()
    return problem.model, limits, assignment


def swap_chip(a):
    return replace(a, cells=(((0, 1), (1, 3)),))


def lose_layer(a):
    return replace(a, stage_ends=(2, 3))


def lose_expert(a):
    return replace(a, slot_maps=(SlotMap(layers=(0, 1, 2, 3), slots=((0, 1), (0, 3))),))


def double_expert(a):
    maps = (SlotMap(layers=(0, 1, 2, 3), slots=((0, 1, 1), (2, 3))),)
    return replace(a, slot_maps=maps, degrees=replace(a.degrees, num_slots=5))


def lose_sequence(a):
    return replace(a, sequences=(((2, 2), (2, 1)),))


def other_experts(a):
    return replace(a, degrees=replace(a.degrees, expert_tp=2))


def use_excluded(a):
    return a


SPARED = {"excluded": frozenset({3})}
RESERVED = {"reserve": 1}


@pytest.mark.parametrize(
    ("name", "broken", "asks"),
    [
        ("degrees_agree", other_experts, {}),
        ("layers_are_covered", lose_layer, {}),
        ("chips_are_distinct", swap_chip, {}),
        ("experts_are_placed", lose_expert, {}),
        ("experts_are_placed", double_expert, {}),
        ("sequences_are_split", lose_sequence, {}),
        ("excluded_chips_are_idle", use_excluded, SPARED),
        ("spares_are_idle", use_excluded, RESERVED),
    ],
)
def test_each_structural_constraint_is_needed(valid, monkeypatch, name, broken, asks):
    model, limits, assignment = valid
    limits = replace(limits, **asks)
    wrong = broken(assignment)
    assert structure_violations(wrong, model, limits)
    monkeypatch.setattr(specification, name, lambda *_: [])
    assert structure_violations(wrong, model, limits) == ()


@pytest.mark.parametrize("name", ["memory_fits", "step_meets_limit"])
def test_each_limit_is_needed(asked, valid, monkeypatch, name):
    problem, _ = problem_of(asked)
    _, limits, assignment = valid
    prediction = problem.price_of(assignment)
    if name == "memory_fits":
        used = prediction.memory.used_bytes
        memory = replace_struct(prediction.memory, capacity_bytes=used * 0.99)
        prediction = replace_struct(prediction, memory=memory)
    else:
        limits = replace(limits, step_limit_s=prediction.step_s * 0.99)
    assert limit_violations(prediction, limits)
    monkeypatch.setattr(specification, name, lambda *_: [])
    assert limit_violations(prediction, limits) == ()


def replace_struct(record, **changes):
    from msgspec import structs

    return structs.replace(record, **changes)


def drop_last_layer(costs, num_stages):
    ends = REAL_CUT(costs, num_stages)
    return None if ends is None else (*ends[:-1], ends[-1] - 1)


REAL_CUT = planner.search.cuts.cut_stages
REAL_SEQUENCES = planner.search.solve.replica_sequences
REAL_PLACE = planner.search.solve.place_experts
REAL_ASSIGN = MeshMapper.assign


class _Placed:
    """A placement with other groups."""

    def __init__(self, placement, groups):
        self.groups, self.bound = groups, placement.bound
        self.max_load = placement.max_load


def doubled(*args, **kwargs):
    """Every group holds its first expert in all of its slots."""
    return tuple(
        _Placed(p, tuple(tuple(group[0] for _ in group) for group in p.groups))
        for p in REAL_PLACE(*args, **kwargs)
    )


def first_cells(self, degrees):
    cells = REAL_ASSIGN(self, degrees)
    return None if cells is None else tuple(tuple(cells[0][0] for _ in r) for r in cells)


@pytest.mark.parametrize(
    ("target", "name", "instead", "message"),
    [
        (planner.search.solve, "replica_sequences", lambda d, b: REAL_SEQUENCES(d, b - 1), "batch"),
        (planner.search.solve, "place_experts", doubled, "have no copy"),
        (MeshMapper, "assign", first_cells, "times"),
    ],
    ids=["batch sum", "every expert placed, no two copies on one chip", "distinct chips"],
)
def test_each_constraint_of_the_search_is_needed(
    asked, monkeypatch, target, name, instead, message
):
    limits = replace(asked.limits, ep=frozenset({2}), dp=frozenset({2}), pp=frozenset({2}))
    question = replace(asked, limits=limits)
    assert not isinstance(api.plan(question), Infeasible)
    monkeypatch.setattr(target, name, instead)
    with pytest.raises(ModelBugError, match=message):
        api.plan(question)


def test_layers_in_stages_is_needed(asked, monkeypatch):
    monkeypatch.setattr(planner.search.cuts, "cut_stages", drop_last_layer)
    with pytest.raises((ModelBugError, ValueError, AssertionError, IndexError)):
        api.plan(asked)


def without_memory(monkeypatch):
    """The search without any limit on memory."""
    monkeypatch.setattr(planner.search.cuts, "budget_bytes", lambda setting: 1e30)
    monkeypatch.setattr(planner.search.bounds, "budget_bytes", lambda setting: 1e30)


def without_tpot(monkeypatch):
    """The search without any limit on the step."""
    real_within, real_feasible = Cutter._within, planner.search.bounds.feasible

    def within(self, case, chosen, times):
        kept, self.request = self.request, replace(self.request, step_limit_s=None)
        try:
            return real_within(self, case, chosen, times)
        finally:
            self.request = kept

    def feasible(bound, probe):
        fits, _ = real_feasible(bound, probe)
        return fits, np.ones_like(fits)

    monkeypatch.setattr(Cutter, "_within", within)
    monkeypatch.setattr(planner.search.bounds, "feasible", feasible)
    monkeypatch.setattr(planner.search.batch_bounds, "feasible", feasible)


@pytest.mark.parametrize(
    ("drop", "function"),
    [(without_memory, "memory_fits"), (without_tpot, "step_meets_limit")],
)
def test_limits_of_the_search_are_needed(tmp_path, monkeypatch, drop, function):
    caught, better = 0, 0
    for seed in range(2000, 2040):
        free = {"batch": None, "tpot_s": None}
        fastest, _ = problem_of(
            tiny(seed, tmp_path, objective=Objective.LATENCY, **free).question, MOST
        )
        try:
            step_s = fastest.optimum()
            # Half as long again as the fastest step: that leaves a choice, and it binds.
            tpot_s = None if drop is without_memory else 1.5 * step_s
            limited = free | {"tpot_s": tpot_s, "objective": Objective.THROUGHPUT}
            case = tiny(seed, tmp_path, **limited)
            best = problem_of(case.question, MOST)[0].optimum()
        except TooManyError:
            continue
        if best == math.inf:
            continue
        with monkeypatch.context() as patch:
            drop(patch)
            try:
                found = api.plan(case.question)
            except ModelBugError:
                caught += 1
                patch.setattr(specification, function, lambda *_: [])
                found = api.plan(case.question)
                better += found.certificate.objective < best * (1 - 1e-9)
        if better >= 3:
            break
    # The specification names what the search returns, which brute force does not reach.
    assert caught >= 3 and better >= 3
