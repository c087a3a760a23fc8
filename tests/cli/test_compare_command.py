"""``planner compare`` as a user types it: output, files, exit codes, messages."""

import csv
import io
import json

import pytest

from planner.cli.main import run

MOE = ["compare", "deepseek-v3", "--on", "gb200-nvl72", "--context", "8k", "--no-break-evens"]
DENSE = ["compare", "llama-3.1-70b", "--on", "h100-hgx", "--nodes", "2", "--context", "8k"]
TRAIN = [
    *("compare", "llama-3.1-8b", "--on", "h100-hgx", "--phase", "train", "--batch", "64"),
    *("--seq", "4k", "--strategies", "zero3+dp,pp4+tp+1f1b"),
]


def ask(capsys, *words):
    code = run(list(words))
    found = capsys.readouterr()
    return code, found.out, found.err


def test_figures_stand_side_by_side(capsys):
    code, out, _ = ask(capsys, *DENSE, "--strategies", "tp,tp+pp")
    assert code == 0
    for word in ("tokens/s/user", "KV cache per chip", "proven gap", "Break-evens", "better than"):
        assert word in out


def test_defaults_name_families_of_the_model(capsys):
    code, out, _ = ask(capsys, *DENSE, "--no-break-evens", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert {row["strategy"] for row in rows} == {"dp", "tp", "pp", "tp+pp"}
    best = max(rows, key=lambda row: float(row["tokens_per_s_per_chip"] or 0))
    assert best == rows[0]


def test_json_has_every_candidate_and_no_layout(capsys):
    code, out, _ = ask(capsys, *MOE, "--strategies", "ep,wide-ep", "--json")
    found = json.loads(out)
    assert code == 0
    assert [one["name"] for one in found["candidates"]] == ["ep", "wide-ep"]
    assert "one rack" in found["candidates"][1]["infeasible"]["message"]
    assert "layout" not in found["candidates"][0]


@pytest.mark.parametrize("name", ["plot.png", "plot.svg"])
def test_a_plot_is_written_the_same_each_time(capsys, tmp_path, name):
    contents = []
    for _ in range(2):
        code, _, err = ask(capsys, *MOE, "--strategies", "ep", "-o", str(tmp_path / name))
        assert code == 0 and f"wrote {tmp_path / name}" in err
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")


def test_layout_files_are_candidates(capsys, tmp_path):
    path = str(tmp_path / "mine.json")
    plan = ["plan", *DENSE[1:], "--tp", "8", "-o", path]
    assert run(plan) == 0
    capsys.readouterr()
    code, out, _ = ask(capsys, *DENSE, "--strategies", f"tp+pp,{path}", "--no-break-evens")
    assert code == 0 and path in out


def test_layouts_of_the_other_phase_are_refused(capsys, tmp_path):
    decode, train = str(tmp_path / "decode.json"), str(tmp_path / "train.json")
    assert run(["plan", *DENSE[1:], "--tp", "8", "-o", decode]) == 0
    assert run(["plan", *TRAIN[1:-2], "-o", train]) == 0
    capsys.readouterr()
    code, _, err = ask(capsys, *DENSE, "--strategies", train)
    assert code == 2 and "is a layout of training" in err
    code, _, err = ask(capsys, *TRAIN[:-1], decode)
    assert code == 2 and "is no layout of training" in err


def test_training_families(capsys):
    code, out, _ = ask(capsys, *TRAIN, "--json")
    found = json.loads(out)
    assert code == 0 and found["phase"] == "train"
    assert {one["name"] for one in found["candidates"]} == {"zero3+dp", "pp4+tp+1f1b"}
    assert all(one["figures"]["mfu"] > 0 for one in found["candidates"])


def test_prefill_families(capsys):
    words = ["--phase", "prefill", "--seq", "4k", "--ttft", "1s", "--strategies", "tp8,tp4"]
    code, out, _ = ask(capsys, *DENSE[:4], *words, "--json")
    found = json.loads(out)
    assert code == 0 and found["phase"] == "prefill" and found["length_tokens"] == 4096
    assert {own["lever"] for own in found["flips"]} >= {"seq", "hbm_bytes", "batch"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strategies", "turbo"], "'turbo' in 'turbo' is not one of"),
        (["--strategies", "ep,,tp"], "has an empty name"),
        (["--strategies", ""], "has an empty name"),
        (["--strategies", "ep", "--pp", "4"], "--pp leaves nothing of strategy 'ep'"),
        (["--strategies", "nowhere.json"], "no such file"),
        (["--price", "0"], "must be greater than zero"),
        (["--json", "--csv"], "exclude each other"),
        (["-o", "plot.pdf"], "ends neither in .png nor in .svg"),
        (["-o", "nowhere/plot.png"], "there is no folder"),
        (["--seq", "4k"], "--seq does not apply to --phase decode"),
        (["--zero", "1"], "--zero belongs to --phase train"),
    ],
)
def test_bad_input_is_explained(capsys, words, message):
    code, out, err = ask(capsys, *MOE, *words)
    assert code == 2 and message in err and not out


def test_nothing_fits(capsys):
    code, out, err = ask(capsys, *MOE, "--tpot", "1us", "--json")
    assert code == 3
    assert json.loads(out)["resource"] == "tpot"
    assert "no strategy of ep, tp, pp, ep+pp has a layout" in err
