"""No optimistic bound is above what brute force reaches, strategy by strategy."""

from dataclasses import replace

import numpy as np
import pytest
from oracle_brute import TooManyError, problem_of
from oracle_tiny import pinned, tiny

from planner import DegreeLimits
from planner.cost.routing import map_load, moe_shape, touched_bound
from planner.domain.assignment import SlotMap
from planner.domain.workload import Objective
from planner.search.bounds import StepBound
from planner.search.frontier import bound_chunk
from planner.search.mesh import MeshMapper
from planner.search.rates import strategy_rates
from planner.search.recheck_case import RecheckCase
from planner.search.recheck_compare import Comparison
from planner.search.recheck_experts import even_slots, hottest_floor, touched_floor
from planner.search.recheck_refine import Refinement
from planner.search.recheck_space import Space
from planner.search.solve import StrategySolver
from planner.search.space import strategy_space

BLOCKS = 4
SEEDS_PER_BLOCK = 20


def recheck_floors(request):
    """Floor of every strategy as the re-check of certificates sees it, and a sharper one."""
    case = RecheckCase(
        setting=request.setting,
        topology=request.topology,
        loads=request.loads,
        objective=request.objective,
        limits={"cp": frozenset({1})},
        step_limit_s=request.step_limit_s,
        batch=request.batch,
        price_usd_per_hour=request.price_usd_per_hour,
        objective_value=1e30,
        stated_bound=0.0,
        stated_count=0,
        contexts=frozenset({1}),
        sharing=frozenset(),
        named=(),
    )
    comparison = Comparison(case)
    refinement = Refinement(comparison)
    space = Space(
        topology=case.topology,
        model=case.setting.model,
        objective=case.objective,
        limits=case.limits,
        batch=case.batch,
    )
    found = {}
    for split in space.splits():
        for slots in space.slots(split.ep):
            for row in space.rows(split):
                strategy = comparison.strategy(split, slots, row)
                if strategy is not None:
                    found[strategy.degrees] = (strategy.floor, refinement.floor(strategy))
    return found


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_bound_is_above_brute_force(block, tmp_path):
    compared = 0
    for seed in range(1000 + block * SEEDS_PER_BLOCK, 1000 + (block + 1) * SEEDS_PER_BLOCK):
        case = tiny(seed, tmp_path)
        problem, request = problem_of(case.question, 200)
        strategies = strategy_space(request).every()
        if not len(strategies):
            continue
        try:
            best = {
                degrees: problem.best_of(degrees, cells) for degrees, cells in problem.strategies()
            }
        except TooManyError:
            continue
        mapper = MeshMapper.of(request.topology)
        solver = StrategySolver(request, mapper)
        bound = StepBound(request, strategies, strategy_rates(mapper, strategies))
        table = bound_chunk(request, bound)
        floors = recheck_floors(request)
        for index in range(len(strategies)):
            degrees = strategies.degrees(index)
            if degrees not in best or not np.isfinite(best[degrees]):
                continue
            where = f"seed {seed}, {degrees}"
            most = best[degrees] * (1 + 1e-9)
            assert table.objective[index] <= most, where
            tight = solver.bound(degrees, int(table.most[index]))
            assert tight is not None and tight <= most, where
            if degrees in floors:
                assert max(floors[degrees]) <= most, where
            compared += 1
    assert compared >= 20


