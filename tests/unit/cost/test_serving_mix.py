"""Mixes of requests: means, merging, queues and quantiles by hand; one kind is no mix."""

from dataclasses import replace
from statistics import mean

import pytest

from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.cost.runs.serving import predict_serving
from planner.cost.runs.serving_engine import HABITS
from planner.cost.runs.serving_loop import Drawn, LoopTimes, PromptTimes, closed_loop, draw
from planner.cost.runs.serving_mix import (
    MOST_KINDS,
    condensed,
    mixed,
    prompt_len_of_work,
    resident,
    shares,
    ttft_bands,
)
from planner.cost.runs.serving_open import Arrivals, Overload, open_loop, prompt_work
from planner.domain.serving import EngineFamily, RequestKind, ServingPool, ServingRun
from planner.errors import SpecError
from planner.topology.build import build_topology

H100 = build_topology(load_machine("h100-hgx"))
LLAMA = load_model("llama-3.1-8b")
TP2 = ServingPool(attn_tp=2, expert_tp=2)
RUN = ServingRun(input_len=1000, output_len=101, decode=TP2, concurrency=8)
SHORT = RequestKind(input_len=1000, output_len=100, weight=3.0)
LONG = RequestKind(input_len=9000, output_len=500, weight=1.0)
LOADS = [
    {},
    {"prefill": TP2},
    {"concurrency": None, "arrival_per_s": 3.0},
    {"prefill": TP2, "concurrency": None, "arrival_per_s": 3.0},
    {"engine": EngineFamily.SGLANG, "prefix_hit": 0.5, "draft_tokens": 2, "acceptance": 0.6},
]


# 3 x 1000 + 9000 over 4; 3 x 100 + 500 over 4. Resident: 300 of short answers to 500 of long
# ones, (300 x 1000 + 500 x 9000) / 800. Work: (3 x 1000^2 + 9000^2) / (3 x 1000 + 9000).
def test_means_of_a_mix():
    run = mixed(RUN, (SHORT, LONG))
    assert (run.input_len, run.output_len) == (3000, 200)
    assert resident(run, lambda kind: kind.input_len) == 6000
    assert prompt_len_of_work(run) == 7000
    assert shares(run) == (0.75, 0.25)


@pytest.mark.parametrize("load", LOADS)
def test_a_mix_of_one_kind_is_that_kind(load):
    alike = replace(RUN, **load)
    one = predict_serving(LLAMA, H100, alike)
    lines = [RequestKind(input_len=1000, output_len=101, weight=w) for w in (1.0, 2.5, 0.1)]
    mix = predict_serving(LLAMA, H100, mixed(alike, lines))
    assert mix.ttft_s == pytest.approx(one.ttft_s, rel=1e-9)
    assert mix.tpot_s == pytest.approx(one.tpot_s, rel=1e-9)
    assert mix.tokens_per_s == pytest.approx(one.tokens_per_s, rel=1e-9)
    assert mix.capacity == one.capacity
    assert mix.bands and not one.bands


# Prompts of every 10th token count from 10 to 20,000 and answers that differ: 64 kinds with the
# same weight and means, in order.
def test_many_kinds_are_merged_with_their_means():
    many = [
        RequestKind(input_len=10 * n, output_len=50 + 37 * n % 400, weight=1 + n % 3)
        for n in range(1, 2001)
    ]
    few = condensed(many)
    assert len(few) <= MOST_KINDS
    assert sum(k.weight for k in few) == pytest.approx(sum(k.weight for k in many))
    whole, merged = mixed(RUN, many), mixed(RUN, few)
    assert merged.input_len == pytest.approx(whole.input_len)
    assert merged.output_len == pytest.approx(whole.output_len)
    # Within a sixteenth of the requests prompts differ by 1,250 tokens: squares by little.
    assert sum(k.weight * k.input_len**2 for k in few) == pytest.approx(
        sum(k.weight * k.input_len**2 for k in many), rel=0.01
    )


def test_equal_lines_are_one_kind():
    assert condensed([LONG, SHORT, LONG, SHORT]) == (
        replace(SHORT, weight=6.0),
        replace(LONG, weight=2.0),
    )


