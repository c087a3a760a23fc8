"""Calibration of machines: known constants found again, files, warnings."""

import csv
import math
from pathlib import Path

import pytest

from planner.catalog.machines import load_machine, machine_facts
from planner.catalog.measured import read_measured
from planner.catalog.measured_rows import MachineUse
from planner.domain.curves import Op
from planner.errors import SpecError
from planner.validation.bench import Bench
from planner.validation.calibrate import CalibrationRequest, calibrate
from planner.validation.calibrate_constants import FittedBench, machine_constants
from planner.validation.calibrate_file import calibration_toml
from planner.validation.calibrate_report import (
    AT_BOUND,
    FITTED,
    UNIDENTIFIED,
    UNUSED,
    Calibration,
    ClassErrors,
    FittedConstant,
    warnings,
)
from planner.validation.calibrate_stage import folds
from planner.validation.predict_rows import predict_row
from planner.validation.statistics import ErrorStats
from planner.validation.validate import ValidationRequest, validate

ROOT = Path(__file__).resolve().parents[3]
MEASURED = ROOT / "tests" / "reference" / "measured" / "visible.csv"


@pytest.mark.parametrize(("rows", "parts"), [(1, 1), (4, 4), (9, 9), (10, 5), (23, 5)])
def test_every_row_is_left_out_once(rows, parts):
    found = folds(rows)
    assert len(found) == parts
    assert sorted(row for part in found for row in part) == list(range(rows))
    assert max(map(len, found)) - min(map(len, found)) <= 1


# Constants and machines


def test_constants_of_a_machine_and_their_ranges():
    found = {item.name: item for item in machine_constants(machine_facts("h100-hgx"))}
    assert found["chip.derate.hbm"].group == "hbm"
    assert found["chip.derate.elementwise"].group == "hbm"
    assert found["chip.derate.sustained"].group == "matmul"
    assert found["chip.derate.attention_backward"].group == "attention"
    assert found["chip.derate.expert_layer_us"].group == "kernel"
    assert found["scale_out.achieved.combine.derate"].group == "collectives"
    # Fractions end at 1, times at ten times their value; a time of zero is no constant.
    assert found["chip.derate.hbm"].low == pytest.approx(0.85 / 5)
    assert found["chip.derate.hbm"].high == 1.0
    assert found["chip.derate.kernel_us"].high == 30
    assert "scale_up.achieved.all_to_all.step_us" not in found
    names = list(found)
    assert names.index("chip.derate.matmul.bf16") < names.index("chip.derate.sustained")


def test_moves_are_counted_in_deviations_of_the_prior():
    found = {item.name: item for item in machine_constants(machine_facts("h100-hgx"))}
    kernel = found["chip.derate.kernel_us"]
    assert kernel.moved(2.0) == pytest.approx(3 * math.e)
    assert kernel.theta(kernel.moved(0.7)) == pytest.approx(0.7)


def test_a_fraction_never_exceeds_one():
    for thousandths in range(201, 1000):
        item = machine_constants({"chip": {"derate": {"hbm": thousandths / 1000}}})[0]
        assert item.moved(item.theta(item.high)) <= 1.0
        assert item.moved(item.theta(item.high)) == pytest.approx(1.0)


def test_a_bench_gives_a_machine_other_constants_at_every_size():
    bench = FittedBench("h100-hgx")
    bench.set_values(
        {("chip", "derate", "hbm"): 0.5, ("scale_up", "achieved", "all_gather", "base_us"): 9.0}
    )
    found = bench.topology(MachineUse(topology="h100-hgx", num_chips=16, hbm_bytes_per_s=2.4e12))
    assert found.num_chips == 16
    assert found.chip.hbm_bytes_per_s == 2.4e12
    assert found.chip.efficiency.hbm == 0.5
    assert found.spec.scale_up.curves.of(Op.ALL_GATHER).base_s == pytest.approx(9e-6)
    bench.set_values({})
    found = bench.topology(MachineUse(topology="h100-hgx", num_chips=16))
    assert found.spec == Bench().topology(MachineUse(topology="h100-hgx", num_chips=16)).spec


