"""Prefill and decode at their cheapest layouts, priced by the cost model as it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.api import evaluate, plan
from planner.catalog.economics_files import load_power
from planner.catalog.model_config import load_model, override_precision
from planner.cost.routing import moe_shape
from planner.domain.layout import Layout
from planner.domain.model import ModelSpec
from planner.domain.outcome import Infeasible
from planner.domain.pinned import pinned
from planner.domain.question import Question
from planner.domain.run import Overlap
from planner.domain.run_question import EstimateKind, RunQuestion
from planner.economics.napkin import Chips, ModelBytes, model_bytes
from planner.economics.question import Served, check_served
from planner.errors import SpecError
from planner.machine_api import load_topology
from planner.run_api import RunEstimate, estimate
from planner.topology.graph import Topology
from planner.units import MS, format_bytes, format_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A question with its files read.

    Parameters
    ----------
    usd_per_hour : float
        Of one chip.
    watts : float, optional
        Of one chip with everything around it; None where it is not known.
    """

    base: Served
    model: ModelSpec
    topology: Topology
    usd_per_hour: float
    watts: float | None

    def sizes(self, context: float) -> ModelBytes:
        """The model as the napkin sees it, at a context."""
        return model_bytes(self.model, context)

    def chips(self, count: int, flop_per_s: float) -> Chips:
        """Chips as the napkin sees them."""
        return Chips(
            count=count,
            flop_per_s=flop_per_s,
            hbm_bytes_per_s=self.topology.chip.hbm_bytes_per_s,
            usd_per_hour=self.usd_per_hour,
        )


def read_setting(base: Served) -> Setting:
    """Read model and machine, and find the price of a chip.

    Raises
    ------
    SpecError
        A number is none, or nobody knows a price.
    CatalogError
        A file cannot be read.
    """
    check_served(base)
    model = load_model(base.model)
    if model.max_context is not None and base.context > 16 * model.max_context:
        raise SpecError(
            f"--context: {base.context} is over 16 times the model's {model.max_context}",
            "check the unit: 8k means 8192 tokens",
        )
    topology = load_topology(base.machine, base.sizing)
    price = topology.chip.price_usd_per_hour if base.price is None else base.price
    if price is None:
        raise SpecError(
            f"the file of {topology.spec.name} has no price of {topology.chip.name}",
            "write for example --price 2.95, dollars per chip-hour",
        )
    power = load_power(topology.chip.name)
    watts = power.watts if power is not None else None
    return Setting(
        base=base,
        model=override_precision(model, base.weights, base.activations, base.kv),
        topology=topology,
        usd_per_hour=price,
        watts=watts if base.kw is None else base.kw * 1000.0,
    )


# Decode: the planner's layout.


def decode_question(setting: Setting, context: int) -> Question:
    """The question that ``planner plan`` would be asked."""
    base = setting.base
    return Question(
        model=base.model,
        machine=base.machine,
        context_tokens=context,
        nodes=base.sizing.nodes,
        racks=base.sizing.racks,
        slices=base.sizing.slices,
        shape=base.sizing.shape,
        wounds=base.sizing.wounds,
        weights=base.weights,
        activations=base.activations,
        kv=base.kv,
        tpot_s=base.tpot,
        batch=base.batch,
        price_usd_per_hour=setting.usd_per_hour,
        ideal=base.ideal,
        limits=base.limits,
    )


def plan_decode(setting: Setting) -> Layout | Infeasible:
    """The best decode layout within the degrees that were given."""
    return plan(decode_question(setting, setting.base.context))


def decode_at(setting: Setting, layout: Layout, context: int) -> Layout | None:
    """The same degrees at another context; None where nothing fits.

    With the batch that was given, else the largest one there.
    """
    question = replace(
        decode_question(setting, context), limits=pinned(layout.degrees), tpot_s=None
    )
    found = evaluate(question)
    return None if isinstance(found, Infeasible) else found


