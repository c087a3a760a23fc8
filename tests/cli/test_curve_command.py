"""``planner curve`` as a user types it."""

import csv
import io
import json

import pytest

from planner.cli.main import run
from planner.report.plot.chart import Chart, Series, number, ticks
from planner.report.plot.image import chart_image
from planner.report.plot.terminal import terminal_text

DENSE = ["curve", "llama-3.1-8b", "--on", "h100-hgx", "--context", "8k", "--points", "3"]


def ask(capsys, *words):
    code = run(list(words))
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.mark.parametrize("drawing", ["step", "cost", "mfu", "memory"])
def test_every_drawing_in_the_terminal_and_as_a_file(capsys, tmp_path, drawing):
    path = tmp_path / "plot.svg"
    code, out, err = ask(capsys, *DENSE, "--x", "batch", "--y", drawing, "-o", str(path))
    assert code == 0 and "wrote" in err
    assert "ideal B*" in out and "Along sequences of the machine" in out
    assert b"sequences of the machine" in path.read_bytes()


def test_csv_has_the_terms(capsys):
    code, out, _ = ask(capsys, *DENSE, "--x", "context", "--from", "1k", "--to", "4k", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [float(row["x"]) for row in rows] == [1024, 2048, 4096]
    assert float(rows[0]["attention_core_s"]) < float(rows[-1]["attention_core_s"])


def test_json_has_points_and_landmarks(capsys):
    code, out, _ = ask(capsys, *DENSE, "--x", "stages", "--from", "1", "--to", "2", "--json")
    found = json.loads(out)
    assert code == 0 and [point["x"] for point in found["points"]] == [1.0, 2.0]
    assert {own["name"] for own in found["landmarks"]} >= {"weights read once", "HBM drained once"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing option '--x'"),
        (["--x", "moon"], "'moon' is not one of"),
        (["--x", "batch", "--from", "9", "--to", "3"], "empty range"),
        (["--x", "batch", "--from", "many"], "--from: cannot read 'many'"),
        (["--x", "batch", "--to", "-4"], "--to: -4 is not a number greater than zero"),
        (["--x", "batch", "--to", "nan"], "--to: nan is not a number greater than zero"),
        (["--x", "bandwidth", "--to", "inf"], "--to: inf is not a number greater than zero"),
        (["--x", "batch", "--y", "cost", "--on", "h800-hgx"], "nobody knows what a chip"),
        (["--x", "batch", "--phase", "train"], "phase train"),
        (["--x", "batch", "--price", "0"], "must be greater than zero"),
    ],
)
def test_bad_input_is_explained(capsys, words, message):
    code, out, err = ask(capsys, *DENSE, *words)
    assert code == 2 and message in err and not out


def test_nothing_is_fast_enough(capsys):
    code, _, err = ask(capsys, *DENSE, "--x", "batch", "--tpot", "1us")
    assert code == 3 and "infeasible" in err


def test_ticks_are_round():
    assert ticks(0.0, 10.0, False) == (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
    assert ticks(1.0, 1000.0, True) == (1.0, 10.0, 100.0, 1000.0)
    assert [number(value) for value in (0.25, 20, 8000, 1.5e6)] == ["0.25", "20", "8k", "1.5M"]


def test_a_chart_is_the_same_every_time():
    line = Series(name="a", x=(1.0, 2.0), y=(3.0, 4.0))
    chart = Chart(title="t", x_label="x", y_label="y", lines=(line,))
    assert chart_image(chart, "svg") == chart_image(chart, "svg")
    assert terminal_text(chart) == terminal_text(chart)
    assert all(len(row) <= 88 for row in terminal_text(chart).splitlines())
