"""Inference runs as given: a prefill pass, a decode step, a whole request of a static batch.

    request = prefill + (output_len - 1) decode steps of growing context

The first output token comes from the prefill. A step is affine in the context but for the
bends of windows and sparse attention, so the steps are integrated by Simpson's rule.

Collectives are exposed unless the run says that they are overlapped; where it does not say,
that is the habit of inference engines.
"""

from __future__ import annotations

import math

from planner.cost.runs.decode import decode_idle, decode_terms, rank_rows
from planner.cost.runs.gemm import sustained_chip
from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.inference_engine import Engine, engine_of
from planner.cost.runs.inference_memory import serving_memory
from planner.cost.runs.inference_setting import Serving, Terms, merge_terms, scale_terms, sum_terms
from planner.cost.runs.prefill import Prompt, prefill_idle, prefill_terms
from planner.cost.runs.record import RunMemory, RunPrediction
from planner.domain.model import ModelSpec
from planner.domain.run import Run, RunKind
from planner.errors import SpecError
from planner.topology.graph import Topology


def predict_inference(model: ModelSpec, topology: Topology, run: Run) -> RunPrediction:
    """Predict time and memory of an inference run.

    Parameters
    ----------
    model : ModelSpec
        With the precision of the run.
    topology : Topology
        The first ``run.mesh.num_chips`` chips are used.
    run : Run
        Of kind PREFILL, DECODE or REQUEST.

    Raises
    ------
    SpecError
        The run cannot be represented.
    """
    serving = _serving(model, topology, run)
    sequences = max(1.0, run.global_batch / run.mesh.attn_dp)
    parts = _microbatches(run, serving.engine, sequences, 1.0)
    contexts = Contexts(mean=float(run.context_len), spread=float(run.context_spread))
    if run.kind is RunKind.DECODE:
        terms = decode_terms(serving, sequences, contexts, parts)
        held_tokens = contexts.held(sequences)
        rows = rank_rows(serving, sequences / parts)
        memory = serving_memory(serving, sequences, held_tokens, rows)
        return RunPrediction(seconds=sum_terms(terms), terms=terms, memory=memory)
    new = float(run.seq_len if run.kind is RunKind.PREFILL else run.input_len)
    passes = _passes(run, serving.engine, sequences, new)
    rows = sequences / passes * new / run.mesh.cp
    if run.kind is RunKind.PREFILL:
        prompt = Prompt(sequences=sequences, new=new, cached=contexts)
        terms = prefill_terms(serving, prompt, passes)
        memory = serving_memory(serving, sequences, new + contexts.held(sequences), rows)
        return RunPrediction(seconds=sum_terms(terms), terms=terms, memory=memory)
    held, memory = _held_sequences(serving, run, sequences, rows)
    terms = _request_terms(serving, run, (sequences, held), (passes, parts))
    return RunPrediction(seconds=sum_terms(terms), terms=terms, memory=memory)


def pipeline_idle(model: ModelSpec, topology: Topology, run: Run) -> float | None:
    """Mean share of a prefill pass or decode step in which a stage has nothing to do.

    Returns
    -------
    float or None
        In [0, 1); None without a pipeline, and for whole requests, which mix both.

    Raises
    ------
    SpecError
        As :func:`predict_inference`.
    """
    if run.mesh.pp == 1 or run.kind is RunKind.REQUEST:
        return None
    serving = _serving(model, topology, run)
    sequences = max(1.0, run.global_batch / run.mesh.attn_dp)
    contexts = Contexts(mean=float(run.context_len), spread=float(run.context_spread))
    if run.kind is RunKind.DECODE:
        parts = _microbatches(run, serving.engine, sequences, 1.0)
        return decode_idle(serving, sequences, contexts, parts)
    new = float(run.seq_len)
    prompt = Prompt(sequences=sequences, new=new, cached=contexts)
    return prefill_idle(serving, prompt, _passes(run, serving.engine, sequences, new))


def _serving(model: ModelSpec, topology: Topology, run: Run) -> Serving:
    _check(topology, run)
    return Serving(
        model=model,
        chip=sustained_chip(topology.chip),
        topology=topology,
        mesh=run.mesh,
        engine=engine_of(run),
        overlap=run.overlap or frozenset(),
    )


