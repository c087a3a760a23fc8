"""Plans of prefill: a pass derived by hand, and what more time, links or chips must do."""

import json
import math
from dataclasses import replace

import pytest

from planner import DegreeLimits, Infeasible, Question, plan
from planner.cli.main import run
from planner.domain.workload import Objective, Phase
from planner.errors import SpecError

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 2048,
    "vocab_size": 8000,
    "tie_word_embeddings": False,
    "max_position_embeddings": 1 << 20,
    "torch_dtype": "bfloat16",
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}
ONE_CHIP = DegreeLimits(
    tp=frozenset({1}), cp=frozenset({1}), pp=frozenset({1}), replicas=frozenset({1})
)


def prefill(model="mixtral-8x7b", machine="h100-hgx", **options):
    return plan(Question(**({"model": model, "machine": machine} | options), phase=Phase.PREFILL))


def test_a_pass_of_one_layer_by_hand(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    found = prefill(
        str(path), seq_len=4096, context_tokens=1024, batch=2, ideal=True, limits=ONE_CHIP
    )
    seconds = {term.name: term.seconds for term in found.prediction.terms}
    # 2 x 4096 tokens; an H100 has 989.4 TFLOP/s of bf16 and 3.35 TB/s.
    # attention: q, k, v, o of 1024 x 1024; ffn: three of 1024 x 2048; 2 FLOP per weight.
    peak, stream, tokens = 989.4e12, 3.35e12, 2 * 4096
    assert seconds["attention_projections"] == pytest.approx(2 * tokens * 4 * 1024**2 / peak)
    assert seconds["dense_ffn"] == pytest.approx(2 * tokens * 3 * 1024 * 2048 / peak)
    # Token i of a prompt sees 1024 + i: 4096 x 1024 + 4096 x 4097 / 2 pairs, each 4 x 128 FLOP
    # in each of 8 heads.
    pairs = 4096 * 1024 + 4096 * 4097 // 2
    assert seconds["attention_core"] == pytest.approx(2 * pairs * 4 * 128 * 8 / peak)
    # Only the last token of each prompt has logits: the head is read once, 8000 x 1024 x 2 bytes.
    assert seconds["head"] == pytest.approx(8000 * 1024 * 2 / stream)
    assert seconds["embedding"] == pytest.approx(tokens * 1024 * 2 / stream)
    assert found.prediction.step_s == pytest.approx(math.fsum(seconds.values()), rel=1e-9)
    assert found.prediction.tokens_per_s == pytest.approx(tokens / found.prediction.step_s)
    # Keys and values of 1024 + 4096 tokens, 8 heads of 128, 2 bytes, two prompts.
    assert found.prediction.memory.kv_bytes == pytest.approx(2 * 5120 * 2 * 8 * 128 * 2)


def test_a_stream_through_stages_makes_one_hop_less_than_stages():
    limits = DegreeLimits(pp=frozenset({4}), tp=frozenset({2}), cp=frozenset({1}))
    found = prefill(seq_len=2048, batch=4, limits=limits)
    prediction = found.prediction
    hops = next(t.seconds for t in prediction.terms if t.name == "pipeline_hops")
    m = found.degrees.microbatches
    total = sum(prediction.stage_s)
    assert prediction.step_s == pytest.approx(
        max(total + hops, m * max(prediction.stage_s)), rel=1e-9
    )
    # The same stages in decode make four hops; a hop of one prompt takes a third of these.
    alone = prefill(seq_len=2048, batch=1, limits=replace(limits, microbatches=frozenset({1})))
    assert alone.prediction.bubble == pytest.approx(
        1 - sum(alone.prediction.stage_s) / 4 / alone.prediction.step_s
    )


def test_a_short_prompt_waits_for_the_host():
    # Eight chips need less for one token than the host, which submits every operation of the 32
    # layers in 22 us: what the tables leave of the step is a whole number of operations each.
    limits = DegreeLimits(tp=frozenset({8}), overlap=frozenset({0}))
    found = prefill("llama-3.1-8b", seq_len=1, objective=Objective.LATENCY, limits=limits)
    seconds = {term.name: term.seconds for term in found.prediction.terms}
    assert seconds["host_launch"] > 0
    layers = found.prediction.step_s - seconds["head"] - seconds["embedding"]
    operations = layers / 32 / 22e-6
    assert operations == pytest.approx(round(operations), abs=1e-6)
    assert operations > 10
    ideal = prefill("llama-3.1-8b", seq_len=1, objective=Objective.LATENCY, ideal=True)
    assert all(term.name != "host_launch" for term in ideal.prediction.terms)


def test_a_longer_time_to_the_first_token_is_never_worse():
    rates = [
        prefill(seq_len=2048, ttft_s=limit, gap=0.0).prediction.tokens_per_s
        for limit in (0.1, 0.2, 0.5, 2.0)
    ]
    assert rates == sorted(rates)


def test_more_bandwidth_is_never_slower(tmp_path):
    rates = []
    for factor in (0.5, 1.0, 2.0):
        path = tmp_path / f"{factor}.toml"
        path.write_text(f'extends = "h100-hgx"\n[chip]\nhbm_GB_per_s = {3350 * factor}\n')
        found = prefill("llama-3.1-8b", str(path), seq_len=300, ttft_s=0.05, gap=0.0)
        rates.append(found.prediction.tokens_per_s)
    assert rates == sorted(rates)


def test_sharing_a_prompt_answers_sooner():
    one = prefill("llama-3.1-8b", seq_len=65_536, limits=DegreeLimits(cp=frozenset({1})), batch=1)
    many = prefill("llama-3.1-8b", seq_len=65_536, batch=1, objective=Objective.LATENCY)
    assert many.degrees.cp > 1
    assert many.prediction.step_s < one.prediction.step_s


def test_a_limit_below_the_floor_says_so():
    found = prefill(seq_len=4096, ttft_s=1e-3)
    assert isinstance(found, Infeasible)
    assert found.resource == "ttft"
    assert any(remedy.startswith("--ttft") for remedy in found.remedies)
    # What the remedy says is possible.
    floor = float(found.needed.split()[0]) * 1e-3
    assert not isinstance(prefill(seq_len=4096, ttft_s=floor * 1.02), Infeasible)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "--seq"),
        ({"seq_len": 0}, "--seq"),
        ({"seq_len": 8, "tpot_s": 1.0}, "--tpot"),
        ({"seq_len": 8, "acceptance": 0.5}, "--acceptance"),
        ({"seq_len": 8, "context_tokens": -1}, "--context"),
        ({"seq_len": 10**9}, "--seq"),
    ],
)
def test_questions_without_sense_are_refused(options, word):
    with pytest.raises(SpecError, match=word):
        prefill(**options)


def test_the_command_plans_prices_and_verifies(tmp_path, capsys):
    path = str(tmp_path / "prefill.json")
    asked = ["mixtral-8x7b", "--on", "h100-hgx", "--phase", "prefill", "--seq", "2k"]
    assert run(["plan", *asked, "--ttft", "500ms", "-o", path]) == 0
    assert "step (TTFT)" in capsys.readouterr().out
    assert run(["verify", "--certificate", path]) == 0
    assert run(["evaluate", path, "--json"]) == 0
    with open(path, "rb") as file:
        assert capsys.readouterr().out.endswith(file.read().decode())
    assert run(["evaluate", *asked, "--tp", "2", "--batch", "16"]) == 0
    assert "TP2" in capsys.readouterr().out
