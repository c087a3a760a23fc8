"""Reports as text, Markdown and CSV."""

import csv
import io

import pytest

from planner.domain.cost import Bound
from planner.export.rows_file import HEADER, rows_csv
from planner.report.validation_text import (
    TextTable,
    accuracy_table,
    markdown_table,
    progress_bar,
)
from planner.validation.calibration import is_calibration_id
from planner.validation.outcome import Outcome, OutcomeMemory, OutcomeTerm, RowClass


def outcome(name, measured=1.0, predicted=1.0, **rest):
    given = {
        "kind": "train",
        "row_class": RowClass.DENSE_TRAINING,
        "model": "toy",
        "chip": "box",
        "num_chips": 8,
        "source": "study",
        "software": "engine, 2",
        "quality": "A",
    }
    return Outcome(id=name, measured_s=measured, predicted_s=predicted, **{**given, **rest})


def memory(fits):
    return OutcomeMemory(needed_bytes=1e9 if fits else 3e9, capacity_bytes=2e9, fits=fits)


def scored(number):
    """Ids that are not for calibration."""
    names = (f"row-{index}" for index in range(10**6))
    found = (name for name in names if not is_calibration_id(name))
    return [next(found) for _ in range(number)]


def cells(text):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_markdown_escapes_what_would_break_a_table():
    table = TextTable(title="x", header=("name", "n"), rows=(("a|b\nc", "1"),))
    assert markdown_table(table) == "| name | n |\n| --- | ---: |\n| a\\|b c | 1 |\n"


def test_accuracy_by_class_of_measurement():
    a, b, c, d, e = scored(5)
    rows = [
        outcome(a, 1.0, 1.1),
        outcome(b, 1.0, 0.7, quality="B"),
        outcome(c, 1.0, 9.0, quality="C"),
        outcome(d, None, 1.0, memory=memory(False)),
        outcome(e, 1.0, None, reason="no", row_class=RowClass.PREFILL),
    ]
    header, _, *lines = cells(accuracy_table(rows))
    assert header == ["kind", "rows", "represented", "median", "90th", "bias", "rank"]
    # Errors .1 and .3: median .2, 0.9 of the way .28; ratios 1.1 and .7: logarithms .0953 and
    # -.3567, in the middle -.131.
    assert lines == [
        ["dense training", "2", "100.0 %", "20.0 %", "28.0 %", "-0.131", "-"],
        ["prefill", "1", "0.0 %", "-", "-", "-", "-"],
    ]


def test_accuracy_of_the_memory_model():
    ran = [
        outcome(name, memory=memory(fits))
        for name, fits in zip(scored(3), (True, True, False), strict=True)
    ]
    oom = [
        outcome(f"{name}-oom", None, 1.0, memory=memory(fits))
        for name, fits in zip(scored(2), (True, False), strict=True)
    ]
    text = accuracy_table([*ran, *oom], leave_out=lambda name: False)
    assert "2 of 3 layouts that ran" in text
    assert "1 of 2 that ran out of memory" in text
    assert "(60.0 % right)" in text


def test_calibration_rows_are_left_out_unless_asked_for():
    used = next(name for name in (f"row-{n}" for n in range(100)) if is_calibration_id(name))
    rows = [outcome(used, 1.0, 9.0), outcome(scored(1)[0])]
    assert cells(accuracy_table(rows))[2][1] == "1"
    assert cells(accuracy_table(rows, leave_out=lambda name: False))[2][1] == "2"


def test_rows_file_has_one_line_per_measured_time():
    terms = (
        OutcomeTerm(name="matmul", seconds=0.5, bound=Bound.COMPUTE),
        OutcomeTerm(name="all-reduce", seconds=1.0, bound=Bound.NETWORK),
    )
    rows = [
        outcome("a", 2.0, 1.5, terms=terms, memory=memory(True), layout="tp1", sweep="s"),
        outcome("b", 2.0, None, reason='says "no", twice'),
    ]
    content = rows_csv(rows).decode()
    first, second = csv.DictReader(io.StringIO(content))
    assert content.splitlines()[0] == ",".join(HEADER)
    assert first == {
        "id": "a",
        "kind": "train",
        "class": "dense training",
        "model": "toy",
        "topology": "box",
        "num_chips": "8",
        "source_group": "study",
        "software": "engine, 2",
        "quality": "A",
        "layout": "tp1",
        "sweep": "s",
        "measured_s": "2",
        "predicted_s": "1.5",
        "ratio": "0.75",
        "error": "0.25",
        "largest_term": "all-reduce",
        "largest_term_s": "1",
        "largest_term_bound": "network",
        "terms": "matmul=0.5; all-reduce=1",
        "fits": "1",
        "needed_bytes": "1e+09",
        "capacity_bytes": "2e+09",
        "reason": "",
    }
    assert (second["predicted_s"], second["ratio"], second["fits"]) == ("", "", "")
    assert second["reason"] == 'says "no", twice'


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "drawn"), [(Terminal(), True), (io.StringIO(), False)])
def test_progress_is_drawn_on_a_terminal_only(stream, drawn, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress_bar(stream) as shown:
        advance = shown(10)
        advance(10)
    assert bool(stream.getvalue()) is drawn
    assert ("10/10" in stream.getvalue()) is drawn
