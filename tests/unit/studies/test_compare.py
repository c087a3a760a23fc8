"""Comparisons: figures are the plan's, terms add up, break-evens change the ranking."""

from dataclasses import replace

import pytest

from planner import DegreeLimits, Question, plan
from planner.catalog.model_config import load_model
from planner.domain.hardware import Sizing
from planner.domain.outcome import Infeasible
from planner.domain.pinned import pinned
from planner.domain.training import TrainQuestion
from planner.domain.workload import Objective
from planner.errors import SpecError
from planner.studies.compare import compare, machine_figures
from planner.studies.compare_train import compare_training
from planner.studies.families import family
from planner.studies.flips import Answer, Contest, flip, machine_levers
from planner.what_if import solve

DENSE = Question(
    model="llama-3.1-70b",
    machine="h100-hgx",
    context_tokens=8192,
    nodes=2,
    limits=DegreeLimits(overlap=frozenset({0})),
)


@pytest.fixture(scope="module")
def found():
    return compare(DENSE, ("tp", "tp+pp", "dp"))


def test_each_candidate_is_the_plan_of_its_family(found):
    model, machine = load_model(DENSE.model), machine_figures(DENSE)
    limits = replace(family("tp", model, machine).limits, overlap=frozenset({0}))
    layout = plan(replace(DENSE, limits=limits))
    figures = found.of("tp").figures
    assert figures.step_s == layout.prediction.step_s
    assert figures.value == layout.certificate.objective
    assert figures.gap == layout.certificate.gap
    assert figures.memory.kv_bytes == layout.prediction.memory.kv_bytes


def test_terms_add_up_to_the_objective(found):
    for one in found.ranked:
        total = sum(term.value for term in one.figures.terms)
        assert total == pytest.approx(one.figures.value, rel=1e-9)


def test_candidates_are_ordered_and_the_unfit_are_last(found):
    values = [one.figures.value for one in found.ranked]
    assert values == sorted(values)
    # 70 B weights in bf16 are 141 GB, a chip has 80 GB.
    assert found.candidates[-1].name == "dp"
    assert found.candidates[-1].infeasible.resource == "memory"
    assert len(found.why) == len(found.ranked) - 1


def test_break_evens_change_the_ranking():
    """Experts across racks lead once links between racks are fast enough, and not before."""
    racks = Question(model="deepseek-v3", machine="gb200-nvl72", context_tokens=8192, racks=2)
    model, machine = load_model(racks.model), machine_figures(racks)
    limits = {name: family(name, model, machine).limits for name in ("ep", "wide-ep")}

    def answer(question, within, change=None):
        best, value = solve(replace(question, limits=within), change)
        return Answer(value=value, limits=pinned(best.assignment.degrees))

    contest = Contest(
        question=racks,
        families=limits,
        pools={name: [answer(racks, own).limits] for name, own in limits.items()},
        solve=answer,
    )
    lever = next(own for own in machine_levers(machine) if own.name == "link_ratio")
    assert contest.ranked(lever, lever.present) == ["ep", "wide-ep"]
    found = flip(contest, "ep", lever, lever.ends[1])
    assert found.leader == "wide-ep" and found.present < found.at <= found.until == 1.0

    def value(name, ratio):
        _, change = lever.set_to(racks, ratio)
        return answer(racks, limits[name], change).value

    assert value("ep", found.at / 1.1) < value("wide-ep", found.at / 1.1)
    assert value("wide-ep", found.at * 1.1) < value("ep", found.at * 1.1)
    # Slower links leave the ranking as it is.
    assert flip(contest, "ep", lever, lever.ends[0]).at is None


def test_a_slower_fabric_hurts_only_what_uses_it(found):
    ratio = [own for own in found.flips if own.lever == "link_ratio"]
    assert len(ratio) == 2
    assert ratio[0].present == pytest.approx(50e9 / 450e9)


def test_a_layout_file_stands_beside_families():
    layout = plan(replace(DENSE, context_tokens=4096))
    found = compare(DENSE, ("tp",), [("mine.json", layout)], break_evens=False)
    given = found.of("mine.json")
    assert given.figures.gap is None
    assert given.note == "answers another question: context 4,096"
    assert given.figures.tokens_per_s_per_chip == layout.prediction.tokens_per_s_per_chip


@pytest.mark.parametrize("objective", list(Objective))
def test_every_objective_can_be_compared(objective):
    question = replace(DENSE, objective=objective, price_usd_per_hour=2.0)
    found = compare(question, ("tp", "tp+pp"), break_evens=False)
    assert found.ranked[0].figures.value <= found.ranked[1].figures.value


def test_nothing_fits_anywhere():
    found = compare(replace(DENSE, tpot_s=1e-6), ("tp", "pp"), break_evens=False)
    assert isinstance(found, Infeasible)
    assert found.resource == "tpot" and "tp, pp" in found.message


def test_a_family_that_is_not_one_is_refused():
    with pytest.raises(SpecError, match="turbo"):
        compare(DENSE, ("turbo",))


def test_schedules_side_by_side():
    question = TrainQuestion(
        model="llama-3.1-8b",
        machine="h100-hgx",
        global_batch=64,
        seq_len=4096,
        sizing=Sizing(nodes=2),
    )
    found = compare_training(question, ("gpipe+pp4+tp", "1f1b+pp4+tp", "zero3+dp"))
    of = {one.name: one.figures for one in found.candidates}
    # All that GPipe keeps longer is memory: it is never the faster of the two.
    assert of["gpipe+pp4+tp"].step_s >= of["1f1b+pp4+tp"].step_s * (1 - of["1f1b+pp4+tp"].gap)
    assert of["zero3+dp"].bubble == 0.0 < of["1f1b+pp4+tp"].bubble
    for one in found.ranked:
        total = sum(term.value for term in one.figures.terms)
        assert total == pytest.approx(one.figures.value, rel=1e-9)