def test_another_fabric_keeps_what_it_states_itself(tmp_path):
    values = {
        ("scale_out", "achieved", "default", "base_us"): 20.0,
        ("scale_out", "achieved", "default", "derate"): 0.5,
        ("scale_out", "achieved", "combine", "derate"): 0.5,
        ("scale_out", "achieved", "combine", "base_us"): 30.0,
    }
    bench = FittedBench("h100-hgx")
    bench.set_values(values)
    path = tmp_path / "mine.toml"
    path.write_text(
        'extends = "h100-hgx"\n[scale_out.achieved.default]\nbase_us = 20\nderate = 0.5\n'
        "[scale_out.achieved.combine]\nderate = 0.5\nbase_us = 30\n"
    )
    for efa in (False, True):
        ours = bench.topology(MachineUse(topology="h100-hgx", num_chips=16, efa=efa))
        file = Bench().topology(MachineUse(topology=str(path), num_chips=16, efa=efa))
        assert ours.spec.scale_out == file.spec.scale_out
        assert ours.spec.scale_out.curves.default.derate == (0.75 if efa else 0.5)


def test_an_attention_fraction_speaks_for_passes_without_their_own(tmp_path):
    path = tmp_path / "mine.toml"
    lines = (ROOT / "topologies" / "h100-hgx.toml").read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("attention_")))
    bench = FittedBench(str(path))
    assert "attention_forward" not in bench.facts["chip"]["derate"]
    bench.set_values({("chip", "derate", "attention"): 0.25})
    found = bench.topology(MachineUse(topology=str(path), num_chips=8)).chip.efficiency
    assert (found.attention, found.attention_forward, found.attention_backward) == (0.25,) * 3


# Known constants found again

HEADER = (
    "id,kind,model,topology,num_chips,weight_dtype,compute_dtype,kv_dtype,attn_tp,attn_dp,pp,"
    "microbatch,global_batch,seq_len,context_len,zero_stage,overlap,time_s,op,bytes\n"
)
RUN = "{id},{kind},llama-3.1-8b,h100-hgx,8,bf16,bf16,bf16,{tp},{dp},1,{rest},{time},,\n"
COLLECTIVE = "{id},collective,,h100-hgx,{chips},,,,,,,,,,,,,{time},{op},{size}\n"


def train_lines():
    for tp in (1, 2, 4, 8):
        for seq in (1024, 2048, 8192):
            for microbatch in (1, 4):
                yield RUN.format(
                    id=f"t{tp}-{seq}-{microbatch}",
                    kind="train",
                    tp=tp,
                    dp=8 // tp,
                    rest=f"{microbatch},64,{seq},,1,none",
                    time="{time}",
                )


def decode_lines():
    for tp in (1, 2, 8):
        for batch in (8, 64, 256):
            for context in (500, 4000):
                yield RUN.format(
                    id=f"d{tp}-{batch}-{context}",
                    kind="decode",
                    tp=tp,
                    dp=8 // tp,
                    rest=f",{batch},,{context},,",
                    time="{time}",
                )


def prefill_lines():
    for tp in (1, 2, 4):
        for seq in (512, 4096, 32768):
            yield RUN.format(
                id=f"p{tp}-{seq}",
                kind="prefill",
                tp=tp,
                dp=8 // tp,
                rest=f",16,{seq},0,,",
                time="{time}",
            )


def gather_lines():
    for chips in (2, 4, 8):
        for power in range(10, 31, 2):
            yield COLLECTIVE.format(
                id=f"g{chips}-{power}",
                chips=chips,
                op="all_gather",
                size=2**power,
                time="{time}",
            )


def measured_on(tmp_path, truth, lines, noise=0.01):
    """A table of rows as a machine with other constants would give them, +1 % and -1 %."""
    lines = list(lines)
    blank = tmp_path / "blank.csv"
    blank.write_text(HEADER + "".join(line.format(time=1) for line in lines))
    bench = FittedBench("h100-hgx")
    bench.set_values(truth)
    times = [
        predict_row(row, bench)[0].predicted_s * math.exp(noise * (-1) ** place)
        for place, row in enumerate(read_measured(str(blank)))
    ]
    path = tmp_path / "rows.csv"
    path.write_text(
        HEADER + "".join(line.format(time=t) for line, t in zip(lines, times, strict=True))
    )
    return str(path)


