"""``planner frontier`` as a user types it."""

import csv
import io
import json

import pytest

from planner.cli.main import run

DENSE = ["frontier", "llama-3.1-8b", "--context", "4k", "--points", "4"]


def ask(capsys, *words):
    code = run(list(words))
    found = capsys.readouterr()
    return code, found.out, found.err


def test_several_machines_share_a_chart(capsys, tmp_path):
    path = tmp_path / "front.svg"
    code, out, err = ask(capsys, *DENSE, "--on", "h100-hgx,h200-hgx", "-o", str(path))
    assert code == 0 and "wrote" in err
    assert "llama-3.1-8b on h100-hgx (8 chips)" in out and "on h200-hgx (8 chips)" in out
    assert "the speed at" in out and "No price buys a step below" in out
    assert b"h200-hgx" in path.read_bytes()


def test_csv_has_a_line_per_point(capsys):
    code, out, _ = ask(capsys, *DENSE, "--on", "h100-hgx", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) >= 4
    assert float(rows[-1]["price"]) == 1.0


def test_json_has_every_frontier(capsys):
    code, out, _ = ask(
        capsys, "frontier", "llama-3.1-8b", "llama-2-7b", *DENSE[2:], "--on", "h100-hgx", "--json"
    )
    found = json.loads(out)
    assert code == 0 and [one["model"] for one in found] == ["llama-3.1-8b", "llama-2-7b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--on is missing"),
        (["--on", "h100-hgx,"], "--on is missing"),
        (["--on", "h100-hgx", "--price", "0"], "must be greater than zero"),
        (["--on", "h100-hgx", "--objective", "latency"], "one end of the frontier"),
        (["--on", "h100-hgx", "--phase", "train"], "phase train"),
        (["--on", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_explained(capsys, words, message):
    code, out, err = ask(capsys, *DENSE, *words)
    assert code == 2 and message in err and not out


def test_nothing_is_fast_enough(capsys):
    code, _, err = ask(capsys, *DENSE, "--on", "h100-hgx", "--tpot", "1us")
    assert code == 3 and "llama-3.1-8b on h100-hgx" in err
