"""Changes after which a run fits: each one tried, the least intrusive first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from planner.cost.runs.predict import predict_run
from planner.domain.dtypes import BYTES_PER_ELEMENT, DType
from planner.domain.run import Recompute
from planner.domain.run_question import EstimateKind, RunQuestion
from planner.errors import SpecError
from planner.pricing.case import Case, main_format, make_case, run_of

MAX_CHANGES = 3
Change = tuple[str, RunQuestion]
_STEPS = (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL)


def changes_that_fit(case: Case) -> tuple[str, ...]:
    """Changes of a run that does not fit, as options, each of which makes it fit.

    Returns
    -------
    tuple of str
        At most ``MAX_CHANGES``; empty where none of those that are tried is enough.
    """
    found: list[str] = []
    for kinds in _candidates(case):
        first = next((text for text, changed in kinds if _fits(case, changed)), None)
        if first is not None:
            found.append(first)
    if not found and case.question.kind is EstimateKind.TRAIN:
        both = _sharded(replace(case.question, recompute=Recompute.FULL))
        found += [f"{text} --recompute full" for text, changed in both if _fits(case, changed)][:1]
    return tuple(found[:MAX_CHANGES])


def _fits(case: Case, question: RunQuestion) -> bool:
    """Whether a changed question can be run; what cannot be represented cannot."""
    try:
        other = make_case(question, case.base, case.topology)
        if question.kind is EstimateKind.SERVE:
            from planner.pricing.served import rooms_of

            return all(room.fits for room in rooms_of(other).values())
        return predict_run(other.model, other.topology, run_of(other)).memory.fits
    except SpecError:
        return False


def _candidates(case: Case) -> Iterator[Iterable[Change]]:
    """Kinds of changes; within one, the smallest change first."""
    q, kind = case.question, case.question.kind
    if kind is EstimateKind.TRAIN:
        if q.tp > 1 and not q.sequence_parallel:
            yield [("--sequence-parallel", replace(q, sequence_parallel=True))]
        yield _sharded(q)
        if q.recompute in _STEPS:
            later = _STEPS[_STEPS.index(q.recompute) + 1 :]
            yield [(f"--recompute {step.value}", replace(q, recompute=step)) for step in later]
    else:
        if kind is not EstimateKind.SERVE:
            yield _smaller_batch(case)
        yield from ([change] for change in _narrower(case))
    yield from ([change] for change in _more_sharding(case))
    if kind is EstimateKind.SERVE:
        yield from ([change] for change in _larger_workers(case))


def _sharded(q: RunQuestion) -> list[Change]:
    return [(f"--zero {stage}", replace(q, zero=stage)) for stage in range(q.zero + 1, 4)]


def _smaller_batch(case: Case) -> Iterator[Change]:
    """The largest batch that fits, in whole sequences (microbatches) of every rank."""
    q = case.question
    assert q.batch is not None
    unit = case.mesh.attn_dp * (q.microbatch or 1)
    fits, fails = 0, q.batch // unit
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _fits(case, replace(q, batch=middle * unit)):
            fits = middle
        else:
            fails = middle
    if fits:
        yield f"--batch {fits * unit}", replace(q, batch=fits * unit)


def _narrower(case: Case) -> Iterator[Change]:
    q, one_byte = case.question, BYTES_PER_ELEMENT[DType.FP8]
    if BYTES_PER_ELEMENT[case.model.precision.kv] > one_byte:
        yield "--kv fp8", replace(q, kv=DType.FP8)
    if BYTES_PER_ELEMENT[main_format(case)] > one_byte:
        yield "--weights fp8", replace(q, weights=DType.FP8)


def _more_sharding(case: Case) -> Iterator[Change]:
    """Twice a degree and half of the data-parallel ranks, on the same chips."""
    q, changes = case.question, []
    if case.mesh.attn_dp % 2 == 0:
        dp = None if q.dp is None else q.dp // 2
        text = "" if dp is None else f" --dp {dp}"
        changes.append((f"--tp {2 * q.tp}{text}", replace(q, tp=2 * q.tp, dp=dp)))
        if q.kind is not EstimateKind.SERVE:
            changes.append((f"--pp {2 * q.pp}{text}", replace(q, pp=2 * q.pp, dp=dp)))
    yield from changes
    if q.prefill_layout_given and (q.prefill_dp or 1) % 2 == 0:
        tp, half = 2 * (q.prefill_tp or 1), (q.prefill_dp or 1) // 2
        text, own = (
            f"--prefill-tp {tp} --prefill-dp {half}",
            replace(q, prefill_tp=tp, prefill_dp=half),
        )
        yield text, own
        yield from ((f"{other} {text}", _with_prefill(both, own)) for other, both in changes)


def _with_prefill(question: RunQuestion, other: RunQuestion) -> RunQuestion:
    """The question with the prefill workers of another."""
    return replace(
        question,
        prefill_tp=other.prefill_tp,
        prefill_dp=other.prefill_dp,
        prefill_ep=other.prefill_ep,
        prefill_expert_tp=other.prefill_expert_tp,
    )


def _larger_workers(case: Case) -> Iterator[Change]:
    """Twice the chips of a worker of either pool, then of both."""
    q, experts = case.question, case.mesh.ep * case.mesh.expert_tp > 1
    larger: list[Change] = []
    if q.dp is not None:
        larger = _doubled(q, "", (q.tp, q.dp, q.ep), experts)
        yield from larger
    if q.prefill_layout_given:
        given = (q.prefill_tp or 1, q.prefill_dp or 1, q.prefill_ep)
        alone = _doubled(q, "prefill_", given, experts)
        yield from alone
        for text, own in alone:
            yield from ((f"{other} {text}", _with_prefill(both, own)) for other, both in larger)


def _doubled(
    q: RunQuestion, pool: str, degrees: tuple[int, int, int | None], experts: bool
) -> list[Change]:
    """A worker of one pool with twice the ranks, or twice the chips per rank."""
    tp, dp, ep = degrees
    option = f"--{pool.replace('_', '-')}"
    wide = (f"{option}tp {2 * tp}", {f"{pool}tp": 2 * tp})
    if not experts or ep is None:
        return [_changed(q, *wide)]
    more = (f"{option}dp {2 * dp}", {f"{pool}dp": 2 * dp})
    return [
        _changed(q, f"{text} {option}ep {2 * ep}", {**values, f"{pool}ep": 2 * ep})
        for text, values in (more, wide)
    ]


def _changed(q: RunQuestion, text: str, values: dict[str, Any]) -> Change:
    return text, replace(q, **values)
