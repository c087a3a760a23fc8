"""``planner export`` and ``planner import`` of training plans as a user types them."""

import json

import pytest

from planner.cli.main import run

PLAN = ["plan", "llama-3.1-8b", "--on", "h100-hgx", "--phase", "train", "--batch", "64"]
LINE = (
    "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 8 --bf16 "
    "--sequence-parallel --use-distributed-optimizer --recompute-granularity full --lr 1e-4 "
    "--micro-batch-size 1 --global-batch-size 64 --seq-length 4096"
)
ON = ["--model", "llama-3.1-8b", "--on", "h100-hgx"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "training.json"
    assert run([*PLAN, "--seq", "4k", "-o", str(path)]) == 0
    return str(path)


@pytest.mark.parametrize("engine", ["megatron", "torchtitan", "maxtext"])
def test_plans_are_exported_and_evaluated(layout, engine, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(["export", layout, "--to", engine, "--write", str(folder)]) == 0
    assert {"launch.sh", "hostfile.0", "rankfile.0", "layout.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert run(["verify", str(folder / "layout.json")]) == 0
    capsys.readouterr()
    file = {"torchtitan": "planner_config.py"}.get(engine, "launch.sh")
    back = tmp_path / "back.json"
    words = ["import", str(folder / file), "--from", engine, "--no-compare", "-o", str(back)]
    assert run([*words, *ON]) == 0
    first, second = (json.loads(p.read_text()) for p in (folder / "layout.json", back))
    assert first["degrees"] == second["degrees"]
    assert first["prediction"] == second["prediction"]


def test_a_slow_run_is_explained(capsys):
    assert run(["import", "--from", "megatron", "--flags", LINE, *ON]) == 0
    out = capsys.readouterr().out
    assert "Not read, and not priced: --lr" in out
    assert " x off the best one" in out and "the difference" in out
    assert "\n  recompute" in out or "\n  tp" in out


def test_json_of_a_run(capsys):
    assert run(["import", "--from", "megatron", "--flags", LINE, *ON, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chips"] == 8 and found["fits"] is True
    assert found["comparison"]["ratio"] >= found["comparison"]["expressible_ratio"] > 1


def test_serving_and_training_are_told_apart(layout, tmp_path, capsys):
    assert run(["export", layout, "--to", "vllm"]) == 2
    assert "serves, the layout trains" in capsys.readouterr().err
    assert run(["export", layout, "--to", "experts-sglang"]) == 2
    assert "error" in capsys.readouterr().err
    words = ["import", "--from", "megatron", "--flags", LINE, *ON]
    assert run([*words, "--context", "4k"]) == 2
    assert "--context does not apply to training" in capsys.readouterr().err
    assert run(words[:-4] + words[-2:]) == 2
    assert "--model is missing" in capsys.readouterr().err
    assert run([*words, "--flags", LINE.replace("8 pretrain", "64 pretrain")]) == 2
    assert "takes 64 chips, the machine has 8" in capsys.readouterr().err
