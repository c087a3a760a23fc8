"""Library of ``economics serve``: what a token costs, and why.

Prices come from the layouts that ``plan`` and ``estimate`` find; the napkin beside them takes the
same chips and the same batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.cost.roofline import drain_s
from planner.domain.layout import DegreesRecord, Layout
from planner.domain.outcome import Infeasible
from planner.economics.budget import tokens_per_joule
from planner.economics.kink import covered_context, implied_context, implied_kv_bytes
from planner.economics.napkin import Chips, floor_usd, input_usd, output_usd
from planner.economics.question import PriceStep, ServeQuestion, check_positive
from planner.economics.queueing import Trains, slots_of_a_step, trains
from planner.economics_api.phases import (
    Setting,
    cheapest_prefill,
    decode_at,
    decode_run,
    plan_decode,
    read_setting,
)
from planner.errors import SpecError
from planner.run_api import RunEstimate
from planner.units import MILLION

if TYPE_CHECKING:
    from planner.economics_api.capacity import Capacity

SHORTEST = 1024
_LONGEST = 16  # times the model's context: as far as it is priced


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """The full model's figure beside the napkin's; None where there is none."""

    full: float | None
    napkin: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextPrice:
    """Dollars per million generated tokens at one context.

    Parameters
    ----------
    batch : int
        Sequences of the machine: the one that was given, or the largest that fits there.
    cache_share : float
        Of the step that attention cores, the reads of the cache, take.
    floor_usd : float
        Napkin at an unbounded batch: ``max(compute, KV)``.
    """

    context: int
    batch: int
    step_s: float
    cache_share: float
    usd: Figure
    floor_usd: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Kink:
    """Where the price begins to grow with the context; None where it never does.

    Parameters
    ----------
    reads_equal_rest : Figure
        Context at which reading the cache takes as long as everything else: of the full model
        at the layout's batch; of the napkin, as long as the matmuls, at any large batch.
    twice : Figure
        Context at which a token costs twice that of an empty context, likewise.
    kv_bytes : float
        That the model reads per token of the context.
    """

    reads_equal_rest: Figure
    twice: Figure
    kv_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ImpliedCache:
    """What a public price step says about a model of this size on this machine.

    Parameters
    ----------
    kv_bytes : float
        Per token, from the step.
    model_kv_bytes : float
        That this model reads.
    covered_context : float
        Up to which the higher price covers the cost.
    """

    step: PriceStep
    kv_bytes: float
    model_kv_bytes: float
    covered_context: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeEconomics:
    """What a model costs to serve.

    Parameters
    ----------
    input_usd, output_usd : Figure
        Per million tokens.
    ratio : Figure
        Output over input.
    request_usd : float, optional
        Of a request, where its lengths were given.
    floor_usd : float
        Napkin: below which no batch brings a million output tokens.
    drain_s : float
        Weights and cache of the fullest chip over its bandwidth: the lecture's train interval.
    queue : Trains
        Of the decode loop.
    curve : tuple of ContextPrice
        Shortest context first.
    capacity : Capacity, optional
        Where a rate was given.
    """

    question: ServeQuestion
    model: str
    machine: str
    size: str
    usd_per_chip_hour: float
    decode: DegreesRecord
    decode_chips: int
    batch: int
    step_s: float
    prompt: int
    prefill_tp: int
    prefill_dp: int
    prefill_ep: int
    prefill_s: float
    input_usd: Figure
    output_usd: Figure
    ratio: Figure
    request_usd: float | None
    floor_usd: float
    watts: float | None
    output_tokens_per_joule: float | None
    input_tokens_per_joule: float | None
    drain_s: float
    queue: Trains
    curve: tuple[ContextPrice, ...]
    kink: Kink
    implied: ImpliedCache | None
    capacity: Capacity | None


def serve_economics(question: ServeQuestion) -> ServeEconomics | Infeasible:
    """Price input and output tokens of a model on a machine.

    Returns
    -------
    Infeasible
        Nothing fits, or no number of chips meets the limits.

    Raises
    ------
    SpecError
        A number is none, a length is missing, or nobody knows a price.
    CatalogError
        A file cannot be read.
    """
    _check(question)
    setting = read_setting(question.base)
    layout = plan_decode(setting)
    if isinstance(layout, Infeasible):
        return layout
    prompt = question.input or question.base.context
    prefill = cheapest_prefill(setting, prompt)
    if isinstance(prefill, Infeasible):
        return prefill
    capacity = None
    if question.rate is not None:
        from planner.economics_api.capacity import fewest_chips

        found = fewest_chips(setting, question)
        if isinstance(found, Infeasible):
            return found
        capacity = found
    return _answer(setting, question, (layout, prefill), capacity)


def _check(question: ServeQuestion) -> None:
    check_positive(input=question.input, output=question.output, rate=question.rate)
    step = question.price_step
    if step is not None:
        check_positive(price_step=step.context)
        if not 1.0 < step.factor < 1e6:
            raise SpecError(
                f"--price-step: {step.factor:g} times the price is no step up",
                "write for example --price-step 2x@200k",
            )
    if question.rate is not None and (question.input is None or question.output is None):
        raise SpecError(
            "--rate needs --input and --output, the lengths of a request",
            "write for example --input 2k --output 256",
        )


def _answer(
    setting: Setting,
    question: ServeQuestion,
    found: tuple[Layout, RunEstimate],
    capacity: Capacity | None,
) -> ServeEconomics:
    layout, prefill = found
    seen = layout.prediction
    chips = _napkin_chips(setting, layout, prefill)
    batch = seen.batch / layout.degrees.replicas
    sizes = setting.sizes(question.base.context)
    dear = Figure(
        full=seen.usd_per_million_tokens, napkin=output_usd(sizes, chips, batch) * MILLION
    )
    cheap = Figure(full=prefill.usd_per_million_tokens, napkin=input_usd(sizes, chips) * MILLION)
    request = None
    if question.input is not None and question.output is not None:
        request = (cheap.full or 0.0) * question.input + (dear.full or 0.0) * question.output
        request /= MILLION
    used = len(layout.ranks)
    in_use = seen.memory.weights_bytes + seen.memory.kv_bytes
    interval, places = seen.step_s, seen.batch
    if question.output is not None:
        interval, places = slots_of_a_step(seen.step_s, seen.batch, question.output)
    return ServeEconomics(
        question=question,
        model=setting.model.name,
        machine=setting.topology.spec.name,
        size=setting.topology.spec.size_text,
        usd_per_chip_hour=setting.usd_per_hour,
        decode=layout.degrees,
        decode_chips=used,
        batch=seen.batch,
        step_s=seen.step_s,
        prompt=question.input or question.base.context,
        prefill_tp=prefill.mesh.attn_tp,
        prefill_dp=prefill.mesh.attn_dp,
        prefill_ep=prefill.mesh.ep,
        prefill_s=prefill.seconds,
        input_usd=cheap,
        output_usd=dear,
        ratio=_ratio(dear, cheap),
        request_usd=request,
        floor_usd=floor_usd(sizes, chips) * MILLION,
        watts=setting.watts,
        output_tokens_per_joule=_per_joule(setting, seen.tokens_per_s / used),
        input_tokens_per_joule=_per_joule(setting, prefill.tokens_per_s_per_chip),
        drain_s=drain_s(in_use, chips.hbm_bytes_per_s),
        queue=trains(interval, places, question.load),
        curve=_curve(setting, layout, chips),
        kink=_kink(setting, layout, chips),
        implied=_implied(setting, question, chips),
        capacity=capacity,
    )


def _napkin_chips(setting: Setting, layout: Layout, prefill: RunEstimate) -> Chips:
    """Chips of one replica, at the peak of the rate that most multiplies run at."""
    return setting.chips(len(layout.ranks) // layout.degrees.replicas, prefill.peak_flop_per_s)


def _ratio(over: Figure, under: Figure) -> Figure:
    full = over.full / under.full if over.full and under.full else None
    napkin = over.napkin / under.napkin if over.napkin and under.napkin else None
    return Figure(full=full, napkin=napkin)


def _per_joule(setting: Setting, tokens_per_s_per_chip: float) -> float | None:
    if setting.watts is None:
        return None
    return tokens_per_joule(tokens_per_s_per_chip, setting.watts)


# The price against the context.


def _contexts(setting: Setting) -> list[int]:
    """Powers of two up to the model's longest context, and the one that was asked for."""
    asked = setting.base.context
    longest = max(asked, setting.model.max_context or 0, SHORTEST)
    found, here = {asked}, SHORTEST
    while here <= longest:
        found.add(here)
        here *= 2
    return sorted(found)


