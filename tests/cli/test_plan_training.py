"""``planner plan --phase train`` and what reads its files: answers, errors, Ctrl-C, remedies."""

import contextlib
import json
import math
import shlex
import signal
from dataclasses import replace

import pytest

from planner.cli.main import run
from planner.domain.hardware import Sizing
from planner.domain.training import TrainQuestion
from planner.search.training import search as training
from planner.train_api import plan_training

COMMAND = shlex.split("plan llama-3.1-8b --on h100-hgx --nodes 2 --phase train --batch 64 --seq 4k")
QUESTION = TrainQuestion(
    model="llama-3.1-8b",
    machine="h100-hgx",
    sizing=Sizing(nodes=2),
    global_batch=64,
    seq_len=4096,
)


def words(text):
    """Without line breaks."""
    return " ".join(text.split())


def replaced(option, value):
    """The command with another value of an option."""
    found = list(COMMAND)
    found[found.index(option) + 1] = value
    return found


def test_a_plan_is_written_shown_priced_and_verified(tmp_path, capsys):
    path = str(tmp_path / "training.json")
    assert run([*COMMAND, "-o", path]) == 0
    captured = capsys.readouterr()
    assert "64 sequences of 4,096 tokens per step" in words(captured.out)
    assert captured.err.endswith(f"wrote {path}\n")
    assert run(["evaluate", path]) == 0
    assert words(capsys.readouterr().out) == words(captured.out)
    assert run(["verify", path]) == 0
    assert capsys.readouterr().out == "valid\n"
    assert run(["verify", "--certificate", path, "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["valid"] and verdict["recheck"]["strategies"] > 0


def test_json_is_the_file(tmp_path, capsys):
    path = tmp_path / "training.json"
    assert run([*COMMAND, "--json", "-o", str(path)]) == 0
    first = capsys.readouterr().out
    assert first == path.read_text()
    assert run([*COMMAND, "--json"]) == 0
    assert capsys.readouterr().out == first


def test_a_broken_file_fails(tmp_path, capsys):
    path = tmp_path / "training.json"
    assert run([*COMMAND, "--json"]) == 0
    layout = json.loads(capsys.readouterr().out)
    layout["degrees"]["microbatches"] += 1
    path.write_text(json.dumps(layout))
    assert run(["verify", str(path)]) == 1
    assert "is not the batch of 64" in capsys.readouterr().out
    assert run(["evaluate", str(path)]) == 2
    assert "cannot be priced" in capsys.readouterr().err


def test_the_schema_describes_the_file(capsys):
    jsonschema = pytest.importorskip("jsonschema")
    assert run(["schema", "--phase", "train"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert run([*COMMAND, "--json"]) == 0
    layout = json.loads(capsys.readouterr().out)
    jsonschema.validate(layout, schema)
    del layout["chunks"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(layout, schema)


def test_the_schema_names_every_field(capsys):
    assert run(["schema", "--phase", "train"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert run([*COMMAND, "--json"]) == 0
    layout = json.loads(capsys.readouterr().out)
    for name, value in (("TrainLayout", layout), ("TrainDegrees", layout["degrees"])):
        assert set(schema["$defs"][name]["properties"]) == set(value)
    assert schema["$defs"]["TrainLayout"]["properties"]["schema_version"] == {"const": 2}


WRONG = [
    ("--schedule zigzag", "--schedule: 'zigzag' is not one of none, gpipe, 1f1b"),
    ("--recompute some", "--recompute: 'some' is not one of none, selective, full"),
    ("--zero 4", "--zero: 4 is no ZeRO stage"),
    ("--zero x", "--zero"),
    ("--microbatch 0", "--microbatch"),
    ("--virtual-stages -1", "--virtual-stages"),
    ("--tp 3..1", "--tp"),
    ("--overlap all", "--overlap: 'all' is not one of tp, dp, ep"),
    ("--optimizer sgd", "--optimizer"),
    ("--optimizer-state fp4", "--optimizer-state"),
    ("--gradients fp8", "--gradients"),
    ("--reserve 1.5", "--reserve: cannot read '1.5'"),
    ("--gap 1", "--gap: 1.0 is not in [0, 1)"),
    ("--context 8k", "--context does not apply to --phase train"),
    ("--tpot 20ms", "--tpot does not apply to --phase train"),
    ("--kv fp8", "--kv does not apply to --phase train"),
    ("--exclude chip:n9/c9", "there is no 'chip:n9/c9' on this machine"),
    ("--reserve 16", "training runs on sound nodes, and none is left of 2"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options_are_named(options, message, capsys):
    assert run([*COMMAND, *shlex.split(options)]) == 2
    captured = capsys.readouterr()
    assert message in words(captured.err)
    assert captured.out == "" and "Traceback" not in captured.err


@pytest.mark.parametrize("option", ["--on", "--batch", "--seq"])
def test_what_is_missing_is_named(option, capsys):
    command = list(COMMAND)
    place = command.index(option)
    del command[place : place + 2]
    if option == "--on":
        del command[command.index("--nodes") : command.index("--nodes") + 2]
    assert run(command) == 2
    assert f"{option} is missing for --phase train" in words(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--batch", "0", "--batch"),
        ("--seq", "0", "--seq"),
        ("--seq", "eight", "--seq"),
        ("--seq", "8g", "--seq"),
        ("--nodes", "0", "nodes"),
    ],
)
def test_impossible_numbers_are_named(option, value, message, capsys):
    assert run(replaced(option, value)) == 2
    assert message in words(capsys.readouterr().err)


@pytest.mark.parametrize(
    "option", ["--schedule 1f1b", "--zero 1", "--recompute none", "--microbatch 1"]
)
def test_training_options_belong_to_training(option, capsys):
    decode = shlex.split("plan llama-3.1-8b --on h100-hgx --context 8k")
    assert run([*decode, *shlex.split(option)]) == 2
    assert "belongs to --phase train" in words(capsys.readouterr().err)


NO_MESH = [
    # 64 sequences are not divided by 3; 32 heads neither.
    ("--dp 3", "--dp 3", "--dp 1,2,4,8,16"),
    ("--tp 3", "--tp 3", "--tp 1,2,4,8,16"),
    ("--ep 2", "--ep 2", "--ep 1"),
    # Each fits 16 chips, both together do not.
    ("--tp 8 --pp 4", "one combination of degrees", None),
]


@pytest.mark.parametrize(("options", "needed", "remedy"), NO_MESH)
def test_degrees_that_no_mesh_has_are_infeasible(options, needed, remedy, capsys):
    assert run([*COMMAND, *shlex.split(options), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["resource"], found["needed"]) == ("degrees", needed)
    if remedy is None:
        assert found["remedies"] == ["free --tp", "free --pp"]
    else:
        assert found["remedies"] == [remedy]


def test_no_schedule_is_infeasible(capsys):
    # Groups of 3 microbatches do not fill 64 sequences.
    assert run([*COMMAND, "--pp", "3", "--schedule", "interleaved"]) == 3
    assert "none of the allowed schedules can run" in words(capsys.readouterr().err)


def test_remedies_help(capsys):
    command = shlex.split(
        "plan llama-3.1-70b --on h100-hgx --nodes 1 --phase train --batch 64 --seq 4k "
        "--recompute none --zero 1"
    )
    assert run([*command, "--json"]) == 3
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["resource"] == "memory" and "needs at least" in found["message"]
    nodes = [text for text in found["remedies"] if text.startswith("--nodes")]
    assert nodes, found
    for remedy in found["remedies"]:
        option, value = remedy.split()
        again = list(command)
        if option in again:
            again[again.index(option) + 1] = value
        else:
            again += [option, value]
        assert run(again) == 0, remedy
    capsys.readouterr()


@pytest.fixture
def loose(monkeypatch):
    """Bounds half as large: still valid, but the first layout proves nothing."""
    real = training.mesh_table
    step, tight = training.StepBound.step_s, training.TrainSearch.tightened

    def half(bound):
        table = real(bound)
        return replace(table, step_s=table.step_s / 2)

    monkeypatch.setattr(training, "mesh_table", half)
    monkeypatch.setattr(training.StepBound, "step_s", lambda *given: step(*given) / 2)
    monkeypatch.setattr(training.TrainSearch, "tightened", lambda *given: tight(*given) / 2)


def ctrl_c_at_the_first_layout(state):
    if not math.isinf(state.incumbent):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupted_plan_is_the_incumbent_with_its_gap(loose):
    proof = plan_training(QUESTION, ctrl_c_at_the_first_layout, interruptible=True).certificate
    assert (proof.stopped, proof.solved) == ("interrupted", 1)
    # Half of a bound that is not above the first layout.
    assert 0.4 < proof.gap < 0.7
    best = plan_training(replace(QUESTION, time_limit_s=3.0)).certificate
    assert proof.bound <= best.objective <= proof.objective * (1 + 1e-12)


def test_a_time_limit_is_honest(loose):
    # The limit has passed when the first strategy is solved.
    proof = plan_training(replace(QUESTION, time_limit_s=1e-9)).certificate
    assert (proof.stopped, proof.solved) == ("time limit", 1)
    assert proof.bound < proof.objective


def test_an_interrupted_command_prints_and_writes_its_layout(loose, monkeypatch, tmp_path, capsys):
    @contextlib.contextmanager
    def line(stream, unit):
        yield ctrl_c_at_the_first_layout

    monkeypatch.setattr("planner.report.progress.search_line", line)
    path = tmp_path / "training.json"
    assert run([*COMMAND, "-o", str(path)]) == 130
    assert "interrupted: the best layout so far, at most " in capsys.readouterr().err
    assert json.loads(path.read_text())["certificate"]["stopped"] == "interrupted"


def test_progress_ends_with_the_answer():
    told = []
    proof = plan_training(QUESTION, told.append).certificate
    assert told[-1].incumbent >= proof.objective
    bounds = [state.bound for state in told if state.solved]
    assert bounds and bounds == sorted(bounds)
