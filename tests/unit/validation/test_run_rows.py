"""Many rows: order, processes, interrupts and bugs."""

from dataclasses import replace

import pytest

from planner.catalog.measured_rows import CollectiveRow, MachineUse, Origin
from planner.domain.curves import Op
from planner.validation import run_rows as run_rows_module
from planner.validation.run_rows import run_rows

ROW = CollectiveRow(
    origin=Origin(id="0", file="rows.csv", line=2),
    machine=MachineUse(topology="h100-hgx", num_chips=8),
    op=Op.ALL_REDUCE,
    num_bytes=2.0**20,
    tokens_per_chip=0,
    top_k=0,
    time_s=5e-5,
)
ROWS = [
    replace(
        ROW,
        origin=Origin(id=str(number), file="rows.csv", line=number + 2),
        num_bytes=1e4 * (number + 1),
    )
    for number in range(70)
]


def ids(parts):
    return [outcome.id for part in parts if part is not None for outcome in part]


def test_rows_come_back_in_order_and_progress_adds_up():
    done = []
    run = run_rows(ROWS, progress=done.append)
    assert ids(run.parts) == [row.origin.id for row in ROWS]
    assert (run.num_done, sum(done)) == (70, 70)


def test_processes_give_the_same_answer():
    done = []
    assert run_rows(ROWS, jobs=2, progress=done.append) == run_rows(ROWS)
    assert sum(done) == 70


def test_an_interrupt_keeps_what_is_finished(monkeypatch):
    real = run_rows_module.predict_row

    def interrupted(row, bench):
        if row.origin.id == "3":
            raise KeyboardInterrupt
        return real(row, bench)

    monkeypatch.setattr(run_rows_module, "predict_row", interrupted)
    run = run_rows(ROWS)
    assert ids(run.parts) == ["0", "1", "2"]
    assert (len(run.parts), run.num_done) == (70, 3)


def test_an_interrupt_of_processes_keeps_finished_chunks():
    def stop(done):
        raise KeyboardInterrupt

    run = run_rows(ROWS, jobs=2, progress=stop)
    # The first chunk was finished when progress was told; others may have been.
    assert ids(run.parts)[:32] == [str(number) for number in range(32)]
    assert len(run.parts) == 70 and run.num_done >= 32


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bug_ends_the_run_and_names_the_row(jobs):
    # A size that no reader lets through.
    broken = replace(ROWS[40], num_bytes="many")
    with pytest.raises(TypeError) as caught:
        run_rows([*ROWS[:40], broken, *ROWS[41:]], jobs=jobs)
    assert any("'40' of rows.csv:42" in note for note in caught.value.__notes__)
