"""The commands as a user types them: output, files, exit codes, messages."""

import json

import jsonschema
import pytest

from planner.cli.main import COMMANDS, run
from planner.cli.options import parse_values
from planner.errors import SpecError

RACK = ["plan", "deepseek-v3", "--on", "gb200-nvl72", "--context", "8192", "--tpot", "20ms"]
SMALL = ["plan", "llama-3.1-8b", "--on", "h100-hgx", "--context", "8k", "--tpot", "50ms"]


@pytest.fixture(scope="module")
def rack_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "layout.json"
    assert run([*RACK, "-o", str(path)]) == 0
    return path


def test_plan_prints_plain_text_with_every_part(capsys):
    assert run(RACK) == 0
    out = capsys.readouterr().out
    for part in (
        "EP72",
        "tokens/s/chip",
        "$/M tokens",
        "> attention core",
        "KV cache",
        "Certificate",
        "Why:",
        "EP64",
        "B*",
        "largest batch that fits",
    ):
        assert part in out
    assert "\x1b" not in out


def test_same_question_writes_the_same_bytes(rack_file, tmp_path):
    again = tmp_path / "again.json"
    assert run([*RACK, "-o", str(again)]) == 0
    assert again.read_bytes() == rack_file.read_bytes()


def test_layout_file_follows_its_schema_and_is_complete(rack_file, capsys):
    assert run(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    layout = json.loads(rack_file.read_text())
    jsonschema.validate(layout, schema)
    assert len(layout["ranks"]) == 72
    assert layout["certificate"]["gap"] <= 0.01
    assert layout["prediction"]["step_s"] <= 20e-3
    assert {len(m["slots"]) for m in layout["experts"]} == {72}
    assert sum(len(m["layers"]) for m in layout["experts"]) == 58


def test_json_equals_the_file(rack_file, capsys):
    assert run([*RACK, "--json"]) == 0
    assert capsys.readouterr().out.encode() == rack_file.read_bytes()


def test_verify_and_evaluate_a_file(rack_file, capsys):
    assert run(["verify", str(rack_file)]) == 0
    assert capsys.readouterr().out == "valid\n"
    assert run(["evaluate", str(rack_file), "--json"]) == 0
    assert capsys.readouterr().out.encode() == rack_file.read_bytes()


def edit(path, change, tmp_path):
    layout = json.loads(path.read_text())
    change(layout)
    target = tmp_path / "edited.json"
    target.write_text(json.dumps(layout))
    return str(target)


def drop_expert(layout):
    for group in layout["experts"][0]["slots"]:
        if 7 in group:
            group.remove(7)


def faster(layout):
    layout["prediction"]["step_s"] /= 2


def move_rank(layout):
    layout["ranks"][1]["chip"] = layout["ranks"][0]["chip"]


def shrink_stage(layout):
    layout["stages"][0]["end_layer"] = 60


def tighten(layout):
    layout["inputs"]["tpot_s"] = 1e-3


def lie_about_the_gap(layout):
    layout["certificate"]["bound"] = 1e-9


def lie_about_memory(layout):
    layout["prediction"]["memory"]["kv_bytes"] = 1.0


def lie_about_a_term(layout):
    layout["prediction"]["terms"][0]["seconds"] = 0.0


def many_microbatches(layout):
    layout["degrees"]["microbatches"] = 10**18


def test_evaluating_an_edited_file_drops_what_was_proved(rack_file, tmp_path, capsys):
    def halve(layout):
        split = layout["batches"][0]["sequences"]
        split[0] = [count // 2 for count in split[0]]

    assert run(["evaluate", edit(rack_file, halve, tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Certificate" not in out and "Why:" not in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lie_about_the_gap, "certificate: gap"),
        (lie_about_memory, "prediction.memory.kv_bytes"),
        (lie_about_a_term, "prediction.terms[0].seconds"),
        (many_microbatches, "batch is not microbatches x attn_dp"),
        (drop_expert, "experts [7] have no copy"),
        (faster, "prediction.step_s"),
        (move_rank, "is used 2 times"),
        (shrink_stage, "stages end at layer 60 of 61"),
        (tighten, "the limit is 1.00 ms"),
    ],
)
def test_verify_names_what_an_edit_broke(rack_file, tmp_path, capsys, change, message):
    assert run(["verify", edit(rack_file, change, tmp_path)]) == 1
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "deepsek-v3", "--on", "gb200-nvl72", "--context", "8k"], "deepseek-v3"),
        (["plan", "deepseek-v3", "--on", "gb200-nvl7", "--context", "8k"], "gb200-nvl72"),
        ([*SMALL, "--nodes", "0"], "nodes"),
        ([*SMALL, "--racks", "2"], "rack"),
        ([*SMALL[:-1], "20"], "--tpot"),
        ([*SMALL[:-1], "-20ms"], "--tpot"),
        ([*SMALL, "--tp", "4..1"], "--tp"),
        ([*SMALL, "--tp", "x"], "--tp"),
        ([*SMALL, "--batch", "-1"], "--batch"),
        ([*SMALL, "--gap", "2"], "--gap"),
        ([*SMALL, "--phase", "train"], "train"),
        ([*SMALL, "--phase", "prefill"], "prefill"),
        ([*SMALL, "--phase", "serve"], "serve"),
        ([*SMALL, "--ttft", "1s"], "--ttft"),
        ([*SMALL, "--cp", "0"], "--cp"),
        ([*SMALL, "--draft", "2"], "--acceptance"),
        ([*SMALL, "--acceptance", "1.5"], "--acceptance"),
        ([*SMALL, "--no-overlap", "--overlap", "ep"], "--overlap"),
        ([*SMALL, "--loads", "x.json"], "--loads"),
        ([*SMALL, "-o", "missing-folder/layout.json"], "missing-folder"),
        (["plan", "llama-3.1-8b", "--on", "h100-hgx"], "--context"),
        (["plan", "llama-3.1-8b", "--context", "8k"], "--on"),
        (["plam"], "plan"),
        (["verify", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_bad_input_is_named_and_exits_with_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_fit_says_what_is_missing(capsys):
    code = run(["plan", "deepseek-v3", "--on", "h100-hgx", "--context", "8k"])
    err = capsys.readouterr().err
    assert code == 3
    assert "HBM" in err and "missing" in err and "--nodes 2" in err
    # The remedy is true: two nodes do hold it.
    assert run(["plan", "deepseek-v3", "--on", "h100-hgx", "--context", "8k", "--nodes", "2"]) == 0


def test_a_limit_below_the_floor_names_the_floor_and_its_term(capsys, tmp_path):
    target = tmp_path / "layout.json"
    code = run([*RACK[:-1], "1ms", "-o", str(target)])
    err = capsys.readouterr().err
    assert code == 3
    assert "no layout steps faster than" in err and "spends most on" in err
    assert not target.exists()


def test_infeasible_as_json(capsys):
    assert run([*RACK[:-1], "1ms", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["resource"] == "tpot"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    assert run([name, "-h"]) == 0
    assert "Example: planner " in capsys.readouterr().out


def test_topology_show_prints_two_racks(capsys):
    assert run(["topology", "show", "gb200-nvl72", "--racks", "2"]) == 0
    out = capsys.readouterr().out
    # 2 racks x 72 chips x 18 links; drain 199.7 GB / 8 TB/s = 25.0 ms.
    assert "144" in out and "2,592" in out and "2 x 72" in out and "25.0 ms" in out


def test_catalogues_are_listed(capsys):
    assert run(["models"]) == 0
    assert "deepseek-v3" in capsys.readouterr().out
    assert run(["topologies", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 25


def test_degree_grammar():
    assert parse_values("8", "--tp") == {8}
    assert parse_values("64,72", "--ep") == {64, 72}
    assert parse_values("1..3,8", "--pp") == {1, 2, 3, 8}
    assert parse_values(None, "--pp") is None
    with pytest.raises(SpecError, match="--pp"):
        parse_values("0..3", "--pp")
