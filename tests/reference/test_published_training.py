"""Published training layouts against the planner: never better than what it finds.

Every measured training step that the cost model represents is a strategy with a batch on a
machine. All degrees are freed, the communication that may be hidden stays: the plan must be at
least as good, and the published strategy one of those that it chose from, but for the reasons that
:func:`outside` names.
"""

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from planner.catalog.measured import read_measured
from planner.catalog.measured_rows import RunRow
from planner.cost.overlap import hides
from planner.cost.runs.training import predict_training
from planner.domain.outcome import Infeasible
from planner.domain.run import Overlap, Recompute, RunKind, ScheduleKind
from planner.domain.training import TrainLimits
from planner.errors import SpecError
from planner.search.training.policies import PAIRING
from planner.search.training.request import TrainRequest
from planner.search.training.result import search_training
from planner.search.training.search import TrainSearch
from planner.training.parts import machine_parts
from planner.validation.bench import Bench

FOLDER = Path(__file__).parent / "measured"
GAP = 0.01
# Of so many questions one is asked here; run as a script, this file asks all.
EVERY = 30
BENCH = Bench()


def rows():
    """Training steps that can be priced, by what was asked of them."""
    found = {}
    for name in ("visible.csv", "showcase.csv"):
        for row in read_measured(str(FOLDER / name)):
            if isinstance(row, RunRow) and row.run.kind is RunKind.TRAIN:
                found.setdefault(question(row), []).append(row)
    return found


def question(row):
    """What does not belong to the strategy."""
    run = row.run
    hidden = frozenset(what for what in Overlap if hides(run, what))
    return (
        *(row.model, row.formats, row.machine, run.global_batch, run.seq_len, hidden),
        *(run.optimizer, run.optimizer_state, run.gradients),
        run.recompute is Recompute.REVERSIBLE,
    )


def requests(key):
    """The question with all degrees free, on every part of the machine."""
    model, formats, machine, batch, seq, hidden, optimizer, state, gradients, reversible = key
    limits = TrainLimits(recompute=frozenset(Recompute)) if reversible else TrainLimits()
    return [
        TrainRequest(
            model=BENCH.variant(model, formats),
            topology=part.topology,
            global_batch=batch,
            seq_len=seq,
            limits=limits,
            overlap=hidden,
            optimizer=optimizer,
            optimizer_state=state,
            gradients=gradients,
            gap=GAP,
        )
        for part in machine_parts(BENCH.topology(machine), frozenset(), 0)
    ]


def as_planned(run, hidden):
    """A published run as the planner writes it: expert messages hide in pairs of microbatches."""
    hidden = hidden if run.schedule in PAIRING else hidden - {Overlap.EP}
    split = run.sequence_parallel and run.mesh.attn_tp > 1
    return replace(run, overlap=hidden, engine="current", sequence_parallel=split)


def holds(search, run):
    """Whether a strategy is one of the space."""
    meshes, mesh = search.meshes, run.mesh
    own = {
        "tp": mesh.attn_tp,
        "cp": mesh.cp,
        "dp": mesh.attn_dp,
        "pp": mesh.pp,
        "ep": mesh.ep,
        "expert_tp": mesh.expert_tp,
        "microbatch": run.microbatch,
    }
    same = np.ones(len(meshes), dtype=bool)
    for name, value in own.items():
        same &= getattr(meshes, name) == value
    same &= (meshes.sequence_parallel == run.sequence_parallel) | search.bound.is_torus
    for row in np.flatnonzero(same)[:1]:
        cases = search.cases(np.array([row]))
        for place in search.menu_places(cases.policies).tolist():
            one = search.run_of(int(row), int(place))
            if (one.schedule, one.recompute, one.zero_stage) == (
                run.schedule,
                run.recompute,
                run.zero_stage,
            ) and one.mesh.virtual_stages == max(1, mesh.virtual_stages):
                return True
    return False


def outside(run, request):
    """Why a published strategy is not in the space; empty if there is no reason to name."""
    mesh, topology = run.mesh, request.topology
    largest = max(map(len, topology.domains))
    if request.global_batch % (mesh.attn_dp * run.microbatch):
        return "a batch that ranks share unevenly"
    if 2 * mesh.num_chips <= topology.num_chips:
        return "half of the machine or less"
    if mesh.attn_dp * mesh.cp == 1 and run.zero_stage:
        return "sharding over one rank"
    if run.schedule is ScheduleKind.INTERLEAVED and run.num_microbatches % mesh.pp:
        return "groups of microbatches that stages do not fill"
    spans = (mesh.attn_tp * mesh.cp, mesh.ep * mesh.expert_tp, mesh.stage_chips)
    if any(largest % span and 2 * span % largest for span in spans):
        return "groups that lie in domains in several ways"
    if topology.is_torus and mesh.attn_tp & (mesh.attn_tp - 1):
        return "tensor parallelism whose groups are no boxes of a torus"
    if run.microbatch > 16:
        return "microbatches of many sequences"
    return ""


@cache
def planned(key):
    return search_training(*requests(key))


def compare(key, row):
    """What came of one published layout; asserts what must hold."""
    asked = requests(key)
    run = as_planned(row.run, key[5])
    try:
        priced = predict_training(BENCH.variant(row.model, row.formats), asked[0].topology, run)
    except SpecError:
        return "not priced"
    if not priced.memory.fits:
        return "does not fit"
    found = planned(key)
    assert not isinstance(found, Infeasible), row.origin.id
    proof = found.certificate
    assert proof.gap <= 0.1, (row.origin.id, proof.gap)
    searches = [search for search in map(TrainSearch, asked) if len(search.meshes)]
    for search in searches:
        search.prepare()
    if any(holds(search, run) for search in searches):
        assert proof.bound <= priced.seconds * (1 + 1e-9), row.origin.id
        assert proof.objective <= priced.seconds / (1 - proof.gap) * (1 + 1e-9), row.origin.id
        return "in the space"
    why = outside(run, asked[0])
    assert why, (row.origin.id, run)
    return why


QUESTIONS = sorted(rows().items(), key=lambda one: one[1][0].origin.id)


@pytest.mark.parametrize("place", range(0, len(QUESTIONS), EVERY))
def test_published_layouts_are_never_better(place):
    key, (row, *_) = QUESTIONS[place]
    compare(key, row)


if __name__ == "__main__":
    print(Counter(compare(key, row) for key, own in QUESTIONS for row in own))
