"""Library of ``planner compare --phase train``: the best layout of each family, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from planner.api import machine_of
from planner.catalog.machine_size import sized
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.domain.changed import Change
from planner.domain.hardware import MachineSpec
from planner.domain.outcome import Infeasible
from planner.domain.pinned import pinned_training
from planner.domain.train_layout import TrainLayout
from planner.domain.training import TrainLimits, TrainQuestion
from planner.domain.workload import Objective
from planner.search.objective import UNITS, objective_value
from planner.studies.compare import nothing_fits
from planner.studies.flips import Answer, Contest, Lever, all_flips, machine_levers
from planner.studies.links import train_bytes
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
from planner.studies.train_families import (
    TrainFamily,
    default_train_names,
    train_family,
    train_within,
)
from planner.train_api import plan_training, solve_training
from planner.training.compose import run_of_layout

# How far batch and sequence length are followed, by ratio.
FAR = 16
LARGEST_PIECE = 1024


def compare_training(
    question: TrainQuestion,
    strategies: Sequence[str] = (),
    layouts: Sequence[tuple[str, TrainLayout]] = (),
    *,
    break_evens: bool = True,
    tell: Tell = silent,
) -> Comparison | Infeasible:
    """Plan the best training layout of each family and say why the best of them wins.

    Parameters and result as of :func:`planner.studies.compare.compare`; families as in
    :mod:`planner.studies.train_families`.

    Raises
    ------
    SpecError, CatalogError
        A family is unknown or contradicts the question, or the question cannot be understood.
    """
    model = load_model(question.model)
    machine = sized(load_machine(question.machine), question.sizing)
    names = tuple(strategies)
    if not names and not layouts:
        names = default_train_names()
    families = [train_family(name, model) for name in dict.fromkeys(names)]
    limits = {one.name: train_within(one.limits, question.limits, one.name) for one in families}
    found = []
    for place, one in enumerate(families):
        tell(f"planning {one.name}", 0.7 * place / len(families))
        found.append(_planned(replace(question, limits=limits[one.name]), one))
    found += [_given(name, layout, question) for name, layout in layouts]
    ranked = sorted(
        (one for one in found if one.figures is not None),
        key=lambda one: 0.0 if one.figures is None else one.figures.value,
    )
    if not ranked:
        return nothing_fits(found)
    flips: tuple[Flip, ...] = ()
    if break_evens and len(ranked) > 1:
        flips = _flips(question, machine, ranked, tell)
    return Comparison(
        model=question.model,
        machine=machine.name,
        phase="train",
        length_tokens=question.seq_len,
        objective=question.objective,
        unit=UNITS[question.objective],
        candidates=(*ranked, *(one for one in found if one.figures is None)),
        why=reasons(ranked),
        flips=flips,
    )


def _planned(question: TrainQuestion, one: TrainFamily) -> Candidate:
    found = plan_training(question)
    if isinstance(found, Infeasible):
        return Candidate(name=one.name, text=one.text, figures=None, infeasible=found)
    figures = train_figures(found, question.objective)
    return Candidate(name=one.name, text=one.text, figures=figures, layout=found)


def _given(name: str, layout: TrainLayout, question: TrainQuestion) -> Candidate:
    asked = (
        ("model", layout.inputs.model.name, load_model(question.model).name),
        ("machine", layout.inputs.machine.name, load_machine(question.machine).name),
        ("batch", f"{layout.inputs.global_batch:,}", f"{question.global_batch:,}"),
        ("sequences of", f"{layout.inputs.seq_len:,}", f"{question.seq_len:,}"),
    )
    differs = [f"{what} {own}" for what, own, wanted in asked if own != wanted]
    return Candidate(
        name=name,
        text="layout file",
        figures=replace(train_figures(layout, question.objective), gap=None),
        note="answers another question: " + ", ".join(differs) if differs else "",
        layout=layout,
    )


def train_value(layout: TrainLayout, objective: Objective) -> float:
    """Objective of a training layout; see :data:`planner.search.objective.UNITS`."""
    own = layout.prediction
    chips = len(layout.chips) + len(layout.idle_chips)
    return float(
        objective_value(
            objective,
            own.step_s,
            own.tokens_per_s,
            (float(chips), float(own.chips_rented)),
            layout.inputs.price_usd_per_hour,
        )
    )


def train_figures(layout: TrainLayout, objective: Objective) -> Figures:
    """Figures of a training layout."""
    own, proof = layout.prediction, layout.certificate
    value, memory = train_value(layout, objective), layout.prediction.memory
    return Figures(
        degrees=layout.degrees,
        batch=layout.inputs.global_batch,
        value=value,
        step_s=own.step_s,
        tokens_per_s_per_chip=own.tokens_per_s_per_chip,
        tokens_per_s_per_user=None,
        mfu=own.mfu,
        usd_per_million_tokens=own.usd_per_million_tokens,
        memory=ChipMemory(
            weights_bytes=memory.weights_bytes,
            kv_bytes=0.0,
            states_bytes=memory.gradients_bytes + memory.optimizer_bytes,
            activations_bytes=memory.activations_bytes,
            reserve_bytes=memory.reserve_bytes,
            capacity_bytes=memory.capacity_bytes,
        ),
        links=train_bytes(layout, machine_of(layout.inputs.machine)),
        bubble=own.bubble,
        idle_chips=len(layout.idle_chips),
        gap=None if proof is None else proof.gap,
        terms=tuple(
            TermCost(name=term.name, value=value * term.seconds / own.step_s) for term in own.terms
        ),
    )


def _answer(
    question: TrainQuestion, limits: TrainLimits, change: Change | None
) -> Answer[TrainLimits] | None:
    found = solve_training(replace(question, limits=limits), change)
    if isinstance(found, Infeasible):
        return None
    return Answer(value=found.best.value, limits=pinned_training(found.best.run))


def _flips(
    question: TrainQuestion,
    machine: MachineSpec,
    ranked: Sequence[Candidate],
    tell: Tell,
) -> tuple[Flip, ...]:
    pools, unit = {}, 1
    for one in ranked:
        assert isinstance(one.layout, TrainLayout)
        pools[one.name] = [pinned_training(run_of_layout(one.layout))]
        unit = math.lcm(unit, one.layout.degrees.dp * one.layout.degrees.microbatch)
    # A training search takes seconds: break-evens are those of the layouts that were found.
    contest = Contest(
        question=question,
        families={name: own[0] for name, own in pools.items()},
        pools=pools,
        solve=_answer,
    )
    levers = train_levers(question, machine, unit)
    return all_flips(
        contest, ranked[0].name, levers, lambda what, share: tell(what, 0.7 + 0.3 * share)
    )


def train_levers(
    question: TrainQuestion, machine: MachineSpec, unit: int
) -> tuple[Lever[TrainQuestion], ...]:
    """What the ranking of training layouts may hang on.

    Parameters
    ----------
    unit : int
        Global batches are multiples of it.
    """
    found: list[Lever[TrainQuestion]] = machine_levers(machine)
    # Sequences stay divisible by what splits them.
    piece = math.gcd(question.seq_len, LARGEST_PIECE)
    batches, pieces = question.global_batch // unit, question.seq_len // piece
    found.append(
        Lever(
            name="batch",
            label="global batch",
            unit="sequences",
            present=float(batches),
            ends=(float(max(1, batches // FAR)), float(batches * FAR)),
            set_to=lambda q, x: (replace(q, global_batch=round(x) * unit), None),
            whole=True,
            step=float(unit),
        )
    )
    found.append(
        Lever(
            name="seq",
            label="tokens of a sequence",
            unit="tokens",
            present=float(pieces),
            ends=(float(max(1, pieces // FAR)), float(pieces * FAR)),
            set_to=lambda q, x: (replace(q, seq_len=round(x) * piece), None),
            whole=True,
            step=float(piece),
        )
    )
    return tuple(found)
