"""``planner verify --certificate``: honest certificates are confirmed, edited ones are not."""

import json

import pytest

from planner.cli.main import run

# Skewed loads leave a gap between the placement found and its bound.
SHARES = (0.23, 0.19, 0.15, 0.13, 0.11, 0.08, 0.06, 0.05)
QUESTION = ["plan", "mixtral-8x7b", "--on", "h100-hgx", "--context", "4096", "--tpot", "20ms"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def skewed(folder):
    loads = folder / "loads.json"
    loads.write_text(json.dumps([SHARES] * 32))
    path = folder / "skewed.json"
    assert run([*QUESTION, "--loads", str(loads), "--gap", "0.05", "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def split(folder):
    """The best layout among those that split attention over all eight chips."""
    path = folder / "split.json"
    assert run([*QUESTION, "--tp", "8", "-o", str(path)]) == 0
    return path


def edited(path, change, tmp_path):
    layout = json.loads(path.read_text())
    change(layout)
    target = tmp_path / "edited.json"
    target.write_text(json.dumps(layout))
    return str(target)


def certificate_of(path):
    return json.loads(path.read_text())["certificate"]


def test_honest_certificates_are_confirmed(skewed, split, capsys):
    for path in (skewed, split):
        assert run(["verify", "--certificate", str(path)]) == 0
        out = capsys.readouterr().out
        assert out.endswith("valid\n") and "every one checked" in out


def test_json_holds_both_bounds_and_what_was_checked(skewed, capsys):
    assert run(["verify", "--certificate", "--json", str(skewed)]) == 0
    verdict = json.loads(capsys.readouterr().out)
    stated, found = certificate_of(skewed), verdict["recheck"]
    assert verdict["valid"] and verdict["violations"] == []
    assert found["stated_bound"] == stated["bound"]
    assert found["objective"] == pytest.approx(stated["objective"], rel=1e-9)
    assert stated["bound"] * (1 - 1e-9) <= found["rederived_bound"] <= found["objective"]
    assert found["checked"] == found["strategies"] == stated["enumerated"]
    assert found["best_built"] >= found["rederived_bound"]


def raise_bound(layout):
    certificate = layout["certificate"]
    certificate["bound"] = certificate["objective"]
    certificate["gap"] = 0.0


def lower_objective(layout):
    certificate = layout["certificate"]
    certificate["objective"] *= 0.9
    certificate["bound"] *= 0.9


def impossible_gap(layout):
    layout["certificate"]["gap"] = -0.1


def lose_strategies(layout):
    layout["certificate"]["enumerated"] -= 10


def other_reasons(layout):
    layout["certificate"]["pruned"] -= 10
    layout["certificate"]["enumerated"] -= 10


def more_unplaced(layout):
    layout["certificate"]["infeasible_placement"] = layout["certificate"]["solved"] + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lower_objective, "does not follow from the decisions"),
        (impossible_gap, "certificate: gap"),
        (lose_strategies, "the reasons add up to"),
        (other_reasons, "the space has"),
        (more_unplaced, "without a placement"),
    ],
)
def test_edited_certificates_are_refused(split, tmp_path, capsys, change, message):
    assert run(["verify", "--certificate", edited(split, change, tmp_path)]) == 1
    assert message in capsys.readouterr().out


def test_a_raised_bound_is_not_confirmed(skewed, tmp_path, capsys):
    gap = certificate_of(skewed)["gap"]
    assert gap > 2e-3, "the question must leave a gap to hide"
    assert run(["verify", "--certificate", edited(skewed, raise_bound, tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "is not confirmed" in out or "is refuted" in out


def test_a_bound_of_a_smaller_space_is_refuted(split, tmp_path, capsys):
    def forget_the_limit(layout):
        layout["inputs"]["limits"] = {}

    assert run(["verify", "--certificate", edited(split, forget_the_limit, tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "is refuted by a simple layout" in out and "the space has" in out


def test_without_a_certificate_there_is_nothing_to_confirm(split, tmp_path, capsys):
    def drop(layout):
        layout["certificate"] = None

    path = edited(split, drop, tmp_path)
    assert run(["verify", path]) == 0
    assert run(["verify", "--certificate", path]) == 2
    assert "no certificate" in capsys.readouterr().err


def test_unreadable_limits_are_named(split, tmp_path, capsys):
    def scramble(layout):
        layout["inputs"]["limits"] = {"tp": "x"}

    assert run(["verify", "--certificate", edited(split, scramble, tmp_path)]) == 2
    assert "inputs.limits" in capsys.readouterr().err