def test_unequal_replicas(tmp_path):
    # Three sequences on two replicas: the one with a single sequence steps faster, so that
    # 2 / step(2) + 1 / step(1) is more than 3 / step(2).
    case = tiny(10, tmp_path, batch=3, tpot_s=None, objective=Objective.THROUGHPUT)
    limits = DegreeLimits(**pinned({"replicas": frozenset({2})}))
    problem, request = problem_of(replace(case.question, limits=limits))
    strategies = strategy_space(request).every()
    mapper = MeshMapper.of(request.topology)
    bound = StepBound(request, strategies, strategy_rates(mapper, strategies))
    table = bound_chunk(request, bound)
    best = {degrees: problem.best_of(degrees, cells) for degrees, cells in problem.strategies()}
    for index in range(len(strategies)):
        assert table.objective[index] <= best[strategies.degrees(index)] * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_hottest_group_is_never_below_its_floor(seed):
    # Every way to fill the slots of two to four groups with copies of two to four experts.
    from oracle_brute import every_map

    rng = np.random.default_rng(seed)
    experts, groups = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    weights = rng.uniform(0.2, 3.0, experts) if seed % 3 else np.ones(experts)
    shares = (weights / weights.sum()).tolist()
    for num_slots in range(max(experts, groups), experts * groups + 1):
        best = np.inf
        for slots in every_map(experts, groups, num_slots):
            copies = np.bincount([e for group in slots for e in group], minlength=experts)
            best = min(best, max(sum(shares[e] / copies[e] for e in group) for group in slots))
        if np.isfinite(best):
            assert hottest_floor(shares, groups, num_slots) <= best * (1 + 1e-9)
    assert sum(even_slots(experts * groups, groups)) == experts * groups


@pytest.mark.parametrize("seed", range(40))
def test_touched_copies_are_never_below_their_floors(seed):
    # Every way to fill the slots of two or three groups, and steps of few and many tokens.
    from oracle_brute import every_map

    rng = np.random.default_rng(seed)
    experts, groups = int(rng.integers(2, 6)), int(rng.integers(2, 4))
    weights = rng.lognormal(0, 1.5, experts) if seed % 4 else np.ones(experts)
    shares = weights / weights.sum()
    for num_slots in range(experts + 1, min(experts + 5, experts * groups + 1)):
        maps = every_map(experts, groups, num_slots)
        for tokens in (1.0, 4.0, 30.0, 1000.0):
            loads = np.array([shares])
            best = min(
                map_load(SlotMap(layers=(0,), slots=slots), loads, 1, tokens)[1][0]
                for slots in maps
            )
            floor = touched_bound(loads, 1, (num_slots, groups), tokens)[0]
            assert floor <= best * (1 + 1e-12)
            again = touched_floor(shares.tolist(), groups, num_slots, tokens)
            assert again == pytest.approx(floor, rel=1e-9)


def test_whole_copies_raise_the_floor_of_touched_ones():
    # 256 equal experts in 288 slots of 72 groups, all read: some group has four experts that
    # are whole, since 32 spare copies split 32 experts at most and 40 would have to be. On
    # average groups read less: 32 copies of one expert could be read as seldom as one.
    equal = np.full((1, 256), 1 / 256)
    assert touched_bound(equal, 8, (288, 72), 1e6)[0] == pytest.approx(4)
    # With 104 spare copies 40 may be split in two: (256 + 40) / 72 are read on average.
    assert touched_bound(equal, 8, (360, 72), 1e6)[0] >= 4
    # Two cold experts and 254 warm ones: 38 more would have to be made colder than these.
    skewed = np.array([[1e-9, 1e-9, *[1 / 254] * 254]])
    assert touched_bound(skewed, 8, (288, 72), 1e6)[0] == pytest.approx(4)


def test_floor_of_the_hottest_group_is_known():
    # 256 experts in 288 slots of 72 groups: 32 spare copies make 64 parts at most, so eight
    # groups hold four whole experts: 4 / 256.
    assert hottest_floor([1 / 256] * 256, 72, 288) == pytest.approx(4 / 256)
    # Two experts of 0.7 and 0.3 in three slots of three groups: 0.7 is split in two.
    assert hottest_floor([0.7, 0.3], 3, 3) == pytest.approx(0.35)


def test_moe_questions_are_among_the_seeds(tmp_path):
    shapes = [moe_shape(problem_of(tiny(s, tmp_path).question)[0].model) for s in range(1000, 1020)]
    assert None in shapes and any(shapes)
