"""``planner workload``, and ``--trace`` of plans and estimates."""

import json

import pytest

from planner.cli.main import run

ROWS = (
    '{"timestamp": 0, "input_length": 1024, "output_length": 100, "hash_ids": [1, 2]}\n'
    '{"timestamp": 2000, "input_length": 1024, "output_length": 300, "hash_ids": [1, 3]}\n'
)
PLAN = ["plan", "llama-3.1-8b", "--on", "h100-hgx", "--tpot", "20ms", "--json"]


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(ROWS)
    return str(path)


def test_a_trace_in_numbers(trace, tmp_path, capsys):
    out = tmp_path / "mix.csv"
    assert run(["workload", trace, "-o", str(out)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Mooncake trace, 2 requests" in text
    # 512 of 2,048 prompt tokens were seen before; one interval of two seconds.
    assert "25.0 %" in text and "--rate 0.5/s" in text and "--prefix-hit 0.25" in text
    assert out.read_text() == "input,output,weight\n1024,100,1\n1024,300,1\n"
    assert run(["workload", trace, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rate_per_s"] == 0.5 and found["output_tokens"]["mean"] == 200.0


def test_plans_take_the_context_of_decode(trace, capsys):
    # (100 x 1074 + 300 x 1174) / 400 = 1149.
    assert run([*PLAN, "--trace", trace]) == 0
    traced = capsys.readouterr().out
    assert json.loads(traced)["inputs"]["context_tokens"] == 1149
    assert run([*PLAN, "--context", "1149"]) == 0
    assert capsys.readouterr().out == traced


def test_estimates_take_contexts_lengths_and_rates(trace, capsys):
    base = ["estimate", "llama-3.1-8b", "--on", "h100-hgx", "--tp", "8", "--json"]
    assert run([*base, "--kind", "decode", "--batch", "8", "--trace", trace]) == 0
    traced = capsys.readouterr().out
    # Inside an answer 100^2 / 12 and 300^2 / 12, between the two 75^2 and 25^2, a quarter and three
    # quarters of each: sqrt(7708) = 88.
    words = ["--context", "1149", "--context-spread", "88"]
    assert run([*base, "--kind", "decode", "--batch", "8", *words]) == 0
    assert capsys.readouterr().out == traced
    assert run([*base, "--kind", "serve", "--trace", trace]) == 0
    served = capsys.readouterr().out
    assert run([*base, "--kind", "serve", "--trace", trace, "--rate", "0.5/s"]) == 0
    assert capsys.readouterr().out == served
    assert run([*base, "--kind", "request", "--batch", "2", "--trace", trace]) == 0


BAD = [
    ([*PLAN, "--context", "4k"], "--trace gives --context"),
    (["plan", "llama-3.1-8b", "--on", "h100-hgx", "--phase", "train", "--batch", "8", "--seq",
      "4k"], "--trace does not apply"),
    (["estimate", "llama-3.1-8b", "--on", "h100-hgx", "--kind", "train", "--batch", "8", "--seq",
      "4k"], "--trace does not apply to train"),
    (["estimate", "llama-3.1-8b", "--on", "h100-hgx", "--kind", "serve", "--input", "4k"],
     "--trace gives --input"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), BAD)
def test_what_a_trace_gives_is_not_given_twice(words, message, trace, capsys):
    assert run([*words, "--trace", trace]) == 2
    assert message in capsys.readouterr().err
