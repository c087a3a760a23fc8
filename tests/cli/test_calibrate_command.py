"""``planner calibrate`` as a user types it: output, file, exit codes, messages."""

import json
from datetime import date
from pathlib import Path

import pytest

from planner.catalog.machines import load_machine
from planner.catalog.measured import read_measured
from planner.cli.main import run
from planner.errors import SpecError
from planner.validation import predict_rows
from planner.validation.calibrate_constants import FittedBench
from planner.validation.predict_rows import predict_row

HEADER = (
    "id,kind,model,topology,num_chips,attn_tp,attn_dp,pp,microbatch,global_batch,seq_len,"
    "context_len,time_s,op,bytes\n"
)
DECODE = "d{batch}-{context},decode,llama-3.1-8b,h100-hgx,8,2,4,1,,{batch},,{context},{time},,\n"
TRAIN = "{id},train,llama-3.1-8b,h100-hgx,8,1,8,1,1,64,4096,,{time},,\n"
REDUCE = "{id},collective,,h100-hgx,8,,,,,,,,{time},all_reduce,1048576\n"


def cells(text):
    """Cells of every line of a report, by the first cell."""
    lines = [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.split("\n")
    ]
    return {line[0]: line[1:] for line in lines if line}


def table(text, title):
    """Lines of a table below its header."""
    return text.partition(f"\n{title}\n")[2].partition("\n\n")[0].splitlines()[1:]


@pytest.fixture
def rows(tmp_path):
    """Decode steps of a machine that reads memory at 0.68 of its nameplate rate, not 0.85."""
    batches = [(batch, context) for batch in (8, 32, 128, 512) for context in (500, 2000, 8000)]
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + "".join(DECODE.format(batch=b, context=c, time=1) for b, c in batches))
    bench = FittedBench("h100-hgx")
    bench.set_values({("chip", "derate", "hbm"): 0.68})
    times = [predict_row(row, bench)[0].predicted_s for row in read_measured(str(path))]
    path.write_text(
        HEADER
        + "".join(
            DECODE.format(batch=b, context=c, time=time)
            for (b, c), time in zip(batches, times, strict=True)
        )
    )
    return path


