"""One measured row, run as it was made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from planner.catalog.measured_rows import CollectiveRow, MeasuredRow, RunRow, ServingRow
from planner.cost.runs.predict import predict_run
from planner.domain.cost import Bound
from planner.domain.run import Overlap, Run, RunKind
from planner.errors import ModelBugError, SpecError
from planner.validation.bench import Bench, is_moe
from planner.validation.collective_rows import collective_row_cost
from planner.validation.outcome import Outcome, OutcomeMemory, OutcomeTerm, RowClass

NOT_SERVING = "serving under load is not modelled yet"
SERVING = "serving"
_SERVING_MODULE = "planner.cost.runs.serving"
_SERVING_ROWS = "planner.cost.runs.serving_rows"


def row_kind(row: MeasuredRow) -> str:
    """``train``, ``prefill``, ``decode``, ``request``, ``collective`` or ``serving``."""
    if isinstance(row, RunRow):
        return row.run.kind.value
    return "collective" if isinstance(row, CollectiveRow) else SERVING


def predict_row(row: MeasuredRow, bench: Bench) -> tuple[Outcome, ...]:
    """Predict one measured row.

    Returns
    -------
    tuple of Outcome
        One; two for serving, which measures two latencies.

    Raises
    ------
    ModelBugError
        A prediction is not a positive number of seconds.
    Exception
        Whatever else the cost model raises by mistake, with a note that names the row.
    """
    try:
        if isinstance(row, RunRow):
            return (_run_outcome(row, bench),)
        if isinstance(row, CollectiveRow):
            return (_collective_outcome(row, bench),)
        return _serving_outcomes(row, bench)
    except Exception as error:
        origin = row.origin
        error.add_note(f"while predicting the row '{origin.id}' of {origin.file}:{origin.line}")
        raise


def _common(row: MeasuredRow) -> dict[str, Any]:
    """Fields that every outcome shares."""
    return {
        "id": row.origin.id,
        "kind": row_kind(row),
        "model": "" if isinstance(row, CollectiveRow) else row.model,
        "chip": row.machine.topology,
        "num_chips": row.machine.num_chips,
        "source": row.origin.source_group,
        "software": row.origin.software,
        "quality": row.origin.quality,
    }


def _seconds(predicted: float, row: MeasuredRow) -> float:
    if not (math.isfinite(predicted) and predicted > 0):
        raise ModelBugError(f"row '{row.origin.id}': the predicted time is {predicted} s")
    return float(predicted)


def _answered(ask: Callable[[], Outcome], refused: Callable[[str], Outcome]) -> Outcome:
    try:
        return ask()
    except SpecError as error:
        return refused(error.message)


def _class_of(row: RunRow, bench: Bench) -> RowClass:
    kind = row.run.kind
    if kind in (RunKind.PREFILL, RunKind.REQUEST):
        return RowClass(kind.value)
    try:
        moe = is_moe(bench.model(row.model))
    except SpecError:
        return RowClass.UNKNOWN
    if kind is RunKind.TRAIN:
        return RowClass.MOE_TRAINING if moe else RowClass.DENSE_TRAINING
    if not moe:
        return RowClass.DENSE_DECODE
    return RowClass.EXPERT_DECODE if row.run.mesh.ep > 1 else RowClass.MOE_DECODE


def layout_text(run: Run) -> str:
    """Everything that is chosen: degrees, microbatch, schedule, recompute, sharding, overlap."""
    mesh = run.mesh
    known = "unknown" if run.overlap is None else "+".join(_overlaps(run.overlap)) or "none"
    parts = (
        f"tp{mesh.attn_tp} dp{mesh.attn_dp} cp{mesh.cp} pp{mesh.pp} v{mesh.virtual_stages}",
        f"ep{mesh.ep} etp{mesh.expert_tp} zero{run.zero_stage} {run.schedule.value}",
        f"mb{run.microbatch} recompute-{run.recompute.value}",
        f"sp{int(run.sequence_parallel)} overlap-{known}",
    )
    return " ".join(parts)


def _overlaps(overlap: frozenset[Overlap]) -> list[str]:
    return [item.value for item in Overlap if item in overlap]


def sweep_text(row: RunRow) -> str:
    """Everything that is given: rows that agree in it compare layouts and nothing else.

    Source group, kind, model, machine, chips and their memory, number formats, sequences,
    and lengths. Software is not part of it: the layouts of one study are ranked together.
    """
    run, machine, formats = row.run, row.machine, row.formats
    dtypes = (formats.weights, formats.activations, formats.kv)
    hbm = machine.hbm_bytes_per_s
    lengths = {
        "seq": run.seq_len,
        "context": run.context_len,
        "in": run.input_len,
        "out": run.output_len,
    }
    parts = (
        row.origin.source_group,
        run.kind.value,
        row.model,
        f"{machine.topology} x{machine.num_chips}" + (f" hbm{hbm:g}" if hbm else ""),
        "/".join("-" if dtype is None else dtype.value for dtype in dtypes),
        f"batch{run.global_batch}",
        *(f"{name}{value:g}" for name, value in lengths.items() if value),
    )
    return " ".join(parts)


def _run_outcome(row: RunRow, bench: Bench) -> Outcome:
    common = {
        **_common(row),
        "row_class": _class_of(row, bench),
        "layout": layout_text(row.run),
        "sweep": sweep_text(row),
        "measured_s": row.time_s,
    }

    def ask() -> Outcome:
        mesh, chips = row.run.mesh, row.machine.num_chips
        if mesh.num_chips != chips:
            raise SpecError(
                f"attn_tp x attn_dp x cp x pp is {mesh.num_chips}, num_chips is {chips}"
            )
        model = bench.variant(row.model, row.formats)
        found = predict_run(model, bench.topology(row.machine), row.run)
        memory = found.memory
        return Outcome(
            **common,
            predicted_s=_seconds(found.seconds, row),
            terms=tuple(
                OutcomeTerm(name=term.name, seconds=term.seconds, bound=term.bound)
                for term in found.terms
            ),
            memory=OutcomeMemory(
                needed_bytes=memory.needed_bytes,
                capacity_bytes=memory.capacity_bytes,
                fits=bool(memory.fits),
            ),
        )

    return _answered(ask, lambda reason: Outcome(**common, reason=reason))


def _collective_outcome(row: CollectiveRow, bench: Bench) -> Outcome:
    common = {**_common(row), "row_class": RowClass.COLLECTIVE, "measured_s": row.time_s}

    def ask() -> Outcome:
        cost = collective_row_cost(row, bench.topology(row.machine))
        parts = (
            ("latency", cost.latency_s, Bound.OVERHEAD),
            ("wire", cost.wire_s, Bound.NETWORK),
            ("ramp", cost.fill_s, Bound.NETWORK),
        )
        return Outcome(
            **common,
            predicted_s=_seconds(cost.seconds, row),
            terms=tuple(
                OutcomeTerm(name=name, seconds=seconds, bound=bound)
                for name, seconds, bound in parts
            ),
        )

    return _answered(ask, lambda reason: Outcome(**common, reason=reason))


def _serving_latencies(row: ServingRow, bench: Bench) -> tuple[float, float]:
    """Predicted seconds to the first token, and per output token."""
    if find_spec(_SERVING_MODULE) is None:
        raise SpecError(NOT_SERVING)
    rows = import_module(_SERVING_ROWS)
    run = rows.serving_run(row)
    pools = [run.decode] if run.prefill is None else [run.decode, run.prefill]
    chips = sum(pool.num_chips for pool in pools)
    found = import_module(_SERVING_MODULE).predict_serving(
        rows.serving_model(bench.model(row.model), row.formats),
        bench.topology(replace(row.machine, num_chips=chips)),
        run,
    )
    return float(found.ttft_s), float(found.tpot_s)


def _serving_outcomes(row: ServingRow, bench: Bench) -> tuple[Outcome, ...]:
    common = _common(row)
    predicted: tuple[float, float] | None = None
    reason = ""
    try:
        predicted = _serving_latencies(row, bench)
    except SpecError as error:
        reason = error.message
    measured = ((RowClass.TTFT, row.ttft_s), (RowClass.TPOT, row.tpot_s))
    return tuple(
        Outcome(
            **common,
            row_class=row_class,
            measured_s=seconds,
            predicted_s=None if predicted is None else _seconds(predicted[place], row),
            reason=reason,
        )
        for place, (row_class, seconds) in enumerate(measured)
        if seconds is not None
    )
