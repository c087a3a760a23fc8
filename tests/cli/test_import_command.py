"""``planner import`` as a user types it."""

import json

import pytest

from planner.cli.main import run

LINE = "vllm serve Qwen/Qwen3-30B-A3B -tp 8 --max-num-seqs 256 --enable-expert-parallel --seed 1\n"
ON = ["--on", "h100-hgx", "--context", "4k"]


@pytest.fixture
def serve(tmp_path):
    path = tmp_path / "serve.sh"
    path.write_text(LINE)
    return str(path)


def test_the_difference_is_explained(serve, capsys):
    assert run(["import", serve, "--from", "vllm", *ON]) == 0
    out = capsys.readouterr().out
    assert "qwen3-30b-a3b on h100-hgx with vllm" in out
    assert "Not read, and not priced: --seed" in out
    assert " x off the best one" in out and "difference" in out
    assert "  --tensor-parallel-size  8 -> 1\n" in out


def test_a_deployment_becomes_a_layout(serve, tmp_path, capsys):
    out = tmp_path / "layout.json"
    assert run(["import", serve, "--from", "vllm", *ON, "--no-compare", "-o", str(out)]) == 0
    assert "Step, sum time model" in capsys.readouterr().out
    assert run(["verify", str(out)]) == 0
    assert run(["evaluate", str(out)]) == 0


def test_json(capsys):
    words = ["import", "--from", "sglang", "--flags", "--tp 8 --ep 8 --max-running-requests 256"]
    assert run([*words, "--model", "qwen3-30b-a3b", *ON, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chips"] == 8 and found["current"]["degrees"]["attn_tp"] == 8
    compared = found["comparison"]
    assert compared["ratio"] >= compared["expressible_ratio"] >= compared["changes_gain"] * 0.99
    assert all(change["now"] != change["better"] for change in compared["changes"])


def test_an_export_comes_back_with_its_hosts(tmp_path, capsys):
    plan = ["plan", "qwen3-30b-a3b", "--on", "h100-hgx", "--nodes", "2", "--context", "4k"]
    pins = ["--tp", "1", "--dp", "8", "--ep", "8", "--pp", "1", "--exclude", "node:n0"]
    layout, folder = tmp_path / "layout.json", tmp_path / "run"
    assert run([*plan, *pins, "-o", str(layout)]) == 0
    assert run(["export", str(layout), "--to", "sglang", "--write", str(folder)]) == 0
    capsys.readouterr()
    back = tmp_path / "back.json"
    words = ["import", str(folder / "launch.sh"), "--from", "sglang", "--no-compare", "-o"]
    hosts = ["--hosts", str(folder / "rankfile.0"), "--nodes", "2"]
    assert run([*words, str(back), *ON, *hosts]) == 0
    first, second = (json.loads(path.read_text()) for path in (layout, back))
    assert first["ranks"] == second["ranks"] and first["ranks"][0]["chip"] == "n1/c0"
    assert first["degrees"] == second["degrees"]
    assert first["prediction"] == second["prediction"]


BAD = [
    ([], "name a FILE, or write --flags"),
    (["--flags", "-tp 8"], "--model"),
    (["--flags", "vllm serve nobody/nothing"], "'nobody/nothing' is no model"),
    (["--flags", "-tp x", "--model", "qwen3-30b-a3b"], "--flags:1: field '--tensor-parallel-size'"),
    (["--flags", "-tp 64", "--model", "qwen3-30b-a3b"], "takes 64 chips"),
    (["nowhere.sh"], "nowhere.sh: no such file"),
    (["--flags", "-tp 8", "--model", "qwen3-30b-a3b", "--gap", "2"], "--gap"),
    (["--flags", "-tp 8", "--model", "qwen3-30b-a3b", "--hosts", "nowhere"], "nowhere: no such"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_input_says_what_to_do(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["import", "--from", "vllm", *ON, *words]) == 2
    assert message in capsys.readouterr().err


def test_the_context_is_asked_for(serve, capsys):
    assert run(["import", serve, "--from", "vllm", "--on", "h100-hgx"]) == 2
    assert "--context is missing" in capsys.readouterr().err