DERATE = ("chip", "derate")
GATHER = ("scale_up", "achieved", "all_gather")


def fitted(found):
    return {item.name: item for item in found.constants}


def test_constants_of_the_chip_are_found_again(tmp_path):
    truth = {(*DERATE, "hbm"): 0.7, (*DERATE, "sustained"): 0.7, (*DERATE, "kernel_us"): 5.0}
    lines = [*train_lines(), *decode_lines(), *prefill_lines()]
    found = calibrate(CalibrationRequest(file=measured_on(tmp_path, truth, lines)))
    constants = fitted(found)
    for path, value in truth.items():
        item = constants[".".join(path)]
        assert item.status == FITTED
        assert item.after == pytest.approx(value, rel=0.05)
        assert abs(math.log(item.after / value)) < 2 * item.error
    for name in ("matmul.bf16", "attention_forward", "elementwise"):
        item = constants[f"chip.derate.{name}"]
        assert item.after == pytest.approx(item.before, rel=0.05)
    # The noise is 1 %; the prior holds a little back.
    assert found.errors[-1].before.median > 0.1
    assert found.errors[-1].after.median < 0.02
    assert found.errors[-1].held_out.median < 0.02


def test_a_curve_is_found_again(tmp_path):
    truth = {(*GATHER, "derate"): 0.6, (*GATHER, "base_us"): 9.0, (*GATHER, "step_us"): 1.6}
    found = calibrate(CalibrationRequest(file=measured_on(tmp_path, truth, gather_lines())))
    constants = fitted(found)
    for path, value in truth.items():
        assert constants[".".join(path)].after == pytest.approx(value, rel=0.05)
    assert constants["scale_up.achieved.all_gather.fill_us"].after == pytest.approx(4.5, rel=0.1)
    assert constants["scale_up.achieved.reduce_scatter.derate"].status == UNUSED
    assert [stage.name for stage in found.stages] == ["collectives"]


def test_curves_come_from_collectives_and_the_chip_from_runs(tmp_path):
    truth = {(*GATHER, "derate"): 0.6, (*DERATE, "hbm"): 0.7}
    lines = [*gather_lines(), *decode_lines()]
    found = calibrate(CalibrationRequest(file=measured_on(tmp_path, truth, lines)))
    constants = fitted(found)
    assert constants["scale_up.achieved.all_gather.derate"].after == pytest.approx(0.6, rel=0.05)
    assert constants["chip.derate.hbm"].after == pytest.approx(0.7, rel=0.05)
    assert [stage.num_rows for stage in found.stages] == [33, 18]


def test_what_rows_do_not_say_stays(tmp_path):
    # Training steps know the product of the kernel's fraction and what a step sustains.
    truth = {(*DERATE, "sustained"): 0.6}
    found = calibrate(CalibrationRequest(file=measured_on(tmp_path, truth, train_lines())))
    constants = fitted(found)
    kernel = constants["chip.derate.matmul.bf16"]
    assert (kernel.status, kernel.after, kernel.error) == (UNIDENTIFIED, kernel.before, None)
    assert constants["chip.derate.sustained"].after == pytest.approx(0.6, rel=0.05)
    pairs = {(pair.first, pair.second): pair.correlation for pair in found.confounded}
    assert pairs["chip.derate.matmul.bf16", "chip.derate.sustained"] < -0.95
    for name in ("attention", "matmul.fp8", "expert_layer_us"):
        assert constants[f"chip.derate.{name}"].status == UNUSED
        assert constants[f"chip.derate.{name}"].after == constants[f"chip.derate.{name}"].before
    assert any("not identified" in text for text in found.warnings)


def test_rows_that_agree_with_the_machine_move_little(tmp_path):
    lines = [*train_lines(), *decode_lines()]
    found = calibrate(CalibrationRequest(file=measured_on(tmp_path, {}, lines)))
    for item in found.constants:
        assert item.after == pytest.approx(item.before, rel=0.03)


