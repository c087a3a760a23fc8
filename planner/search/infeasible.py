"""Why nothing fits: which resource, how much is needed, and what would help.

Every remedy is tried on the same optimistic bounds before it is suggested: a change that
is printed here removes the obstacle that it is printed for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from planner.cost.memory import budget_bytes
from planner.domain.degrees import Degrees, OverlapMode
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.outcome import Infeasible
from planner.domain.ranges import read_ranges, write_ranges
from planner.domain.scale_up import SwitchDomain
from planner.search.bounds import FloatArray, StepBound, feasible
from planner.search.frontier import CHUNK
from planner.search.mesh import MeshMapper
from planner.search.rates import strategy_rates
from planner.search.request import PlanRequest
from planner.search.space import StrategySpace, runs, strategy_space
from planner.topology.build import build_topology
from planner.topology.graph import NOTHING_SPARED
from planner.topology.spares import sparing
from planner.units import format_bytes, format_seconds

# Larger machines are not tried: an answer that says no must come as fast as one that plans.
MAX_GROWN_CHIPS = 320
# Ranks that share prompts multiply the ways to split a stage.
MAX_GROWN_PREFILL_CHIPS = 96
# Values of a degree that a message names.
MAX_LISTED = 8
MATMUL_ROLES = ("attention", "dense_ffn", "shared_expert", "routed_expert")


def explain(request: PlanRequest, space: StrategySpace, infeasible: tuple[int, int]) -> Infeasible:
    """Turn an empty search into an answer.

    Parameters
    ----------
    infeasible : (int, int)
        Strategies of the space over memory, and those that are too slow alone.
    """
    if len(space) == 0:
        return _no_strategy(request)
    memory, late = infeasible
    if memory == len(space):
        return _memory(request, space)
    if memory + late == len(space):
        return _too_slow(request, space)
    return Infeasible(
        resource="placement",
        needed="one layout",
        available="none",
        message="every strategy that its bound admits failed once layers were cut into whole "
        "stages: the limit of memory or time is missed by the unevenness of the stages",
        remedies=("relax the limit by a few percent, or free a pinned degree",),
    )


def _bounds(request: PlanRequest, space: StrategySpace) -> Iterator[StepBound]:
    """Bounds of all strategies, a part of them at a time."""
    rates = strategy_rates(MeshMapper.of(request.topology), space.families)
    every = np.arange(len(space.families))
    for run in runs(space.counts, CHUNK):
        strategies, family = space.expand(every[run])
        yield StepBound(request, strategies, rates.select(family))


def _no_strategy(request: PlanRequest) -> Infeasible:
    chips = request.topology.max_used
    pinned = ", ".join(_pinned(request))
    return Infeasible(
        resource="chips",
        needed=f"degrees with {pinned}" if pinned else "one stage",
        available=f"{chips} chips",
        message=f"no combination of degrees satisfies {pinned or 'the limits'} on {chips} chips: "
        "a stage has tp x cp x dp / replicas = ep x expert_tp chips, must fit on the machine and "
        "split evenly over domains when it is larger than one, and a batch needs at least one "
        "sequence per microbatch and replica",
        remedies=(*_freed(request), *_more_domains(request))
        or ("free more than one of the pinned degrees", "use a larger machine"),
    )


def _pinned(request: PlanRequest) -> Iterator[str]:
    for name, text in request.limits.texts().items():
        own = _labels(read_ranges(text)) if name == "overlap" else _first(text)
        yield f"{name.replace('_', '-')} {own}"
    if request.batch is not None:
        yield f"batch {request.batch}"


def _labels(modes: Iterable[int]) -> str:
    return " or ".join(OverlapMode(mode).label for mode in sorted(modes))


def _first(ranges: str) -> str:
    parts = ranges.split(",")
    return ",".join(parts[:MAX_LISTED]) + (",..." if len(parts) > MAX_LISTED else "")


def _freed(request: PlanRequest) -> Iterator[str]:
    """What every pinned degree, and the batch, could be if the others stay as they are."""
    for name in request.limits.texts():
        free = replace(request.limits, **{name: None})
        space = strategy_space(replace(request, limits=free))
        if len(space):
            values = _values(space, name)
            own = _labels(values) if name == "overlap" else _first(write_ranges(values))
            yield f"--{name.replace('_', '-')} {own}"
    if request.topology.spared:
        whole = replace(request.topology, spared=NOTHING_SPARED, memo={})
        if len(strategy_space(replace(request, topology=whole))):
            yield "fewer chips in --exclude and --reserve"
    if request.batch is not None:
        space = strategy_space(replace(request, batch=None))
        if len(space):
            yield f"--batch {int((space.pipes.rows[:, 1] * space.pipes.rows[:, 2]).min())} or more"


def _values(space: StrategySpace, name: str) -> list[int]:
    """Values of a degree as :class:`DegreeLimits` names it, ascending."""
    column = {"tp": "attn_tp", "slots": "num_slots"}.get(name, name)
    found: set[int] = set()
    every = np.arange(len(space.families))
    for run in runs(space.counts, CHUNK):
        strategies, _ = space.expand(every[run])
        if name == "dp":
            values = strategies.attn_dp * strategies.replicas
        else:
            values = getattr(strategies, column)
        found.update(np.unique(values).tolist())
    return sorted(found)


def _name(degrees: Degrees) -> str:
    experts = f", EP{degrees.ep}" if degrees.num_slots else ""
    return f"TP{degrees.attn_tp} x DP{degrees.attn_dp}{experts}, PP{degrees.pp}"


def _helps(request: PlanRequest) -> bool:
    """Whether some strategy of a changed request may be feasible."""
    for bound in _bounds(request, strategy_space(request)):
        fits, meets = feasible(bound, bound.smallest())
        if bool((fits & meets).any()):
            return True
    return False


def _with_domains(request: PlanRequest, count: int) -> PlanRequest:
    spec = replace(request.topology.spec, num_domains=count)
    # Domains are added behind the others, so that chips keep their numbers.
    topology = sparing(build_topology(spec), request.topology.spared)
    return replace(request, topology=topology)


def _more_domains(request: PlanRequest) -> Iterator[str]:
    """Fewest nodes or racks that fit, by doubling and halving the step."""
    spec = request.topology.spec
    if not isinstance(spec.scale_up, SwitchDomain) or spec.scale_out is None:
        return
    unit = f"{spec.scale_up.unit}s"
    grown = MAX_GROWN_PREFILL_CHIPS if request.setting.is_prefill else MAX_GROWN_CHIPS
    most = min(spec.scale_out.max_domains, grown // spec.scale_up.chips)
    if most <= spec.num_domains:
        return
    low, high = spec.num_domains, min(2 * spec.num_domains, most)
    while not _helps(_with_domains(request, high)):
        if high == most:
            return
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        if _helps(_with_domains(request, middle)):
            high = middle
        else:
            low = middle
    yield f"--{unit} {high} instead of {spec.num_domains}"


def _narrower(request: PlanRequest) -> Iterator[str]:
    """Narrower weights, then a narrower cache, that fit on the same machine."""
    setting = request.setting
    precision = setting.model.precision
    now = BYTES_PER_ELEMENT[precision.routed_expert]
    for dtype in (DType.FP8, DType.NVFP4):
        if BYTES_PER_ELEMENT[dtype] < now:
            roles = dict.fromkeys(MATMUL_ROLES, dtype)
            model = replace(setting.model, precision=replace(precision, **roles))
            if _helps(replace(request, setting=replace(setting, model=model))):
                yield f"--weights {dtype.value} (now {precision.routed_expert.value})"
                break
    if BYTES_PER_ELEMENT[precision.kv] > 1:
        model = replace(setting.model, precision=replace(precision, kv=DType.FP8))
        if _helps(replace(request, setting=replace(setting, model=model))):
            yield f"--kv fp8 (now {precision.kv.value})"


def _shorter(request: PlanRequest) -> Iterator[str]:
    """The longest context, or the longest prompt, that fits, when any does."""
    setting = request.setting

    def holds(context: int) -> bool:
        return _helps(replace(request, setting=replace(setting, context_tokens=context)))

    def computes(tokens: int) -> bool:
        return _helps(replace(request, setting=replace(setting, new_tokens=float(tokens))))

    if setting.is_prefill:
        yield from _largest("--seq", int(setting.new_tokens), computes)
    else:
        yield from _largest("--context", int(setting.context_tokens), holds)


def _smaller_batch(request: PlanRequest) -> Iterator[str]:
    """The largest batch that fits, when the batch is pinned."""
    if request.batch is not None:
        yield from _largest(
            "--batch", request.batch, lambda batch: _helps(replace(request, batch=batch))
        )


def _largest(option: str, now: int, works: Callable[[int], bool]) -> Iterator[str]:
    """Largest value below ``now`` that works, to 1 %, by bisection."""
    if not works(1):
        return
    low, high = 1, now
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    yield f"{option} {low} instead of {now}"


Floors = Callable[[StepBound], FloatArray]


def _least(request: PlanRequest, space: StrategySpace, floors: Floors) -> tuple[float, Degrees]:
    """Least floor of all strategies, and the first one that has it."""
    found: tuple[float, Degrees] | None = None
    for bound in _bounds(request, space):
        values = floors(bound)
        index = int(np.argmin(values))
        if found is None or values[index] < found[0]:
            found = float(values[index]), bound.strategies.degrees(index)
    assert found is not None
    return found


def _memory(request: PlanRequest, space: StrategySpace) -> Infeasible:
    least, leanest = _least(request, space, lambda bound: bound.memory_bytes(bound.smallest()))
    budget = budget_bytes(request.setting)
    reserve = request.setting.chip.hbm_usable_bytes - budget
    remedies = (
        *_more_domains(request),
        *_narrower(request),
        *_smaller_batch(request),
        *_shorter(request),
    )
    return Infeasible(
        resource="memory",
        needed=format_bytes(least),
        available=format_bytes(budget),
        message=f"HBM: the leanest layout ({_name(leanest)}) needs "
        f"{format_bytes(least)} per chip and {format_bytes(budget)} are free "
        f"({format_bytes(reserve)} of the usable HBM are reserved for the engine): "
        f"{format_bytes(least - budget)} per chip are missing",
        remedies=remedies or ("a machine with more HBM per chip, or a smaller model",),
    )


def _too_slow(request: PlanRequest, space: StrategySpace) -> Infeasible:
    assert request.step_limit_s is not None
    name = "ttft" if request.setting.is_prefill else "tpot"
    does = "answers sooner" if request.setting.is_prefill else "steps faster"

    def steps(bound: StepBound) -> FloatArray:
        probe = bound.smallest()
        fits, _ = feasible(bound, probe)
        return np.where(fits, bound.step_s(probe), np.inf)

    floor, fastest = _least(request, space, steps)
    relaxed = replace(request, step_limit_s=None)
    term, seconds = floor_term(relaxed, fastest)
    return Infeasible(
        resource=name,
        needed=format_seconds(floor),
        available=format_seconds(request.step_limit_s),
        message=f"{name.upper()}: no layout {does} than {format_seconds(floor)}, the limit is "
        f"{format_seconds(request.step_limit_s)}; the fastest "
        f"({_name(fastest)}) spends most on "
        f"{term.replace('_', ' ')} ({format_seconds(seconds)})",
        remedies=(
            f"--{name} {format_seconds(floor * 1.01).replace(' ', '')} or more",
            *_narrower(request),
            *_more_domains(request),
            *_smaller_batch(request),
            *_shorter(request),
        ),
    )


def floor_term(request: PlanRequest, degrees: Degrees) -> tuple[str, float]:
    """Largest term of a strategy's step at the smallest batch, and its seconds."""
    from planner.search.solve import StrategySolver

    solver = StrategySolver(request, MeshMapper.of(request.topology))
    solved = solver.solve(degrees, degrees.microbatches)
    if solved is None:
        return "uneven stages", 0.0
    largest = max(solved.prediction.terms, key=lambda term: term.seconds)
    return largest.name, largest.seconds
