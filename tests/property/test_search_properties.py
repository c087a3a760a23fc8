"""What must hold for every search: bounds below exact prices, monotone steps, valid plans."""

import numpy as np
import pytest

from planner import DegreeLimits, Infeasible, Question, plan, verify
from planner.catalog.machine_size import resize
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.cost.routing import moe_layer_indices, moe_shape, uniform_loads
from planner.cost.runs.gemm import sustained_chip
from planner.cost.step import Setting
from planner.domain.workload import Objective, Phase, TimeModel
from planner.search.bounds import StepBound
from planner.search.frontier import bound_chunk
from planner.search.mesh import MeshMapper
from planner.search.rates import strategy_rates
from planner.search.request import PlanRequest
from planner.search.solve import StrategySolver
from planner.search.space import strategy_space
from planner.search.stages import StageCosts, cut_stages
from planner.topology.build import build_topology


def request(model_name, machine, time_model=TimeModel.SUM, skewed=False, **options):
    size = options.pop("size", {})
    spec = load_machine(machine)
    topology = build_topology(resize(spec, **size) if size else spec)
    model = load_model(model_name)
    shape = moe_shape(model)
    loads = uniform_loads(len(moe_layer_indices(model)), shape[0] if shape else 1)
    if skewed:
        weights = 1.0 / np.arange(2, shape[0] + 2) ** 0.5
        loads = np.tile(weights / weights.sum(), (len(loads), 1))
    return PlanRequest(
        setting=Setting(
            model=model,
            chip=sustained_chip(topology.chip),
            context_tokens=4096,
            time_model=time_model,
            reserve_fraction=0.1,
            acceptance=options.pop("acceptance", 0.0),
            new_tokens=float(options.pop("new_tokens", 0)),
        ),
        topology=topology,
        loads=loads,
        uniform=not skewed,
        objective=options.pop("objective", Objective.THROUGHPUT),
        limits=options.pop("limits", DegreeLimits()),
        **options,
    )


def check_bounds(asked, count=60):
    """Bounds, optimistic and tightened, of some strategies against their exact solutions."""
    strategies = strategy_space(asked).every()
    mapper = MeshMapper.of(asked.topology)
    bound = StepBound(asked, strategies, strategy_rates(mapper, strategies))
    table = bound_chunk(asked, bound)
    solver = StrategySolver(asked, mapper)
    picked = np.random.default_rng(1).permutation(len(strategies))[:count]
    solved_any = 0
    for index in picked:
        if not np.isfinite(table.objective[index]):
            continue
        found = solver.solve(strategies.degrees(int(index)), int(table.most[index]))
        if found is None:
            continue
        solved_any += 1
        value = asked.topology.num_chips / found.prediction.tokens_per_s
        assert table.objective[index] <= value * (1 + 1e-9)
        tight = solver.bound(strategies.degrees(int(index)), int(table.most[index]))
        assert tight is not None and tight <= value * (1 + 1e-9)
    assert solved_any > 5


@pytest.mark.parametrize("time_model", list(TimeModel))
@pytest.mark.parametrize(
    ("model", "machine", "skewed"),
    [
        ("mixtral-8x7b", "h100-hgx", False),
        ("mixtral-8x7b", "h100-hgx", True),
        ("qwen3-30b-a3b", "h200-hgx", True),
        ("llama-3.1-8b", "h100-hgx", False),
    ],
)
def test_no_exact_solution_beats_its_bound(model, machine, skewed, time_model):
    check_bounds(request(model, machine, time_model, skewed, step_limit_s=40e-3))


@pytest.mark.parametrize("time_model", list(TimeModel))
@pytest.mark.parametrize(
    ("model", "machine", "new_tokens", "skewed"),
    [
        ("mixtral-8x7b", "h100-hgx", 4096, True),
        ("qwen3-30b-a3b", "h200-hgx", 300, False),
        ("llama-3.1-8b", "h100-hgx", 32_768, False),
    ],
)
def test_no_exact_prefill_beats_its_bound(model, machine, new_tokens, skewed, time_model):
    limit = 2e-4 * new_tokens
    asked = request(model, machine, time_model, skewed, new_tokens=new_tokens, step_limit_s=limit)
    check_bounds(asked, count=120)


