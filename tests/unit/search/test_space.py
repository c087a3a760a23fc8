"""Families of strategies: the space that they stand for, their floors, their counts."""

from dataclasses import replace

import numpy as np
import pytest

from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.cost.routing import moe_layer_indices, moe_shape, uniform_loads
from planner.cost.step import Setting
from planner.domain.hardware import Wounds
from planner.domain.question import DegreeLimits
from planner.domain.workload import Objective, TimeModel
from planner.search.bounds import StepBound, feasible
from planner.search.family_bounds import FamilyBounds, infeasible_counts
from planner.search.frontier import Frontier, bound_chunk
from planner.search.mesh import MeshMapper
from planner.search.rates import strategy_rates
from planner.search.recheck_space import Space
from planner.search.request import PlanRequest
from planner.search.space import Lists, runs, strategy_space, write_values
from planner.topology.build import build_topology
from planner.topology.cell_counts import cell_counts
from planner.topology.groups import max_cells


def only(*values):
    return frozenset(values)


def request(model="mixtral-8x7b", machine="h100-hgx", wounds=None, **options):
    model = load_model(model)
    spec = resize(load_machine(machine), **options.pop("size", {"nodes": 2}))
    topology = build_topology(spec if wounds is None else replace(spec, wounds=wounds))
    layers = moe_layer_indices(model)
    loads = uniform_loads(len(layers), moe_shape(model)[0]) if layers else np.zeros((0, 0))
    return PlanRequest(
        setting=Setting(
            model=model,
            chip=topology.chip,
            context_tokens=4096,
            time_model=TimeModel.SUM,
            reserve_fraction=0.1,
            acceptance=options.pop("acceptance", 0.0),
        ),
        topology=topology,
        loads=loads,
        uniform=True,
        objective=options.pop("objective", Objective.THROUGHPUT),
        limits=options.pop("limits", DegreeLimits()),
        **options,
    )


CASES = {
    "plain": {},
    "dense": {"model": "llama-3.1-8b"},
    "wounded": {"wounds": Wounds(without=("chip:n0/c1", "chip:n1/c3", "chip:n1/c7"))},
    "drafts": {"acceptance": 0.7, "limits": DegreeLimits(pp=only(1, 2))},
    "groups": {"limits": DegreeLimits(dp=only(3, 4, 8))},
    "pinned": {"batch": 7, "objective": Objective.COST},
    "limits": {"limits": DegreeLimits(ep=only(2, 4), slots=only(8, 12), replicas=only(1, 2))},
    "torus": {"machine": "tpu-v5e", "size": {"shape": (2, 4)}},
}


@pytest.mark.parametrize("case", CASES)
def test_families_stand_for_every_strategy_once(case):
    asked = request(**CASES[case])
    found = strategy_space(asked).every()
    columns = ("attn_tp", "attn_dp", "cp", "ep", "expert_tp", "overlap", "draft", "num_slots")
    pipeline = ("pp", "microbatches", "replicas")
    rows = np.stack([getattr(found, name) for name in (*columns, *pipeline)], axis=1)
    # The space as the re-check of certificates restates it, in plain loops.
    limits = asked.limits
    names = ("tp", "pp", "ep", "dp", "expert_tp", "slots", "microbatches", "replicas", "draft")
    space = Space(
        topology=asked.topology,
        model=asked.setting.model,
        objective=asked.objective,
        limits={n: getattr(limits, n) for n in names if getattr(limits, n) is not None},
        batch=asked.batch,
        contexts=frozenset(found.cp.tolist()),
        sharing=frozenset(found.attn_tp[found.cp > 1].tolist()),
        drafts=bool(asked.setting.acceptance),
    )
    expected = [
        (*(int(getattr(split, name)) for name in columns[:-1]), slots, *row)
        for split in space.splits()
        for slots in space.slots(split.ep)
        for row in space.rows(split)
    ]
    assert len(expected) > 20
    assert sorted(map(tuple, rows.tolist())) == sorted(expected)
    assert len(strategy_space(asked)) == len(expected)


def test_description_lists_values_as_ranges():
    assert write_values(np.array([1, 2, 3, 5, 6, 8])) == "1..3,5,6,8"
    assert write_values(np.array([], dtype=np.int64)) == ""
    told = strategy_space(request()).description()
    # sixteen chips in two nodes: one to eight, and two pieces of four to eight
    assert told["ep"] == "1..8,10,12,14,16"
    assert told["overlap"] == "none | ep | tp | ep,tp" or told["overlap"].startswith("none")


