"""How many chips serve a rate of requests within limits: layouts of one worker, tried one by one.

A worker is a copy of the model with a queue of its own; requests are dealt out evenly. Of each
layout the largest rate within the limits is found by halving, which says how many workers the
whole rate needs. Prefill and decode share the chips of a worker; ``estimate --kind serve
--balance`` prices separate pools on a given machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from planner.cost.attention import decode_core
from planner.cost.routing import moe_shape
from planner.domain.outcome import Infeasible
from planner.domain.run_question import EstimateKind, RunQuestion
from planner.economics.question import ServeQuestion
from planner.economics_api.phases import Setting, limit_above
from planner.errors import SpecError
from planner.run_api import RunEstimate, estimate
from planner.units import format_seconds, usd_per_second

IDLE_RATE = 1e-3  # requests per second that no queue notices
_HALVINGS = 14
_DOUBLINGS = 24
SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """Workers of one layout that serve the rate within the limits.

    Parameters
    ----------
    tp, dp, ep : int
        Degrees of a worker; its experts are spread over all its chips.
    worker_rate : float
        Most requests per second of one worker within the limits.
    chips, rented_chips : int
        Of all workers; of the nodes or racks that they stand in.
    ttft_s, tpot_s : float
        At the rate that was asked for.
    usd_per_hour, usd_per_request : float
        Of the rented chips.
    others : tuple of Capacity
        The next best layouts.
    """

    tp: int
    dp: int
    ep: int
    worker_rate: float
    workers: int
    chips: int
    rented_chips: int
    ttft_s: float
    tpot_s: float
    usd_per_hour: float
    usd_per_request: float
    others: tuple[Capacity, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Worker:
    """A layout and its latencies at next to no load; None where nothing fits."""

    degrees: Degrees
    idle: RunEstimate | None
    reason: Infeasible | None


Degrees = tuple[int, int, int | None]


def _layouts(setting: Setting) -> Iterator[Degrees]:
    """``(tp, dp, ep)``: tensor-parallel degrees that divide the heads; with experts several
    data-parallel ranks, and experts split over the worker's chips, or whole ones on each."""
    topology = setting.topology
    largest = max(len(domain) for domain in topology.domains)
    moe = moe_shape(setting.model) is not None
    heads = {decode_core(layer.attention, 1.0).num_heads for layer in setting.model.layers}
    limits = setting.base.limits
    for tp in (1 << power for power in range(largest.bit_length())):
        if limits.tp is not None and tp not in limits.tp:
            continue
        if any(count % tp for count in heads):
            continue
        ranks = {1 << power for power in range(largest.bit_length())} | {largest // tp}
        for dp in sorted(ranks) if moe else [1]:
            if tp * dp > largest or (limits.dp is not None and dp not in limits.dp):
                continue
            for ep in (None, tp * dp) if moe and tp * dp > 1 else (None,):
                if limits.ep is None or (ep or 1) in limits.ep:
                    yield tp, dp, ep


def _ask(setting: Setting, question: ServeQuestion, layout: Degrees, rate: float) -> object:
    """The price of one worker at a rate: an estimate, or why there is none."""
    base, (tp, dp, ep) = setting.base, layout
    return estimate(
        RunQuestion(
            model=base.model,
            machine=base.machine,
            kind=EstimateKind.SERVE,
            sizing=base.sizing,
            tp=tp,
            dp=dp,
            ep=ep,
            input=question.input,
            output=question.output,
            rate=rate,
            weights=base.weights,
            activations=base.activations,
            kv=base.kv,
            price=setting.usd_per_hour,
            ideal=base.ideal,
        )
    )


def _meets(setting: Setting, found: object) -> bool:
    """Whether it is served, within both limits."""
    base = setting.base
    if not isinstance(found, RunEstimate):
        return False
    assert found.ttft_s is not None and found.tpot_s is not None
    in_time = base.ttft is None or found.ttft_s <= base.ttft
    return in_time and (base.tpot is None or found.tpot_s <= base.tpot)


def _workers(setting: Setting, question: ServeQuestion) -> list[_Worker]:
    found = []
    for degrees in _layouts(setting):
        try:
            idle = _ask(setting, question, degrees, IDLE_RATE)
        except SpecError:
            continue  # the layout does not divide the model
        runs = isinstance(idle, RunEstimate)
        found.append(
            _Worker(
                degrees=degrees,
                idle=idle if isinstance(idle, RunEstimate) else None,
                reason=idle if not runs and isinstance(idle, Infeasible) else None,
            )
        )
    return found


def _largest_rate(setting: Setting, question: ServeQuestion, layout: Degrees) -> float:
    """Most requests per second of one worker within the limits, to a few thousandths."""

    def meets(rate: float) -> bool:
        return _meets(setting, _ask(setting, question, layout, rate))

    low = IDLE_RATE
    for _ in range(_DOUBLINGS):
        if not meets(2.0 * low):
            break
        low *= 2.0
    high = 2.0 * low
    for _ in range(_HALVINGS):
        if high - low < 2e-3 * low:
            break
        middle = (low + high) / 2.0
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low


def _rented(setting: Setting, worker_chips: int, workers: int) -> int:
    """Chips of whole nodes or racks: as many workers in each as fit."""
    domain = max(len(chips) for chips in setting.topology.domains)
    per_domain = domain // worker_chips
    return math.ceil(workers / per_domain) * domain


def _capacity(setting: Setting, question: ServeQuestion, worker: _Worker) -> Capacity:
    assert question.rate is not None
    each = _largest_rate(setting, question, worker.degrees)
    count = max(1, math.ceil(question.rate / each))
    at_rate = _ask(setting, question, worker.degrees, question.rate / count)
    assert isinstance(at_rate, RunEstimate)
    assert at_rate.ttft_s is not None and at_rate.tpot_s is not None
    tp, dp, _ = worker.degrees
    chips = tp * dp
    rented = _rented(setting, chips, count)
    per_hour = rented * setting.usd_per_hour
    return Capacity(
        tp=tp,
        dp=dp,
        ep=at_rate.mesh.ep,
        worker_rate=each,
        workers=count,
        chips=count * chips,
        rented_chips=rented,
        ttft_s=at_rate.ttft_s,
        tpot_s=at_rate.tpot_s,
        usd_per_hour=per_hour,
        usd_per_request=usd_per_second(per_hour) / question.rate,
    )


def fewest_chips(setting: Setting, question: ServeQuestion) -> Capacity | Infeasible:
    """The layout of a worker that serves the rate on the fewest nodes or racks, then chips.

    Returns
    -------
    Infeasible
        No layout of a worker fits, or none meets the limits even without load.

    Raises
    ------
    SpecError
        No layout divides the model.
    """
    workers = _workers(setting, question)
    if not workers:
        raise SpecError(
            f"no layout of a worker divides {setting.model.name} on {setting.topology.spec.name}",
            "leave --tp and --dp out",
        )
    idle = [worker for worker in workers if worker.idle is not None]
    if not idle:
        reason = workers[-1].reason
        assert reason is not None
        return reason
    able = [worker for worker in idle if _meets(setting, worker.idle)]
    if not able:
        return _unreachable(setting, [worker.idle for worker in idle if worker.idle is not None])
    found = [_capacity(setting, question, worker) for worker in able]
    found.sort(key=lambda one: (one.rented_chips, one.chips, one.ttft_s))
    best, others = found[0], tuple(found[1:SHOWN])
    return Capacity(
        **{name: getattr(best, name) for name in Capacity.__slots__ if name != "others"},
        others=others,
    )


def _unreachable(setting: Setting, runs: list[RunEstimate]) -> Infeasible:
    """The limit that no layout meets even without load, and the best there is."""
    base = setting.base
    best = {
        "ttft": min(run.ttft_s or math.inf for run in runs),
        "tpot": min(run.tpot_s or math.inf for run in runs),
    }
    limits = {"ttft": base.ttft, "tpot": base.tpot}
    broken = [name for name, limit in limits.items() if limit is not None and best[name] > limit]
    if broken:
        name = broken[0]
        limit, least, within = limits[name], best[name], ""
    else:
        name, limit = "ttft", base.ttft
        in_time = [run for run in runs if base.tpot is None or (run.tpot_s or 0.0) <= base.tpot]
        least, within = min(run.ttft_s or math.inf for run in in_time), " within --tpot"
    assert limit is not None
    return Infeasible(
        resource=name,
        needed=format_seconds(least),
        available=format_seconds(limit),
        message=(
            f"no number of chips meets --{name} {format_seconds(limit)}: the best layout of a "
            f"worker{within} has {format_seconds(least)} without any load"
        ),
        remedies=(f"--{name} {limit_above(least)}",),
    )
