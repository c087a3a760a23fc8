"""``planner replan`` as a user types it: table, file, JSON, messages."""

import json

import pytest

from planner.cli.main import run

PLAN = ("plan", "mixtral-8x7b", "--on", "h100-hgx", "--context", "4k", "--tpot", "40ms")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Layouts on a node, with and without a spare."""
    place = tmp_path_factory.mktemp("layouts")
    assert run([*PLAN, "-o", str(place / "layout.json")]) == 0
    assert run([*PLAN, "--reserve", "1", "-o", str(place / "spare.json")]) == 0
    return place


@pytest.fixture
def out(capsys, folder):
    def call(name, *arguments):
        code = run(["replan", str(folder / name), *arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return call


@pytest.fixture
def refused(capsys, folder):
    def call(name, *arguments, code=2):
        assert run(["replan", str(folder / name), *arguments]) == code
        captured = capsys.readouterr()
        assert not captured.out and "Traceback" not in captured.err
        return captured.err

    return call


def test_nothing_changed_gives_the_file_byte_for_byte(out, folder):
    text = out("layout.json", "-o", str(folder / "same.json"))
    assert "nothing has changed" in text and "Nothing moves." in text
    assert (folder / "same.json").read_bytes() == (folder / "layout.json").read_bytes()


def test_a_dead_chip_says_what_moves_and_writes_a_valid_layout(out, folder, capsys):
    text = out("layout.json", "--without", "chip:n0/c3", "-o", str(folder / "next.json"))
    assert "without chip:n0/c3" in text and "From where to where" in text
    assert "Certificate:" in text
    for arguments in (("verify",), ("verify", "--certificate"), ("evaluate",)):
        assert run([*arguments, str(folder / "next.json")]) == 0
    capsys.readouterr()
    layout = json.loads((folder / "next.json").read_text())
    assert "n0/c3" not in {rank["chip"] for rank in layout["ranks"]}
    # It is a layout like any other: it can be replanned, here when the chip is back.
    text = out("next.json", "--repaired", "chip:n0/c3")
    assert "chip:n0/c3 is back" in text


def test_a_spare_takes_the_place_of_a_dead_chip_when_it_may(out, folder):
    before = json.loads((folder / "spare.json").read_text())
    spare = before["reserved_chips"][0]
    dead = before["ranks"][0]["chip"]
    arguments = ("--without", f"chip:{dead}", "--reserve", "0", "--json")
    record = json.loads(out("spare.json", *arguments))
    assert record["changes"] == [f"without chip:{dead}", "reserve 1 -> 0"]
    moves = record["migration"]["moves"]
    # Only the spare, which holds nothing yet, gets weights.
    assert {m["target"] for m in moves if m["kind"] != "caches"} == {spare}
    assert record["chosen"]["degrees"] == before["degrees"]


def test_json_adds_up(out):
    record = json.loads(out("layout.json", "--without", "chip:n0/c3", "--json"))
    migration = record["migration"]
    total = sum(move["num_bytes"] for move in migration["moves"])
    assert total == pytest.approx(migration["moved_bytes"])
    assert sum(migration["by_kind"].values()) == pytest.approx(total)
    assert record["chosen"]["moved_bytes"] == migration["moved_bytes"]
    assert record["bound"] <= record["chosen"]["objective"]
    parts = migration["network_s"] + migration["storage_s"] + migration["refill_s"]
    assert migration["seconds"] == pytest.approx(parts)


def test_a_limit_that_is_too_small_is_infeasible_and_names_one_that_does(refused, out):
    text = refused("layout.json", "--without", "chip:n0/c3", "--max-move", "1kB", code=3)
    assert "infeasible: no layout was found that moves at most 1.00 kB" in text
    remedy = text.split("would help: ")[1].split()
    assert remedy[0] == "--max-move"
    out("layout.json", "--without", "chip:n0/c3", *remedy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--without", "chip:n0/c9"), "there is no 'chip:n0/c9'"),
        (("--without", "c3"), "cannot read 'c3'"),
        (("--repaired", "chip:n0/c3"), "'chip:n0/c3' is not wounded in the layout's file"),
        (("--racks", "2"), "--racks does not apply"),
        (("--max-move", "lots"), "--max-move: cannot read 'lots'"),
        (("--max-move", "-1GB"), "--max-move"),
        (("--amortise", "10"), "--amortise: cannot read '10'"),
        (("--batch", "many"), "--batch: cannot read 'many'"),
        (("--batch", "0"), "--batch: cannot read '0'"),
        (("--context", "0"), "--context"),
        (("--tpot", "0ms"), "--tpot"),
        (("--loads", "nowhere.json"), "cannot be read"),
        (("--context", "100M"), "16 times"),
    ],
)
def test_what_cannot_be_read_is_named(refused, arguments, message):
    assert message in refused("layout.json", *arguments)


def test_files_that_are_no_decode_layouts_are_refused(refused, folder):
    (folder / "broken.json").write_text("{")
    assert "is not valid JSON" in refused("broken.json")
    edited = json.loads((folder / "layout.json").read_text())
    edited["prediction"]["step_s"] *= 2
    (folder / "edited.json").write_text(json.dumps(edited))
    assert "the layout is not valid as it is" in refused("edited.json")
    assert "no such file" in refused("missing.json")
    for field, value in (("objective", "fun"), ("limits", {"tp": "x"}), ("limits", {"zz": "1"})):
        edited = json.loads((folder / "layout.json").read_text())
        edited["inputs"][field] = value
        (folder / "edited.json").write_text(json.dumps(edited))
        assert f"inputs.{field}" in refused("edited.json")


def test_layouts_of_other_kinds_are_refused_by_name(refused, folder, capsys):
    arguments = ("plan", "llama-3.1-8b", "--on", "h100-hgx", "--phase", "train", "--batch", "16")
    assert run([*arguments, "--seq", "4k", "-o", str(folder / "train.json")]) == 0
    capsys.readouterr()
    assert "one of training" in refused("train.json")
    (folder / "pools.json").write_text('{"inputs": {"phase": "serve"}}')
    assert "one of two pools" in refused("pools.json")
