"""``planner export`` as a user types it."""

import json

import pytest

from planner.cli.main import run

PLAN = ["plan", "qwen3-30b-a3b", "--on", "h100-hgx", "--context", "4k", "--tpot", "50ms"]
PINS = ["--tp", "1", "--dp", "8", "--ep", "8", "--pp", "1", "--slots", "136"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "layout.json"
    assert run([*PLAN, *PINS, "-o", str(path)]) == 0
    return path


def test_launch_lines_are_data_and_notes_are_talk(layout, capsys):
    assert run(["export", str(layout), "--to", "vllm"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("#!/bin/sh\n# qwen3-30b-a3b on h100-hgx with vllm 0.33.0")
    assert "'{\"num_redundant_experts\": 8}'" in captured.out
    assert "note: no released vLLM takes a fixed placement" in captured.err


def test_a_folder_holds_everything(layout, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(["export", str(layout), "--to", "sglang", "--write", str(folder)]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        *("experts.json", "hostfile.0", "launch.sh", "layout.json", "lws.yaml", "rankfile.0"),
    ]
    assert capsys.readouterr().out == ""
    # What was exported is a layout, too.
    assert run(["verify", str(folder / "layout.json")]) == 0
    # Written again over itself: the same bytes, nothing else left behind.
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(["export", str(layout), "--to", "sglang", "--write", str(folder)]) == 0
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_json_has_notes_chips_and_files(layout, capsys):
    assert run(["export", str(layout), "--to", "trtllm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chips"] == 8 and found["as_planned"] is True
    assert set(found["files"]) >= {"launch.sh", "trtllm.yaml", "experts.yaml", "layout.json"}
    assert found["checked_versions"] == ["1.3.0rc18", "1.3"]


@pytest.mark.parametrize("target", ["sglang", "trtllm", "vllm", "ascend"])
def test_expert_maps_of_layouts(layout, target, capsys):
    assert run(["export", str(layout), "--to", f"experts-{target}"]) == 0
    assert capsys.readouterr().out


def test_expert_maps_of_placements(tmp_path, capsys):
    loads = tmp_path / "loads.json"
    loads.write_text(json.dumps([[1 + (layer + e) % 3 for e in range(128)] for layer in range(48)]))
    place = tmp_path / "placement.json"
    words = ["experts", "--loads", str(loads), "--chips", "8", "--slots", "136"]
    assert run([*words, "--gap", "0.1", "--jobs", "1", "-o", str(place)]) == 0
    capsys.readouterr()
    to = ["export", str(place), "--to", "experts-sglang"]
    assert run(to) == 2
    assert "--model" in capsys.readouterr().err
    assert run([*to, "--model", "qwen3-30b-a3b"]) == 0
    table = json.loads(capsys.readouterr().out)["physical_to_logical_map"]
    assert len(table) == 48 and all(set(row) == set(range(128)) for row in table)
    assert run([*to, "--model", "deepseek-v3"]) == 2
    assert "deepseek-v3 has 256 experts, the placement 128" in capsys.readouterr().err


BAD = [
    (["--to", "sglang", "--engine-version", "latest"], "--engine-version"),
    (["--to", "sglang", "--max-context", "long"], "--max-context"),
    (["--to", "sglang", "--hosts", "missing"], "missing: no such file"),
    (["--to", "sglang", "--model", "deepseek-v3"], "--model belongs to experts-*"),
    (["--to", "experts-sglang", "--hosts", "x"], "--hosts does not apply"),
    (["--to", "experts-sglang", "--model", "deepseek-v3"], "--model belongs to placements"),
    (["--to", "slurm"], "'slurm' is not one of"),
    ([], "--to"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_options_name_themselves(layout, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(layout), *words]) == 2
    assert message in capsys.readouterr().err


def test_bad_files_name_file_and_line(tmp_path, layout, capsys):
    broken = tmp_path / "broken.json"
    broken.write_text('{\n "schema_version": 2,\n "inputs": 3\n')
    assert run(["export", str(broken), "--to", "vllm"]) == 2
    assert "broken.json:3" in capsys.readouterr().err
    hosts = tmp_path / "hosts"
    hosts.write_text("node0\nno de\n")
    assert run(["export", str(layout), "--to", "vllm", "--hosts", str(hosts)]) == 2
    assert "hosts:2" in capsys.readouterr().err
    target = tmp_path / "file"
    target.write_text("")
    assert run(["export", str(layout), "--to", "vllm", "--write", str(target)]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert run(["export", str(layout), "--to", "vllm", "--write", str(tmp_path / "a" / "b")]) == 2
    assert "create it first" in capsys.readouterr().err


EDITS = [
    (lambda m: m["degrees"].update(attn_dp=0), "attn_dp is 0"),
    (lambda m: m["degrees"].update(pp=-1), "pp is -1"),
    (lambda m: m["ranks"].pop(), "has 7 chips, needs 8"),
    (lambda m: m["ranks"][0].update(chip="nowhere/c0"), "no chip 'nowhere/c0'"),
    (lambda m: m.update(batches=[]), "batches of 0 replicas"),
    (lambda m: m["stages"][0].update(end_layer=5), "end at layer 5 of 48"),
    (lambda m: m["inputs"]["model"].update(kv="fp7"), "'fp7' is no number format"),
    (lambda m: m["inputs"]["model"]["config"]["_meta"].update(hf_id="a$(b)"), "is no path"),
    (lambda m: m["inputs"]["model"]["config"]["_meta"].update(hf_id="a\nb"), "is no path"),
]


@pytest.mark.parametrize(("edit", "message"), EDITS)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_edited_layouts_are_checked_first(layout, edit, message, engine, tmp_path, capsys):
    found = json.loads(layout.read_text())
    edit(found)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(found))
    assert run(["export", str(path), "--to", engine]) == 2
    assert message in capsys.readouterr().err


def test_names_cannot_run_anything(layout, tmp_path, capsys):
    found = json.loads(layout.read_text())
    found["inputs"]["model"]["config"]["_meta"]["hf_id"] = "a; `b` $c 'd' \"e\""
    found["inputs"]["model"]["name"] = "x\nrm y"
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(found))
    assert run(["export", str(path), "--to", "vllm", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    script = files["launch.sh"]
    assert "# x rm y on h100-hgx" in script and "\nrm y" not in script
    import shlex

    line = script.replace("\\\n", " ").splitlines()[-1]
    assert "a; `b` $c 'd' \"e\"" in shlex.split(line)
