"""``planner validate`` as a user types it: output, files, exit codes, messages."""

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from planner.cli.main import run
from planner.cost.runs.record import RunMemory, RunPrediction, RunTerm
from planner.domain.cost import Bound
from planner.errors import SpecError
from planner.validation import predict_rows
from planner.validation.calibration import is_calibration_id

MEASURED = Path(__file__).resolve().parents[1] / "reference" / "measured"
HEADER = (
    "id,kind,model,topology,num_chips,attn_tp,attn_dp,pp,microbatch,global_batch,seq_len,"
    "context_len,time_s,op,bytes,source_group,quality\n"
)
TRAIN = "{id},train,llama-3.1-8b,h100-hgx,8,{tp},{dp},1,1,64,4096,,{time},,,study,A\n"
DECODE = "{id},decode,llama-3.1-8b,h100-hgx,8,8,1,1,,4,,100,{time},,,other,B\n"
REDUCE = "{id},collective,,h100-hgx,8,8,,,,,,,{time},all_reduce,1048576,nccl,A\n"


def predicted(seconds, needed=60e9):
    return RunPrediction(
        seconds=seconds,
        terms=(RunTerm(name="matmul", seconds=seconds, bound=Bound.COMPUTE),),
        memory=RunMemory(
            weights_bytes=needed,
            activations_bytes=0.0,
            reserve_bytes=0.0,
            capacity_bytes=80e9,
        ),
    )


@pytest.fixture
def model(monkeypatch):
    """A cost model that predicts ``answer(run)``: one second, wherever it is not replaced."""

    class Model:
        def answer(self, run):
            return predicted(1.0)

    found = Model()
    monkeypatch.setattr(predict_rows, "predict_run", lambda _, __, run: found.answer(run))
    return found


@pytest.fixture
def rows(tmp_path):
    """Three rows of each kind of run, measured at 1, 2 and 4 s."""
    path = tmp_path / "rows.csv"
    lines = [TRAIN.format(id=f"t{time}", tp=1, dp=8, time=time) for time in (1, 2, 4)]
    lines += [DECODE.format(id="d1", time=1)]
    path.write_text(HEADER + "".join(lines))
    return path


def cells(text):
    """Cells of every line of a report, by the first cell."""
    lines = [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.split("\n")
    ]
    return {line[0]: line[1:] for line in lines if line}


