"""Reports as text, Markdown and CSV."""

import csv
import io

import pytest

from planner.domain.cost import Bound
from planner.export.rows_file import HEADER, rows_csv
from planner.report.validation_html import html_table
from planner.report.validation_terms import show_terms, terms_table
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
    assert header == ["kind", "rows", "represented", "median", "90th", "bias"]
    # Errors .1 and .3: median .2, 0.9 of the way .28; ratios 1.1 and .7: logarithms .0953 and
    # -.3567, in the middle -.131.
    assert lines == [
        ["dense training", "2", "100.0 %", "20.0 %", "28.0 %", "-0.131"],
        ["prefill", "1", "0.0 %", "-", "-", "-"],
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


def test_accuracy_lists_the_rank_of_every_sweep():
    # Measured 1..10 s, predicted 1..8, 10, 9: 1 - 6 * 2 / (10 * 99) = 0.988.
    predicted = [*range(1, 9), 10, 9]
    rows = [
        outcome(name, float(place), predicted[place - 1], sweep="one | run", layout=f"tp{place}")
        for place, name in enumerate(scored(10), start=1)
    ]
    *_, sweep = cells(accuracy_table(rows).replace("\\|", "/"))
    assert sweep == ["one / run", "10", "10", "0.988"]


def timed(**rest):
    given = {
        "sweep": "study train toy box x8 bf16/bf16/- batch64 seq128",
        "layout": "tp2 dp1 cp1 pp4 v1 ep1 etp1 zero1 1f1b mb1 recompute-none sp0 overlap-dp+ep",
        "terms": tuple(
            OutcomeTerm(name=f"part_{size}", seconds=size, bound=Bound.COMPUTE)
            for size in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)
        ),
    }
    return outcome("a", 2.0, 2.5, **{**given, **rest})


def test_terms_of_a_run_in_one_line():
    (row,) = terms_table([timed()]).rows
    assert row == (
        "train toy box x8 bf16/bf16/- batch64 seq128",
        "TP2 PP4 1f1b overlap-dp+ep",
        "2.00 s",
        "2.50 s",
        "+25.0 %",
        "part 1.0 1.00 s, part 0.5 500 ms, part 0.4 400 ms, part 0.3 300 ms, rest 300 ms",
    )


def test_terms_that_need_no_rest():
    terms = tuple(OutcomeTerm(name=name, seconds=0.5, bound=Bound.MEMORY) for name in "abcde")
    (row,) = terms_table([timed(terms=terms)]).rows
    assert row[-1] == "a 500 ms, b 500 ms, c 500 ms, d 500 ms, e 500 ms"


def test_terms_of_what_is_not_known():
    refused = outcome("a", 2.0, None, reason="no such machine", sweep="", kind="decode")
    out_of_memory = outcome("b", None, 1.0, num_chips=1024)
    assert terms_table([refused, out_of_memory]).rows == (
        ("decode toy box x8", "", "2.00 s", "-", "-", "no such machine"),
        ("train toy box x1,024", "", "-", "1.00 s", "-", ""),
    )
    stream = io.StringIO()
    show_terms([refused, out_of_memory], stream)
    text = stream.getvalue()
    assert "not representable" in text and "no such machine" in text
    assert "of predicted" in text and "100.0 %" in text


def test_a_block_of_terms_is_relative_to_the_measurement():
    stream = io.StringIO()
    show_terms([timed()], stream)
    lines = [line.split() for line in stream.getvalue().splitlines() if line.strip()]
    assert lines[0][0] == "a:"
    # 2.5 and 1 of 2 s; the part of zero is left out.
    assert ["predicted", "2.50", "s", "125.0", "%"] in lines
    assert ["part", "1.0", "1.00", "s", "50.0", "%", "compute"] in lines
    assert not any(line[:2] == ["part", "0.0"] for line in lines)


def test_html_escapes_what_a_file_says():
    table = TextTable(title="<b>", header=("name", "n"), rows=(("<script>&\"'", "1"),))
    assert html_table(table) == (
        "<h2>&lt;b&gt;</h2>\n"
        '<div class="wide"><table>\n'
        '<thead><tr><th>name</th><th class="number">n</th></tr>\n</thead>\n'
        "<tbody>\n"
        '<tr><td>&lt;script&gt;&amp;&quot;&#x27;</td><td class="number">1</td></tr>\n'
        "</tbody>\n</table></div>\n"
    )


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