# Of 400 requests 300 and 100, whatever the spread; in no order that repeats.
def test_kinds_are_drawn_by_their_shares():
    found = draw(((1000.0, 99.0, 0.75), (9000.0, 499.0, 0.25)), 1.0, 400)
    assert found.inputs.count(1000.0) == 300 and found.inputs.count(9000.0) == 100
    assert {found.passes[i] for i in range(400) if found.inputs[i] == 9000.0} == {499}
    runs = found.kinds[:100]
    assert 10 < sum(runs) < 40


# Two prompts of 100 tokens, 1 s per 100 tokens of the first kind, 3 s of the second: alone in
# the pass each, first tokens at 1 and 4 s; their own passes took 1 and 3 s, the second waited 1.
def test_a_token_of_a_long_prompt_costs_more():
    prompts = PromptTimes(fixed_s=0.0, token_s=0.01, floor_s=0.0, budget=100.0, factors=(1.0, 3.0))
    times = LoopTimes(decode_s=[0.0] * 3, prompts=prompts, mixes=False, max_running=2)
    found = closed_loop(times, 2, Drawn(inputs=[100.0] * 2, passes=[1, 1], kinds=[0, 1]))
    assert found.waits == (1.0, 4.0)
    assert (found.ttft_s, found.prefill_s) == (2.5, 2.0)
    # Both in one pass: 4 s for both.
    both = replace(times, prompts=replace(prompts, budget=200.0))
    assert closed_loop(both, 2, Drawn(inputs=[100.0] * 2, passes=[1, 1], kinds=[0, 1])).waits == (
        4.0,
        4.0,
    )


# Prompts of 1 s and 3 s, half each, X = 0.2/s: rho = 0.4, mean square 5, wait
# 0.2 x 5 / (2 x 0.6) = 5/6 s (Pollaczek and Khinchine); equal ones of 2 s wait 2/3 s.
def test_unequal_prompts_wait_longer_than_equal_ones():
    prompts = PromptTimes(fixed_s=0.0, token_s=0.01, floor_s=0.0, budget=100.0, factors=(1.0, 1.0))
    times = LoopTimes(decode_s=[1e-6] * 9, prompts=prompts, mixes=False, max_running=8)
    unequal = Arrivals(per_s=0.2, input_tokens=(100.0, 300.0), passes=10.0, shares=(0.5, 0.5))
    found = open_loop(times, unequal)
    assert found.waits == pytest.approx((5 / 6 + 1, 5 / 6 + 3), abs=1e-5)
    assert found.ttft_s == pytest.approx(5 / 6 + 2, abs=1e-5)
    equal = open_loop(times, replace(unequal, input_tokens=(200.0, 200.0)))
    assert equal.ttft_s == pytest.approx(2 / 3 + 2, abs=1e-5)


# A pass takes 1 s whatever it carries, four prompts at most. Alone 1 s, full 0.25 s: up to 4/s
# are served. At 2/s decode passes of 0.1 s come every 1.1 s (2.2 prompts in each); at 0.5/s
# every 0.1 / (1 - 0.5). The queue: min(1, 2) x 1 / 2 + 0.5 / (1 - 0.5) x 2 x 0.25^2 / 2.
def test_ranks_that_prefill_together():
    prompts = PromptTimes(fixed_s=1.0, token_s=0.0, floor_s=0.0, budget=400.0)
    work = prompt_work(prompts, 100.0)
    assert (work.alone_s, work.full_s, work.per_pass) == ((1.0,), (0.25,), 4.0)
    times = LoopTimes(decode_s=[0.1] * 99, prompts=prompts, mixes=False, max_running=98)
    often = open_loop(times, Arrivals(per_s=2.0, input_tokens=100.0, passes=10.0))
    assert often.pass_s == pytest.approx(1.1)
    assert often.ttft_s == pytest.approx(0.05 + 0.5 + 2.0 * 0.25**2 / 2 + 1.0)
    seldom = open_loop(times, Arrivals(per_s=0.5, input_tokens=100.0, passes=10.0))
    assert seldom.pass_s == pytest.approx(0.2)
    with pytest.raises(Overload, match="prefill") as caught:
        open_loop(times, Arrivals(per_s=4.4, input_tokens=100.0, passes=10.0))
    assert caught.value.needed == pytest.approx(1.1)


