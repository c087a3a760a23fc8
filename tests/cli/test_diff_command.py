"""``planner diff`` as a user types it."""

import json

import pytest

from planner.cli.main import run

PLAN = ("plan", "mixtral-8x7b", "--on", "h100-hgx", "--context", "4k")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("layouts")
    assert run([*PLAN, "-o", str(place / "a.json")]) == 0
    assert run([*PLAN, "--tp", "2", "--pp", "2", "-o", str(place / "b.json")]) == 0
    assert run([*PLAN, "--batch", "64", "-o", str(place / "c.json")]) == 0
    train = ("plan", "llama-3.1-8b", "--on", "h100-hgx", "--phase", "train", "--seq", "4k")
    for batch in ("16", "32"):
        assert run([*train, "--batch", batch, "-o", str(place / f"t{batch}.json")]) == 0
    return place


@pytest.fixture
def diff(capsys, folder):
    def call(first, second, *arguments, code=0):
        assert run(["diff", str(folder / first), str(folder / second), *arguments]) == code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured.err if code else captured.out

    return call


def test_a_layout_is_the_same_as_itself(diff):
    assert diff("a.json", "a.json") == "The two layouts are the same.\n"
    found = json.loads(diff("a.json", "a.json", "--json"))
    assert found["same"] and not found["question"] and not found["decisions"]
    assert found["migration"]["moved_bytes"] == 0 and found["terms"] == []
    assert all(figure["first"] == figure["second"] for figure in found["figures"])


def test_what_differs_is_what_the_files_say(diff, folder):
    found = json.loads(diff("a.json", "b.json", "--json"))
    files = [json.loads((folder / name).read_text()) for name in ("a.json", "b.json")]
    names = {own["name"].replace(" ", "_") for own in found["decisions"]}
    changed = {k for k, value in files[0]["degrees"].items() if value != files[1]["degrees"][k]}
    assert names == changed | {"layers_of_stages"}
    assert {own["name"] for own in found["question"]} == {"limits"}
    seconds = [
        {term["name"]: term["seconds"] for term in one["prediction"]["terms"]} for one in files
    ]
    for term in found["terms"]:
        name = term["name"].replace(" ", "_")
        assert (term["first"], term["second"]) == (seconds[0].get(name), seconds[1].get(name))
    steps = [abs((t["second"] or 0) - (t["first"] or 0)) for t in found["terms"]]
    assert steps == sorted(steps, reverse=True)
    assert found["migration"]["moved_bytes"] > 0


def test_the_table_names_question_decisions_figures_and_moves(diff):
    text = diff("a.json", "b.json")
    for part in ("Asked", "Decided", "Figures", "Terms of the step that differ", "Migration"):
        assert f"\n{part}\n" in text
    assert "Experts: maps of" in text and "Changing over moves" in text
    # A smaller batch with the same degrees moves no weights.
    found = json.loads(diff("a.json", "c.json", "--json"))
    assert found["migration"]["moved_bytes"] == found["migration"]["by_kind"].get("caches", 0)
    assert found["experts"]["new_copies"] == 0


def test_training_layouts_are_compared_without_moves(diff):
    found = json.loads(diff("t16.json", "t32.json", "--json"))
    assert {own["name"] for own in found["question"]} == {"global batch"}
    assert found["migration"] is None
    assert "MFU" in diff("t16.json", "t32.json")


def test_what_cannot_be_compared_is_refused(diff, folder):
    assert "one layout is of training" in diff("a.json", "t16.json", code=2)
    (folder / "pools.json").write_text('{"inputs": {"phase": "serve"}}')
    assert "one of two pools" in diff("a.json", "pools.json", code=2)
    assert "no such file" in diff("a.json", "nowhere.json", code=2)
    edited = json.loads((folder / "a.json").read_text())
    edited["experts"][0]["slots"][0] = [99]
    (folder / "edited.json").write_text(json.dumps(edited))
    assert "the second layout contradicts itself" in diff("a.json", "edited.json", code=2)
    edited["ranks"] = []
    (folder / "edited.json").write_text(json.dumps(edited))
    assert "the first layout contradicts itself" in diff("edited.json", "a.json", code=2)
    (folder / "broken.json").write_text("[]")
    assert "error:" in diff("a.json", "broken.json", code=2)