def decode_run(setting: Setting, layout: Layout, context: int) -> RunEstimate:
    """A layout's degrees and batch at any context, whether it fits or not.

    The batch is rounded to whole sequences of every data-parallel rank.
    """
    base, degrees = setting.base, layout.degrees
    dp = degrees.attn_dp * degrees.replicas
    batch = max(1, layout.prediction.batch // dp) * dp
    hidden = [part for part in degrees.overlap.split(",") if part != "none"]
    found = estimate(
        RunQuestion(
            model=base.model,
            machine=base.machine,
            kind=EstimateKind.DECODE,
            sizing=base.sizing,
            tp=degrees.attn_tp,
            pp=degrees.pp,
            cp=degrees.cp,
            dp=dp,
            ep=degrees.ep if degrees.num_slots else None,
            expert_tp=degrees.expert_tp if degrees.num_slots else None,
            batch=batch,
            context=context,
            overlap=frozenset(Overlap(part) for part in hidden),
            weights=base.weights,
            activations=base.activations,
            kv=base.kv,
            price=setting.usd_per_hour,
            ideal=base.ideal,
        )
    )
    assert isinstance(found, RunEstimate)
    return found


# Prefill: whole machine, one prompt per data-parallel rank, every tensor-parallel degree.


def prefill_meshes(setting: Setting) -> Iterator[tuple[int, int, int | None]]:
    """``(tp, dp, ep)`` that are tried: powers of two inside a scale-up domain."""
    base, topology = setting.base, setting.topology
    largest = max(len(domain) for domain in topology.domains)
    chips = topology.num_chips
    moe = moe_shape(setting.model) is not None
    degrees = [base.prefill_tp] if base.prefill_tp is not None else None
    for tp in degrees or [1 << power for power in range(largest.bit_length())]:
        if tp > largest:
            continue
        dp = chips // tp
        yield tp, dp, tp * dp if moe else None


def _prefill_question(
    setting: Setting, mesh: tuple[int, int, int | None], prompt: int
) -> RunQuestion:
    base, (tp, dp, ep) = setting.base, mesh
    return RunQuestion(
        model=base.model,
        machine=base.machine,
        kind=EstimateKind.PREFILL,
        sizing=base.sizing,
        tp=tp,
        dp=dp,
        ep=ep,
        batch=dp,
        seq=prompt,
        weights=base.weights,
        activations=base.activations,
        kv=base.kv,
        price=setting.usd_per_hour,
        ideal=base.ideal,
    )


def _of_prefill(text: str) -> str:
    """A message about degrees with the option that a prefill has."""
    return re.sub(r"--tp\b", "--prefill-tp", text)


def limit_above(seconds: float) -> str:
    """A limit that is just met, as an option takes it: tenths of a millisecond, rounded up."""
    return f"{math.ceil(seconds / MS * 10) / 10:g}ms"


def cheapest_prefill(setting: Setting, prompt: int) -> RunEstimate | Infeasible:
    """The cheapest prefill of prompts of ``prompt`` tokens, one per data-parallel rank.

    Returns
    -------
    RunEstimate
        That fits, within the limit of the time to the first token.
    Infeasible
        None does.

    Raises
    ------
    SpecError
        No degree that is tried can run the model at all.
    """
    tried: list[RunEstimate] = []
    refusal: SpecError | None = None
    for mesh in prefill_meshes(setting):
        try:
            found = estimate(_prefill_question(setting, mesh, prompt))
        except SpecError as error:
            refusal = SpecError(_of_prefill(error.message), _of_prefill(error.remedy))
            continue
        assert isinstance(found, RunEstimate)
        tried.append(found)
    if not tried:
        if refusal is None:
            raise SpecError(
                f"--prefill-tp: {setting.base.prefill_tp} is more than a scale-up domain has",
                "write for example --prefill-tp 8",
            )
        raise refusal
    fitting = [run for run in tried if run.memory.fits]
    if not fitting:
        return _no_room(tried)
    limit = setting.base.ttft
    quick = [run for run in fitting if limit is None or run.seconds <= limit]
    if not quick:
        return _too_slow(fitting, prompt, limit or 0.0)
    return min(quick, key=lambda run: (run.usd_per_million_tokens or 0.0, run.seconds))


def _no_room(tried: list[RunEstimate]) -> Infeasible:
    least = min(tried, key=lambda run: run.memory.needed_bytes)
    needed, available = least.memory.needed_bytes, least.memory.capacity_bytes
    return Infeasible(
        resource="memory",
        needed=format_bytes(needed),
        available=format_bytes(available),
        message=(
            f"no prefill fits: tensor parallelism {least.mesh.attn_tp} needs "
            f"{format_bytes(needed)} of {format_bytes(available)} per chip"
        ),
        remedies=least.changes,
    )


def _too_slow(fitting: list[RunEstimate], prompt: int, limit: float) -> Infeasible:
    best = min(fitting, key=lambda run: run.seconds)
    return Infeasible(
        resource="ttft",
        needed=format_seconds(best.seconds),
        available=format_seconds(limit),
        message=(
            f"no prefill of {prompt:,} tokens meets --ttft {format_seconds(limit)}: the best "
            f"takes {format_seconds(best.seconds)} with tensor parallelism {best.mesh.attn_tp}"
        ),
        remedies=(f"--ttft {limit_above(best.seconds)}",),
    )