# Ten equal shares, lengths and latencies 1 to 10: the first quarter is 1, 2 and half of 3.
def test_bands_by_hand():
    found = ttft_bands([(float(n), 0.1, 2.0 * n) for n in range(10, 0, -1)])
    assert [(band.low, band.high) for band in found] == [
        *((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 0.95), (0.95, 1.0))
    ]
    assert [band.input_len for band in found] == pytest.approx(
        [(1 + 2 + 1.5) / 2.5, (1.5 + 4 + 5) / 2.5, (6 + 7 + 4) / 2.5, (4 + 9 + 5) / 2, 10]
    )
    assert [band.ttft_s / band.input_len for band in found] == pytest.approx([2.0] * 5)
    # Of two lengths the quantiles between have nothing to tell apart.
    two = ttft_bands([(1.0, 0.75, 5.0), (9.0, 0.25, 7.0)])
    assert [(b.low, b.high, b.input_len, b.ttft_s) for b in two] == [
        (0.0, 0.75, 1.0, 5.0),
        (0.75, 1.0, 9.0, 7.0),
    ]


# Longer prompts take longer. The bands' mean is the mean, but that the front end's share of it
# is counted at the mean prompt of the mix, not of the requests that were drawn.
@pytest.mark.parametrize("load", LOADS)
def test_longer_prompts_wait_longer(load):
    found = predict_serving(LLAMA, H100, mixed(replace(RUN, **load), (SHORT, LONG)))
    assert found.bands[-1].ttft_s > found.bands[0].ttft_s
    whole = sum((band.high - band.low) * band.ttft_s for band in found.bands)
    tokens = sum((band.high - band.low) * band.input_len for band in found.bands)
    front = HABITS[load.get("engine", EngineFamily.VLLM)].prompt_token_s * (tokens - 3000)
    assert whole - front == pytest.approx(found.ttft_s, rel=1e-9)
    assert tokens == pytest.approx(3000, rel=0.03)
    assert found.ttft.total == pytest.approx(found.ttft_s)


# Long prompts interfere: beside them short requests decode more slowly than among themselves
# though the mean of the mix is theirs.
def test_a_mix_is_slower_than_its_mean():
    spread = mixed(RUN, (replace(SHORT, input_len=200), replace(LONG, output_len=100)))
    run = replace(spread, concurrency=None, arrival_per_s=6.0)
    alike = replace(run, mix=())
    assert run.input_len == alike.input_len == 2400
    assert predict_serving(LLAMA, H100, run).ttft_s > predict_serving(LLAMA, H100, alike).ttft_s


def test_more_requests_of_a_mix_never_decode_faster():
    for prefill in (None, TP2):
        run = mixed(replace(RUN, prefill=prefill), (SHORT, LONG))
        found = [
            predict_serving(LLAMA, H100, replace(run, concurrency=c)) for c in (1, 4, 16, 64, 256)
        ]
        tpot = [p.tpot_s for p in found]
        assert tpot == sorted(tpot)
        tokens = [p.tokens_per_s for p in found]
        assert tokens == sorted(tokens)


# 131,072 bytes a token: a prompt of a million tokens does not fit beside the weights.
def test_the_largest_request_must_fit():
    huge = RequestKind(input_len=2_000_000, output_len=1, weight=1e-3)
    with pytest.raises(SpecError, match="cannot hold"):
        predict_serving(LLAMA, H100, mixed(RUN, (SHORT, huge)))


def test_tokens_per_s_are_those_of_the_mix():
    run = mixed(replace(RUN, concurrency=None, arrival_per_s=2.0), (SHORT, LONG))
    assert predict_serving(LLAMA, H100, run).tokens_per_s == pytest.approx(2.0 * 200)
    lengths = [kind.output_len for kind in run.mix]
    assert mean(lengths) != run.output_len
