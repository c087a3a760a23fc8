"""Separate pools, imported and exported as a user types them."""

import json
from pathlib import Path

import pytest

from planner.cli.main import run

START = "python3 -m sglang.launch_server --model-path Qwen/Qwen3-30B-A3B"
FLAGS = (
    f"{START} --tp 8 --disaggregation-mode prefill --chunked-prefill-size 8192\n"
    f"{START} --tp 8 --attn-dp-size 8 --ep 8 --ep-num-redundant-experts 8 "
    "--max-running-requests 512 --disaggregation-mode decode\n"
)
ON = ["--on", "h100-hgx", "--nodes", "2"]
LENGTHS = ["--input", "2k", "--output", "512"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    path = tmp_path_factory.mktemp("pools") / "pools.json"
    words = ["import", "--from", "sglang", "--flags", FLAGS, *ON, *LENGTHS, "--no-compare"]
    assert run([*words, "-o", str(path)]) == 0
    return str(path)


def test_pools_are_priced_together(layout, capsys):
    assert run(["verify", layout]) == 0
    assert run(["evaluate", layout]) == 0
    found = json.loads(Path(layout).read_text())
    # 8,192 tokens of a pass are four prompts of 2,048.
    assert found["prefill"]["prediction"]["batch"] == 4
    assert found["decode"]["prediction"]["batch"] == 512
    assert found["prediction"]["chips_used"] == 16


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_exports_come_back(layout, engine, tmp_path, capsys):
    folder, back = tmp_path / "run", tmp_path / "back.json"
    assert run(["export", layout, "--to", engine, "--write", str(folder)]) == 0
    words = ["import", str(folder / "launch.sh"), "--from", engine, *ON, *LENGTHS]
    for name in ("prefill.0", "decode.1"):
        words += ["--hosts", str(folder / f"rankfile-{name}")]
    assert run([*words, "--no-compare", "-o", str(back)]) == 0
    first, second = (json.loads(path.read_text()) for path in (folder / "layout.json", back))
    for pool in ("prefill", "decode"):
        assert first[pool]["degrees"] == second[pool]["degrees"]
    assert first["prediction"] == second["prediction"]


def test_experts_are_those_of_decode(layout, capsys):
    assert run(["export", layout, "--to", "experts-ascend"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layer_list"][0]["device_count"] == 8


def test_better_pools_are_found(capsys):
    words = ["import", "--from", "sglang", "--flags", FLAGS, *ON, *LENGTHS]
    assert run([*words, "--gap", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "limited by" in out and "the best one" in out
    assert "x off" not in out or "  decode " in out or "  prefill " in out
    assert run([*words, "--no-compare", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chips"] == 16 and found["comparison"] is None
    assert found["current"]["prefill"]["attn_tp"] == 8


BAD = [
    (["--input", "2k"], "--output is missing"),
    ([*LENGTHS, "--context", "4k"], "--context does not apply"),
    ([*LENGTHS, "--nodes", "1"], "more than the 8 chips"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_what_pools_need_is_asked_for(words, message, capsys):
    base = ["import", "--from", "sglang", "--flags", FLAGS, *ON, "--no-compare"]
    assert run([*base, *words]) == 2
    assert message in capsys.readouterr().err


def test_lengths_belong_to_pools(capsys):
    words = ["import", "--from", "sglang", "--flags", f"{START} --tp 8", *ON, "--context", "4k"]
    assert run([*words, "--input", "4k"]) == 2
    assert "--input belongs to separate pools" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_manifests_of_both_pools_are_read(layout, engine, tmp_path):
    folder, back = tmp_path / "run", tmp_path / "back.json"
    assert run(["export", layout, "--to", engine, "--write", str(folder)]) == 0
    words = ["import", str(folder / "lws.yaml"), "--from", engine, *ON, *LENGTHS, "--no-compare"]
    assert run([*words, "-o", str(back)]) == 0
    first, second = (json.loads(path.read_text()) for path in (folder / "layout.json", back))
    for pool in ("prefill", "decode"):
        assert first[pool]["degrees"] == second[pool]["degrees"]
    assert first["prediction"]["requests_per_s"] == second["prediction"]["requests_per_s"]


def test_plans_of_pools_take_the_lengths_of_a_trace(tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    trace.write_text("input,output\n1000,100\n3000,300\n")
    plan = [
        "plan",
        "llama-3.1-8b",
        "--on",
        "h100-hgx",
        "--phase",
        "serve",
        "--gap",
        "0.2",
        "--json",
    ]
    pins = ["--tp", "2", "--pp", "1", "--prefill-tp", "2", "--prefill-pp", "1"]
    assert run([*plan, *pins, "--trace", str(trace)]) == 0
    inputs = json.loads(capsys.readouterr().out)["inputs"]
    assert (inputs["input_len"], inputs["output_len"]) == (2000, 200)
    assert run([*plan, *pins, "--trace", str(trace), "--input", "2k"]) == 2
    assert "--trace gives --input" in capsys.readouterr().err
