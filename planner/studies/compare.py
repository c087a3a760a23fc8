"""Library of ``planner compare``: the best decode layout of each family, side by side.

>>> from planner import Question
>>> question = Question(model="deepseek-v3", machine="gb200-nvl72", context_tokens=8192, racks=4)
>>> compare(question, ("ep", "wide-ep", "tp", "ep+pp")).why
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.api import machine_of, plan
from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.domain.changed import Change
from planner.domain.hardware import MachineSpec
from planner.domain.layout import Layout
from planner.domain.model import ModelSpec
from planner.domain.outcome import Infeasible
from planner.domain.pinned import pinned
from planner.domain.question import DegreeLimits, Question
from planner.domain.workload import Objective, Phase
from planner.errors import SpecError
from planner.search.objective import UNITS, objective_value
from planner.studies.families import Family, default_names, family, within
from planner.studies.flips import Answer, Contest, Lever, all_flips, machine_levers
from planner.studies.links import decode_bytes
from planner.studies.reasons import reasons
from planner.studies.record import (
    Candidate,
    ChipMemory,
    Comparison,
    Figures,
    Flip,
    Tell,
    TermCost,
    silent,
)
from planner.studies.roots import crossing
from planner.what_if import solve

MOST_CONTEXTS = 16  # times the present one, and the model's own
# Stage counts are only looked at so far.
MOST_STAGES = 64
# Break-evens follow the batch down so far, and plan pipelines so much deeper than now.
SMALLEST_BATCH = 64
MORE_STAGES = 2
MOST_BATCHES = 4


def machine_figures(question: Question) -> MachineSpec:
    """The machine of a question, at its size."""
    return sized(load_machine(question.machine), question.sizing)


def compare(
    question: Question,
    strategies: Sequence[str] = (),
    layouts: Sequence[tuple[str, Layout]] = (),
    *,
    break_evens: bool = True,
    tell: Tell = silent,
) -> Comparison | Infeasible:
    """Plan the best layout of each family and say why the best of them wins.

    Parameters
    ----------
    strategies : sequence of str
        Names of families (:mod:`planner.studies.families`); those of the model and machine
        where neither families nor layouts are given.
    layouts : sequence of (str, Layout)
        Further candidates: name, and layout as given.
    break_evens : bool
        Whether to look for where the ranking changes.
    tell : callable
        Told what is being done, and the share that is done.

    Returns
    -------
    Comparison or Infeasible
        The latter where no family has a layout: the first reason.

    Raises
    ------
    SpecError, CatalogError
        A family is unknown or contradicts the question, or the question cannot be understood.
    """
    model, machine = load_model(question.model), machine_figures(question)
    names = tuple(strategies)
    if not names and not layouts:
        names = default_names(model, machine)
    families = [family(name, model, machine) for name in dict.fromkeys(names)]
    limits = {
        one.name: within(one.limits, question.limits, one.name)
        for one in families
        if not one.impossible
    }
    found = []
    for place, one in enumerate(families):
        tell(f"planning {one.name}", 0.5 * place / len(families))
        found.append(_planned(question, one, limits.get(one.name)))
    found += [_given(name, layout, question) for name, layout in layouts]
    ranked = sorted((one for one in found if one.figures is not None), key=_value)
    if not ranked:
        return nothing_fits(found)
    rest = [one for one in found if one.figures is None]
    flips: tuple[Flip, ...] = ()
    if break_evens and len(ranked) > 1:
        flips = _flips(question, model, machine, (ranked, limits), tell)
    return Comparison(
        model=question.model,
        machine=machine.name,
        phase=question.phase.value,
        length_tokens=question.seq_len or question.context_tokens,
        objective=question.objective,
        unit=UNITS[question.objective],
        candidates=(*ranked, *rest),
        why=reasons(ranked),
        flips=flips,
    )


def _value(candidate: Candidate) -> float:
    assert candidate.figures is not None
    return candidate.figures.value


def nothing_fits(found: Sequence[Candidate]) -> Infeasible:
    """No family has a layout: the reason of the first, and whose it is."""
    first = next(one.infeasible for one in found if one.infeasible is not None)
    names = ", ".join(one.name for one in found)
    return Infeasible(
        resource=first.resource,
        needed=first.needed,
        available=first.available,
        message=f"no strategy of {names} has a layout; {found[0].name}: {first.message}",
        remedies=first.remedies,
    )


def _planned(question: Question, one: Family, limits: DegreeLimits | None) -> Candidate:
    if limits is None:
        reason = Infeasible(
            resource="chips", needed="", available="", message=one.impossible, remedies=()
        )
        return Candidate(name=one.name, text=one.text, figures=None, infeasible=reason)
    found = plan(replace(question, limits=limits))
    if isinstance(found, Infeasible):
        return Candidate(name=one.name, text=one.text, figures=None, infeasible=found)
    figures = figures_of(found, question.objective)
    return Candidate(name=one.name, text=one.text, figures=figures, layout=found)


def _given(name: str, layout: Layout, question: Question) -> Candidate:
    """A layout of a file, and what it answers otherwise than was asked."""
    asked = (
        ("model", layout.inputs.model.name, load_model(question.model).name),
        ("machine", layout.inputs.machine.name, machine_figures(question).name),
        ("context", f"{layout.inputs.context_tokens:,}", f"{question.context_tokens:,}"),
    )
    differs = [f"{what} {own}" for what, own, wanted in asked if own != wanted]
    return Candidate(
        name=name,
        text="layout file",
        figures=replace(figures_of(layout, question.objective), gap=None),
        note="answers another question: " + ", ".join(differs) if differs else "",
        layout=layout,
    )


def decode_value(layout: Layout, objective: Objective) -> float:
    """Objective of a layout; see :data:`planner.search.objective.UNITS`."""
    own = layout.prediction
    chips = len(layout.ranks) + len(layout.idle_chips)
    return float(
        objective_value(
            objective,
            own.step_s,
            own.tokens_per_s,
            (float(chips), float(own.chips_rented)),
            layout.inputs.price_usd_per_hour,
        )
    )


def figures_of(layout: Layout, objective: Objective) -> Figures:
    """Figures of a decode layout."""
    own, proof = layout.prediction, layout.certificate
    value = decode_value(layout, objective)
    memory = own.memory
    return Figures(
        degrees=layout.degrees,
        batch=own.batch,
        value=value,
        step_s=own.step_s,
        tokens_per_s_per_chip=own.tokens_per_s_per_chip,
        tokens_per_s_per_user=own.tokens_per_s_per_user,
        mfu=None,
        usd_per_million_tokens=own.usd_per_million_tokens,
        memory=ChipMemory(
            weights_bytes=memory.weights_bytes,
            kv_bytes=memory.kv_bytes,
            states_bytes=0.0,
            activations_bytes=memory.activations_bytes,
            reserve_bytes=memory.reserve_bytes,
            capacity_bytes=memory.capacity_bytes,
        ),
        links=decode_bytes(layout, machine_of(layout.inputs.machine)),
        bubble=own.bubble,
        idle_chips=len(layout.idle_chips),
        gap=None if proof is None else proof.gap,
        terms=tuple(
            TermCost(name=term.name, value=value * term.seconds / own.step_s) for term in own.terms
        ),
    )


def _answer(
    question: Question, limits: DegreeLimits, change: Change | None
) -> Answer[DegreeLimits] | None:
    found = solve(replace(question, limits=limits), change)
    if found is None:
        return None
    best, value = found
    return Answer(value=value, limits=pinned(best.assignment.degrees), batch=best.prediction.batch)


def _fullest(
    question: Question, limits: DegreeLimits, change: Change | None
) -> Answer[DegreeLimits] | None:
    """Pinned degrees at the largest batch that fits: a search for it takes ten times as long.

    One sequence per group is priced first; the cache grows linearly from there.
    """
    if question.objective is Objective.LATENCY:
        return _answer(question, limits, change)
    batch = unit = _sequences(limits)
    best: Answer[DegreeLimits] | None = None
    for _ in range(MOST_BATCHES):
        found = solve(replace(question, limits=limits, batch=batch), change)
        if found is None:
            batch -= unit
        else:
            solved, value = found
            best = Answer(value=value, limits=limits, batch=batch)
            most = solved.prediction.largest_batch // unit * unit
            if most <= batch:
                return best
            batch = most
        if batch < unit:
            break
    return best


def _sequences(limits: DegreeLimits) -> int:
    """Sequences of a machine with one in every group and microbatch, of pinned degrees."""
    assert limits.dp is not None and limits.microbatches is not None
    return max(limits.dp) * max(limits.microbatches)


def _with_batch(question: Question, batch: int) -> Question:
    return replace(question, batch=batch)


def _flips(
    question: Question,
    model: ModelSpec,
    machine: MachineSpec,
    entrants: tuple[Sequence[Candidate], dict[str, DegreeLimits]],
    tell: Tell,
) -> tuple[Flip, ...]:
    """Break-evens of the families; layouts of files stand for themselves."""
    ranked, limits = entrants
    pools, families = {}, {}
    for one in ranked:
        assert isinstance(one.layout, Layout)
        own = pinned(one.layout.degrees)
        pools[one.name] = [own]
        families[one.name] = _nearby(limits.get(one.name, own), one.layout.degrees.pp)
    is_free = question.batch is None and question.tpot_s is None and question.ttft_s is None
    contest = Contest(
        question=question,
        families=families,
        pools=pools,
        solve=_answer,
        pin_batch=_with_batch if is_free else None,
        solve_known=_fullest if is_free else None,
    )
    winner = ranked[0]
    assert winner.figures is not None
    levers = decode_levers(question, model, machine, winner.figures.batch)
    found = all_flips(
        contest, winner.name, levers, lambda what, share: tell(what, 0.5 + 0.4 * share)
    )
    tell("stages", 0.9)
    return (*found, *_stage_flips(contest, ranked))


def _nearby(limits: DegreeLimits, stages: int) -> DegreeLimits:
    """A family with at most ``MORE_STAGES`` times the stages that were best as it was asked.

    Deep pipelines are most of a family, and take most of the time to bound.
    """
    most = MORE_STAGES * stages
    known = range(1, MOST_STAGES + 1) if limits.pp is None else limits.pp
    return replace(limits, pp=frozenset(count for count in known if count <= most))


def decode_levers(
    question: Question, model: ModelSpec, machine: MachineSpec, batch: int
) -> tuple[Lever[Question], ...]:
    """What the ranking of decode layouts may hang on; ``batch`` is the winner's."""
    found: list[Lever[Question]] = machine_levers(machine)
    found.append(_length_lever(question, model))
    found.append(
        Lever(
            name="batch",
            label="batch of the machine",
            unit="sequences",
            present=float(batch),
            ends=(float(max(1, batch // SMALLEST_BATCH)), float(batch)),
            set_to=lambda q, x: (replace(q, batch=round(x)), None),
            whole=True,
            is_neutral=False,
        )
    )
    return tuple(found)


def _length_lever(question: Question, model: ModelSpec) -> Lever[Question]:
    """Cached tokens of decode, new tokens of a prefill."""
    is_prefill = question.phase is Phase.PREFILL
    present = float((question.seq_len if is_prefill else question.context_tokens) or 1)
    most = MOST_CONTEXTS * present
    if model.max_context is not None:
        most = min(most, float(MOST_CONTEXTS * model.max_context))

    def set_to(asked: Question, x: float) -> tuple[Question, Change | None]:
        if is_prefill:
            return replace(asked, seq_len=round(x)), None
        return replace(asked, context_tokens=round(x)), None

    return Lever(
        name="seq" if is_prefill else "context",
        label="new tokens of a sequence" if is_prefill else "context",
        unit="tokens",
        present=present,
        ends=(max(1.0, present // MOST_CONTEXTS), max(most, present)),
        set_to=set_to,
        whole=True,
    )


def _stage_flips(
    contest: Contest[Question, DegreeLimits], ranked: Sequence[Candidate]
) -> tuple[Flip, ...]:
    """How many stages a pipeline may have until it loses its lead, or its place."""
    found = []
    for one in ranked:
        stages = contest.families[one.name].pp
        if one.figures is None or stages is None or max(stages) < 2 or len(stages) < 2:
            continue
        flip = _stages_of(contest, ranked, one, sorted(stages))
        if flip is not None:
            found.append(flip)
    return tuple(found)


def _stages_of(
    contest: Contest[Question, DegreeLimits],
    ranked: Sequence[Candidate],
    one: Candidate,
    stages: Sequence[int],
) -> Flip | None:
    """The stage count at which a family falls behind the best of the others."""
    assert isinstance(one.layout, Layout)
    rival = next(other for other in ranked if other.name != one.name)
    rival_value = _value(rival)
    # The same split of a stage; what depends on the number of stages is left open.
    split = pinned(one.layout.degrees)
    limits = replace(split, dp=None, replicas=None, microbatches=None, slots=None)
    known: dict[int, float] = {}

    def ahead(count: float) -> float:
        pp = int(count)
        if pp not in known:
            own = replace(limits, pp=frozenset({pp}))
            try:
                found = contest.solve(contest.question, own, None)
            except SpecError:
                found = None
            known[pp] = float("inf") if found is None else found.value
        return rival_value - known[pp]

    present = one.layout.degrees.pp
    most = min(stages[-1], MOST_STAGES)
    if ahead(present) <= 0 or ahead(most) > 0:
        return None
    edge = crossing(ahead, (float(present), float(most)), whole=True, tolerance=1.0)
    return Flip(
        lever="stages",
        label=f"stages of {one.name}",
        unit="stages",
        present=float(present),
        at=edge.after,
        until=float(most),
        leader=rival.name,
    )
