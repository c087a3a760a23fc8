"""Runs as given: utilisation, latencies, dollars, fits and what would help, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

import planner
from planner.catalog.machines import load_machine
from planner.catalog.model_config import load_model
from planner.cost.runs.inference_contexts import Contexts
from planner.cost.runs.model_flop import decode_flop, prefill_flop, train_flop
from planner.domain.dtypes import DType
from planner.domain.hardware import Sizing
from planner.domain.outcome import Infeasible
from planner.domain.run import Overlap, Recompute, ScheduleKind
from planner.errors import SpecError
from planner.pricing.case import make_case
from planner.run_api import EstimateKind, RunEstimate, RunQuestion, estimate
from planner.topology.build import build_topology

DECODE = RunQuestion(
    model="llama-3.1-70b",
    machine="h100-hgx",
    kind=EstimateKind.DECODE,
    tp=8,
    batch=64,
    context=4096,
)
TRAIN = RunQuestion(
    model="llama-3.1-70b",
    machine="h100-hgx",
    sizing=Sizing(nodes=4),
    kind=EstimateKind.TRAIN,
    tp=8,
    batch=64,
    seq=8192,
)
REQUEST = RunQuestion(
    model="llama-3.1-70b",
    machine="h100-hgx",
    kind=EstimateKind.REQUEST,
    tp=8,
    batch=16,
    input=2048,
    output=256,
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


def priced(question: RunQuestion) -> RunEstimate:
    found = estimate(question)
    assert isinstance(found, RunEstimate)
    return found


def test_flop_of_a_token_of_405b() -> None:
    """A layer: 2 x 16384^2 + 2 x 16384 x 1024 + 3 x 16384 x 53248 = 3,187,671,040 weights.

    126 layers and a head of 128256 x 16384: 403,747,897,344. Token i of 8,192 sees i tokens,
    4,096.5 in the mean, at 4 x 16384 FLOP each, three times over: 101,480,988,672 a token.
    """
    flop = train_flop(load_model("llama-3.1-405b"), 1, 8192)
    assert flop.multiplying_params == 126 * 3_187_671_040 + 128_256 * 16_384 == 403_747_897_344
    assert flop.weights_flop / 8192 == 6 * 403_747_897_344
    assert flop.attention_flop / 8192 == 3 * 126 * 4 * 16384 * 4096.5


def test_flop_of_a_pass_and_a_step_of_70b() -> None:
    """Layers 80 x 855,638,016, head 128256 x 8192; a cached token costs 4 x 8192 a layer."""
    model, body, head = load_model("llama-3.1-70b"), 80 * 855_638_016, 128_256 * 8_192
    first = prefill_flop(model, 2, 100, Contexts(mean=50))
    assert first.weights_flop == 2 * 2 * (100 * body + head)
    assert first.attention_flop == 2 * 80 * 4 * 8192 * (100 * 50 + 100 * 101 / 2)
    step = decode_flop(model, 3, Contexts(mean=1000))
    assert step.weights_flop == 2 * 3 * (body + head)
    assert step.attention_flop == 3 * 80 * 4 * 8192 * 1000


def test_experts_count_as_often_as_they_are_used() -> None:
    """Mixtral-8x22B: 2 of 8 experts; layer 2 x 6144^2 + 2 x 6144 x 1024 + router 6144 x 8.

    One expert is 3 x 6144 x 16384 = 301,989,888; the head 32,000 or more x 6144 (vocabulary).
    """
    model = load_model("mixtral-8x22b")
    layer = 2 * 6144**2 + 2 * 6144 * 1024 + 6144 * 8 + 2 * 301_989_888
    params = 56 * layer + model.vocab_size * 6144
    assert decode_flop(model, 1, Contexts(mean=0)).multiplying_params == params


def test_mfu_is_model_flop_over_time_chips_and_peak() -> None:
    found = priced(replace(TRAIN, activations=DType.FP8))
    flop = 64 * 8192 * (6 * (80 * 855_638_016 + 128_256 * 8_192) + 3 * 80 * 4 * 8192 * 4096.5)
    assert found.rate == "fp8"
    assert found.peak_flop_per_s == pytest.approx(1979e12, rel=1e-3)
    assert found.mfu == pytest.approx(flop / found.seconds / 32 / found.peak_flop_per_s)
    assert priced(TRAIN).rate == "bf16"
    assert found.tokens_per_s_per_chip == pytest.approx(64 * 8192 / found.seconds / 32)


def test_figures_of_a_decode_step() -> None:
    found = priced(replace(DECODE, price=2.0))
    assert found.tpot_s == found.seconds and found.ttft_s is None
    assert found.tokens_per_s == pytest.approx(64 / found.seconds)
    assert found.tokens_per_s_per_user == pytest.approx(1 / found.seconds)
    # 8 chips at 2 dollars an hour make tokens_per_s x 3600 tokens in it.
    dollars = 8 * 2.0 / (found.tokens_per_s * 3600) * 1e6
    assert found.usd_per_million_tokens == pytest.approx(dollars)
    assert sum(term.seconds for term in found.terms) == pytest.approx(found.seconds)


def test_whole_nodes_are_rented() -> None:
    part = priced(replace(DECODE, tp=4, dp=1, batch=8, weights=DType.FP8, price=1.0))
    assert (part.chips, part.machine_chips, part.rented_chips) == (4, 8, 8)
    dollars = 8 / 3600 / part.tokens_per_s * 1e6
    assert part.usd_per_million_tokens == pytest.approx(dollars)


def test_request_is_its_first_token_and_the_others() -> None:
    found = priced(REQUEST)
    assert found.ttft_s is not None and found.tpot_s is not None
    assert found.ttft_s + 255 * found.tpot_s == pytest.approx(found.seconds)
    # The engine's passes hold 8,192 tokens: four prompts.
    prefill = RunQuestion(
        model="llama-3.1-70b",
        machine="h100-hgx",
        kind=EstimateKind.PREFILL,
        tp=8,
        batch=16,
        seq=2048,
        chunk=8192,
    )
    assert found.ttft_s == pytest.approx(priced(prefill).seconds)
    alone = priced(replace(REQUEST, output=1))
    assert alone.ttft_s == alone.seconds and alone.tpot_s is None


def test_left_out_degrees_are_derived() -> None:
    assert priced(TRAIN).mesh.attn_dp == 4
    assert priced(replace(TRAIN, dp=2)).chips == 16
    moe = replace(DECODE, model="mixtral-8x22b", tp=4, batch=64)
    mesh = priced(moe).mesh
    assert (mesh.attn_dp, mesh.ep, mesh.expert_tp) == (2, 1, 4)
    mesh = priced(replace(moe, ep=8)).mesh
    assert (mesh.ep, mesh.expert_tp) == (8, 1)


def test_schedule_follows_stages_and_chunks() -> None:
    even = replace(TRAIN, pp=4)
    run = priced(even).run
    assert run is not None and run.schedule is ScheduleKind.ONE_F_ONE_B
    run = priced(replace(even, virtual_stages=2)).run
    assert run is not None and run.schedule is ScheduleKind.INTERLEAVED
    assert priced(TRAIN).run.schedule is ScheduleKind.NONE  # type: ignore[union-attr]


def test_bubble_of_a_training_pipeline() -> None:
    """1F1B: (p - 1) / m = 3 / 64 of the work, less in a step with an optimizer and ends."""
    found = priced(replace(TRAIN, pp=4, dp=1))
    idle = next(term.seconds for term in found.terms if term.name == "bubble")
    assert found.bubble == pytest.approx(idle / found.seconds)
    assert 0.7 * 3 / 67 < found.bubble < 3 / 67  # type: ignore[operator]
    assert priced(TRAIN).bubble is None


def test_what_helps_a_batch_that_is_too_large_is_exact() -> None:
    large = replace(DECODE, batch=2048, context=8192)
    found = priced(large)
    assert not found.memory.fits and found.seconds > 0
    text = next(change for change in found.changes if change.startswith("--batch"))
    batch = int(text.split()[1])
    assert priced(replace(large, batch=batch)).memory.fits
    assert not priced(replace(large, batch=batch + 1)).memory.fits


def test_recomputation_is_not_proposed_against_optimizer_states() -> None:
    """70.6e9 / 8 weights: 2 + 12 bytes each are 123 GB without ZeRO, whatever is recomputed."""
    found = priced(TRAIN)
    assert not found.memory.fits
    assert found.memory.optimizer_bytes + found.memory.weights_bytes > 85.5e9
    assert not priced(replace(TRAIN, recompute=Recompute.FULL)).memory.fits
    assert "--recompute full" not in found.changes


def test_what_fits_needs_no_change() -> None:
    assert priced(DECODE).memory.fits and priced(DECODE).changes == ()


def test_ideal_is_a_lower_bound_without_overheads() -> None:
    real, perfect = priced(DECODE), priced(replace(DECODE, ideal=True))
    assert perfect.seconds < real.seconds
    # 69.5e9 weights and 64 caches of 4096 x 327,680 B over 8 x 3.35e12 B/s; 160 all-reduces
    # of 64 x 8192 x 2 B, each 2 x 7/8 of it at 450e9 B/s.
    floor = (2 * 69.502e9 + 64 * 4096 * 327_680) / (8 * 3.35e12)
    floor += 160 * 1.75 * 64 * 8192 * 2 / 450e9
    assert floor < perfect.seconds < 1.04 * floor


def test_served_tokens_users_and_dollars_agree() -> None:
    found = priced(replace(SERVE, price=3.0))
    assert found.seconds == found.tpot_s
    assert found.ttft_s is not None and found.running is not None
    # Little: requests in flight = rate of requests x (TTFT + the other tokens).
    rate = found.tokens_per_s / 1024
    assert rate * (found.ttft_s + 1023 * found.seconds) == pytest.approx(32, rel=0.15)
    dollars = 8 * 3.0 / 3600 / found.tokens_per_s * 1e6
    assert found.usd_per_million_tokens == pytest.approx(dollars)
    assert sum(term.seconds for term in found.terms) == pytest.approx(found.seconds)


def test_open_loop_serves_what_arrives() -> None:
    found = priced(replace(SERVE, concurrency=None, rate=0.5))
    assert found.tokens_per_s == pytest.approx(512)


def test_a_served_model_without_room_has_no_price() -> None:
    """405B in bf16 is 812 GB over eight chips of 86 GB less a tenth."""
    found = estimate(replace(SERVE, model="llama-3.1-405b"))
    assert isinstance(found, Infeasible)
    assert found.resource == "memory" and "does not fit" in found.message
    assert "--weights fp8" in found.remedies


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (replace(DECODE, batch=None), "--batch is missing for --kind decode"),
        (replace(DECODE, context=None), "--context is missing"),
        (replace(DECODE, seq=10), "--seq does not apply to --kind decode"),
        (replace(DECODE, zero=1), "--zero does not apply"),
        (replace(TRAIN, context=10), "--context does not apply to --kind train"),
        (replace(REQUEST, context_spread=10), "--context-spread does not apply"),
        (replace(SERVE, pp=2), "--pp does not apply to --kind serve"),
        (replace(SERVE, rate=1.0), "either --concurrency or --rate"),
        (replace(SERVE, concurrency=None), "either --concurrency or --rate"),
        (replace(SERVE, prefix_hit=1.0), "--prefix-hit: 1 is no share"),
        (replace(SERVE, engine="current"), "no served engine is called 'current'"),
        (replace(DECODE, engine="vllm"), "--engine: unknown 'vllm'"),
        (replace(DECODE, tp=3), "tp 3 is 3 chips, which do not divide the 8"),
        (replace(DECODE, tp=3, dp=1), "64 attention heads .* do not divide by --tp 3"),
        (replace(DECODE, dp=2), "tp 8 x dp 2 is 16 chips, h100-hgx has 8"),
        (replace(DECODE, tp=0), "--tp: 0 is not in 1"),
        (replace(DECODE, ep=8), "has no experts"),
        (replace(DECODE, tp=4, batch=3), "--batch 3 does not divide over 2 data-parallel ranks"),
        (replace(DECODE, weights=DType.FP32, machine="mi300x-hgx", context=10**8), "check the"),
        (replace(DECODE, model="llama"), "llama"),
        (replace(TRAIN, microbatch=3), "x microbatches of 3"),
        (replace(TRAIN, schedule=ScheduleKind.GPIPE), "more than one stage"),
        (replace(TRAIN, pp=4, schedule=ScheduleKind.NONE), "needs a schedule"),
        (replace(TRAIN, pp=4, schedule=ScheduleKind.INTERLEAVED), "2 chunks or more"),
        (replace(TRAIN, pp=4, virtual_stages=40), "pipeline chunks"),
        (replace(TRAIN, zero=4), "--zero: 4 is not in 0 to 3"),
        (replace(DECODE, model="mixtral-8x22b", ep=3), "ep 3 x expert-tp 1 chips do not divide"),
        (replace(DECODE, price=float("nan")), "--price: nan"),
    ],
)
def test_questions_without_an_answer(question: RunQuestion, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        estimate(question)


def test_a_batch_that_does_not_divide_is_told_its_neighbours() -> None:
    with pytest.raises(SpecError) as caught:
        estimate(replace(TRAIN, batch=66))
    assert "--batch 64 or 68" in caught.value.remedy


def test_formats_that_a_chip_lacks_are_named() -> None:
    spec = load_machine("h100-hgx")
    chip = replace(spec.chip, peak_flop_per_s=(("bf16", 1e15),))
    topology = build_topology(replace(spec, chip=chip))
    question = replace(DECODE, activations=DType.FP32)
    with pytest.raises(SpecError, match="does not multiply in fp32"):
        make_case(question, load_model("llama-3.1-70b"), topology)


def test_overlap_reaches_the_cost_model() -> None:
    shown = priced(replace(TRAIN, overlap=frozenset()))
    hidden = priced(replace(TRAIN, overlap=frozenset({Overlap.TP, Overlap.DP})))
    assert hidden.seconds < shown.seconds


def test_facade() -> None:
    assert planner.estimate is estimate
    assert planner.RunQuestion is RunQuestion and planner.RunEstimate is RunEstimate
