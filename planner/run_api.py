"""Library of ``estimate``: the price of a run as given, without any search.

Degrees and workload come from a :class:`planner.domain.run_question.RunQuestion`, seconds and
bytes from :mod:`planner.cost.runs`; here they become what people compare: tokens per second,
utilisation, latencies, dollars, and whether it fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planner.cost.price import CORE_RATE
from planner.cost.runs.inference import pipeline_idle
from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.model_flop import (
    ModelFlop,
    decode_flop,
    prefill_flop,
    request_flop,
    train_flop,
)
from planner.cost.runs.predict import predict_run
from planner.cost.runs.record import RunMemory, RunPrediction, RunTerm
from planner.domain.cost import Bound
from planner.domain.dtypes import Precision
from planner.domain.outcome import Infeasible
from planner.domain.run import Mesh, Run, RunKind
from planner.domain.run_question import EstimateKind, RunQuestion
from planner.pricing.case import Case, main_rate, read_case, run_of
from planner.pricing.changes import changes_that_fit
from planner.units import MILLION, format_bytes, usd_per_second

if TYPE_CHECKING:
    from planner.cost.runs.serving import ServingPrediction
    from planner.pricing.served import Room, Served, Split

__all__ = ["EstimateKind", "RunEstimate", "RunQuestion", "estimate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEstimate:
    """What a run costs.

    Parameters
    ----------
    question : RunQuestion
        As it was asked.
    model, machine, size : str
        Names, and how much of the machine there is.
    precision : Precision
        Number formats, after the question's.
    mesh : Mesh
        Degrees, after what was left out was derived; of one worker when served.
    run : Run, optional
        As it was priced; None when served.
    chips, machine_chips, rented_chips : int
        That the run uses, that the machine has, and of all nodes or racks in use.
    seconds : float
        Of the step, pass or request; when served, per output token. ``terms`` add up to it.
    memory : RunMemory
        Of the fullest chip.
    tokens_per_s : float
        Trained tokens, new tokens of a prefill, else output tokens.
    ttft_s, tpot_s : float, optional
        Time to the first token, and per further one, where the kind has them.
    flop : ModelFlop
        Of the run; when served, of a whole request.
    model_flop_per_s_per_chip, mfu : float
        Model FLOP/s, and their share of ``peak_flop_per_s`` at ``rate``.
    bubble : float, optional
        Share of the time in which a pipeline stage waits; None without a pipeline.
    usd_per_million_tokens : float, optional
        None where no price is known.
    running : float, optional
        Sequences that one worker of a served run decodes together.
    served : Served, optional
        Pools, and parts of the time to the first token, of a served run.
    changes : tuple of str
        Changes after which it fits, each one priced; empty when it fits as it is.
    """

    question: RunQuestion
    model: str
    machine: str
    size: str
    precision: Precision
    mesh: Mesh
    run: Run | None
    chips: int
    machine_chips: int
    rented_chips: int
    seconds: float
    terms: tuple[RunTerm, ...]
    memory: RunMemory
    tokens_per_s: float
    ttft_s: float | None
    tpot_s: float | None
    flop: ModelFlop
    rate: str
    peak_flop_per_s: float
    model_flop_per_s_per_chip: float
    bubble: float | None
    usd_per_million_tokens: float | None
    running: float | None = None
    served: Served | None = None
    changes: tuple[str, ...] = ()

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation."""
        return self.model_flop_per_s_per_chip / self.peak_flop_per_s

    @property
    def tokens_per_s_per_chip(self) -> float:
        """Of the chips that the run uses."""
        return self.tokens_per_s / self.chips

    @property
    def tokens_per_s_per_user(self) -> float | None:
        """Of one sequence while it is decoded."""
        return None if self.tpot_s is None else 1.0 / self.tpot_s


