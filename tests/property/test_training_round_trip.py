"""Export, import, evaluate: the same degrees at the same step time, for every training engine."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from train_factory import BATCH, question, train_degrees, train_layout_for

from planner.catalog.deployed_maxtext import read_maxtext
from planner.catalog.deployed_megatron import read_megatron
from planner.catalog.deployed_torchtitan import read_torchtitan
from planner.deployment.train_compare import deploy_training
from planner.domain.deployment import Engine
from planner.domain.dtypes import DType
from planner.domain.run import Overlap, Recompute, ScheduleKind
from planner.errors import SpecError
from planner.export.artifact import write_folder
from planner.export.engines.request import ExportOptions
from planner.export.train_file import read_train_layout
from planner.export.training_export import export_training
from planner.train_api import evaluate_training

CASES = [
    (Engine.MEGATRON, None, "launch.sh", read_megatron),
    (Engine.TORCHTITAN, "0.2.2", "torchtitan.toml", read_torchtitan),
    (Engine.TORCHTITAN, "2026.8", "planner_config.py", read_torchtitan),
    (Engine.MAXTEXT, None, "launch.sh", read_maxtext),
]


@st.composite
def layouts(draw):
    model = draw(st.sampled_from(["llama-3.1-8b", "qwen3-30b-a3b"]))
    tp, cp, dp, pp = (
        draw(st.sampled_from(own)) for own in ([1, 2, 4], [1, 2], [1, 2, 4], [1, 2, 4])
    )
    assume(tp * cp * dp * pp <= 32)
    micro = draw(st.sampled_from([1, 2]))
    more = {}
    if model == "qwen3-30b-a3b":
        stage = tp * cp * dp
        ep = draw(st.sampled_from([d for d in (1, 2, 4, 8) if stage % d == 0]))
        more = {"ep": ep, "expert_tp": draw(st.sampled_from([1, tp]))}
        assume(stage % (ep * more["expert_tp"]) == 0)
    if pp > 1:
        more["schedule"] = draw(
            st.sampled_from([k for k in ScheduleKind if k != ScheduleKind.NONE])
        )
        if more["schedule"] is ScheduleKind.INTERLEAVED:
            more["virtual_stages"] = draw(st.sampled_from([2, 3]))
    own = train_degrees(
        tp=tp,
        cp=cp,
        dp=dp,
        pp=pp,
        microbatch=micro,
        recompute=draw(st.sampled_from(Recompute)),
        zero_stage=draw(st.sampled_from([0, 1, 2, 3])),
        sequence_parallel=tp > 1 and draw(st.booleans()),
        overlap=tuple(sorted(draw(st.sets(st.sampled_from([o.value for o in Overlap]))))),
        **more,
    )
    asked = question(
        model,
        gradients=draw(st.sampled_from([DType.FP32, DType.BF16])),
        optimizer_state=draw(st.sampled_from([DType.FP32, DType.BF16])),
    )
    assert own.dp * own.microbatch * own.microbatches == BATCH
    try:
        return train_layout_for(own, asked), asked
    except SpecError:
        assume(False)


@pytest.mark.parametrize(("engine", "version", "file", "read"), CASES)
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(pair=layouts())
def test_what_is_exported_comes_back(engine, version, file, read, pair, tmp_path_factory):
    layout, asked = pair
    folder = tmp_path_factory.mktemp("export") / "run"
    try:
        artifact = export_training(layout, engine, ExportOptions(version=version))
    except SpecError as error:
        assert "cannot express" in error.message
        assume(False)
    write_folder(str(folder), artifact)
    exported = read_train_layout(str(folder / "layout.json"))
    if artifact.as_planned:
        assert exported == layout
    found = read(str(folder / file))
    assert found.unread == ()
    assert found.told.chips == artifact.chips == len(exported.chips)
    back = deploy_training(found.told, asked).layout
    assert back.degrees == exported.degrees
    assert back.chunks == exported.chunks and back.chips == exported.chips
    assert back.prediction == exported.prediction
    assert evaluate_training(exported).prediction == exported.prediction
