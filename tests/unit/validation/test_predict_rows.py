"""One measured row as a run: what reaches the cost model, and what comes back."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from planner.catalog.measured_rows import (
    CollectiveRow,
    MachineUse,
    NumberFormats,
    Origin,
    Pool,
    RunRow,
    ServingLoad,
    ServingRow,
)
from planner.cost.runs.record import RunMemory, RunPrediction, RunTerm
from planner.domain.cost import Bound
from planner.domain.curves import Op
from planner.domain.dtypes import DType
from planner.domain.run import Mesh, Overlap, Recompute, Run, RunKind, ScheduleKind
from planner.domain.serving import ServingMode
from planner.errors import ModelBugError, SpecError
from planner.topology.collectives import collective_cost
from planner.validation import predict_rows
from planner.validation.bench import Bench
from planner.validation.collective_rows import algorithm, distinct, family, sent_bytes
from planner.validation.machines import machine_topology
from planner.validation.outcome import OutcomeTerm, RowClass
from planner.validation.predict_rows import layout_text, predict_row, sweep_text

ORIGIN = Origin(id="row-1", file="rows.csv", line=7, source_group="study", quality="A")
TRAINING = RunRow(
    origin=ORIGIN,
    machine=MachineUse(topology="h100-hgx", num_chips=16),
    model="llama-3.1-8b",
    formats=NumberFormats(weights=DType.BF16, activations=DType.FP8),
    run=Run(
        kind=RunKind.TRAIN,
        mesh=Mesh(attn_tp=2, attn_dp=4, pp=2),
        global_batch=64,
        seq_len=4096,
        microbatch=1,
    ),
    time_s=2.0,
)
DECODE = replace(
    TRAINING,
    run=Run(kind=RunKind.DECODE, mesh=Mesh(attn_tp=16), global_batch=8, context_len=100.0),
)
REDUCE = CollectiveRow(
    origin=replace(ORIGIN, software="NCCL 2.29.2"),
    machine=MachineUse(topology="h100-hgx", num_chips=8),
    op=Op.ALL_REDUCE,
    num_bytes=2.0**20,
    tokens_per_chip=0,
    top_k=0,
    time_s=5e-5,
)
POOL = Pool(num_workers=1, attn_tp=8, attn_dp=1, expert_tp=1, ep=8)
SERVING = ServingRow(
    origin=ORIGIN,
    machine=MachineUse(topology="h200-hgx", num_chips=8),
    model="deepseek-r1",
    formats=NumberFormats(),
    load=ServingLoad(
        mode=ServingMode.AGGREGATED,
        input_len=1024,
        output_len=1024,
        concurrency=64,
        prefill=POOL,
        decode=POOL,
    ),
    ttft_s=0.3,
    tpot_s=0.02,
)


def predicted(seconds=1.5, weights_bytes=60e9):
    return RunPrediction(
        seconds=seconds,
        terms=(
            RunTerm(name="matmul", seconds=seconds / 3, bound=Bound.COMPUTE),
            RunTerm(name="all-reduce", seconds=seconds * 2 / 3, bound=Bound.NETWORK),
        ),
        memory=RunMemory(
            weights_bytes=weights_bytes,
            activations_bytes=4e9,
            reserve_bytes=2e9,
            capacity_bytes=80e9,
        ),
    )


@pytest.fixture
def predictor(monkeypatch):
    """The cost model; ``answer`` is what it returns or raises, ``asked`` its arguments."""

    class Predictor:
        answer = predicted()

        def __call__(self, model, topology, run):
            self.asked = (model, topology, run)
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    found = Predictor()
    monkeypatch.setattr(predict_rows, "predict_run", found)
    return found


def test_the_run_reaches_the_cost_model_as_it_was(predictor):
    (outcome,) = predict_row(TRAINING, Bench())
    model, topology, run = predictor.asked
    assert run is TRAINING.run
    assert topology.num_chips == 16
    assert (model.name, model.precision.dense_ffn) == ("llama-3.1-8b", DType.BF16)
    assert (model.precision.activations, model.precision.attention) == (DType.FP8, DType.BF16)
    assert (outcome.measured_s, outcome.predicted_s) == (2.0, 1.5)
    assert outcome.ratio == 0.75 and outcome.error == 0.25
    assert outcome.largest_term == OutcomeTerm(name="all-reduce", seconds=1.0, bound=Bound.NETWORK)
    assert (outcome.id, outcome.kind, outcome.source, outcome.quality) == (
        "row-1",
        "train",
        "study",
        "A",
    )


@pytest.mark.parametrize(("weights", "fits"), [(74e9, True), (75e9, False)])
def test_memory_is_what_the_fullest_chip_needs(predictor, weights, fits):
    predictor.answer = predicted(weights_bytes=weights)
    (outcome,) = predict_row(replace(TRAINING, time_s=None), Bench())
    assert outcome.memory.needed_bytes == weights + 6e9
    assert (outcome.memory.fits, outcome.measured_s, outcome.ratio) == (fits, None, None)


def test_a_refusal_is_an_outcome_with_its_reason(predictor):
    predictor.answer = SpecError("126 layers do not split over 16 stages", "use 14")
    (outcome,) = predict_row(TRAINING, Bench())
    assert not outcome.represented
    assert outcome.reason == "126 layers do not split over 16 stages"
    assert outcome.measured_s == 2.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "lama-3.1-8b"}, "unknown model"),
        ({"machine": MachineUse(topology="h100", num_chips=16)}, "unknown machine"),
        (
            {"machine": MachineUse(topology="h100-hgx", num_chips=8)},
            "attn_tp x attn_dp x cp x pp is 16, num_chips is 8",
        ),
    ],
)
def test_what_does_not_exist_is_a_refusal(predictor, change, reason):
    (outcome,) = predict_row(replace(TRAINING, **change), Bench())
    assert not outcome.represented and reason in outcome.reason
    assert outcome.row_class is (RowClass.UNKNOWN if "model" in change else RowClass.DENSE_TRAINING)


def test_a_bug_names_the_row_and_is_not_hidden(predictor):
    predictor.answer = ZeroDivisionError("division by zero")
    with pytest.raises(ZeroDivisionError) as caught:
        predict_row(TRAINING, Bench())
    assert caught.value.__notes__ == ["while predicting the row 'row-1' of rows.csv:7"]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_time_is_our_bug(predictor, seconds):
    predictor.answer = replace(predicted(), seconds=seconds)
    with pytest.raises(ModelBugError, match="row-1"):
        predict_row(TRAINING, Bench())


@pytest.mark.parametrize(
    ("row", "model", "ep", "row_class"),
    [
        (TRAINING, "llama-3.1-8b", 1, RowClass.DENSE_TRAINING),
        (TRAINING, "qwen3-30b-a3b", 1, RowClass.MOE_TRAINING),
        (DECODE, "llama-3.1-8b", 1, RowClass.DENSE_DECODE),
        (DECODE, "qwen3-30b-a3b", 8, RowClass.EXPERT_DECODE),
        (DECODE, "qwen3-30b-a3b", 1, RowClass.MOE_DECODE),
    ],
)
def test_classes_of_rows(predictor, row, model, ep, row_class):
    run = replace(row.run, mesh=replace(row.run.mesh, ep=ep))
    (outcome,) = predict_row(replace(row, model=model, run=run), Bench())
    assert outcome.row_class is row_class


@pytest.mark.parametrize(
    "change",
    [
        {"mesh": Mesh(attn_tp=4, attn_dp=2, pp=2)},
        {"mesh": Mesh(attn_tp=2, attn_dp=4, pp=2, virtual_stages=2)},
        {"mesh": Mesh(attn_tp=2, attn_dp=4, pp=2, expert_tp=2)},
        {"microbatch": 2},
        {"schedule": ScheduleKind.ONE_F_ONE_B},
        {"recompute": Recompute.FULL},
        {"zero_stage": 3},
        {"sequence_parallel": True},
        {"overlap": frozenset()},
        {"overlap": frozenset({Overlap.DP})},
    ],
)
def test_a_choice_changes_the_layout_and_not_the_sweep(change):
    other = replace(TRAINING, run=replace(TRAINING.run, **change))
    assert layout_text(other.run) != layout_text(TRAINING.run)
    assert sweep_text(other) == sweep_text(TRAINING)


@pytest.mark.parametrize(
    "changed",
    [
        replace(TRAINING, model="llama-2-7b"),
        replace(TRAINING, machine=replace(TRAINING.machine, num_chips=32)),
        replace(TRAINING, machine=replace(TRAINING.machine, hbm_bytes_per_s=2.4e12)),
        replace(TRAINING, formats=NumberFormats(weights=DType.BF16)),
        replace(TRAINING, origin=replace(ORIGIN, source_group="other")),
        replace(TRAINING, run=replace(TRAINING.run, global_batch=128)),
        replace(TRAINING, run=replace(TRAINING.run, seq_len=8192)),
        DECODE,
    ],
)
def test_what_is_given_changes_the_sweep(changed):
    assert sweep_text(changed) != sweep_text(TRAINING)


def test_software_is_not_part_of_a_sweep():
    other = replace(TRAINING, origin=replace(ORIGIN, software="another release"))
    assert sweep_text(other) == sweep_text(TRAINING)


def test_a_collective_is_priced_on_its_chips():
    (outcome,) = predict_row(REDUCE, Bench())
    cost = collective_cost(machine_topology(REDUCE.machine), Op.ALL_REDUCE, range(8), 2.0**20)
    assert outcome.predicted_s == cost.seconds
    assert sum(term.seconds for term in outcome.terms) == pytest.approx(cost.seconds)
    assert (outcome.row_class, outcome.memory) == (RowClass.COLLECTIVE, None)


def collective(op=Op.DISPATCH, software="", note="", chips=32, tokens=128):
    return CollectiveRow(
        origin=replace(ORIGIN, software=software, note=note),
        machine=MachineUse(topology="h100-hgx", num_chips=chips),
        op=op,
        num_bytes=800.0,
        tokens_per_chip=tokens,
        top_k=8,
        time_s=1e-4,
    )


def test_expected_number_of_distinct_places():
    # Two draws of two places: 1 with probability 1/2, else 2.
    assert distinct(2, 2) == pytest.approx(1.5)
    assert distinct(1, 7) == pytest.approx(1)


@pytest.mark.parametrize(
    ("row", "domains", "expected"),
    [
        (collective(software="DeepEP low latency"), 4, 800),
        (collective(software="pplx-CX7", tokens=4096), 4, 800),
        # One copy per chip at most: 4 chips of 8 experts.
        (collective(software="TensorRT-LLM one-sided", chips=4), 1, 400),
        (collective(software="TensorRT-LLM one-sided", chips=32), 1, 800),
        # One copy per node: 2 (1 - 1/2^8) of 8.
        (collective(software="UCCL-EP normal"), 2, 200 * (1 - 0.5**8)),
        (collective(software="DeepEP-CX7", tokens=4096), 2, 200 * (1 - 0.5**8)),
        # Inside a node one copy per chip: 8 (1 - (7/8)^8) of 8.
        (collective(software="UCCL-EP normal", chips=8), 1, 800 * (1 - 0.875**8)),
        (collective(op=Op.ALL_GATHER, software="UCCL-EP normal"), 2, 800),
    ],
)
def test_bytes_that_each_family_of_kernels_sends(row, domains, expected):
    assert sent_bytes(row, domains) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("row", "name", "expected"),
    [
        (collective(), "experts", "auto"),
        (collective(op=Op.ALL_REDUCE, software="NCCL 2.27"), "library", "auto"),
        (collective(op=Op.ALL_REDUCE, note="ring; from busbw"), "library", "hierarchical"),
        (collective(op=Op.ALL_REDUCE, software="vllm 1 all-reduce kernel"), "fused", "fused"),
    ],
)
def test_family_and_algorithm(row, name, expected):
    assert (family(row), algorithm(row)) == (name, expected)


def test_serving_is_refused_while_there_is_no_model_of_it(monkeypatch):
    monkeypatch.setattr(predict_rows, "find_spec", lambda name: None)
    first, per_token = predict_row(SERVING, Bench())
    assert (first.row_class, first.measured_s) == (RowClass.TTFT, 0.3)
    assert (per_token.row_class, per_token.measured_s) == (RowClass.TPOT, 0.02)
    assert first.reason == per_token.reason == "serving under load is not modelled yet"
    (only,) = predict_row(replace(SERVING, ttft_s=None), Bench())
    assert only.row_class is RowClass.TPOT


def test_serving_is_predicted_on_the_chips_of_its_pools(monkeypatch):
    asked = []

    class Module:
        """Stands for both modules of the cost model."""

        @staticmethod
        def serving_run(row):
            pool = SimpleNamespace(num_chips=12)
            return SimpleNamespace(decode=pool, prefill=pool if row is SERVING else None)

        @staticmethod
        def serving_model(model, formats):
            return model

        @staticmethod
        def predict_serving(model, topology, run):
            asked.append((model.name, topology.num_chips))
            return SimpleNamespace(ttft_s=0.6, tpot_s=0.01)

    monkeypatch.setattr(predict_rows, "find_spec", lambda name: Module)
    monkeypatch.setattr(predict_rows, "import_module", lambda name: Module)
    first, per_token = predict_row(SERVING, Bench())
    assert (first.ratio, per_token.ratio) == (2.0, 0.5)
    predict_row(replace(SERVING, tpot_s=None), Bench())
    # Nodes of eight: 24 chips are three, 12 two.
    assert asked == [("deepseek-r1", 24), ("deepseek-r1", 16)]
