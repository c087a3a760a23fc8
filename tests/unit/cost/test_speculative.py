"""Speculative decoding: tokens per verified pass, and what it does to a serving run."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.cost.runs.serving import predict_serving
from planner.cost.runs.serving_speculative import tokens_per_pass
from planner.domain.serving import ServingPool, ServingRun
from planner.errors import SpecError
from planner.topology.build import build_topology

MODEL = load_model("deepseek-v3")
TOPOLOGY = build_topology(load_machine("gb200-nvl72"))
RUN = ServingRun(
    input_len=1024,
    output_len=257,
    decode=ServingPool(attn_tp=8, ep=8),
    concurrency=4,
    length_spread=1.0,
)


# 1 + 0.8 + 0.64 + 0.512; nothing drafted or nothing accepted is one token a pass; everything
# accepted is the draft and one more.
@pytest.mark.parametrize(
    ("drafted", "acceptance", "tokens"),
    [(3, 0.8, 2.952), (1, 0.9, 1.9), (0, 0.7, 1.0), (5, 0.0, 1.0), (4, 1.0, 5.0)],
)
def test_tokens_per_pass(drafted, acceptance, tokens):
    assert tokens_per_pass(drafted, acceptance) == pytest.approx(tokens, rel=1e-12)


@given(st.integers(0, 12), st.floats(0.0, 1.0))
def test_closed_form_is_the_geometric_sum(drafted, acceptance):
    by_hand = math.fsum(acceptance**place for place in range(drafted + 1))
    assert tokens_per_pass(drafted, acceptance) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize(("drafted", "acceptance"), [(-1, 0.5), (2, 1.1), (2, -0.1), (2, math.nan)])
def test_numbers_out_of_range_are_refused(drafted, acceptance):
    with pytest.raises(SpecError):
        tokens_per_pass(drafted, acceptance)


# Four sequences read most of the weights either way: verifying two tokens each touches more
# experts, but far from twice as many, so accepted drafts pay; refused ones only cost.
def test_drafts_pay_when_they_are_accepted():
    plain = predict_serving(MODEL, TOPOLOGY, RUN).tpot_s
    accepted = replace(RUN, draft_tokens=1, acceptance=0.9)
    refused = replace(RUN, draft_tokens=1, acceptance=0.0)
    good = predict_serving(MODEL, TOPOLOGY, accepted)
    bad = predict_serving(MODEL, TOPOLOGY, refused)
    assert good.tpot_s < plain < bad.tpot_s


# The pass of one sequence is the same, only the tokens it yields differ: 1.9 against 1.
def test_acceptance_divides_every_part_of_a_pass():
    run = replace(RUN, concurrency=1, draft_tokens=1, acceptance=0.9)
    good = {t.name: t.seconds for t in predict_serving(MODEL, TOPOLOGY, run).terms}
    run = replace(run, acceptance=0.0)
    bad = {t.name: t.seconds for t in predict_serving(MODEL, TOPOLOGY, run).terms}
    for name in ("matmuls", "experts", "attention", "collectives", "head", "host", "draft"):
        assert good[name] * 1.9 == pytest.approx(bad[name], rel=1e-9)


# One draft token costs one of the 61 layers and the head, all with one query each.
def test_a_drafted_token_costs_a_layer_and_the_head():
    run = replace(RUN, concurrency=1, draft_tokens=2, acceptance=0.0)
    one = {t.name: t.seconds for t in predict_serving(MODEL, TOPOLOGY, run).terms}
    plain = replace(RUN, concurrency=1)
    none = {t.name: t.seconds for t in predict_serving(MODEL, TOPOLOGY, plain).terms}
    layers = sum(none[name] for name in none if name not in ("head", "host", "prompts"))
    assert one["draft"] == pytest.approx(2 * (layers / 61 + none["head"]), rel=1e-9)