@pytest.mark.parametrize(
    ("model", "machine", "options"),
    [
        ("qwen3-30b-a3b", "h200-hgx", {"limits": DegreeLimits(cp=frozenset({2, 4}))}),
        ("llama-3.1-8b", "h100-hgx", {"limits": DegreeLimits(cp=frozenset({2, 4}))}),
        ("qwen3-30b-a3b", "h100-hgx", {"limits": DegreeLimits(overlap=frozenset({1, 2, 3}))}),
        ("mixtral-8x7b", "h100-hgx", {"acceptance": 0.7, "skewed": True}),
        ("gemma-3-27b", "tpu-v5e", {"size": {"shape": (4, 8)}, "acceptance": 0.9}),
    ],
)
def test_no_exact_solution_beats_its_bound_on_any_axis(model, machine, options):
    check_bounds(request(model, machine, step_limit_s=40e-3, **options), count=120)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"acceptance": 0.7},
        {"limits": DegreeLimits(cp=frozenset({1, 2, 3, 4}))},
        {"new_tokens": 1},
        {"new_tokens": 700},
    ],
)
def test_step_grows_no_faster_than_the_batch(options):
    asked = request("mixtral-8x7b", "h100-hgx", **options)
    strategies = strategy_space(asked).every()
    mapper = MeshMapper.of(asked.topology)
    bound = StepBound(asked, strategies, strategy_rates(mapper, strategies))
    steps, rates = [], []
    for group in (1, 2, 3, 5, 8, 13, 64, 500, 4000):
        step = bound.step_s(bound.probe(group * bound.full))
        steps.append(step)
        rates.append(step / group)
    assert (np.diff(np.array(steps), axis=0) >= -1e-15).all()
    assert (np.diff(np.array(rates), axis=0) <= 1e-15).all()
    # One sequence more never takes less time.
    steps = [bound.step_s(bound.probe(bound.least + more)) for more in range(40)]
    assert (np.diff(np.array(steps), axis=0) >= -1e-15).all()
    # With as many sequences in the fullest group, fuller microbatches have the higher rate.
    for stage in (1, 2, 3, 4, 5, 6, 9, 17):
        less, more = stage * bound.least, (stage + 1) * bound.least
        alike = -(-less // bound.full) == -(-more // bound.full)
        slower = bound.step_s(bound.probe(more)) / more
        assert (slower <= bound.step_s(bound.probe(less)) / less * (1 + 1e-12))[alike].all()


def test_search_equals_solving_every_strategy():
    asked = request("mixtral-8x7b", "h100-hgx", batch=64, objective=Objective.LATENCY)
    strategies = strategy_space(asked).every()
    solver = StrategySolver(asked, MeshMapper.of(asked.topology))
    every = [solver.solve(strategies.degrees(i), 1) for i in range(len(strategies))]
    best = min(found.prediction.step_s for found in every if found is not None)
    answer = plan(
        Question(
            model="mixtral-8x7b",
            machine="h100-hgx",
            context_tokens=4096,
            batch=64,
            objective=Objective.LATENCY,
            gap=0.0,
        )
    )
    assert answer.prediction.step_s == pytest.approx(best, rel=1e-9)
    assert answer.certificate.bound <= best * (1 + 1e-9)


@pytest.mark.parametrize(
    ("model", "machine"),
    [("gpt-oss-120b", "h200-hgx"), ("gemma-3-27b", "tpu-v5e"), ("minimax-m1", "h200-hgx")],
)
@pytest.mark.parametrize(
    "asked",
    [
        {"context_tokens": 8192, "tpot_s": 0.05},
        {"phase": Phase.PREFILL, "context_tokens": 1000, "seq_len": 700, "ttft_s": 0.5},
    ],
)
def test_plans_are_valid_and_terms_add_up(model, machine, asked):
    answer = plan(Question(model=model, machine=machine, gap=0.02, **asked))
    if isinstance(answer, Infeasible):
        assert answer.resource == "memory"
        return
    assert verify(answer) == ()
    assert sum(t.seconds for t in answer.prediction.terms) == pytest.approx(
        answer.prediction.step_s
    )


def brute_force_cut(costs, stages):
    from itertools import combinations

    layers = len(costs.layer_s)
    best = None
    for inner in combinations(range(1, layers), stages - 1):
        ends = (*inner, layers)
        starts = (0, *inner)
        seconds, held = [], []
        for s, (a, b) in enumerate(zip(starts, ends, strict=True)):
            first, last = s == 0, s == stages - 1
            tables = costs.table_s[0] * first + costs.table_s[1] * last
            table_b = costs.table_bytes[0] * first + costs.table_bytes[1] * last
            seconds.append(costs.layer_s[a:b].sum() + tables)
            held.append(costs.layer_bytes[a:b].sum() + table_b)
        if max(held) <= costs.capacity_bytes and (best is None or max(seconds) < best):
            best = max(seconds)
    return best


@pytest.mark.parametrize("seed", range(60))
def test_stage_cut_is_optimal(seed):
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(2, 9))
    stages = int(rng.integers(1, layers + 1))
    costs = StageCosts(
        layer_s=rng.integers(1, 9, layers).astype(float),
        layer_bytes=rng.integers(1, 9, layers).astype(float),
        table_s=(float(rng.integers(0, 5)), float(rng.integers(0, 9))),
        table_bytes=(float(rng.integers(0, 5)), float(rng.integers(0, 9))),
        capacity_bytes=float(rng.integers(8, 40)),
    )
    best = brute_force_cut(costs, stages)
    ends = cut_stages(costs, stages)
    if best is None:
        assert ends is None
        return
    starts = (0, *ends[:-1])
    seconds = [costs.layer_s[a:b].sum() for a, b in zip(starts, ends, strict=True)]
    seconds[0] += costs.table_s[0]
    seconds[-1] += costs.table_s[1]
    assert max(seconds) == best