def _check(topology: Topology, run: Run) -> None:
    mesh = run.mesh
    if run.kind is RunKind.TRAIN:
        raise SpecError("a training step is no inference run")
    if mesh.num_chips > topology.num_chips:
        raise SpecError(
            f"the run uses {mesh.num_chips} chips, {topology.spec.name} has {topology.num_chips}"
        )
    if run.global_batch < 1:
        raise SpecError("the batch is empty", "global_batch counts concurrent sequences")
    if mesh.stage_chips % (mesh.ep * mesh.expert_tp):
        raise SpecError(
            f"expert groups of {mesh.ep} x {mesh.expert_tp} do not divide a stage of "
            f"{mesh.stage_chips} chips"
        )
    needed = {
        RunKind.PREFILL: (("seq_len", run.seq_len),),
        RunKind.DECODE: (),
        RunKind.REQUEST: (("input_len", run.input_len), ("output_len", run.output_len)),
    }
    missing = [name for name, value in needed[run.kind] if value < 1]
    if missing:
        raise SpecError(f"{run.kind.value}: no {missing[0]}", "lengths count tokens, from 1 on")
    if run.context_spread and run.kind is RunKind.REQUEST:
        raise SpecError("context_spread: a request has no context of its own", "leave it out")


def _microbatches(run: Run, engine: Engine, sequences: float, new: float) -> int:
    """Microbatches of an attention group: as given, else by the engine's rule.

    FasterTransformer splits a batch over its stages if it divides, and halves what still has
    more than ``pipeline_tokens`` tokens (getLocalBatchSize of its memory_utils).
    """
    if run.microbatch:
        return max(1, round(sequences / run.microbatch))
    stages = run.mesh.pp
    if stages == 1:
        return 1
    if engine.pipeline_tokens is None:
        return max(1, min(stages, math.floor(sequences)))
    local = round(sequences)
    if local % stages == 0:
        local //= stages
    while local * new > engine.pipeline_tokens and local % 2 == 0:
        local //= 2
    return max(1, round(sequences / local))


def _passes(run: Run, engine: Engine, sequences: float, new: float) -> int:
    """Parts of a prefill: microbatches of the pipeline, or chunks of so many tokens.

    A pass of kind PREFILL is one pass unless the run has ``chunk_tokens``.
    """
    found = _microbatches(run, engine, sequences, new)
    chunk = run.chunk_tokens
    if not chunk and run.kind is RunKind.REQUEST:
        chunk = engine.pass_tokens
    return max(found, math.ceil(sequences * new / chunk)) if chunk else found


def _held_sequences(
    serving: Serving, run: Run, sequences: float, rows: float
) -> tuple[float, RunMemory]:
    """Sequences of an attention group that are decoded at a time, and the memory they take.

    An engine that queues holds as many as fit when each has half of its output.
    """
    final = float(run.input_len + run.output_len)
    everything = serving_memory(serving, sequences, final, rows)
    if everything.fits or not serving.engine.queues:
        return sequences, everything
    mean = run.input_len + run.output_len / 2
    one = serving_memory(serving, 1.0, mean, rows)
    free = one.capacity_bytes - (one.needed_bytes - one.kv_bytes)
    held = min(sequences, math.floor(free / one.kv_bytes)) if one.kv_bytes else sequences
    if held < 1:
        return sequences, everything
    return held, serving_memory(serving, held, mean, rows)


def _request_terms(
    serving: Serving, run: Run, batch: tuple[float, float], microbatches: tuple[int, int]
) -> Terms:
    """Prefill of all sequences, then decode steps of those that are held at a time.

    Where only some fit, the others take their places one by one: the batch needs
    ``sequences / held`` times the steps.
    """
    sequences, held = batch
    passes, parts = microbatches
    prompt = Prompt(sequences=sequences, new=float(run.input_len))
    first = prefill_terms(serving, prompt, passes)
    steps = run.output_len - 1
    if not steps:
        return first
    # The step after the prompt reads input_len + 1 tokens, the last one all but its own.
    low, high = run.input_len + 1.0, float(run.input_len + steps)
    decoded: list[Terms] = []
    for context, weight in ((low, 1 / 6), ((low + high) / 2, 4 / 6), (high, 1 / 6)):
        step = decode_terms(serving, held, Contexts(mean=context), parts)
        decoded.append(scale_terms(step, weight * steps * sequences / held))
    return merge_terms((*first, *(term for part in decoded for term in part)))
