"""A served question as the cost model takes it: the run, its memory, and what terms wait for."""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.memory import RESERVE_FRACTION
from planner.cost.runs.gemm import achieved_flop_per_s, achieved_hbm_bytes_per_s
from planner.cost.runs.record import RunMemory, RunTerm
from planner.cost.runs.serving import ServingPrediction
from planner.cost.runs.serving_check import check_worker
from planner.cost.runs.serving_engine import HABITS
from planner.cost.runs.serving_step import StepPricer
from planner.domain.cost import Bound
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.model import MoeFfn
from planner.domain.serving import EngineFamily, ServingPool, ServingRun
from planner.errors import SpecError
from planner.pricing.case import Case, main_format, main_rate

# Multiplies are decided by their arithmetic intensity; the others wait for one thing.
_BOUNDS = {
    "attention": Bound.MEMORY,
    "elementwise": Bound.MEMORY,
    "collectives": Bound.NETWORK,
    "host": Bound.OVERHEAD,
    "prompts": Bound.COMPUTE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What the fullest chip of a worker has for one request, which lives on one rank.

    Parameters
    ----------
    request_bytes : float
        Cache for which a request must find room before it starts.
    free_bytes : float
        Usable memory less the engine's reserve and the weights; negative where they do not fit.
    """

    weights_bytes: float
    request_bytes: float
    free_bytes: float

    @property
    def fits(self) -> bool:
        """Whether one request can run."""
        return self.request_bytes <= self.free_bytes


def serving_run(case: Case) -> ServingRun:
    """The run that the cost model prices.

    Raises
    ------
    SpecError
        Unknown engine.
    """
    q, mesh = case.question, case.mesh
    families = [family.value for family in EngineFamily]
    if q.engine is not None and q.engine not in families:
        raise SpecError(
            f"--engine: no served engine is called '{q.engine}'", f"known: {', '.join(families)}"
        )
    return ServingRun(
        input_len=q.input or 0,
        output_len=q.output or 0,
        decode=ServingPool(
            num_workers=q.workers,
            attn_tp=mesh.attn_tp,
            attn_dp=mesh.attn_dp,
            expert_tp=mesh.expert_tp,
            ep=mesh.ep,
        ),
        concurrency=q.concurrency,
        arrival_per_s=q.rate,
        engine=EngineFamily(q.engine or EngineFamily.VLLM),
        chunk_tokens=q.chunk,
        prefix_hit=q.prefix_hit,
        draft_tokens=q.draft,
        acceptance=q.acceptance,
    )


def _pricer(case: Case, run: ServingRun) -> StepPricer:
    check_worker(case.model, run.decode)
    return StepPricer(case.model, case.topology, run.decode)


def room_of(case: Case) -> Room:
    """Room for one request beside the weights.

    Raises
    ------
    SpecError
        Unknown engine, or the layout does not divide the model.
    """
    run = serving_run(case)
    pricer = _pricer(case, run)
    tokens = run.input_len + HABITS[run.engine].reserved_output * run.output_len
    usable = case.topology.chip.hbm_usable_bytes
    return Room(
        weights_bytes=pricer.weights_bytes,
        request_bytes=pricer.cache_bytes(tokens),
        free_bytes=usable * (1.0 - RESERVE_FRACTION) - pricer.weights_bytes,
    )


def served_memory(case: Case, running: float) -> RunMemory:
    """Fullest chip of a worker while it decodes ``running`` sequences.

    Activations and graphs live in the engine's reserve.
    """
    run = serving_run(case)
    pricer = _pricer(case, run)
    usable = case.topology.chip.hbm_usable_bytes
    mean = run.input_len + run.output_len / 2.0
    return RunMemory(
        weights_bytes=pricer.weights_bytes,
        activations_bytes=0.0,
        kv_bytes=pricer.cache_bytes(mean) * running / run.decode.attn_dp,
        reserve_bytes=RESERVE_FRACTION * usable,
        capacity_bytes=usable,
    )


def served_terms(case: Case, found: ServingPrediction) -> tuple[RunTerm, ...]:
    """Terms of the time per token, with what each waits for."""
    tokens = found.running * (1 + case.question.draft)
    return tuple(
        RunTerm(
            name=term.name,
            seconds=term.seconds,
            bound=_BOUNDS.get(term.name) or _multiply_bound(case, term.name, tokens),
        )
        for term in found.terms
    )


def _multiply_bound(case: Case, name: str, tokens: float) -> Bound:
    """Whether multiplies of so many tokens per worker read weights or compute for longer."""
    rows = tokens / case.mesh.attn_dp
    experts = [layer.ffn for layer in case.model.layers if isinstance(layer.ffn, MoeFfn)]
    if name == "experts" and experts:
        rows = tokens * experts[0].top_k / experts[0].num_experts
    chip = case.topology.chip
    ridge = achieved_flop_per_s(chip, main_rate(case)) / achieved_hbm_bytes_per_s(chip)
    return (
        Bound.COMPUTE if 2.0 * rows / BYTES_PER_ELEMENT[main_format(case)] > ridge else Bound.MEMORY
    )
