"""``planner plan`` that is stopped early, or told which chips to leave alone."""

import contextlib
import json
import math
import signal
from dataclasses import replace

import pytest

from planner.api import plan
from planner.cli.main import run
from planner.domain.question import DegreeLimits, Question
from planner.search import frontier
from planner.search import plan as search

QUESTION = Question(model="llama-3.1-70b", machine="h100-hgx", nodes=2, context_tokens=8192)
COMMAND = ["plan", "llama-3.1-70b", "--on", "h100-hgx", "--nodes", "2", "--context", "8192"]


@pytest.fixture
def loose(monkeypatch):
    """Bounds half as large: still valid, but the first layout proves nothing."""

    class Half(frontier.Frontier):
        def __init__(self, *given):
            super().__init__(*given)
            self.table = replace(self.table, objective=self.table.objective / 2)

    monkeypatch.setattr(search, "Frontier", Half)


def words(text):
    """Without line breaks."""
    return " ".join(text.split())


def ctrl_c_at_the_first_layout(state):
    if not math.isinf(state.incumbent):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupted_plan_is_the_incumbent_with_its_gap(loose):
    found = plan(QUESTION, ctrl_c_at_the_first_layout, interruptible=True).certificate
    assert (found.stopped, found.solved) == ("interrupted", 1)
    # Half of a bound that is not below that of the first layout.
    assert 0.4 < found.gap <= 0.5
    assert found.gap == (found.objective - found.bound) / found.objective


def test_the_gap_of_an_interrupted_plan_is_honest(loose):
    found = plan(QUESTION, ctrl_c_at_the_first_layout, interruptible=True).certificate
    best = plan(QUESTION, interruptible=True).certificate
    assert best.stopped == "gap" and best.solved > 1
    assert found.bound <= best.objective <= found.objective


def test_a_library_call_leaves_ctrl_c_alone(loose):
    with pytest.raises(KeyboardInterrupt):
        plan(QUESTION, ctrl_c_at_the_first_layout)


def test_progress_ends_with_the_answer():
    told = []
    certificate = plan(QUESTION, told.append).certificate
    assert told[-1].incumbent == certificate.objective
    solved = [state.solved for state in told if state.solved]
    assert solved == list(range(1, len(solved) + 1))
    bounds = [state.bound for state in told]
    assert bounds == sorted(bounds)


def test_counts_add_up_and_tell_dominated_strategies():
    # Contexts are not shared, and nothing is hidden.
    one, none = frozenset({1}), frozenset({0})
    limits = DegreeLimits(pp=one, cp=one, overlap=none)
    question = replace(QUESTION, nodes=1, limits=limits)
    found = plan(question).certificate
    parts = (found.infeasible_memory, found.infeasible_tpot, found.pruned, found.solved)
    assert sum(parts) == found.enumerated
    # A dense model in one stage: TP 1 to 8 on eight chips, with 8, 4, 2, 2, 1, 1, 1, 1 replicas;
    # the smaller numbers of replicas are dominated.
    assert found.enumerated == 8
    assert found.dominated == 7 + 3 + 1 + 1


def test_a_time_limit_is_honest(loose):
    # The limit has passed when the first strategy is solved.
    limited = plan(replace(QUESTION, time_limit_s=1e-9)).certificate
    best = plan(QUESTION).certificate
    assert (limited.stopped, limited.solved) == ("time limit", 1)
    assert limited.bound <= best.objective <= limited.objective


@pytest.fixture
def interrupting(loose, monkeypatch):
    """Presses Ctrl-C at the first layout that the command finds."""

    @contextlib.contextmanager
    def line(stream, unit):
        yield ctrl_c_at_the_first_layout

    monkeypatch.setattr("planner.report.progress.search_line", line)


def test_interrupted_command_prints_and_writes_its_layout(interrupting, tmp_path, capsys):
    path = tmp_path / "layout.json"
    assert run([*COMMAND, "-o", str(path)]) == 130
    captured = capsys.readouterr()
    assert "Ctrl-C ended the search." in words(captured.out)
    assert "interrupted: the best layout so far, at most " in captured.err
    assert json.loads(path.read_text())["certificate"]["stopped"] == "interrupted"
    assert run(["verify", str(path)]) == 0
    capsys.readouterr()
    assert run(["evaluate", str(path)]) == 0


