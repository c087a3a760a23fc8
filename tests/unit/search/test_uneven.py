"""Sequences to replicas of unequal speed: two nodes, one of them with hurt switches."""

from dataclasses import replace

import pytest

from planner import DegreeLimits, Question, api, verify, verify_certificate
from planner.catalog.machines import load_machine
from planner.compose import assignment_of
from planner.cost.evaluate import evaluate
from planner.domain.workload import Objective
from planner.search.solve import replica_sequences


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """Eight chips a node; half of the switches of the second give a twentieth."""
    path = tmp_path_factory.mktemp("machine") / "hurt.toml"
    path.write_text(
        'extends = "h100-hgx"\n[size]\ndomains = 2\n[wounds]\n'
        'degrade = { "switch:n1/sw0" = 0.05, "switch:n1/sw1" = 0.05 }\n'
    )
    assert load_machine(str(path)).num_domains == 2
    return str(path)


def asked(machine, **options):
    """Tensor parallelism over a node, two replicas."""
    limits = DegreeLimits(tp=frozenset({8}), pp=frozenset({1}), cp=frozenset({1}))
    return Question(
        model="llama-3.1-8b",
        machine=machine,
        context_tokens=8192,
        limits=replace(limits, overlap=frozenset({0})),
        gap=0.0,
        **options,
    )


def layout_of(question):
    """The layout, and how any other batch of its replicas is priced."""
    layout = api.plan(question)
    inputs, case = api.read_question(question)
    assignment = assignment_of(layout, case.topology)

    def price(*batches):
        sequences = tuple(replica_sequences(assignment.degrees, batch) for batch in batches)
        changed = replace(assignment, sequences=sequences)
        return evaluate(case.setting, case.topology, changed, case.loads, inputs.price_usd_per_hour)

    counts = [sum(map(sum, split.sequences)) for split in layout.batches]
    return layout, counts, price


def test_each_replica_takes_what_the_limit_leaves_it(machine):
    question = asked(machine, tpot_s=0.012)
    layout, (first, second), price = layout_of(question)
    assert first > second
    # One sequence more is too slow on either; as many on both as the slow one takes is worse.
    assert price(first, second).step_s <= 0.012
    assert price(first + 1, second).step_s > 0.012
    assert price(first, second + 1).step_s > 0.012
    assert price(second, second).tokens_per_s < layout.prediction.tokens_per_s
    assert layout.certificate.gap == pytest.approx(0, abs=1e-9)
    assert verify(layout) == ()
    assert verify_certificate(layout).violations == ()


@pytest.mark.parametrize("batch", [2, 7, 60, 201])
def test_the_slow_replica_gets_less_of_a_pinned_batch(machine, batch):
    question = asked(machine, batch=batch, objective=Objective.LATENCY)
    question = replace(question, limits=replace(question.limits, replicas=frozenset({2})))
    layout, counts, price = layout_of(question)
    best = min(price(first, batch - first).step_s for first in range(1, batch))
    assert layout.prediction.step_s == pytest.approx(best, rel=1e-12)
    assert sum(counts) == batch
    assert counts[0] >= counts[1]
    assert layout.certificate.bound <= best * (1 + 1e-12)
    assert verify_certificate(layout).violations == ()


def test_a_pinned_batch_whose_rates_add_up_is_dealt_evenly(machine):
    question = asked(machine, batch=41)
    layout, counts, _ = layout_of(question)
    assert counts == [21, 20]
    assert layout.certificate.bound <= layout.certificate.objective
    assert verify_certificate(layout).violations == ()