def test_a_bound_is_reported(tmp_path):
    # Memory cannot be read faster than its nameplate rate.
    path = Path(measured_on(tmp_path, {}, decode_lines()))
    rows = list(csv.DictReader(path.read_text().splitlines()))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows({**row, "time_s": float(row["time_s"]) / 1.5} for row in rows)
    found = calibrate(CalibrationRequest(file=str(path), only=("hbm",)))
    hbm = fitted(found)["chip.derate.hbm"]
    assert (hbm.after, hbm.status) == (1.0, AT_BOUND)
    assert any("chip.derate.hbm ended at the bound" in text for text in found.warnings)


def test_only_chosen_groups_are_fitted(tmp_path):
    truth = {(*DERATE, "hbm"): 0.7, (*DERATE, "kernel_us"): 5.0}
    file = measured_on(tmp_path, truth, [*decode_lines(), *gather_lines()])
    found = calibrate(CalibrationRequest(file=file, only=("hbm",)))
    assert {item.group for item in found.constants} == {"hbm"}
    assert found.num_fitted == 18
    assert [(item.num_rows, item.example) for item in found.skipped] == [(33, "g2-10")]


def test_the_same_rows_give_the_same_constants(tmp_path):
    file = measured_on(tmp_path, {(*DERATE, "hbm"): 0.7}, decode_lines())
    assert calibrate(CalibrationRequest(file=file)) == calibrate(CalibrationRequest(file=file))


def test_one_row_fits_nothing(tmp_path):
    file = measured_on(tmp_path, {(*DERATE, "hbm"): 0.6}, list(decode_lines())[:1])
    found = calibrate(CalibrationRequest(file=file))
    assert found.changed == ()
    assert found.errors[0].held_out is None
    assert found.warnings[0].startswith("The rows identify no constant")


def check_written_file(found, tmp_path, file):
    """A row is predicted by the written machine as the fit says."""
    mine = tmp_path / "mine.toml"
    mine.write_text(calibration_toml(found, str(mine)))
    rows = list(csv.DictReader(Path(file).read_text().splitlines()))
    again = tmp_path / "again.csv"
    with again.open("w", newline="") as table:
        writer = csv.DictWriter(table, rows[0].keys())
        writer.writeheader()
        writer.writerows(
            {**row, "topology": str(mine)} for row in rows if row["topology"] == found.machine
        )
    report = validate(ValidationRequest(file=str(again), by="class"))
    errors = {group.name[0]: group.errors for group in report.groupings[0].groups}
    for item in found.errors:
        if item.name != "all":
            assert errors[item.name].median == pytest.approx(item.after.median, rel=1e-9)
            assert errors[item.name].p90 == pytest.approx(item.after.p90, rel=1e-9)
            assert errors[item.name].bias == pytest.approx(item.after.bias, rel=1e-9, abs=1e-12)
    return mine


def test_the_written_file_predicts_what_the_fit_says(tmp_path):
    truth = {(*GATHER, "derate"): 0.6, (*DERATE, "hbm"): 0.7, (*DERATE, "sustained"): 0.7}
    lines = [*gather_lines(), *train_lines(), *decode_lines()]
    file = measured_on(tmp_path, truth, lines)
    found = calibrate(CalibrationRequest(file=file, as_of="2026-11"))
    mine = check_written_file(found, tmp_path, file)
    spec = load_machine(str(mine))
    sources = {source.field: source for source in spec.sources}
    assert sources["chip.derate.hbm"].as_of == "2026-11"
    assert sources["chip.derate.hbm"].text.startswith(
        "fit to 75 rows of rows.csv: was 0.85, standard error "
    )
    shipped = {source.field: source for source in load_machine("h100-hgx").sources}
    changed = {item.name for item in found.changed}
    assert {name for name in sources if sources[name] != shipped.get(name)} == changed