def _cache_s(terms: dict[str, float]) -> float:
    return terms.get("attention_core", 0.0)


def _curve(setting: Setting, layout: Layout, chips: Chips) -> tuple[ContextPrice, ...]:
    rows = []
    for context in _contexts(setting):
        found = layout if context == setting.base.context else decode_at(setting, layout, context)
        if found is None:
            continue
        seen, sizes = found.prediction, setting.sizes(context)
        terms = {term.name: term.seconds for term in seen.terms}
        napkin = output_usd(sizes, chips, seen.batch / layout.degrees.replicas) * MILLION
        rows.append(
            ContextPrice(
                context=context,
                batch=seen.batch,
                step_s=seen.step_s,
                cache_share=_cache_s(terms) / sum(terms.values()),
                usd=Figure(full=seen.usd_per_million_tokens, napkin=napkin),
                floor_usd=floor_usd(sizes, chips) * MILLION,
            )
        )
    return tuple(rows)


def _first_context(longest: int, reached: Callable[[int], bool]) -> float | None:
    """The shortest context from which on ``reached`` holds, by halving; None: none does."""
    if not reached(longest):
        return None
    low, high = 0, longest
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return float(high)


def _kink(setting: Setting, layout: Layout, chips: Chips) -> Kink:
    """The full model's kink at the layout's batch, whether it fits there or not."""
    longest = _LONGEST * (setting.model.max_context or 2**20)
    empty = decode_run(setting, layout, 1).seconds

    def reads_equal_rest(context: int) -> bool:
        run = decode_run(setting, layout, context)
        cache = _cache_s({term.name: term.seconds for term in run.terms})
        return 2.0 * cache >= run.seconds

    def twice(context: int) -> bool:
        return decode_run(setting, layout, context).seconds >= 2.0 * empty

    kv = setting.sizes(setting.base.context).kv_read_bytes_per_token
    napkin = implied_context(
        setting.sizes(setting.base.context).active_params, chips.flop_per_two_bytes, kv
    )
    return Kink(
        reads_equal_rest=Figure(
            full=_first_context(longest, reads_equal_rest),
            napkin=napkin,
        ),
        twice=Figure(full=_first_context(longest, twice), napkin=2.0 * napkin),
        kv_bytes=kv,
    )


def _implied(setting: Setting, question: ServeQuestion, chips: Chips) -> ImpliedCache | None:
    step = question.price_step
    if step is None:
        return None
    sizes = setting.sizes(step.context)
    return ImpliedCache(
        step=step,
        kv_bytes=implied_kv_bytes(sizes.active_params, chips.flop_per_two_bytes, step.context),
        model_kv_bytes=sizes.kv_read_bytes_per_token,
        covered_context=covered_context(step.context, step.factor),
    )
