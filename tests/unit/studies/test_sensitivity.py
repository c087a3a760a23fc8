"""Sensitivities: difference quotients of the price itself, homogeneous as physics is."""

import json

import pytest
from msgspec import structs

from planner import DegreeLimits, Question, plan
from planner.cli.main import run
from planner.domain.changed import Changed
from planner.domain.hardware import Sizing
from planner.domain.training import TrainQuestion
from planner.domain.workload import Phase
from planner.errors import SpecError
from planner.export.layout_file import layout_json
from planner.export.train_file import train_layout_json
from planner.studies.knobs import COMPUTE, HBM_RATE
from planner.studies.sensitivity import sensitivity
from planner.train_api import plan_training, price_training
from planner.what_if import price_layout

ONE = frozenset({1})


@pytest.fixture(scope="module")
def layout():
    limits = DegreeLimits(pp=ONE, ep=frozenset({8}), tp=ONE, slots=frozenset({256}))
    return plan(
        Question(
            model="deepseek-v3", machine="h200-hgx", context_tokens=4096, nodes=1, limits=limits
        )
    )


@pytest.fixture(scope="module")
def training():
    return plan_training(
        TrainQuestion(
            model="llama-3.1-8b",
            machine="h100-hgx",
            global_batch=64,
            seq_len=4096,
            sizing=Sizing(nodes=2),
        )
    )


@pytest.fixture(scope="module")
def found(layout):
    return sensitivity(layout)


def of(found):
    return {own.name: own for own in found.parameters}


def test_rates_and_latencies_add_up_to_the_step(found):
    # With all rates k times and all latencies 1/k, the step is 1/k (Euler's theorem for a
    # function of degree one): the elasticities of rates less those of latencies are -1, but
    # for what no figure of the machine explains.
    parameters = of(found)
    rates = ("flop_per_s", "hbm_bytes_per_s", "scale_up_bytes_per_s")
    waits = ("scale_up_latency_s", "kernel_s")
    total = sum(parameters[name].elasticity for name in rates)
    total -= sum(parameters[name].elasticity for name in waits)
    engine = sum(own.alone_s for own in found.resources if own.name == "engine")
    assert total == pytest.approx(-1.0 + engine / found.step_s, abs=0.01)


def test_slopes_are_those_of_the_price(found, layout):
    own = of(found)["hbm_bytes_per_s"]
    faster = Changed(machine=lambda spec: HBM_RATE.scale(spec, 1.01))
    change = price_layout(layout, faster).step_s - found.step_s
    assert change == pytest.approx(own.s_per_unit * own.value * 0.01, rel=0.05)
    twice = Changed(machine=lambda spec: COMPUTE.scale(spec, 2.0))
    assert of(found)["flop_per_s"].twice_s == price_layout(layout, twice).step_s


def test_each_layer_takes_its_share(found, layout):
    # A layer like the last one: the step less head, embedding and three dense layers, by 58.
    per_layer = of(found)["layers"].s_per_unit
    outside = {"head", "embedding", "dense_ffn", "host"}
    inside = sum(term.seconds for term in layout.prediction.terms if term.name not in outside)
    assert per_layer == pytest.approx(inside / 61, rel=0.05)


def test_a_resource_alone_is_never_slower_than_the_step(found):
    for own in found.resources:
        assert 0.0 <= own.alone_s <= found.step_s
        assert own.slack == pytest.approx(1.0 - own.alone_s / found.step_s)
    slacks = [own.slack for own in found.resources]
    assert slacks == sorted(slacks)


def test_the_next_bottleneck_takes_over(found):
    own = found.bottleneck
    parameters = of(found)
    hardware = [abs(one.elasticity) for one in found.parameters if one.kind == "hardware"]
    assert abs(parameters[own.name].elasticity) == max(hardware)
    assert own.behind != own.name and own.free_s < found.step_s
    assert own.relief is None or own.relief > 1.0


def test_twice_the_memory_holds_a_larger_batch(found):
    assert of(found)["hbm_bytes"].elasticity == 0.0
    assert found.largest_batch_twice > 2 * found.largest_batch


def test_training_hangs_on_its_compute(training):
    found = sensitivity(training)
    own = of(found)
    assert found.bottleneck.name == "flop_per_s"
    assert own["flop_per_s"].twice_s == pytest.approx(
        price_training(training, Changed(machine=lambda spec: COMPUTE.scale(spec, 2.0))).step_s
    )
    # Twice the sequences take nearly twice the step; optimizer and bubble do not grow.
    assert 0.8 < own["global_batch"].elasticity <= 1.0
    assert found.largest_batch is None


def test_prefill_hangs_on_its_sequence():
    question = Question(
        model="llama-3.1-8b", machine="h100-hgx", phase=Phase.PREFILL, seq_len=4096, batch=8
    )
    own = of(sensitivity(plan(question)))
    # More than linear: attention grows with the square.
    assert own["seq_len"].elasticity > 0.9
    assert "context_tokens" not in own


def test_a_layout_that_contradicts_itself_is_refused(layout):
    broken = structs.replace(layout, idle_chips=("nowhere",))
    with pytest.raises(SpecError, match="does not hold together"):
        sensitivity(broken)


def test_the_command_prints_both_phases(layout, training, tmp_path, capsys):
    decode, train = tmp_path / "layout.json", tmp_path / "training.json"
    decode.write_bytes(layout_json(layout))
    train.write_bytes(train_layout_json(training))
    for path, words in ((decode, ("twice the HBM", "Workload")), (train, ("global batch",))):
        assert run(["sensitivity", str(path), "-o", str(tmp_path / "plot.png")]) == 0
        out = capsys.readouterr().out
        for word in (*words, "The step waits most for", "slack", "d ln step"):
            assert word in out
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert run(["sensitivity", str(train), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bottleneck"]["free_s"] > 0
    assert run(["sensitivity", str(train), "--csv"]) == 0
    assert capsys.readouterr().out.startswith("kind,name,value,unit,elasticity")


@pytest.mark.parametrize("name", ["nowhere.json", "empty.json"])
def test_files_that_are_no_layout_are_refused(tmp_path, capsys, name):
    (tmp_path / "empty.json").write_text("{}")
    assert run(["sensitivity", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err