def test_errors_are_printed_by_group(model, rows, capsys):
    assert run(["validate", str(rows)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"4 rows of {rows}: 4 represented, 0 not.\n")
    # Training at 1 s against 1, 2, 4: errors 0, .5, .75, logarithms 0, -.693, -1.386.
    assert cells(out)["train"] == ["3", "100.0 %", "50.0 %", "41.7 %", "70.0 %", "-0.693"]
    assert cells(out)["decode"] == ["1", "100.0 %", "0.0 %", "0.0 %", "0.0 %", "+0.000"]
    assert cells(out)["t4"] == [
        "dense training",
        "4.00 s",
        "1.00 s",
        "0.250",
        "matmul, 100%, compute",
    ]
    assert "\x1b" not in out


def test_tables_by_several_keys(model, rows, capsys):
    assert run(["validate", str(rows), "--by", "source,kind+quality"]) == 0
    out = capsys.readouterr().out
    assert "Error by source\n" in out and "Error by kind and quality\n" in out
    assert cells(out)["study"][0] == "3"
    assert cells(out)["train"][:2] == ["A", "3"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--kind", "decode"], ["d1"]),
        (["--kind", "train,decode", "--quality", "A"], ["t1", "t2", "t4"]),
        (["--quality", "B"], ["d1"]),
    ],
)
def test_rows_are_chosen_by_kind_and_quality(model, rows, capsys, options, names):
    assert run(["validate", str(rows), "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [outcome["id"] for outcome in found["outcomes"]] == names


def test_rows_are_left_out_by_id(model, rows, tmp_path, capsys):
    ids = tmp_path / "ids.txt"
    ids.write_text("# fitted\nt1\nd1\nelsewhere\n")
    assert run(["validate", str(rows), "--json", "--without-ids", str(ids)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [outcome["id"] for outcome in found["outcomes"]] == ["t2", "t4"]


def test_refused_rows_are_listed_by_reason(model, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    lines = [
        TRAIN.format(id="a", tp=1, dp=8, time=1),
        TRAIN.format(id="b", tp=1, dp=8, time=1).replace("llama-3.1-8b", "lama"),
        TRAIN.format(id="c", tp=1, dp=8, time=1).replace("h100-hgx", "h100"),
        TRAIN.format(id="d", tp=2, dp=8, time=1),
        TRAIN.format(id="e", tp=2, dp=8, time=1),
    ]
    path.write_text(HEADER + "".join(lines))
    assert run(["validate", str(path)]) == 0
    out = capsys.readouterr().out
    assert "5 rows" in out and "1 represented, 4 not" in out
    assert "2  attn_tp x attn_dp x cp x pp is 16, num_chips is 8" in out
    assert "unknown model 'lama'" in out and "unknown machine 'h100'" in out
    assert cells(out)["train"][:2] == ["5", "20.0 %"]


def test_a_sweep_is_ranked(model, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    line = TRAIN.format(id="r{0}", tp=1, dp=8, time="{1}").replace(",1,64,", ",{2},64,")
    # Microbatches 1..10 measured at 1..10 s, predicted at their square but for the last.
    path.write_text(HEADER + "".join(line.format(n, n, n) for n in range(1, 11)))

    def answer(given):
        return predicted(0.5 if given.microbatch == 10 else given.microbatch**2)

    model.answer = answer
    assert run(["validate", str(path)]) == 0
    found = cells(capsys.readouterr().out)
    # Ranks 2, 3, .., 10, 1 against 1..10: 1 - 6 (9 * 1 + 81) / (10 * 99) = 0.4545.
    assert found["train"][-2:] == ["0.455", "1"]
    sweep = next(name for name in found if name.startswith("study train"))
    assert found[sweep] == ["10", "10", "0.455"]


def test_memory_is_scored_on_layouts_that_did_not_run_and_that_did(model, rows, tmp_path, capsys):
    oom = tmp_path / "oom.csv"
    lines = [TRAIN.format(id=f"o{dp}", tp=8 // dp, dp=dp, time="") for dp in (1, 2, 4)]
    oom.write_text(HEADER + "".join(lines))

    def answer(given):
        return predicted(1.0, needed=90e9 if given.mesh.attn_dp < 4 else 60e9)

    model.answer = answer
    assert run(["validate", str(oom), "--ran", str(rows), "--by", "source"]) == 0
    found = cells(capsys.readouterr().out)
    # Data parallel 8 (three training rows) fits, tensor parallel 8 (decode) does not.
    assert found["ran"] == ["4", "3", "75.0 %"]
    assert found["ran out of memory"] == ["3", "2", "66.7 %"]
    assert found["all"] == ["7", "5", "71.4 %"]
    assert found["study"] == ["3", "3", "100.0 %", "3", "2", "66.7 %"]
    assert found["o4"][:4] == ["out of memory", "60.0 GB", "80.0 GB", "0.75"]
    assert "Error by source" not in found


def test_a_layout_in_both_files_counts_once(model, rows, capsys):
    assert run(["validate", str(rows), "--ran", str(rows), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"]["ran_total"] == 4


def test_json_holds_the_same_numbers(model, rows, capsys):
    assert run(["validate", str(rows), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_rows"], found["num_done"], found["num_represented"]) == (4, 4, 4)
    train = next(g for g in found["groupings"][0]["groups"] if g["name"] == ["train"])
    assert train["errors"]["median"] == 0.5
    assert found["worst"][0]["id"] == "t4"
    assert found["outcomes"][1]["terms"] == [{"name": "matmul", "seconds": 1.0, "bound": "compute"}]


def test_rows_and_report_are_written(model, rows, tmp_path, capsys):
    table, report = tmp_path / "out.csv", tmp_path / "out.md"
    assert run(["validate", str(rows), "-o", str(table)]) == 0
    assert f"wrote {table}" in capsys.readouterr().err
    written = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["ratio"] for row in written] == ["1", "0.5", "0.25", "1"]
    assert run(["validate", str(rows), "-o", str(report)]) == 0
    text = report.read_text()
    assert "## Error by kind\n\n| kind | rows |" in text
    assert "| train | 3 | 100.0 % | 50.0 % |" in text


def test_several_files_are_one_table(model, rows, tmp_path, capsys):
    more = tmp_path / "more.csv"
    # "t1" is in both files and counts as the first has it: at 1 s.
    lines = [TRAIN.format(id=name, tp=1, dp=8, time=8) for name in ("t1", "t8")]
    more.write_text(HEADER + "".join(lines))
    assert run(["validate", str(rows), str(more), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == [str(rows), str(more)]
    assert [outcome["id"] for outcome in found["outcomes"]] == ["t1", "t2", "t4", "d1", "t8"]
    assert found["outcomes"][0]["measured_s"] == 1.0
    assert run(["validate", str(rows), str(more)]) == 0
    assert capsys.readouterr().out.startswith(f"5 rows of {rows}, {more}: 5 represented, 0 not.")


def test_accuracy_is_printed_as_markdown(model, tmp_path, capsys):
    path, oom = tmp_path / "rows.csv", tmp_path / "oom.csv"
    lines = [TRAIN.format(id=name, tp=1, dp=8, time=2) for name in ("t1", "used-1")]
    path.write_text(HEADER + "".join(lines))
    oom.write_text(HEADER + TRAIN.format(id="o1", tp=1, dp=8, time=""))
    assert [is_calibration_id(name) for name in ("t1", "o1", "used-1")] == [False, False, True]
    assert run(["validate", str(path), str(oom), "--accuracy"]) == 0
    assert capsys.readouterr().out == (
        "| kind | rows | represented | median | 90th | bias |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| dense training | 1 | 100.0 % | 50.0 % | 50.0 % | -0.693 |\n"
        "\n"
        "Memory: 1 of 1 layouts that ran are said to fit, 0 of 1 that ran out of memory are "
        "said not to (50.0 % right).\n"
    )


def test_terms_are_printed_and_written(model, rows, tmp_path, capsys):
    report = tmp_path / "out.md"
    assert run(["validate", str(rows), "--terms", "-o", str(report)]) == 0
    out = capsys.readouterr().out
    assert "t4: train llama-3.1-8b h100-hgx x8 -/-/- batch64 seq4096 [tp1 dp8 " in out
    # One second of four.
    assert "    matmul   1.00 s       25.0 %  compute\n" in out
    assert "Error by kind" not in out
    text = report.read_text()
    assert "## Terms\n\n| run | layout |" in text and "| -75.0 % | matmul 1.00 s |" in text


def test_a_page_needs_nothing_else(model, tmp_path, capsys):
    path, page = tmp_path / "rows.csv", tmp_path / "out.html"
    odd = TRAIN.format(id="<i>&1", tp=1, dp=8, time=2)
    path.write_text(HEADER + odd + TRAIN.format(id="b", tp=1, dp=8, time=2).replace("8b", "<u>"))
    assert run(["validate", str(path), "--terms", "-o", str(page)]) == 0
    text = page.read_text()
    assert "<i>" not in text and "&lt;i&gt;&amp;1" in text
    assert "unknown model &#x27;llama-3.1-&lt;u&gt;&#x27;" in text
    for title in ("Error by kind", "Worst rows", "Not representable", "Terms"):
        assert f"<h2>{title}</h2>" in text
    assert not any(word in text for word in ("<script", "http", "src=", "@import", "$"))
    assert "prefers-color-scheme: dark" in text

    tags = []

    class Page(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag != "meta":
                tags.append(tag)

        def handle_endtag(self, tag):
            assert tags.pop() == tag

    Page().feed(text)
    assert tags == []


def test_ctrl_c_keeps_what_is_finished(model, rows, tmp_path, capsys):
    def answer(given):
        if given.kind == "decode":
            raise KeyboardInterrupt
        return predicted(1.0)

    model.answer = answer
    table = tmp_path / "out.csv"
    assert run(["validate", str(rows), "-o", str(table)]) == 130
    captured = capsys.readouterr()
    assert "Interrupted after 3 of 4 rows: the tables are partial." in captured.err
    assert cells(captured.out)["train"][0] == "3"
    assert len(table.read_text().splitlines()) == 4


def test_ctrl_c_before_the_first_row(model, rows, capsys):
    def answer(given):
        raise KeyboardInterrupt

    model.answer = answer
    assert run(["validate", str(rows)]) == 130
    assert "0 of 4 rows" in capsys.readouterr().err


def test_a_bug_of_ours_is_not_hidden(model, rows):
    def answer(given):
        raise IndexError("layer 7")

    model.answer = answer
    with pytest.raises(IndexError) as caught:
        run(["validate", str(rows)])
    assert any("'t1'" in note and "rows.csv:2" in note for note in caught.value.__notes__)


def test_a_refusal_of_the_cost_model_is_not_an_error(model, rows, capsys):
    def answer(given):
        raise SpecError("cannot be built", "choose another")

    model.answer = answer
    assert run(["validate", str(rows)]) == 0
    assert "4  cannot be built" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "chp"], "--by: unknown key 'chp'"),
        (["--kind", "training"], "--kind: unknown 'training'"),
        (["--kind", "train,,decode"], "has an empty name"),
        (["--quality", "D"], "--quality: unknown 'D'"),
        (["--quality", "C"], "no row of"),
        (["-o", "report.txt"], "is none of .csv, .md, .html"),
        (["--accuracy", "--json"], "--accuracy and --json print different things"),
        (["--terms", "--accuracy"], "--terms and --accuracy print different things"),
        (["none.csv"], "no such file"),
        (["-o", "missing-folder/rows.csv"], "there is no folder"),
        (["--jobs", "0"], "0 is not in the range"),
        (["--without-ids", "none.txt"], "no such file"),
        (["--ran", "none.csv"], "no such file"),
    ],
)
def test_wrong_options_are_named(model, rows, capsys, options, message):
    assert run(["validate", str(rows), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (HEADER.encode(), "no rows"),
        (b"\x00\x01\x02", "is a binary file"),
        (b"a,b\n1,2\n", "unknown column 'a'"),
        (HEADER.encode() + b"x,train\n", "bad.csv:2: has 2 cells"),
        (
            (HEADER + TRAIN.format(id="t", tp="two", dp=4, time=1)).encode(),
            "bad.csv:2: field 'attn_tp': is 'two', not a number",
        ),
    ],
)
def test_files_that_are_no_measurements(model, tmp_path, capsys, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    assert run(["validate", str(path)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err


def test_collectives_are_priced_in_processes_as_in_one(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + "".join(REDUCE.format(id=f"c{n}", time="4e-5") for n in range(40)))
    outputs = []
    for options in ([], ["--jobs", "2"]):
        assert run(["validate", str(path), "--json", *options]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert json.loads(outputs[0])["num_represented"] == 40


def test_help_names_every_key(capsys):
    assert run(["validate", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "kind, class, chip, chips, source, model, quality, software" in out
