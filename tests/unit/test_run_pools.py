"""Prefill and decode pools as given or balanced, mixes, what helps: as a library."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.domain.dtypes import DType
from planner.domain.hardware import Sizing
from planner.domain.outcome import Infeasible
from planner.domain.serving import RequestKind
from planner.errors import SpecError
from planner.pricing import balance
from planner.pricing.served import Served
from planner.run_api import EstimateKind, RunEstimate, RunQuestion, estimate

DECODE = RunQuestion(
    model="llama-3.1-70b",
    machine="h100-hgx",
    kind=EstimateKind.DECODE,
    tp=8,
    batch=64,
    context=4096,
)
SERVE = RunQuestion(
    model="llama-3.1-70b",
    machine="h100-hgx",
    kind=EstimateKind.SERVE,
    tp=8,
    input=1024,
    output=1024,
    concurrency=32,
)
POOLS = RunQuestion(
    model="llama-3.1-8b",
    machine="h100-hgx",
    sizing=Sizing(nodes=2),
    kind=EstimateKind.SERVE,
    tp=2,
    dp=1,
    workers=2,
    prefill_tp=2,
    prefill_workers=3,
    input=4096,
    output=512,
    concurrency=64,
)
# The same, split by the planner.
SPLIT = replace(POOLS, workers=1, prefill_workers=None, balance=True)


def priced(question: RunQuestion) -> RunEstimate:
    found = estimate(question)
    assert isinstance(found, RunEstimate)
    return found


def served(question: RunQuestion) -> Served:
    found = priced(question).served
    assert found is not None
    return found


def infeasible(question: RunQuestion) -> Infeasible:
    found = estimate(question)
    assert isinstance(found, Infeasible)
    return found


def test_pools_have_chips_of_their_own() -> None:
    """3 workers of 2 chips prefill, 2 of 2 decode: 10 of 16 chips."""
    found = priced(POOLS)
    assert (found.chips, found.machine_chips, found.rented_chips) == (10, 16, 16)
    assert found.tokens_per_s_per_chip == pytest.approx(found.tokens_per_s / 10)
    assert found.served is not None and found.served.prefill_memory is not None
    assert (found.served.prefill_chips, found.served.decode_chips) == (6, 4)
    assert found.served.prediction.ttft.total == pytest.approx(found.ttft_s)
    # A pass of 8,192 tokens: two prompts of 131,072 B a token, over two chips.
    assert found.served.prefill_memory.kv_bytes == 2 * 4096 * 131_072 / 2
    assert found.changes == () and found.memory.fits


def test_prefill_workers_take_the_layout_of_the_others() -> None:
    alike = served(replace(POOLS, prefill_tp=None))
    assert alike.prefill_mesh is not None and alike.prefill_mesh.attn_tp == 2
    # Left out, dp takes the chips: 16 / (2 x (2 + 2) workers); with 6 at prefill, 10 / (1 x 2).
    rest = priced(replace(POOLS, prefill_tp=None, dp=None, prefill_workers=2))
    assert rest.mesh.attn_dp == 2 and rest.chips == 16
    beside = priced(replace(POOLS, tp=1, dp=None))
    assert beside.mesh.attn_dp == 5 and beside.chips == 16


def test_balance_is_the_best_of_all_splits() -> None:
    """Workers of two chips: every pair of counts with 8 workers in all."""
    found = priced(SPLIT)
    assert found.served is not None
    best = found.served.splits[0]
    assert (best.prefill_workers, best.workers) == (
        found.served.prefill_workers,
        found.question.workers,
    )
    assert best.tokens_per_s == found.tokens_per_s and best.chips == found.chips
    tried = [
        priced(replace(POOLS, prefill_workers=p, workers=w)).tokens_per_s
        for p in range(1, 8)
        for w in range(1, 9 - p)
    ]
    assert found.tokens_per_s == max(tried)
    assert [s.tokens_per_s for s in found.served.splits] == sorted(tried, reverse=True)[:5]


def test_limits_of_a_balance_are_met() -> None:
    free = priced(SPLIT)
    assert free.tpot_s is not None and free.ttft_s is not None
    quick = priced(replace(SPLIT, tpot=0.95 * free.tpot_s))
    assert quick.tpot_s is not None and quick.tpot_s <= 0.95 * free.tpot_s
    assert quick.tokens_per_s <= free.tokens_per_s
    early = priced(replace(SPLIT, ttft=0.9 * free.ttft_s))
    assert early.ttft_s is not None and early.ttft_s <= 0.9 * free.ttft_s


def test_balance_at_a_rate_takes_the_fewest_chips() -> None:
    rate = replace(SPLIT, concurrency=None, rate=20.0, ttft=0.5)
    best = served(rate).splits[0]
    fewer = [(p, w) for p in range(1, 8) for w in range(1, 9 - p) if 2 * (p + w) < best.chips]
    assert fewer
    for prefill_workers, workers in fewer:
        found = estimate(
            replace(
                rate, balance=False, ttft=None, prefill_workers=prefill_workers, workers=workers
            )
        )
        assert isinstance(found, Infeasible) or (found.ttft_s or 0.0) > 0.5


def test_large_machines_are_balanced_without_trying_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = replace(SPLIT, concurrency=None, rate=20.0, ttft=0.5)
    questions = (SPLIT, rate, replace(rate, tpot=0.0068))
    everything = [served(question).splits[0] for question in questions]
    monkeypatch.setattr(balance, "MOST_SPLITS", 0)
    assert [served(question).splits[0] for question in questions] == everything


@pytest.mark.parametrize(
    ("question", "resource"),
    [
        (replace(SPLIT, tpot=1e-3), "tpot"),
        (replace(SPLIT, ttft=1e-3), "ttft"),
        (replace(SPLIT, ttft=1e-3, tpot=1e-3), "ttft"),
        (replace(SPLIT, concurrency=None, rate=1e4), "chips"),
        (replace(POOLS, concurrency=None, rate=60.0), "prefill"),
        (replace(POOLS, concurrency=None, rate=60.0, prefill_workers=6, workers=1), "decode"),
        (replace(SERVE, model="llama-3.1-405b", prefill_workers=1, dp=1), "memory"),
    ],
)
def test_every_remedy_of_pools_helps(question: RunQuestion, resource: str) -> None:
    if resource == "decode":
        # Answers long enough that the cache of one worker is too small.
        question = replace(question, output=8192, input=512, rate=12.0)
    if resource == "memory":
        question = replace(question, sizing=Sizing(nodes=2))
    found = infeasible(question)
    assert found.resource == resource and found.remedies
    for remedy in found.remedies:
        words = remedy.split()
        values = {
            name[2:].replace("-", "_"): read(text)
            for name, text in zip(words[::2], words[1::2], strict=True)
        }
        if "rate" in values:
            values["concurrency"] = None
        assert isinstance(estimate(replace(question, **values)), RunEstimate)


def read(text: str) -> object:
    """The value of an option in a remedy."""
    if text.endswith("/s"):
        return float(text[:-2])
    if text.endswith("ms"):
        return float(text[:-2]) / 1e3
    return int(text) if text.isdigit() else DType(text)


def test_the_pool_without_room_is_named() -> None:
    """405B in bf16 is 101 GB a chip over eight, 51 GB over sixteen."""
    big = RunQuestion(
        model="llama-3.1-405b",
        machine="h100-hgx",
        sizing=Sizing(nodes=4),
        kind=EstimateKind.SERVE,
        tp=16,
        dp=1,
        prefill_tp=8,
        input=1024,
        output=1024,
        concurrency=8,
    )
    found = infeasible(big)
    assert "on a prefill worker" in found.message and "--prefill-tp 16" in found.remedies
    found = infeasible(replace(big, tp=8, prefill_tp=16))
    assert "on a decode worker" in found.message and "--tp 16" in found.remedies


def test_a_mix_of_one_kind_is_priced_as_its_lengths() -> None:
    lines = (RequestKind(input_len=1024, output_len=1024, weight=0.3),) * 2
    mix = priced(replace(SERVE, input=None, output=None, mix=lines))
    plain = priced(SERVE)
    assert mix.tokens_per_s == pytest.approx(plain.tokens_per_s)
    assert mix.ttft_s == pytest.approx(plain.ttft_s)
    assert mix.mfu == pytest.approx(plain.mfu)
    assert mix.memory.needed_bytes == pytest.approx(plain.memory.needed_bytes)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (replace(POOLS, tp=3), "--tp 3"),
        (replace(POOLS, prefill_tp=3), "prefill workers: .* --prefill-tp 3"),
        (replace(POOLS, prefill_tp=16), "prefill workers: .*48 chips"),
        (replace(POOLS, workers=6), "beside 6 that prefill"),
        (replace(POOLS, prefill_ep=2), "prefill workers: .* has no experts"),
        (replace(POOLS, prefill_workers=0), "--prefill-workers: 0"),
        (replace(POOLS, balance=True), "finds the numbers"),
        (replace(POOLS, ttft=1.0), "--ttft is a limit of --balance"),
        (replace(SPLIT, tpot=0.0), "--tpot: 0 is not greater"),
        (replace(SPLIT, tp=16, prefill_tp=None), "16 chips|32 chips"),
        (replace(SPLIT, tp=8, prefill_tp=16), "prefill and a decode worker|beside"),
        (replace(DECODE, prefill_tp=2), "--prefill-tp does not apply to --kind decode"),
        (replace(POOLS, mix=(RequestKind(input_len=1, output_len=1),)), "--mix gives the lengths"),
        (
            replace(POOLS, input=None, output=None, mix=(RequestKind(input_len=0, output_len=1),)),
            "--mix: 0 tokens in",
        ),
        (
            replace(
                POOLS, input=None, output=None, mix=(RequestKind(input_len=10**9, output_len=1),)
            ),
            "check the|over 16 times",
        ),
        (replace(POOLS, input=None), "--input is missing"),
    ],
)
def test_pools_without_an_answer(question: RunQuestion, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        estimate(question)