def test_interrupted_command_keeps_stdout_data(interrupting, capsys):
    assert run([*COMMAND, "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["certificate"]["stopped"] == "interrupted"


def test_ctrl_c_before_the_first_layout(monkeypatch, capsys):
    def press(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(frontier, "bound_chunk", press)
    assert run(COMMAND) == 130
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.strip() == "interrupted"


def test_a_time_limit_is_told_in_the_report(loose, capsys):
    assert run([*COMMAND, "--time-limit", "1ns"]) == 0
    captured = capsys.readouterr()
    assert "The time limit ended the search." in words(captured.out) and captured.err == ""


def test_a_full_search_says_nothing_of_it(capsys):
    assert run(COMMAND) == 0
    assert "ended the search" not in words(capsys.readouterr().out)


def test_spares_are_shown_and_written(tmp_path, capsys):
    path = tmp_path / "layout.json"
    options = ["--nodes", "4", "--reserve", "1/node", "--exclude", "node:n3"]
    options += ["--exclude", "n2/c0"]
    assert run([*COMMAND, *options, "-o", str(path)]) == 0
    assert "idle (3 as spares)" in words(capsys.readouterr().out)
    layout = json.loads(path.read_text())
    assert layout["reserved_chips"] == ["n0/c7", "n1/c7", "n2/c7"]
    assert layout["inputs"]["exclude"] == ["node:n3", "n2/c0"]
    assert layout["inputs"]["reserve_per_domain"] == 1
    used = {rank["chip"] for rank in layout["ranks"]}
    assert not used & {"n0/c7", "n1/c7", "n2/c7", "n2/c0"}
    assert not any(chip.startswith("n3/") for chip in used)
    assert run(["verify", str(path)]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reserve", "x"], "--reserve: cannot read 'x'"),
        (["--reserve", "-1"], "--reserve: cannot read '-1'"),
        (["--reserve", "2/tray"], "--reserve: cannot read '2/tray'"),
        (["--reserve", "16"], "--reserve 16: no chip is left"),
        (["--reserve", "8/node"], "--reserve 8/domain: no chip is left"),
        (["--exclude", "node:n4"], "--exclude: there is no 'node:n4'"),
        (["--exclude", "node:*"], "--exclude leaves no chip"),
    ],
)
def test_impossible_spares_are_refused(options, message, capsys):
    assert run([*COMMAND, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pp", "4..1"], "--pp: '4..1' is not a range of positive numbers"),
        (["--pp", "0"], "--pp: '0' is not a range of positive numbers"),
        (["--pp", "1,,2"], "--pp: cannot read '1,,2'"),
        (["--pp", "1_0"], "--pp: cannot read '1_0'"),
        (["--pp", "1.."], "--pp: cannot read '1..'"),
        (["--pp", "\u0661"], "--pp: cannot read"),
        (["--pp", "1..9999999"], "--pp: 9999999 is more than 100,000"),
        (["--ep", "2"], "--ep: llama-3.1-70b has no experts"),
        (["--slots", "8"], "--slots: llama-3.1-70b has no experts"),
        (["--expert-tp", "2,4"], "--expert-tp: llama-3.1-70b has no experts"),
    ],
)
def test_degrees_that_cannot_be_are_refused(options, message, capsys):
    assert run([*COMMAND, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "helps"),
    [
        # 80 layers, 16 chips; a node holds one stage of five to eight chips.
        (["--pp", "17"], ["--pp 1..16", "--nodes 3 instead of 2"]),
        (["--tp", "8", "--pp", "3"], ["--tp 1..4", "--pp 1,2", "--nodes 3 instead of 2"]),
        (["--dp", "2", "--replicas", "3"], ["--dp 3", "--replicas 2"]),
        (["--batch", "3", "--replicas", "4"], ["--replicas 1..3", "--batch 4 or more"]),
        (["--tp", "8", "--pp", "2", "--reserve", "1"], ["fewer chips in --exclude and --reserve"]),
    ],
)
def test_degrees_that_contradict_each_other_say_what_would_do(options, helps, capsys):
    assert run([*COMMAND, *options]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("infeasible: no combination of degrees satisfies ")
    found = [line.removeprefix("  would help: ") for line in lines[1:]]
    assert set(helps) <= set(found)


def test_a_degree_that_is_given_twice_takes_all_of_its_values(tmp_path):
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    assert run([*COMMAND, "--pp", "2", "--pp", "4..5", "-o", str(files[0])]) == 0
    assert run([*COMMAND, "--pp", "2,4,5", "-o", str(files[1])]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
