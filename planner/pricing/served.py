"""A served question as the cost model takes it: the run, its memory, and what terms wait for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.cost.runs.gemm import achieved_flop_per_s, achieved_hbm_bytes_per_s
from planner.cost.runs.inference_engine import RESERVE_FRACTION
from planner.cost.runs.model_flop import ModelFlop, request_flop
from planner.cost.runs.record import RunMemory, RunTerm
from planner.cost.runs.serving import ServingPrediction
from planner.cost.runs.serving_engine import HABITS
from planner.cost.runs.serving_mix import mixed, resident, shares
from planner.cost.runs.serving_worker import make_pricer
from planner.domain.cost import Bound
from planner.domain.dtypes import BYTES_PER_ELEMENT
from planner.domain.model import MoeFfn
from planner.domain.run import Mesh
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One split of a machine's chips between prefill and decode workers, and what it yields.

    ``meets`` the limits that were given; ``limits`` is the pool that is used most.
    """

    prefill_workers: int
    workers: int
    chips: int
    tokens_per_s: float
    ttft_s: float
    tpot_s: float
    prefill: float
    decode: float
    limits: str
    meets: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What a served run has beyond other runs.

    Parameters
    ----------
    prediction : ServingPrediction
        Latencies and their parts, pools and their use.
    prefill_mesh : Mesh, optional
        Of one worker that only prefills.
    prefill_workers, prefill_chips, decode_chips : int
        Of both pools; without a prefill pool all chips decode.
    prefill_memory : RunMemory, optional
        Of the fullest chip of a prefill worker.
    splits : tuple of Split
        The best splits of the machine, where one was asked for.
    """

    prediction: ServingPrediction
    prefill_mesh: Mesh | None
    prefill_workers: int
    prefill_chips: int
    decode_chips: int
    prefill_memory: RunMemory | None
    splits: tuple[Split, ...] = ()


def _pool(mesh: Mesh, num_workers: int) -> ServingPool:
    return ServingPool(
        num_workers=num_workers,
        attn_tp=mesh.attn_tp,
        attn_dp=mesh.attn_dp,
        expert_tp=mesh.expert_tp,
        ep=mesh.ep,
    )


def serving_run(case: Case) -> ServingRun:
    """The run that the cost model prices.

    Raises
    ------
    SpecError
        Unknown engine.
    """
    q, prefill = case.question, case.prefill_mesh
    families = [family.value for family in EngineFamily]
    if q.engine is not None and q.engine not in families:
        raise SpecError(
            f"--engine: no served engine is called '{q.engine}'", f"known: {', '.join(families)}"
        )
    run = ServingRun(
        input_len=q.input or 0,
        output_len=q.output or 0,
        decode=_pool(case.mesh, q.workers),
        prefill=None if prefill is None else _pool(prefill, q.prefill_workers or 1),
        concurrency=q.concurrency,
        arrival_per_s=q.rate,
        engine=EngineFamily(q.engine or EngineFamily.VLLM),
        chunk_tokens=q.chunk,
        prefix_hit=q.prefix_hit,
        draft_tokens=q.draft,
        acceptance=q.acceptance,
    )
    return mixed(run, q.mix) if q.mix else run


def rooms_of(case: Case) -> dict[str, Room]:
    """Room for the largest request beside the weights: of ``decode``, and of ``prefill``.

    Raises
    ------
    SpecError
        Unknown engine, or the layout does not divide the model.
    """
    run = serving_run(case)
    reserved = HABITS[run.engine].reserved_output
    found = {"decode": _room(case, run, run.decode, reserved)}
    if run.prefill is not None:
        found["prefill"] = _room(case, run, run.prefill, 0.0)
    return found


def _room(case: Case, run: ServingRun, pool: ServingPool, reserved: float) -> Room:
    pricer = make_pricer(case.model, case.topology, pool)
    tokens = max(kind.input_len + reserved * kind.output_len for kind in run.kinds)
    usable = case.topology.chip.hbm_usable_bytes
    return Room(
        weights_bytes=pricer.weights_bytes,
        request_bytes=pricer.cache_bytes(tokens),
        free_bytes=usable * (1.0 - RESERVE_FRACTION) - pricer.weights_bytes,
    )


def _memory(case: Case, pool: ServingPool, kv_bytes: float) -> RunMemory:
    """Fullest chip of a worker; activations and graphs live in the engine's reserve."""
    usable = case.topology.chip.hbm_usable_bytes
    return RunMemory(
        weights_bytes=make_pricer(case.model, case.topology, pool).weights_bytes,
        activations_bytes=0.0,
        kv_bytes=kv_bytes,
        reserve_bytes=RESERVE_FRACTION * usable,
        capacity_bytes=usable,
    )


def served_memory(case: Case, running: float) -> RunMemory:
    """Fullest chip of a worker while it decodes ``running`` sequences."""
    run = serving_run(case)
    pricer = make_pricer(case.model, case.topology, run.decode)
    mean = resident(run, lambda kind: kind.input_len + kind.output_len / 2.0)
    return _memory(case, run.decode, pricer.cache_bytes(mean) * running / run.decode.attn_dp)


def prefill_memory(case: Case) -> RunMemory | None:
    """Fullest chip of a prefill worker: the prompts of a full pass, or the longest one."""
    run = serving_run(case)
    if run.prefill is None:
        return None
    pricer = make_pricer(case.model, case.topology, run.prefill)
    chunk = run.chunk_tokens or HABITS[run.engine].chunk_tokens
    prompts = max(1.0, chunk / run.new_tokens)
    longest = pricer.cache_bytes(max(kind.input_len for kind in run.kinds))
    return _memory(case, run.prefill, max(longest, prompts * pricer.cache_bytes(run.input_len)))


def served_flop(case: Case) -> ModelFlop:
    """Model FLOP of a mean request."""
    run = serving_run(case)
    parts = [
        (
            share,
            request_flop(
                case.model,
                1.0,
                (kind.input_len * (1.0 - run.prefix_hit), kind.input_len * run.prefix_hit),
                kind.output_len,
            ),
        )
        for share, kind in zip(shares(run), run.kinds, strict=True)
    ]
    return replace(
        parts[0][1],
        weights_flop=sum(share * flop.weights_flop for share, flop in parts),
        attention_flop=sum(share * flop.attention_flop for share, flop in parts),
        tokens=sum(share * flop.tokens for share, flop in parts),
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
