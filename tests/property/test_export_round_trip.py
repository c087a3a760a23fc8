"""Export, import, evaluate: the same degrees at the same price, for every serving engine.

Random layouts, most of which some engine cannot express: what is exported is then the nearest
layout, and that one must come back. Nothing is compared with a recorded output.
"""

import pytest
from deploy_factory import case_for, degrees, layout_for
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from planner.api import case_of_layout, evaluate_layout
from planner.catalog.deployed_sglang import read_sglang
from planner.catalog.deployed_trtllm import read_trtllm
from planner.catalog.deployed_vllm import read_vllm
from planner.catalog.hosts import read_rank_hosts
from planner.deployment.serving import chips_on, deploy
from planner.domain.degrees import OverlapMode
from planner.domain.deployment import Engine
from planner.errors import SpecError
from planner.export.artifact import write_folder
from planner.export.engines.request import ExportOptions
from planner.export.layout_file import read_layout
from planner.export.serving_export import export_serving

READERS = {
    Engine.VLLM: read_vllm,
    Engine.SGLANG: read_sglang,
    Engine.TRTLLM: read_trtllm,
}
powers = st.sampled_from([1, 2, 4, 8])


@st.composite
def layouts(draw):
    model = draw(st.sampled_from(["qwen3-30b-a3b", "deepseek-v2", "llama-3.1-8b"]))
    tp, dp, cp = draw(powers), draw(powers), draw(st.sampled_from([1, 1, 1, 2]))
    pp, replicas = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2]))
    experts = 0 if model.startswith("llama") else case_for(model)[1].loads.shape[1]
    dp = dp if experts else 1
    stage = tp * dp * cp
    assume(stage * pp * replicas <= 32)
    more = {}
    if experts:
        ep = draw(st.sampled_from([d for d in range(1, stage + 1) if stage % d == 0]))
        extra = draw(st.sampled_from([0, 0, ep, 2 * ep]))
        more = {"ep": ep, "expert_tp": stage // ep, "num_slots": experts + extra}
        more["overlap"] = draw(st.sampled_from(OverlapMode))
        assume(ep > 1 or not extra)
    own = degrees(
        attn_tp=tp,
        attn_dp=dp,
        cp=cp,
        pp=pp,
        replicas=replicas,
        microbatches=draw(st.sampled_from([pp, 2 * pp])),
        draft=draw(st.sampled_from([0, 0, 2])),
        **more,
    )
    try:
        return layout_for(own, draw(st.integers(2, 40)), model, acceptance=0.7)
    except SpecError:
        assume(False)


@pytest.mark.parametrize("engine", READERS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,
)
@given(layout=layouts())
def test_what_is_exported_comes_back(engine, layout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    try:
        artifact = export_serving(layout, engine, ExportOptions())
    except SpecError as error:
        # 472 GB of weights do not fit a pair of chips.
        assert "fits" in error.message and layout.inputs.model.name == "deepseek-v2"
        assume(False)
    write_folder(str(folder), artifact)
    exported = read_layout(str(folder / "layout.json"))
    if artifact.as_planned:
        assert exported == layout
    else:
        assert any("cannot express" in note for note in artifact.notes)

    read = READERS[engine](str(folder / "launch.sh"))
    assert read.unread == ()
    case = case_of_layout(exported)
    ranks = [
        one
        for instance in range(read.told.instances)
        for one in read_rank_hosts(str(folder / f"rankfile.{instance}"))
    ]
    # Chips of the flags, of the files and of the layout agree.
    assert read.told.chips == len(ranks) == len(exported.ranks) == artifact.chips
    back = deploy(read.told, exported.inputs, case, chips_on(ranks, case, read.told.instances))
    assert back.layout.degrees == exported.degrees
    assert back.layout.stages == exported.stages
    assert back.layout.prediction == exported.prediction
    assert evaluate_layout(back.layout).prediction == exported.prediction
