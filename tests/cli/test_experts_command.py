"""``planner experts`` as a user types it: table, file, JSON, messages."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from planner.cli.main import run
from planner.search.expert_check import DomainRule, placement_violations


@pytest.fixture
def loads(tmp_path):
    """Four layers of 32 experts, layer 3 uniform."""
    rng = np.random.default_rng(0)
    rows = rng.lognormal(0, 1, (4, 32)).round(3)
    rows[3] = 1.0
    path = tmp_path / "loads.json"
    path.write_text(json.dumps(rows.tolist()))
    return str(path)


@pytest.fixture
def out(capsys):
    """What a command prints that must succeed."""

    def call(*arguments):
        code = run(["experts", *arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return call


@pytest.fixture
def refused(capsys):
    """The message of a command that must be refused."""

    def call(*arguments):
        code = run(["experts", *arguments])
        captured = capsys.readouterr()
        assert code == 2 and not captured.out
        assert "Traceback" not in captured.err
        return captured.err

    return call


def table(text):
    """Cells of the table of layers."""
    rows = re.findall(r"^ +(\d+ +\d\.\d{4} .*)$", text, re.MULTILINE)
    return [re.split(r" {2,}", row) for row in rows]


def check(placement, loads):
    """Recompute every number of a placement file from its chips."""
    rows = np.array(json.loads(Path(loads).read_text()))
    rows /= rows.sum(axis=1, keepdims=True)
    rule = None
    if placement["domains"] is not None:
        rule = DomainRule(num_domains=placement["domains"][0], num_groups=placement["num_groups"])
    for layer, row in zip(placement["layers"], rows, strict=True):
        chips = layer["chips"]
        assert not placement_violations(chips, row.tolist(), placement["num_slots"], rule)
        copies = np.bincount(np.concatenate(chips).astype(int), minlength=len(row))
        assert layer["copies"] == copies.tolist()
        weights = layer["weights"] or [[1 / copies[e] for e in held] for held in chips]
        load = [
            sum(w * row[e] for w, e in zip(own, held, strict=True))
            for own, held in zip(weights, chips, strict=True)
        ]
        assert layer["max_load"] == pytest.approx(max(load))
        assert layer["balance"] == pytest.approx(1 / len(chips) / max(load))
        assert layer["bound"] <= layer["max_load"]
        assert layer["gap"] == pytest.approx(1 - layer["bound"] / layer["max_load"], abs=1e-12)


def test_table_and_summary(out, loads):
    text = out("--loads", loads, "--chips", "8", "--slots", "40")
    rows = table(text)
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    for _, balance, bound, gap, greedy, *_ in rows:
        assert float(greedy) <= float(balance) <= float(bound) <= 1
        assert float(gap.removesuffix(" %")) <= 0.5
    # 32 equal experts on 8 chips: four whole experts each.
    assert rows[3][1:4] == ["1.0000", "1.0000", "0.00 %"]
    assert "in 4 of 4 layers no placement is more than 0.50 % better (even split)" in text
    assert "loads.json (JSON table)" in text


def test_file_holds_the_placement(out, loads, tmp_path):
    target = tmp_path / "placement.json"
    out("--loads", loads, "--chips", "8", "--slots", "40", "-o", str(target))
    placement = json.loads(target.read_bytes())
    assert placement["format"] == "planner-expert-placement"
    assert placement["loads"] == {"file": loads, "source": "JSON table"}
    check(placement, loads)
    # Equal questions give equal bytes, printed or written, whatever the number of processes.
    again = out("--loads", loads, "--chips", "8", "--slots", "40", "--json", "--jobs", "2")
    assert again.encode() == target.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ("--split", "weighted"),
        ("--domains", "2x4"),
        ("--domains", "2x4", "--groups", "4"),
        ("--domains", "2x4", "--groups", "4", "--split", "weighted"),
        ("--slots", "45"),
        ("--chips", "16", "--slots", "33", "--split", "weighted"),
    ],
)
def test_options_keep_their_promises(out, loads, options):
    arguments = ["--loads", loads, "--chips", "8", "--slots", "40", *options]
    check(json.loads(out(*arguments, "--json")), loads)


def test_weighted_split_reaches_the_mean_with_enough_slots(out, loads):
    # 40 slots are 32 experts and 8 more, of which 7 suffice.
    text = out("--loads", loads, "--chips", "8", "--slots", "40", "--split", "weighted", "--json")
    for layer in json.loads(text)["layers"]:
        assert layer["balance"] == pytest.approx(1.0)
        assert layer["gap"] <= 1e-9


def test_pairs_come_together_and_nothing_is_claimed(out, loads, tmp_path):
    rng = np.random.default_rng(3)
    pairs = rng.random((32, 32))
    np.savez(tmp_path / "pairs.npz", pairs=pairs + pairs.T)
    arguments = ("--loads", loads, "--chips", "8", "--slots", "40", "--domains", "2x4")
    arguments = (*arguments, "--co-activation", str(tmp_path / "pairs.npz"))
    placement = json.loads(out(*arguments, "--json"))
    check(placement, loads)
    for layer in placement["layers"]:
        assert layer["together"]["after"] >= layer["together"]["before"] > 0
    assert any(one["together"]["after"] > one["together"]["before"] for one in placement["layers"])
    text = out(*arguments)
    assert "nothing is proven about how many" in " ".join(text.split())


def test_time_limit_and_open_layers_are_told(out, tmp_path):
    rows = np.arange(1, 257) ** -0.5
    np.save(tmp_path / "a.npy", rows[None])
    arguments = ("--loads", str(tmp_path / "a.npy"), "--chips", "144", "--slots", "288")
    text = " ".join(out(*arguments, "--time-limit", "1us").split())
    found = re.search(r"in 0 of 1 layers .* none is more than ([\d.]+) % better", text)
    assert found and float(found.group(1)) > 5


def test_layers_keep_the_numbers_of_the_file(out, tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"loads": [[1, 2, 3, 4], [4, 3, 2, 1]], "layers": [7, 9]}')
    rows = table(out("--loads", str(path), "--chips", "2", "--slots", "4"))
    assert [row[0] for row in rows] == ["7", "9"]
    # 1 + 4 and 2 + 3: balance 1.
    assert [row[1] for row in rows] == ["1.0000", "1.0000"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--slots", "31"), "32 experts do not fit in 31 slots"),
        (("--domains", "3x4"), "are 12 chips, --chips says 8"),
        (("--domains", "8"), "cannot read '8'"),
        (("--domains", "0x8"), "cannot read '0x8'"),
        (("--groups", "4"), "--groups needs --domains"),
        (("--domains", "2x4", "--groups", "5"), "do not split into 5 equal groups"),
        (("--domains", "2x4", "--groups", "1"), "cannot be dealt equally"),
        (("--gap", "1"), "not in [0, 1)"),
        (("--gap", "nan"), "not in [0, 1)"),
        (("--time-limit", "2"), "--time-limit"),
        (("--experts", "64"), "--experts says 64"),
        (("--chips", "0"), "0 is not in the range"),
        (("--slots", "100000"), "slots are counted over all chips"),
        (("--loads", "nowhere.json"), "cannot be read"),
        (("--co-activation", "nowhere.npz"), "cannot be read"),
        (("-o", "nowhere/placement.json"), "there is no folder"),
    ],
)
def test_bad_input_is_named(refused, loads, options, message):
    assert message in refused("--loads", loads, "--chips", "8", "--slots", "40", *options)


def test_tables_of_pairs_must_fit_the_layers(refused, loads, tmp_path):
    np.savez(tmp_path / "pairs.npz", pairs=np.ones((3, 32, 32)))
    message = refused(
        *("--loads", loads, "--chips", "8", "--slots", "40"),
        *("--co-activation", str(tmp_path / "pairs.npz")),
    )
    assert "has 3 tables, the loads have 4 layers" in message


def test_copies_that_would_share_a_chip_are_not_made(out, tmp_path):
    # Two chips of three slots, all load on expert 0: two copies, not three.
    path = tmp_path / "a.csv"
    path.write_text("98,1,1\n")
    placement = json.loads(out("--loads", str(path), "--chips", "2", "--slots", "6", "--json"))
    assert placement["layers"][0]["copies"][0] == 2
    assert placement["layers"][0]["gap"] <= 0.005