@pytest.mark.parametrize("machine", ["a100-40-hgx", "tpu-v4", "b200-hgx"])
def test_published_rows_are_fitted_and_written(tmp_path, machine):
    found = calibrate(CalibrationRequest(file=str(MEASURED), machine=machine))
    assert found.stages
    for stage in found.stages:
        assert stage.loss_after <= stage.loss_before
    for item in found.constants:
        if item.status in (FITTED, AT_BOUND):
            assert item.information >= 1.0
        else:
            assert item.after == item.before
    check_written_file(found, tmp_path, MEASURED)


def test_a_users_machine_is_extended_by_its_path(tmp_path):
    (tmp_path / "machines").mkdir()
    own = tmp_path / "machines" / "ours.toml"
    own.write_text('extends = "h100-hgx"\n[chip.derate]\nhbm = 0.8\n')
    file = Path(measured_on(tmp_path, {(*DERATE, "hbm"): 0.6}, decode_lines()))
    # Rows may name the machine by its name, or by a path.
    text = file.read_text()
    text = text.replace("h100-hgx", "ours", 9).replace("h100-hgx", str(own))
    file.write_text(text)
    found = calibrate(CalibrationRequest(file=str(file), machine=str(own)))
    assert found.num_fitted == found.num_rows == 18
    out = tmp_path / "fit.toml"
    out.write_text(calibration_toml(found, str(out)))
    assert 'extends = "machines/ours.toml"' in out.read_text()
    hbm = load_machine(str(out)).chip.efficiency.hbm
    assert hbm == fitted(found)["chip.derate.hbm"].after
    assert hbm == pytest.approx(0.6, rel=0.05)


def test_rows_of_several_machines_need_a_name(tmp_path):
    file = Path(measured_on(tmp_path, {}, decode_lines()))
    file.write_text(file.read_text().replace("h100-hgx", "a100-80-hgx", 3))
    with pytest.raises(SpecError, match="rows of 2 machines: h100-hgx, a100-80-hgx"):
        calibrate(CalibrationRequest(file=str(file)))
    found = calibrate(CalibrationRequest(file=str(file), machine="h100-hgx"))
    assert (found.num_rows, found.num_elsewhere) == (15, 3)


# What to warn of


def stats(median):
    return ErrorStats(median=median, mean=median, p90=median, bias=0.0)


def constant(status):
    return FittedConstant(
        name=f"chip.{status}",
        group="hbm",
        before=1.0,
        after=1.0,
        status=status,
        information=0.0,
        error=None,
    )


def errors(before, after, held_out):
    return ClassErrors(
        name="prefill",
        num_rows=3,
        scatter=0.1,
        before=stats(before),
        after=stats(after),
        held_out=None if held_out is None else stats(held_out),
    )


@pytest.mark.parametrize(
    ("statuses", "classes", "texts"),
    [
        ([FITTED, UNUSED], [errors(0.2, 0.1, 0.15)], []),
        ([UNIDENTIFIED, UNUSED], [], ["The rows identify no constant"]),
        ([FITTED, UNIDENTIFIED, UNUSED], [], ["1 of the 2 constants"]),
        ([AT_BOUND], [], ["chip.at its bound ended at the bound"]),
        ([FITTED], [errors(0.1, 0.2, None)], ["median error rises for prefill (10.0 % to 20.0 %)"]),
        ([FITTED], [errors(0.1, 0.05, 0.2)], ["predicted worse than before for prefill"]),
    ],
)
def test_warnings(statuses, classes, texts):
    found = warnings([constant(status) for status in statuses], classes)
    assert len(found) == len(texts)
    for sentence, text in zip(found, texts, strict=True):
        assert text in sentence


def test_a_calibration_without_changes_extends_the_machine_and_nothing_else(tmp_path):
    empty = Calibration(
        file="rows.csv",
        machine="h100-hgx",
        as_of="2026-11",
        num_rows=1,
        num_elsewhere=0,
        num_fitted=1,
        fraction_prior=0.2,
        time_prior=0.5,
        constants=(constant(UNIDENTIFIED),),
        confounded=(),
        stages=(),
        errors=(),
        worst=(),
        skipped=(),
        warnings=(),
    )
    path = tmp_path / "mine.toml"
    path.write_text(calibration_toml(empty, str(path)))
    assert load_machine(str(path)).chip == load_machine("h100-hgx").chip
