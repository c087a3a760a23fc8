"""``planner schedule`` as a user types it: figures, chart, JSON, SVG, messages."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from planner.cli.main import run
from planner.cli.schedule import KINDS
from planner.cost.schedules import Flow
from planner.domain.run import ScheduleKind

ROOT = Path(__file__).resolve().parents[2]
SIZE = ("--stages", "4", "--microbatches", "8")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def out(capsys, monkeypatch):
    """What a command prints that must succeed, on a terminal of so many columns."""

    def call(*arguments, columns=100):
        monkeypatch.setenv("COLUMNS", str(columns))
        code = run(["schedule", *arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return call


def figures(text):
    """Values of the report by their names."""
    rows = (re.split(r"  +", line.strip(), maxsplit=1) for line in text.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


def chart(text):
    """Rows of the chart by device."""
    rows = re.findall(r"^device (\d+) +(.*)$", text, re.MULTILINE)
    return [row for _, row in rows]


# --- figures -----------------------------------------------------------------------------


def test_one_f_one_b(out):
    # (m + p - 1) t = 33, of which 24 work; 9 / 33 of the step, 9 / 24 of the work.
    found = figures(out(*SIZE))
    assert found["step"] == "33"
    assert found["work of the busiest device"] == "24"
    assert found["bubble: step less that work"] == "9"
    assert found["of the step"] == "27.3 %"
    assert found["of the work (rate)"] == "37.5 %"
    assert found["closed form"] == "33, exact"
    assert found["peak microbatches in flight by device"] == "4, 3, 2, 1"


@pytest.mark.parametrize(
    ("kind", "bubble", "own"),
    [
        ("gpipe", "9", "9"),
        ("zb-h1", "3", "3"),
        ("zb-h2", "3", "0"),
        ("zb-v", "1.5", "1.5"),
        ("dualpipe", "2", "2"),
        ("forward", "3", "0"),
        ("decode", "0", "0"),
    ],
)
def test_bubbles_of_the_step_and_inside_a_device(out, kind, bubble, own):
    found = figures(out(*SIZE, "--kind", kind))
    assert found["bubble: step less that work"] == bubble
    assert found["idle inside a device's own span, at most"] == own


@pytest.mark.parametrize(("m", "idle"), [("1", "75.0 %"), ("2", "50.0 %"), ("4", "0.00 %")])
def test_decode_fills_up_with_microbatches_in_flight(out, m, idle):
    text = out("--stages", "4", "--microbatches", m, "--kind", "decode")
    assert figures(text)["of the step"] == idle


def test_times_with_units_and_hops(out):
    # GPipe: sum F 7 ms + 8 ms, three more microbatches of 2 + 2 ms, six hops of 50 us.
    text = out(
        *("--stages", "4", "--microbatches", "4", "--kind", "gpipe", "--hop", "50us"),
        *("--forward", "1ms,2ms,2ms,2ms", "--backward-input", "1ms", "--backward-weight", "1ms"),
    )
    assert figures(text)["step"] == "27.3 ms"
    assert figures(text)["closed form"] == "27.3 ms, exact"


def test_times_per_chunk(out):
    # Interleaved, chunks in the order of the model: the fourth lies on device 1.
    size = ("--stages", "2", "--microbatches", "2", "--kind", "interleaved")
    times = ("--forward", "1,1,1,3", "--backward-input", "2", "--backward-weight", "0")
    text = out(*size, "--virtual-stages", "2", *times, "--json")
    found = json.loads(text)
    assert found["work"] == 2 * (1 + 3 + 2)
    lengths = {
        task["passes"][0]["chunk"]: task["end"] - task["start"]
        for task in found["devices"][1]
        if task["passes"][0]["phase"] == "forward"
    }
    assert lengths == {1: 1.0, 3: 3.0}


# --- chart in text -----------------------------------------------------------------------


def test_chart_of_gpipe_by_hand(out):
    # F 1, B 2, three columns per unit: gradients leave device 1 at 5 and 7.
    text = out("--stages", "2", "--microbatches", "2", "--kind", "gpipe")
    assert chart(text) == [
        "F0 F1 .........B0--- B1---",
        "...F0 F1 B0--- B1--- ......",
    ]
    assert "one column is 0.33333; 9 in all" in text


def test_zero_bubble_chart_names_both_gradients(out):
    text = out("--stages", "2", "--microbatches", "2", "--kind", "zb-h1")
    assert chart(text) == ["F0 F1 ...B0 W0 B1 W1", "...F0 B0 F1 B1 W0 W1"]
    assert "B input gradient, W weight gradient" in text


def test_second_chunks_and_directions_are_in_lower_case(out):
    assert "F0 F0 b0 b0" not in out(*SIZE, "--kind", "zb-v", columns=200)
    assert "f0 b0 w0" in chart(out(*SIZE, "--kind", "zb-v", columns=200))[0]
    both = chart(out(*SIZE, "--kind", "dualpipe"))
    assert both[0].startswith("F0 F1 F2 f4 b4 w4") and both[3].startswith("f4 f5 f6 F0 B0 W0")
    assert "F3b5" in both[0]


@pytest.mark.parametrize("columns", [30, 60, 80, 100, 200])
@pytest.mark.parametrize("kind", ["1f1b", "zb-v", "dualpipe"])
def test_chart_fits_the_terminal(out, kind, columns):
    for size in (SIZE, ("--stages", "8", "--microbatches", "64")):
        text = out(*size, "--kind", kind, columns=columns)
        rows = chart(text)
        assert len(rows) == int(size[1])
        assert max(map(len, text.partition("\nF forward")[2].splitlines())) <= columns
        assert all(re.fullmatch(r"[FBWfbw0-9. -]+", row) for row in rows)


def test_what_is_cut_off_is_said(out):
    text = out("--stages", "4", "--microbatches", "100", columns=80)
    assert re.search(r"one column is [\d.]+; the first [\d.]+ of 309: -o draws all of it", text)
    assert "in all" not in text


# --- JSON and SVG ------------------------------------------------------------------------


def test_json_holds_figures_and_tasks(out):
    found = json.loads(out("--stages", "2", "--microbatches", "2", "--json"))
    assert found["kind"] == "1f1b"
    assert found["time_unit"] == "units"
    assert (found["step"], found["bubble"], found["bubble_rate"]) == (9.0, 3.0, 0.5)
    assert found["peak_microbatches"] == [2.0, 1.0]
    assert found["devices"][1][1] == {
        "passes": [{"phase": "backward", "microbatch": 0, "chunk": 1, "part": 0}],
        "start": 2.0,
        "end": 4.0,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_svg_draws_every_task(capsys, tmp_path, kind):
    path = tmp_path / "gantt.svg"
    extra = ("--virtual-stages", "3") if kind == "interleaved" else ()
    assert run(["schedule", *SIZE, "--kind", kind, *extra, "-o", str(path), "--json"]) == 0
    captured = capsys.readouterr()
    assert f"wrote {path}" in captured.err
    tasks = [task for row in json.loads(captured.out)["devices"] for task in row]
    root = ET.parse(path).getroot()
    boxes = [box for box in root.iter(f"{SVG}rect") if "chip" in box.get("class", "").split()]
    key = {one["phase"] for task in tasks for one in task["passes"]}
    assert len(boxes) == sum(len(task["passes"]) for task in tasks) + len(key)
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert "device 3" in words and any("microbatches" in word for word in words)


def test_svg_labels_do_not_overlap(capsys, tmp_path):
    # Microbatch numbers of one device, at six tenths of their size per letter.
    path = tmp_path / "gantt.svg"
    size = ("--stages", "3", "--microbatches", "120")
    assert run(["schedule", *size, "--kind", "zb-h1", "-o", str(path)]) == 0
    rows = {}
    for text in ET.parse(path).getroot().iter(f"{SVG}text"):
        if text.get("text-anchor") == "middle" and text.text.isdigit():
            half = 0.3 * len(text.text) * float(text.get("font-size"))
            centre = float(text.get("x"))
            rows.setdefault(text.get("y"), []).append((centre - half, centre + half))
    assert sum(map(len, rows.values())) > 3 * 3 * 120
    for row in rows.values():
        row.sort()
        assert all(left[1] <= right[0] + 0.2 for left, right in pairwise(row))


def test_same_question_same_drawing(tmp_path, capsys):
    paths = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in paths:
        assert run(["schedule", *SIZE, "--kind", "dualpipe", "-o", str(path)]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


# --- help and errors ---------------------------------------------------------------------


def test_every_kind_is_offered():
    known = {kind.value for kind in (*ScheduleKind, *Flow)} - {"none"}
    assert set(KINDS) == known and len(KINDS) == len(known)


def test_help_does_not_wait_for_numpy():
    code = (
        "import sys\n"
        "from planner.cli.main import run\n"
        "assert run(['schedule', '-h']) == 0\n"
        "assert not {'numpy', 'networkx', 'rich'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "Example: planner schedule" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (["--stages", "3", "--kind", "dualpipe"], "3 stages are odd", "--stages 4"),
        (["--kind", "dualpipe", "--microbatches", "6"], "at least 8", "--microbatches 8"),
        (["--kind", "interleaved"], "at least two chunks", "--virtual-stages 2"),
        (["--virtual-stages", "2"], "one chunk per stage, not 2", "--kind interleaved"),
        (["--kind", "zb-v", "--virtual-stages", "3"], "two chunks", "leave --virtual-stages out"),
        (["--forward", "1,2"], "--forward has 2 times", "or 4, one per stage"),
        (["--forward", "2ms"], "--backward-input is missing", "--backward-input 2ms"),
        (["--forward", "2", "--hop", "1ms"], "others have none", "give all times a unit"),
        (["--kind", "decode", "--backward-weight", "1"], "no backward pass", "leave it out"),
        (["--overlap", "0.5"], "1f1b pairs no passes", "leave it out"),
        (["--hop", "1,2"], "--hop has 2 times", "give one for all hops"),
        (["--forward", "soon"], "--forward: cannot read 'soon'", "20ms"),
        (["--kind", "forward", "--forward", "0"], "takes no time", "--forward 1"),
        (["--microbatches", "9000"], "too many to draw", "at most"),
        (["-o", "gantt.png"], "does not end in .svg", "gantt.svg"),
        (["--kind", "pipedream"], "pipedream", "1f1b"),
        (["--stages", "0"], "--stages", "0 is not in the range"),
    ],
)
def test_errors_name_the_option_and_a_remedy(capsys, arguments, message, remedy):
    size = dict(zip(SIZE[::2], SIZE[1::2], strict=True))
    rest = [word for name in size if name not in arguments for word in (name, size[name])]
    assert run(["schedule", *rest, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and remedy in error and "Traceback" not in error


def test_a_folder_that_is_missing_is_noticed_first(capsys, tmp_path):
    assert run(["schedule", *SIZE, "-o", str(tmp_path / "no" / "gantt.svg")]) == 2
    captured = capsys.readouterr()
    assert "there is no folder" in captured.err and not captured.out
