"""Why nothing fits: which resource, how much is needed, and what would help.

Every remedy is tried on the same optimistic bounds before it is suggested: a change that
is printed here removes the obstacle that it is printed for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.cost.memory import budget_bytes
from planner.domain.degrees import Degrees, OverlapMode
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.outcome import Infeasible
from planner.domain.ranges import read_ranges, write_ranges
from planner.domain.scale_up import SwitchDomain
from planner.search.batch_bounds import BoundTable
from planner.search.bounds import StepBound, feasible
from planner.search.mesh import MeshMapper, strategy_rates
from planner.search.request import PlanRequest
from planner.search.strategies import Strategies, enumerate_strategies
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


def explain(
    request: PlanRequest,
    strategies: Strategies,
    bounds: tuple[StepBound, BoundTable] | None,
) -> Infeasible:
    """Turn an empty search into an answer."""
    if bounds is None or len(strategies) == 0:
        return _no_strategy(request)
    bound, table = bounds
    if not table.fits_memory.any():
        return _memory(request, bound)
    if not (table.fits_memory & table.meets_tpot).any():
        return _too_slow(request, bound, table)
    return Infeasible(
        resource="placement",
        needed="one layout",
        available="none",
        message="every strategy that its bound admits failed once layers were cut into whole "
        "stages: the limit of memory or time is missed by the unevenness of the stages",
        remedies=("relax the limit by a few percent, or free a pinned degree",),
    )


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
        strategies = enumerate_strategies(replace(request, limits=free))
        if len(strategies):
            values = np.unique(_values(strategies, name)).tolist()
            own = _labels(values) if name == "overlap" else _first(write_ranges(values))
            yield f"--{name.replace('_', '-')} {own}"
    if request.topology.spared:
        whole = replace(request.topology, spared=NOTHING_SPARED, memo={})
        if len(enumerate_strategies(replace(request, topology=whole))):
            yield "fewer chips in --exclude and --reserve"
    if request.batch is not None:
        strategies = enumerate_strategies(replace(request, batch=None))
        if len(strategies):
            yield f"--batch {int((strategies.microbatches * strategies.replicas).min())} or more"


def _values(strategies: Strategies, name: str) -> NDArray[np.int64]:
    """Values of a degree as :class:`DegreeLimits` names it, shape ``[strategies]``."""
    if name == "dp":
        return strategies.attn_dp * strategies.replicas
    column = {"tp": "attn_tp", "slots": "num_slots"}.get(name, name)
    values: NDArray[np.int64] = getattr(strategies, column)
    return values


def _name(degrees: Degrees) -> str:
    experts = f", EP{degrees.ep}" if degrees.num_slots else ""
    return f"TP{degrees.attn_tp} x DP{degrees.attn_dp}{experts}, PP{degrees.pp}"


def _helps(request: PlanRequest) -> bool:
    """Whether some strategy of a changed request may be feasible."""
    strategies = enumerate_strategies(request)
    if len(strategies) == 0:
        return False
    mapper = MeshMapper.of(request.topology)
    bound = StepBound(request, strategies, strategy_rates(mapper, strategies))
    fits, meets = feasible(bound, bound.smallest())
    return bool((fits & meets).any())


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


def _memory(request: PlanRequest, bound: StepBound) -> Infeasible:
    needed = bound.memory_bytes(bound.smallest())
    index = int(np.argmin(needed))
    budget = budget_bytes(request.setting)
    reserve = request.setting.chip.hbm_usable_bytes - budget
    least = float(needed[index])
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
        message=f"HBM: the leanest layout ({_name(bound.strategies.degrees(index))}) needs "
        f"{format_bytes(least)} per chip and {format_bytes(budget)} are free "
        f"({format_bytes(reserve)} of the usable HBM are reserved for the engine): "
        f"{format_bytes(least - budget)} per chip are missing",
        remedies=remedies or ("a machine with more HBM per chip, or a smaller model",),
    )


def _too_slow(request: PlanRequest, bound: StepBound, table: BoundTable) -> Infeasible:
    assert request.step_limit_s is not None
    name = "ttft" if request.setting.is_prefill else "tpot"
    does = "answers sooner" if request.setting.is_prefill else "steps faster"
    step = np.where(table.fits_memory, bound.step_s(bound.smallest()), np.inf)
    index = int(np.argmin(step))
    floor = float(step[index])
    relaxed = replace(request, step_limit_s=None)
    term, seconds = floor_term(relaxed, bound.strategies.degrees(index))
    return Infeasible(
        resource=name,
        needed=format_seconds(floor),
        available=format_seconds(request.step_limit_s),
        message=f"{name.upper()}: no layout {does} than {format_seconds(floor)}, the limit is "
        f"{format_seconds(request.step_limit_s)}; the fastest "
        f"({_name(bound.strategies.degrees(index))}) spends most on "
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
