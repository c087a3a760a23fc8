"""Changes after which a run fits: each one tried, the least intrusive first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

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
            from planner.pricing.served import room_of

            return room_of(other).fits
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
    q = case.question
    if case.mesh.attn_dp % 2:
        return
    dp = None if q.dp is None else q.dp // 2
    text = "" if dp is None else f" --dp {dp}"
    yield f"--tp {2 * q.tp}{text}", replace(q, tp=2 * q.tp, dp=dp)
    if q.kind is not EstimateKind.SERVE:
        yield f"--pp {2 * q.pp}{text}", replace(q, pp=2 * q.pp, dp=dp)