def test_runs_are_about_as_large_as_asked():
    sizes = np.array([5, 5, 5, 20, 1, 1])
    # 5 + 5 fit into 12; 20 does not, and is taken alone
    assert [(r.start, r.stop) for r in runs(sizes, 12)] == [(0, 2), (2, 3), (3, 4), (4, 6)]
    lists = Lists.of([[(1,), (2,)], [], [(3,)]], 1)
    assert lists.starts.tolist() == [0, 2, 2] and lists.lengths.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "asked",
    [
        request(size={"nodes": 5}),
        request(machine="gb200-nvl72", size={"racks": 3}),
        request(machine="tpu-v5e", size={"shape": (4, 4)}),
        request(size={"nodes": 4}, wounds=Wounds(without=("chip:n0/c1", "chip:n2/c3"))),
    ],
)
def test_cells_are_counted_as_they_are_carved(asked):
    topology = asked.topology
    pairs = [
        (size, unit)
        for size in range(1, topology.num_chips + 2)
        for unit in range(1, 9)
        if size <= 40 or size % 7 == 0
    ]
    sizes, units = np.array(pairs).T
    counted = cell_counts(topology, sizes, units)
    assert counted.tolist() == [max_cells(topology, *pair) for pair in pairs]


@pytest.mark.parametrize(
    "options",
    [
        {"step_limit_s": 7e-3},
        {"step_limit_s": 5e-3, "machine": "gb200-nvl72", "size": {"racks": 1}},
        {"model": "llama-3.1-70b", "step_limit_s": 20e-3},
        {"acceptance": 0.6, "step_limit_s": 6e-3, "limits": DegreeLimits(pp=only(1, 2, 9))},
        {"machine": "tpu-v5e", "size": {"shape": (2, 4)}, "step_limit_s": 20e-3},
        {"objective": Objective.LATENCY, "step_limit_s": 6e-3},
        {"model": "llama-3.1-405b"},
    ],
)
def test_infeasible_strategies_are_counted_as_if_one_by_one(options):
    asked = request(**options)
    space = strategy_space(asked)
    rates = strategy_rates(MeshMapper.of(asked.topology), space.families)
    strategies, family = space.expand(np.arange(len(space.families)))
    bound = StepBound(asked, strategies, rates.select(family))
    fits, meets = feasible(bound, bound.smallest())
    counted = infeasible_counts(asked, space, rates)
    assert counted == (int((~fits).sum()), int((fits & ~meets).sum()))
    assert sum(counted) > 0


@pytest.mark.parametrize("target", [0.3, 1.0, 1.5])
@pytest.mark.parametrize(
    "options",
    [
        {"step_limit_s": 20e-3},
        {"step_limit_s": 8e-3, "objective": Objective.COST},
        {"acceptance": 0.6, "step_limit_s": 12e-3, "limits": DegreeLimits(pp=only(1, 3))},
        {"limits": DegreeLimits(overlap=only(2, 3))},
        {"machine": "tpu-v5e", "size": {"shape": (2, 4)}, "step_limit_s": 40e-3},
        {"objective": Objective.LATENCY},
        {"model": "llama-3.1-8b", "limits": DegreeLimits(cp=only(1, 2, 4))},
    ],
)
def test_no_batch_of_a_strategy_beats_the_floor_of_its_family(options, target):
    asked = request(**options)
    space = strategy_space(asked)
    rates = strategy_rates(MeshMapper.of(asked.topology), space.families)
    strategies, family = space.expand(np.arange(len(space.families)))
    bound = StepBound(asked, strategies, rates.select(family))
    good = float(bound_chunk(asked, bound).objective.min())
    every = np.arange(len(space.families))
    floors = FamilyBounds(asked, space, rates).floors(every, good * target)
    assert floors.is_proven.any()
    floor = np.where(floors.is_proven, floors.value, 0.0)[family]
    rng = np.random.default_rng(0)
    latency = asked.objective is Objective.LATENCY
    for trial in range(1 if latency else 60):
        size = bound.least
        if trial:
            size = size + rng.integers(0, bound.full * 2 ** rng.integers(0, 10))
        probe = bound.probe(size)
        fits, meets = feasible(bound, probe)
        allowed = fits & meets
        value = bound.value(probe)
        assert (value[allowed] >= floor[allowed] * (1 - 1e-9)).all()


def test_a_frontier_opens_what_is_good_and_knows_the_rest():
    asked = request(step_limit_s=20e-3)
    space = strategy_space(asked)
    mapper = MeshMapper.of(asked.topology)
    frontier = Frontier(asked, mapper, space)
    every = strategy_space(asked).every()
    table = bound_chunk(asked, StepBound(asked, every, strategy_rates(mapper, every)))
    best = float(table.objective.min())
    assert float(frontier.table.objective.min()) == pytest.approx(best, rel=1e-12)
    assert best < frontier.closed_bound
    opened = len(frontier.strategies)
    assert opened < len(every)
    frontier.open_more(frontier.closed_bound * 1.2)
    assert len(frontier.strategies) > opened
    while np.isfinite(frontier.closed_bound):
        frontier.open_more(np.inf)
    assert len(frontier.strategies) == np.isfinite(table.objective).sum()
