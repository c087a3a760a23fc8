"""``planner plan --survive`` as a user types it."""

import json

import pytest

from planner.cli.main import run

PLAN = ("plan", "mixtral-8x7b", "--on", "h100-hgx", "--context", "4k")


def test_the_cost_is_said_and_the_file_remembers(tmp_path, capsys):
    path = str(tmp_path / "layout.json")
    assert run([*PLAN, "--survive", "1", "-o", path]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Any one chip, tray or node may die" in text
    assert "in the objective against the layout that need not survive" in text
    layout = json.loads((tmp_path / "layout.json").read_text())
    assert layout["inputs"]["survive"] == "any"
    assert run(["verify", path]) == 0
    assert run(["verify", "--certificate", path]) == 2
    assert "cannot be re-checked" in capsys.readouterr().err
    # Whatever chip dies, the next layout finds every expert alive.
    dead = layout["ranks"][3]["chip"]
    assert run(["replan", path, "--without", f"chip:{dead}", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["migration"]["lost_experts"] == 0
    assert record["migration"]["storage_bytes"] == 0
    # What is left need not survive a second failure, if that is too dear.
    arguments = ("replan", path, "--without", f"chip:{dead}", "--survive", "none", "--json")
    assert run(arguments) == 0
    free = json.loads(capsys.readouterr().out)
    assert free["changes"][-1] == "survives the loss of any -> nothing"
    assert free["scratch"]["objective"] <= record["scratch"]["objective"]


@pytest.mark.parametrize(
    ("survive", "message"),
    [
        ("2", "--survive: cannot read '2'"),
        ("1/rack", "--survive: cannot read '1/rack'"),
        ("", "--survive: cannot read ''"),
        ("1/node", "has not several nodes"),
        ("1/tray", "has not several trays"),
    ],
)
def test_what_cannot_be_survived_is_refused(survive, message, capsys):
    assert run([*PLAN, "--survive", survive]) == 2
    assert message in capsys.readouterr().err


def test_a_layout_that_cannot_be_doubled_is_infeasible(capsys):
    # 405 B parameters in bf16 fill a node of eight: there is no room for a second replica.
    arguments = (
        "plan",
        "llama-3.1-405b",
        "--on",
        "h100-hgx",
        "--context",
        "4k",
        "--weights",
        "fp8",
    )
    assert run([*arguments, "--survive", "1/chip"]) == 3
    assert "infeasible" in capsys.readouterr().err


def test_training_refuses_it(capsys):
    arguments = ("plan", "llama-3.1-8b", "--on", "h100-hgx", "--phase", "train", "--batch", "16")
    assert run([*arguments, "--seq", "4k", "--survive", "1"]) == 2
    assert "--survive" in capsys.readouterr().err
