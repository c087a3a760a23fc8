"""``planner topology`` as a user types it: output, files, exit codes, messages."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import networkx
import pytest

from planner.catalog.machines import machine_names
from planner.cli.main import run
from planner.cli.topology import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
MIXED = """
extends = "h100-hgx"
[size]
domains = 2
[[mix]]
domains = [1]
chip = "h200-hgx"
"""


def out(capsys, *arguments):
    """What a command prints that must succeed."""
    code = run(["topology", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def figures(text):
    """Cells of every line of a report, by the first cell, in order of appearance."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().split("  ") if cell.strip()]
        if cells:
            found.setdefault(cells[0], cells[1:])
    return found


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MIXED)
    return str(path)


# --- help and errors -------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    text = out(capsys, name, "-h")
    assert f"Example: planner topology {name}" in text


def test_group_help_lists_every_command(capsys):
    text = out(capsys, "-h")
    assert all(f"  {name} " in text for name in COMMANDS)


def test_help_does_not_wait_for_numpy():
    code = (
        "import sys\n"
        "from planner.cli.main import run\n"
        "for name in ['list', 'show', 'validate', 'collective', 'draw', 'export', 'import']:\n"
        "    assert run(['topology', name, '-h']) == 0\n"
        "heavy = {'numpy', 'networkx', 'ortools', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shw"], "Did you mean show?"),
        (["show"], "Missing argument"),
        (["show", "gb200"], "gb200-nvl72"),
        (["show", "gb200-nvl72", "--nodes", "2"], "--racks"),
        (["show", "gb200-nvl72", "--racks", "0"], "1 to 128 racks"),
        (["show", "tpu-v5e", "--shape", "4"], "--shape"),
        (["show", "gb200-nvl72", "--without", "chip:r0/t3c2"], "did you mean chip:r0/t3/c2"),
        (["show", "gb200-nvl72", "--without", "r0"], "kind:name"),
        (["show", "gb200-nvl72", "--degrade", "switch:r0/sw1=2"], "[1e-06, 1]"),
        (["show", "gb200-nvl72", "--usable", "r0=80"], "r0 has 72 chips"),
        (["show", "gb200-nvl72", "--wounds", "none.toml"], "none.toml"),
        (["show", "gb200-nvl72", "--without", "chip:*"], "no chip of the machine is left"),
        (["validate", "none.toml"], "no such file"),
        (["export", "h100-hgx"], "--format"),
        (["export", "h100-hgx", "--format", "dot"], "dot"),
        (["export", "h100-hgx", "--format", "json", "-o", "no/x.json"], "no folder 'no'"),
        (["draw", "h100-hgx"], "-o"),
        (["draw", "h100-hgx", "-o", "rack.png"], ".svg"),
        (["draw", "h100-hgx", "-o", "no/rack.svg"], "no folder 'no'"),
        (["import", "none.txt", "--chip", "h100-hgx"], "none.txt"),
        (["import", "none.txt", "--as", "yaml"], "yaml"),
        (["collective", "h100-hgx"], "--op"),
        (["collective", "h100-hgx", "--op", "alltoall"], "all_to_all"),
        (["collective", "h100-hgx", "--op", "all_to_all", "--bytes", "64"], "--bytes"),
        (["collective", "h100-hgx", "--op", "all_to_all", "--chips", "0-8"], "0 to 7"),
        (["collective", "h100-hgx", "--op", "all_to_all", "--group", "n1/*"], "n1/*"),
        (
            ["collective", "h100-hgx", "--op", "all_gather", "--chips", "0", "--group", "n0/*"],
            "exclude each other",
        ),
        (["collective", "h100-hgx", "--op", "send_recv", "--bytes", "1MB"], "two chips"),
        (["collective", "h100-hgx", "--op", "broadcast", "--algorithm", "flat"], "flat"),
    ],
)
def test_bad_input_is_named_and_exits_with_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["topology", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err and not captured.out
    assert list(tmp_path.iterdir()) == []


# --- list ------------------------------------------------------------------------------


def test_list_is_topologies(capsys):
    listed = out(capsys, "list")
    assert run(["topologies"]) == 0
    assert capsys.readouterr().out == listed
    data = json.loads(out(capsys, "list", "--json"))
    assert [item["name"] for item in data] == list(machine_names())


# --- show ------------------------------------------------------------------------------


def test_two_racks(capsys):
    found = figures(out(capsys, "show", "gb200-nvl72", "--racks", "2"))
    assert found["chips"] == ["144", "144 GB200"]
    assert found["scale-up domains"][0] == "2 x 72"
    assert found["scale-up switches"] == ["36"]
    assert found["scale-up links"][0] == "2,592"  # 144 x 18
    assert found["scale-up per chip"] == ["900 GB/s"]
    assert found["scale-up per domain"] == ["64.8 TB/s"]
    assert found["scale-up bisection"] == ["32.4 TB/s", "half of the chips through the switches"]
    assert found["scale-out per domain (egress)"] == ["3.60 TB/s"]
    assert found["scale-out bisection"][0] == "3.60 TB/s"
    assert found["scale-up / scale-out"] == ["18.0"]
    assert found["price per hour"] == ["$654"]  # 144 x 4.54
    assert found["nvlink"] == ["scale-up", "2,592", "2,592", "50.0 GB/s"]
    assert found["leaf-spine"] == ["scale-out", "162", "-", "178 GB/s"]
    assert found["bf16"][0] == "2.50 PFLOP/s" and found["bf16"][-1] == "360 PFLOP/s"
    assert "Wounds: whole machine and what is left" not in found


def test_curves_are_shown(capsys):
    text = out(capsys, "show", "h100-hgx")
    assert "in_network_all_reduce" in text and "fused_all_reduce" in text
    assert "scale-out  default" in text


def test_upper_bounds_are_named(capsys):
    # Three nested levels of switches without one chip: too many kinds of chips to try all.
    found = figures(out(capsys, "show", "trn3", "--without", "chip:r0/t0/c0"))
    assert found["scale-up bisection"][1].startswith("upper bound, least of ")


def test_a_dead_chip_before_and_after(capsys):
    text = out(capsys, "show", "gb200-nvl72", "--without", "chip:r0/t3/c2")
    tail = figures(text[text.index("Wounds:") :])
    assert tail["chips"] == ["72", "71", "98.6 %"]
    assert tail["scale-up links (cables)"] == ["1,296", "1,278", "98.6 %"]
    assert tail["scale-up of the worst chip"] == ["900 GB/s", "900 GB/s", "100.0 %"]
    # 36 and 35 chips x 900 GB/s
    assert tail["scale-up bisection, worst domain (r0)"] == ["32.4 TB/s", "31.5 TB/s", "97.2 %"]
    assert tail["egress, worst domain (r0)"] == ["3.60 TB/s", "3.55 TB/s", "98.6 %"]
    assert tail["chip lost"] == ["1", "r0/t3/c2"]
    assert tail["nic lost"] == ["1", "r0/t3/c2/nic"]


def test_a_dead_switch_and_a_slow_link(capsys):
    arguments = ("--without", "switch:r0/sw5", "--degrade", "link:r0/t0/c0--r0/sw0=0.5")
    text = out(capsys, "show", "gb200-nvl72", "--racks", "2", *arguments)
    tail = figures(text[text.index("Wounds:") :])
    assert tail["scale-up switches"] == ["36", "35", "97.2 %"]
    assert tail["scale-up of the worst chip"] == ["900 GB/s", "825 GB/s", "91.7 %"]
    assert tail["switch lost"] == ["1", "r0/sw5"]
    assert tail["link slower"] == ["1", "r0/t0/c0--r0/sw0 (50.0 %)"]
    assert tail["scale-out bisection"] == ["3.60 TB/s", "3.60 TB/s", "100.0 %"]


def test_a_lost_rack_leaves_one_domain(capsys):
    text = out(capsys, "show", "gb200-nvl72", "--racks", "2", "--without", "rack:r0")
    tail = figures(text[text.index("Wounds:") :])
    assert tail["scale-up domains"] == ["2", "1", "50.0 %"]
    assert tail["scale-out bisection"] == ["3.60 TB/s", "one domain", "-"]
    # 72 chips, of which 20 are named
    assert tail["chip lost"][1].endswith(" and 52 more")
    assert tail["chip lost"][1].count(",") == 19


def test_one_chip_of_thousands_is_not_nothing(capsys):
    text = out(capsys, "show", "h100-hgx", "--nodes", "1024", "--without", "chip:n5/c3")
    tail = figures(text[text.index("Wounds:") :])
    assert tail["chips"] == ["8,192", "8,191", "99.9878 %"]


def test_wounds_of_a_file(capsys, tmp_path):
    path = tmp_path / "wounds.toml"
    path.write_text('without = ["leaf:su0/leaf0"]\n[usable]\n"*" = 70\n')
    text = out(capsys, "show", "gb200-nvl72", "--racks", "2", "--wounds", str(path))
    tail = figures(text[text.index("Wounds:") :])
    assert tail["chips"] == ["144", "140", "97.2 %"]
    # Leaf 0 serves the 18 NICs of rail 0 of the first rack, none of the two spared last chips:
    # 52 of 72 are left.
    assert tail["egress, worst domain (r0)"] == ["3.60 TB/s", "2.60 TB/s", "72.2 %"]


def test_mixed_chips(capsys, mine):
    text = out(capsys, "show", mine)
    found = figures(text)
    assert found["chips"] == ["16", "8 H100-SXM + 8 H200-SXM"]
    assert found["HBM drain time, as labelled"][0] == "29.4 ms"  # of the H200
    assert found["HBM as labelled"] == ["1.77 TB"]  # 8 x (80 + 141) GB
    assert "bf16  all" in text


def test_a_torus(capsys):
    found = figures(out(capsys, "show", "tpu-v5e", "--shape", "4x4"))
    assert found["scale-up per chip"] == ["100 GB/s to 200 GB/s"]
    assert found["scale-up bisection"] == ["200 GB/s", "plane across axis x"]
    assert found["scale-out bisection"] == ["-", "one domain"]


def test_sources_name_every_number(capsys):
    text = out(capsys, "show", "h100-hgx", "--sources")
    tail = text[text.index("\nSources\n") :]
    assert "chip.hbm_GB " in tail and "NVIDIA H100 SXM data sheet" in tail
    assert "scale_out.achieved.default.base_us" in tail
    listed = [line.split()[0] for line in tail.splitlines()[3:]]
    assert len(listed) == len(set(listed)) > 50
    values = figures(tail)
    assert values["chip.hbm_GB"][0].split()[0] == "80"
    assert values["scale_up.links_per_switch"][0].startswith("[5, 4, 4, 5]")


def test_show_as_json(capsys):
    arguments = ("show", "gb200-nvl72", "--without", "chip:r0/t3/c2", "--sources", "--json")
    data = json.loads(out(capsys, *arguments))
    assert data["machine"]["num_chips"] == 71
    assert data["machine"]["scale_up_bisection"]["bytes_per_s"] == 31.5e12
    assert data["machine"]["nodes"][0] == {"kind": "chip", "count": 71}
    assert data["whole"]["num_chips"] == 72
    assert data["lost"]["nodes"][0] == {"kind": "chip", "names": ["r0/t3/c2"]}
    assert data["wounds"]["without"] == ["chip:r0/t3/c2"]
    assert {"tier", "op", "derate", "base_s", "step_s", "fill_s"} == set(data["collectives"][0])
    assert {"field", "value", "source", "as_of"} == set(data["sources"][0])
    healthy = json.loads(out(capsys, "show", "gb200-nvl72", "--json"))
    assert (healthy["whole"], healthy["lost"], healthy["sources"]) == (None, None, [])
    assert healthy["machine"] == data["whole"]


# --- validate --------------------------------------------------------------------------


def test_a_machine_that_ships_is_valid(capsys):
    lines = out(capsys, "validate", "h100-hgx").splitlines()
    assert lines[0] == (
        "valid: h100-hgx, 1 node: 8 H100-SXM chips, 4 switches, 8 NICs, 8 leaf switches, "
        "4 spine switches, 80 links"  # 8 x 4 + 8 x 2 + 8 x 4
    )
    assert lines[1].endswith("numbers with a source, read 2026-11")
    assert len(lines) == 2


def test_warnings_do_not_fail(capsys, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'extends = "h100-hgx"\n[chip]\nprice_usd_per_hour = 2\n[scale_out]\nnic_GB_per_s = 500\n'
    )
    lines = out(capsys, "validate", str(path)).splitlines()
    assert lines[2].startswith("warning: a chip's scale-out bandwidth (500 GB/s) exceeds")
    assert lines[3].endswith("chip.price_usd_per_hour, scale_out.nic_GB_per_s")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[chip]\nhbm_GB = -1", ":3: field 'chip.hbm_GB': -1 is outside"),
        ("[chip]\nhbm = 1", ":3: field 'chip.hbm': is not a known field"),
        ("[chip\n", ":2: is not valid TOML"),
        ('[wounds]\nwithout = ["chip:n0/c9"]', "field 'wounds': there is no 'chip:n0/c9'"),
        ('[[mix]]\ndomains = [0]\nchip = "h300"', "field 'mix.chip': unknown machine 'h300'"),
    ],
)
def test_problems_name_the_field_and_fail(capsys, tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "h100-hgx"\n{text}\n')
    assert run(["topology", "validate", str(path)]) == 2
    captured = capsys.readouterr()
    assert f"error: {path}" in captured.err and message in captured.err
    assert captured.out == ""


# --- export, import, draw --------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["graphml", "json"])
def test_export_to_a_file_equals_the_terminal(capsys, tmp_path, file_format):
    path = tmp_path / f"nodes.{file_format}"
    arguments = ("export", "h100-hgx", "--nodes", "2", "--format", file_format)
    printed = out(capsys, *arguments)
    assert out(capsys, *arguments, "-o", str(path)) == ""
    assert path.read_text() == printed
    assert list(tmp_path.iterdir()) == [path]


def test_an_exported_graph_is_that_of_the_wounded_machine(capsys, tmp_path):
    path = tmp_path / "rack.graphml"
    arguments = ("export", "gb200-nvl72", "--format", "graphml", "-o", str(path))
    out(capsys, *arguments, "--without", "tray:r0/t3")
    graph = networkx.read_graphml(path)
    assert sum(kind == "chip" for _, kind in graph.nodes(data="kind")) == 68


def test_export_and_import_give_the_same_machine(capsys, tmp_path):
    graph, file = tmp_path / "nodes.graphml", tmp_path / "again.toml"
    out(capsys, "export", "h100-hgx", "--nodes", "2", "--format", "graphml", "-o", str(graph))
    out(capsys, "import", str(graph), "--chip", "h100-hgx", "-o", str(file))
    before = json.loads(out(capsys, "show", "h100-hgx", "--nodes", "2", "--json"))["machine"]
    after = json.loads(out(capsys, "show", str(file), "--json"))["machine"]
    for key in ("nodes", "domain_chips", "scale_up_links", "scale_up_bytes_per_s", "hbm_bytes"):
        assert after[key] == before[key], key
    for key in ("scale_up_bisection", "scale_out_bisection"):
        assert after[key]["bytes_per_s"] == before[key]["bytes_per_s"], key
    assert after["scale_out_domain_bytes_per_s"] == before["scale_out_domain_bytes_per_s"]


def test_import_prints_notes_beside_the_file(capsys, tmp_path):
    graph = tmp_path / "node.json"
    out(capsys, "export", "h100-hgx", "--format", "json", "-o", str(graph))
    assert run(["topology", "import", str(graph), "--chip", "h100-hgx", "--name", "mine"]) == 0
    captured = capsys.readouterr()
    assert 'name = "mine"' in captured.out
    assert "note: " in captured.err and "note: " not in captured.out


def test_draw_writes_an_svg(capsys, tmp_path):
    path = tmp_path / "rack.svg"
    assert out(capsys, "draw", "gb200-nvl72", "-o", str(path)) == ""
    assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert list(tmp_path.iterdir()) == [path]


# --- collective ------------------------------------------------------------------------


def test_one_collective(capsys):
    arguments = ("collective", "h100-hgx", "--op", "all_gather", "--bytes", "64MB", "--json")
    data = json.loads(out(capsys, *arguments))
    (cost,) = data["costs"]
    assert data["chips"] == [f"n0/c{chip}" for chip in range(8)]
    assert (cost["num_bytes"], cost["num_chips"], cost["link"]) == (64e6, 8, "nvlink")
    parts = cost["latency_s"] + cost["wire_s"] + cost["fill_s"]
    assert cost["seconds"] == pytest.approx(parts, rel=1e-12)
    assert cost["ratio"] == pytest.approx(cost["wire_s"] / cost["bound_s"], rel=1e-12)
    found = figures(out(capsys, *arguments[:-1]))
    assert found["size"] == ["64.0 MB"]
    assert found["busiest link"][0].startswith("nvlink n0/c0--n0/sw")


def test_a_table_over_sizes(capsys):
    text = out(capsys, "collective", "h100-hgx", "--op", "all_reduce")
    assert [line.split()[:2] for line in text.splitlines()[3:13]] == [
        *(["8", "KiB"], ["32", "KiB"], ["128", "KiB"], ["512", "KiB"], ["2", "MiB"]),
        *(["8", "MiB"], ["32", "MiB"], ["128", "MiB"], ["512", "MiB"], ["1", "GiB"]),
    ]
    data = json.loads(out(capsys, "collective", "h100-hgx", "--op", "all_reduce", "--json"))
    times = [cost["seconds"] for cost in data["costs"]]
    assert times == sorted(times)


def test_groups_by_number_by_name_and_beside_each_other(capsys):
    base = ("collective", "h100-hgx", "--nodes", "4", "--op", "all_to_all", "--bytes", "8MB")
    by_number = json.loads(out(capsys, *base, "--chips", "8-15", "--json"))
    by_name = json.loads(out(capsys, *base, "--group", "n1/*", "--json"))
    assert by_number == by_name
    assert by_number["others"] == 0
    # One chip of each node, and the seven other rails at the same time.
    rails = ("--chips", "0,8,16,24")
    alone = json.loads(out(capsys, *base, *rails, "--json"))
    together = json.loads(out(capsys, *base, *rails, "--concurrent", "--json"))
    assert together["others"] == 7
    assert together["costs"][0]["seconds"] >= alone["costs"][0]["seconds"]
    assert "7 more groups at the same time" in out(capsys, *base, *rails, "--concurrent")


def test_wounds_make_a_collective_slower(capsys):
    base = ("collective", "gb200-nvl72", "--op", "all_to_all", "--bytes", "64MB", "--json")
    whole = json.loads(out(capsys, *base))["costs"][0]
    hurt = json.loads(out(capsys, *base, "--without", "switch:r0/sw5"))["costs"][0]
    # 17 of 18 links
    assert hurt["wire_s"] == pytest.approx(whole["wire_s"] * 18 / 17, rel=1e-9)


def test_a_group_of_one_chip_is_free(capsys):
    arguments = ("collective", "h100-hgx", "--op", "all_gather", "--bytes", "1MB", "--chips", "3")
    found = figures(out(capsys, *arguments))
    assert found["time"] == ["0 us"]
    assert found["size / time"] == ["-"]
