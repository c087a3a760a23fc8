"""The lecture's claims about strategies (chapters 2 to 4) as results of the planner.

Each claim is asked of the full model on a real machine. Where a claim fails, a test shows that
too: the planner derives the rule, it does not know it.
"""

from dataclasses import replace

import pytest

from planner import DegreeLimits, Question
from planner.domain.degrees import OverlapMode
from planner.domain.dtypes import DType
from planner.domain.outcome import Infeasible
from planner.studies.compare import compare

NOTHING_HIDDEN = DegreeLimits(overlap=frozenset({int(OverlapMode.NONE)}))
RACKS = Question(model="deepseek-v3", machine="gb200-nvl72", context_tokens=8192, racks=2)


def side_by_side(question, *names):
    found = compare(question, names, break_evens=False)
    return found, {one.name: one.figures for one in found.candidates}


def test_expert_parallelism_fills_the_scale_up_domain_first():
    # Chapter 2: more chips share the weights and the all-to-all stays on fast links.
    question = replace(RACKS, racks=1, limits=NOTHING_HIDDEN)
    found, of = side_by_side(question, "ep8", "ep18", "ep36", "ep")
    assert found.ranked[0].name == "ep" and of["ep"].degrees.ep >= 64
    rates = [of[name].tokens_per_s_per_chip for name in ("ep8", "ep18", "ep36", "ep")]
    assert rates == sorted(rates)


def test_expert_layers_do_not_pay_across_racks():
    # Chapter 2: at links 18 times slower, half of the bytes leave the rack and set the time.
    found, of = side_by_side(replace(RACKS, limits=NOTHING_HIDDEN), "ep", "wide-ep")
    assert found.ranked[0].name == "ep"
    inside, outside = ({own.name: own.bytes_per_chip for own in of[n].links} for n in of)
    assert inside["scale-out"] == 0.0 < outside["scale-out"]
    assert "leave the domain" in found.why[0]


def test_expert_layers_pay_across_nodes_where_a_node_is_small():
    # The claim fails on nodes of eight: 671 GB of weights leave hardly any room for caches on
    # one node, on two and more they do, though links out of it are nine times slower.
    nodes = Question(model="deepseek-v3", machine="h200-hgx", context_tokens=4989, nodes=8)
    found, of = side_by_side(nodes, "ep", "wide-ep")
    assert found.ranked[0].name == "wide-ep"
    assert of["wide-ep"].memory.kv_bytes > 2 * of["ep"].memory.kv_bytes
    # And where the weights do not fit a node at all, as in DeepSeek's own decode layout (EP144).
    small = replace(nodes, machine="h800-hgx", nodes=18)
    found, of = side_by_side(small, "ep", "wide-ep")
    assert of["ep"] is None and of["wide-ep"].degrees.ep == 144


def test_pipelining_is_neutral_in_latency_and_cache_and_halves_weights():
    # Chapters 3 and 4, at one batch on two racks: two replicas of a rack each, or two stages
    # with two microbatches in flight. The 61 layers of the model split as 31 and 30, so what is
    # per stage may be 31 / 30.5 of the mean; a token makes two hops.
    question = replace(RACKS, batch=2 * 72 * 32, limits=NOTHING_HIDDEN)
    pinned = DegreeLimits(
        overlap=NOTHING_HIDDEN.overlap, slots=frozenset({360}), microbatches=frozenset({1, 2})
    )
    _, of = side_by_side(replace(question, limits=pinned), "ep72", "ep72+pp2")
    flat, piped = of["ep72"], of["ep72+pp2"]
    assert (flat.degrees.replicas, piped.degrees.replicas) == (2, 1)
    uneven = 31 / 30.5
    assert piped.memory.kv_bytes == pytest.approx(flat.memory.kv_bytes, rel=uneven - 1 + 1e-6)
    assert piped.memory.weights_bytes == pytest.approx(flat.memory.weights_bytes / 2, rel=0.08)
    assert flat.step_s <= piped.step_s <= flat.step_s * 1.04
    # All that a second stage adds to a token are its hops and the wait for the slower stage.
    extra = {term.name: term.value for term in piped.terms}
    hops = extra["pipeline_hops"] + extra.get("pipeline_wait", 0.0)
    assert piped.value - flat.value == pytest.approx(hops, rel=0.35)


def test_one_microbatch_leaves_a_pipeline_idle():
    # Chapter 3: with one in flight 1 - 1/P of the stages wait; two stages of 31 and 30 layers.
    one = replace(NOTHING_HIDDEN, microbatches=frozenset({1}))
    _, of = side_by_side(replace(RACKS, batch=4608, limits=one), "ep72+pp2")
    assert of["ep72+pp2"].bubble == pytest.approx(0.5, abs=0.02)


def test_two_stages_are_often_enough():
    # Chapter 4: weights per chip fall as 1/P, so what a third and fourth stage save is less
    # than what their hops and their coarser cuts cost.
    four = replace(RACKS, racks=4, limits=NOTHING_HIDDEN)
    found, of = side_by_side(four, "ep72+pp2", "ep72+pp3", "ep72+pp4")
    assert found.ranked[0].name == "ep72+pp2"
    assert of["ep72+pp4"].memory.weights_bytes < of["ep72+pp2"].memory.weights_bytes


def test_pipelining_is_wise_where_the_weights_exceed_a_domain():
    # Chapter 4's exception: 671 B weights in fp8 are 671 GB, a node of eight H100 has 640 GB.
    nodes = Question(model="deepseek-v3", machine="h100-hgx", context_tokens=4096, nodes=4)
    _, of = side_by_side(nodes, "ep", "ep+pp")
    assert of["ep"] is None and of["ep+pp"] is not None
    alone = compare(nodes, ("ep",), break_evens=False)
    assert isinstance(alone, Infeasible) and alone.resource == "memory"


def test_tensor_parallelism_matters_little_when_experts_are_small():
    # Chapter 3: experts of 2,048 columns; a token's ranks hold the same caches and wait for sums.
    found, of = side_by_side(replace(RACKS, racks=1), "ep", "tp", "ep+tp")
    assert found.ranked[0].name == "ep"
    assert of["tp"].tokens_per_s_per_chip < 0.6 * of["ep"].tokens_per_s_per_chip


def test_tensor_parallelism_wins_where_one_user_waits():
    # And where it fails: alone on a rack, the weights that a token needs are read by all chips.
    alone = replace(RACKS, racks=1, batch=1, weights=DType.FP8)
    found, of = side_by_side(alone, "ep", "tp", "ep+tp")
    assert found.ranked[0].name != "ep"
    assert of[found.ranked[0].name].degrees.attn_tp > 1