def estimate(question: RunQuestion) -> RunEstimate | Infeasible:
    """Price a run as given.

    Returns
    -------
    RunEstimate
        Priced even where it does not fit: ``memory.fits`` says so, and ``changes`` what helps.
    Infeasible
        A served worker cannot hold a single request, requests arrive faster than they are
        served, or no split of the chips meets the limits: there is no price.

    Raises
    ------
    SpecError
        An option does not apply, is missing, out of range, or does not divide.
    CatalogError
        A file of the question cannot be read.
    """
    case = read_case(question)
    if question.kind is EstimateKind.SERVE:
        return _serve(case)
    return _static(case)


# Training steps, passes, decode steps and static batches.


def _static(case: Case) -> RunEstimate:
    run = run_of(case)
    found = predict_run(case.model, case.topology, run)
    ttft, tpot = _latencies(case, run, found)
    batch, seconds = float(run.global_batch), found.seconds
    if run.kind in (RunKind.TRAIN, RunKind.PREFILL):
        tokens = batch * run.seq_len
    else:
        tokens = batch * (run.output_len if run.kind is RunKind.REQUEST else 1)
    flop = _flop(case, run)
    shown = _Shown(
        seconds=seconds,
        terms=found.terms,
        memory=found.memory,
        tokens_per_s=tokens / seconds,
        ttft_s=ttft,
        tpot_s=tpot,
        flop=flop,
        flop_per_s=flop.total / seconds,
        bubble=_bubble(case, run, found),
    )
    changes = () if found.memory.fits else changes_that_fit(case)
    return replace(_estimate(case, shown), run=run, changes=changes)


def _latencies(case: Case, run: Run, found: RunPrediction) -> tuple[float | None, float | None]:
    """Time to the first token, and per output token."""
    match run.kind:
        case RunKind.TRAIN:
            return None, None
        case RunKind.PREFILL:
            return found.seconds, None
        case RunKind.DECODE:
            return None, found.seconds
        case RunKind.REQUEST:
            if run.output_len == 1:
                return found.seconds, None
            first = predict_run(case.model, case.topology, replace(run, output_len=1)).seconds
            return first, (found.seconds - first) / (run.output_len - 1)


def _flop(case: Case, run: Run) -> ModelFlop:
    model, batch = case.model, float(run.global_batch)
    contexts = Contexts(mean=run.context_len, spread=run.context_spread)
    match run.kind:
        case RunKind.TRAIN:
            return train_flop(model, batch, run.seq_len)
        case RunKind.PREFILL:
            return prefill_flop(model, batch, run.seq_len, contexts)
        case RunKind.DECODE:
            return decode_flop(model, batch, contexts)
        case RunKind.REQUEST:
            return request_flop(model, batch, (run.input_len, 0.0), run.output_len)


def _bubble(case: Case, run: Run, found: RunPrediction) -> float | None:
    """Share of the time in which a stage waits for others."""
    if run.mesh.pp == 1:
        return None
    if run.kind is RunKind.TRAIN:
        idle = sum(term.seconds for term in found.terms if term.bound is Bound.IDLE)
        return idle / found.seconds
    return pipeline_idle(case.model, case.topology, run)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """What differs between kinds of runs."""

    seconds: float
    terms: tuple[RunTerm, ...]
    memory: RunMemory
    tokens_per_s: float
    ttft_s: float | None
    tpot_s: float | None
    flop: ModelFlop
    flop_per_s: float
    bubble: float | None = None
    running: float | None = None
    served: Served | None = None


def _peak_rate(case: Case) -> str:
    """The faster of the rates of multiplies and of attention cores, which take 16 bits."""
    peaks = dict(case.topology.chip.peak_flop_per_s)
    return max(main_rate(case), CORE_RATE, key=lambda rate: peaks[rate])