def test_constants_errors_and_file(rows, tmp_path, capsys):
    out = tmp_path / "my-h100.toml"
    options = ["--on", "h100-hgx", "--as-of", "2026-11", "-o", str(out)]
    assert run(["calibrate", str(rows), *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"wrote {out}\n"
    found = cells(captured.out)
    before, after, change, error, information, status = found["chip.derate.hbm"]
    assert (before, status) == ("0.85", "fitted")
    # 0.68 / 0.85 - 1
    assert float(after) == pytest.approx(0.68, rel=0.03)
    assert float(change.removesuffix(" %")) == pytest.approx(-20, abs=2)
    assert 0 < float(error.removesuffix(" %")) < 10 and float(information) > 1
    assert found["dense decode"][0] == "12"
    first, last = (found["dense decode"][column].partition(" %")[0] for column in (2, 3))
    assert float(last) < 2 < float(first)
    text = out.read_text()
    assert text.startswith('extends = "h100-hgx"\nas_of = "2026-11"\n')
    assert load_machine(str(out)).chip.efficiency.hbm == float(after)
    assert "\x1b" not in captured.out


def test_the_written_machine_is_used_like_any_other(rows, tmp_path, capsys):
    out = tmp_path / "my-h100.toml"
    assert run(["calibrate", str(rows), "-o", str(out)]) == 0
    assert run(["topology", "show", str(out)]) == 0
    assert "my-h100" in capsys.readouterr().out
    again = tmp_path / "again.csv"
    again.write_text(rows.read_text().replace("h100-hgx", str(out)))
    assert run(["validate", str(again)]) == 0
    error = cells(capsys.readouterr().out)["decode"][2]
    assert float(error.removesuffix(" %")) < 2


def test_the_month_is_this_one(rows, tmp_path):
    out = tmp_path / "my-h100.toml"
    assert run(["calibrate", str(rows), "-o", str(out)]) == 0
    assert f'as_of = "{date.today():%Y-%m}"' in out.read_text()


def test_nothing_is_written_without_a_name(rows, tmp_path, capsys):
    assert run(["calibrate", str(rows)]) == 0
    assert "chip.derate.hbm" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [rows]


def test_json_holds_the_same_numbers(rows, capsys):
    assert run(["calibrate", str(rows), "--json", "--only", "hbm,kernel"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_rows"], found["num_fitted"], found["machine"]) == (12, 12, "h100-hgx")
    constants = {item["name"]: item for item in found["constants"]}
    assert {item["group"] for item in constants.values()} == {"hbm", "kernel"}
    assert constants["chip.derate.hbm"]["after"] == pytest.approx(0.68, rel=0.03)
    assert constants["chip.derate.expert_layer_us"]["status"] == "not used"
    assert found["errors"][0]["after"]["median"] < found["errors"][0]["before"]["median"]
    assert found["stages"][0]["loss_after"] < found["stages"][0]["loss_before"]


def test_rows_that_cannot_be_used_are_listed(rows, capsys):
    with rows.open("a") as file:
        file.write(TRAIN.format(id="oom", time=""))
        file.write(TRAIN.format(id="lama", time=1).replace("llama-3.1-8b", "lama"))
        file.write(REDUCE.format(id="r", time="4e-5"))
        file.write(TRAIN.format(id="other", time=1).replace("h100-hgx", "a100-80-hgx"))
    assert run(["calibrate", str(rows), "--on", "h100-hgx", "--only", "hbm"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"h100-hgx: 12 of 15 rows of {rows} fitted, 1 row of other machines left out; "
        "1 constant changed.\n"
    )
    reasons = [line.split(maxsplit=1)[1].rsplit("  ", 1) for line in table(out, "Left out")]
    found = {reason.strip(): example for reason, example in reasons}
    assert found == {
        "depends on no constant that --only names": "r",
        "has no time: the layout ran out of memory": "oom",
        "unknown model 'lama': no such name in the catalogue, no such path": "lama",
    }


def test_ctrl_c_writes_nothing(rows, tmp_path, capsys, monkeypatch):
    predict, calls = predict_rows.predict_run, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) > 100:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr(predict_rows, "predict_run", interrupted)
    out = tmp_path / "my-h100.toml"
    out.write_text("old")
    assert run(["calibrate", str(rows), "-o", str(out)]) == 130
    captured = capsys.readouterr()
    assert captured.err.strip() == "interrupted" and captured.out == ""
    assert out.read_text() == "old"


def test_a_refusal_halfway_is_a_bug_of_ours(rows, monkeypatch, capsys):
    predict, calls = predict_rows.predict_run, []

    def refuses(*arguments):
        calls.append(1)
        if len(calls) > 12:
            raise SpecError("cannot be built")
        return predict(*arguments)

    monkeypatch.setattr(predict_rows, "predict_run", refuses)
    assert run(["calibrate", str(rows)]) == 2
    assert "cannot be predicted: cannot be built" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--on", "h100"], "unknown machine 'h100'"),
        (["--on", "none.toml"], "no such file"),
        (["--on", "a100-80-hgx"], "was taken on a100-80-hgx"),
        (["--only", "hmb"], "--only: unknown 'hmb'"),
        (["--only", "hbm,,matmul"], "has an empty name"),
        (["--only", "collectives"], "none of the 12 rows"),
        (["--as-of", "May"], "--as-of: cannot read 'May'"),
        (["--as-of", "2026-13"], "--as-of: cannot read '2026-13'"),
        (["-o", "machine.json"], "is not a .toml"),
        (["-o", "missing-folder/machine.toml"], "there is no folder"),
    ],
)
def test_wrong_options_are_named(rows, capsys, options, message):
    assert run(["calibrate", str(rows), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert "\n  " in captured.err  # what to type instead


@pytest.mark.parametrize("named", [True, False])
def test_a_machine_is_not_overwritten_by_its_fit(rows, tmp_path, capsys, named):
    own = tmp_path / "ours.toml"
    own.write_text('extends = "h100-hgx"\n')
    rows.write_text(rows.read_text().replace("h100-hgx", str(own)))
    on = ["--on", str(own)] if named else []
    assert run(["calibrate", str(rows), *on, "-o", str(own)]) == 2
    assert "is the machine itself" in capsys.readouterr().err
    assert own.read_text() == 'extends = "h100-hgx"\n'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "no rows"),
        (TRAIN.format(id="oom", time=""), "has no time: the layout ran out of memory"),
        (
            TRAIN.format(id="t", time=1).replace("llama-3.1-8b", "lama"),
            "the only row of {file} on h100-hgx cannot be fitted: unknown model 'lama': no such "
            "name in the catalogue, no such path (1)",
        ),
        (
            TRAIN.format(id="t", time=1) + TRAIN.format(id="u", time=1).replace("h100", "a100-80"),
            "has rows of 2 machines: h100-hgx, a100-80-hgx",
        ),
    ],
)
def test_files_without_usable_rows(tmp_path, capsys, lines, message):
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + lines)
    assert run(["calibrate", str(path)]) == 2
    captured = capsys.readouterr()
    assert message.format(file=path) in captured.err
    assert captured.out == "" and "Traceback" not in captured.err


def test_serving_rows_alone_cannot_be_fitted(tmp_path, capsys):
    measured = Path(__file__).resolve().parents[1] / "reference" / "measured"
    lines = (measured / "serving_visible.csv").read_text().splitlines(keepends=True)
    path = tmp_path / "serving.csv"
    path.write_text("".join([lines[0], *(line for line in lines if ",h100_sxm," in line)][:4]))
    assert run(["calibrate", str(path), "--on", "h100-hgx"]) == 2
    assert "serving under load is not fitted" in capsys.readouterr().err


def test_help_names_every_group(capsys):
    assert run(["calibrate", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "matmul, hbm, attention, kernel, collectives" in out