def _estimate(case: Case, shown: _Shown) -> RunEstimate:
    topology, chip = case.topology, case.topology.chip
    rate = _peak_rate(case)
    rented = sum(topology.rental_units(range(case.chips)))
    price = case.question.price or chip.price_usd_per_hour
    usd = None
    if price is not None:
        usd = rented * usd_per_second(price) / shown.tokens_per_s * MILLION
    return RunEstimate(
        question=case.question,
        model=case.model.name,
        machine=topology.spec.name,
        size=topology.spec.size_text,
        precision=case.model.precision,
        mesh=case.mesh,
        run=None,
        chips=case.chips,
        machine_chips=topology.num_chips,
        rented_chips=rented,
        seconds=shown.seconds,
        terms=tuple(sorted(shown.terms, key=lambda term: -term.seconds)),
        memory=shown.memory,
        tokens_per_s=shown.tokens_per_s,
        ttft_s=shown.ttft_s,
        tpot_s=shown.tpot_s,
        flop=shown.flop,
        rate=rate,
        peak_flop_per_s=dict(chip.peak_flop_per_s)[rate],
        model_flop_per_s_per_chip=shown.flop_per_s / case.chips,
        bubble=shown.bubble,
        usd_per_million_tokens=usd,
        running=shown.running,
        served=shown.served,
    )


# Engines under load.


def _serve(case: Case) -> RunEstimate | Infeasible:
    from planner.cost.runs.serving import predict_serving
    from planner.cost.runs.serving_open import Overload
    from planner.pricing.balance import best_splits, with_workers
    from planner.pricing.overload import overloaded
    from planner.pricing.served import rooms_of, serving_run

    for pool, room in rooms_of(case).items():
        if not room.fits:
            return _no_room(case, pool, room)
    splits: tuple[Split, ...] = ()
    if case.question.balance:
        found = best_splits(case)
        if isinstance(found, Infeasible):
            return found
        splits = found
        case = with_workers(case, splits[0].prefill_workers, splits[0].workers)
    try:
        prediction = predict_serving(case.model, case.topology, serving_run(case))
    except Overload as error:
        return overloaded(case, error)
    return _served(case, prediction, splits)


def _no_room(case: Case, pool: str, room: Room) -> Infeasible:
    usable = case.topology.chip.hbm_usable_bytes
    needed = usable - room.free_bytes + room.request_bytes
    where = f" on a {pool} worker" if case.prefill_mesh is not None else ""
    largest = "the largest" if len(case.question.mix) > 1 else "one"
    return Infeasible(
        resource="memory",
        needed=format_bytes(needed),
        available=format_bytes(usable),
        message=(
            f"{largest} request does not fit{where}: {format_bytes(needed)} of "
            f"{format_bytes(usable)} "
            f"({format_bytes(room.weights_bytes)} of weights, "
            f"{format_bytes(room.request_bytes)} of cache, and the engine's reserve)"
        ),
        remedies=changes_that_fit(case),
    )


def _served(case: Case, found: ServingPrediction, splits: tuple[Split, ...]) -> RunEstimate:
    from planner.pricing.served import (
        Served,
        prefill_memory,
        served_flop,
        served_memory,
        served_terms,
        serving_run,
    )

    flop = served_flop(case)
    shown = _Shown(
        seconds=found.tpot_s,
        terms=served_terms(case, found),
        memory=served_memory(case, found.running),
        tokens_per_s=found.tokens_per_s,
        ttft_s=found.ttft_s,
        tpot_s=found.tpot_s,
        flop=flop,
        flop_per_s=flop.total * found.tokens_per_s / serving_run(case).output_len,
        running=found.running,
        served=Served(
            prediction=found,
            prefill_mesh=case.prefill_mesh,
            prefill_workers=0 if case.prefill_mesh is None else case.question.prefill_workers or 1,
            prefill_chips=case.prefill_chips,
            decode_chips=case.chips - case.prefill_chips,
            prefill_memory=prefill_memory(case),
            splits=splits,
        ),
    )
    return _estimate(case, shown)
