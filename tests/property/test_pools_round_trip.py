"""Two pools: export, import, evaluate; the same degrees at the same price."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from planner.api import case_of_inputs
from planner.catalog.deployed_sglang import read_sglang
from planner.catalog.deployed_trtllm import read_trtllm
from planner.catalog.deployed_vllm import read_vllm
from planner.catalog.hosts import read_rank_hosts
from planner.deployment.pools import deploy_pools, layout_of_pools, pool_inputs
from planner.deployment.serving import deploy
from planner.domain.deployment import Engine, PoolRole, ServingDeployment
from planner.domain.hardware import Sizing
from planner.domain.serve import Demand, ServeQuestion
from planner.errors import CatalogError
from planner.export.artifact import write_folder
from planner.export.engines.request import ExportOptions
from planner.export.pools_export import export_pools
from planner.export.serve_file import read_serve_layout
from planner.serve_api import evaluate_pools
from planner.serve_api.case import read_question

READERS = {
    Engine.VLLM: read_vllm,
    Engine.SGLANG: read_sglang,
    Engine.TRTLLM: read_trtllm,
}
QUESTION = ServeQuestion(
    model="qwen3-30b-a3b",
    machine="b300-hgx",
    demand=Demand(input_len=2048, output_len=512, prefix_hit=0.25),
    sizing=Sizing(nodes=4),
)


@pytest.fixture(scope="module")
def inputs():
    return read_question(QUESTION)[0]


@st.composite
def workers(draw):
    tp, dp, pp = (draw(st.sampled_from(own)) for own in ([1, 2, 4], [1, 2, 4], [1, 2]))
    ep = draw(st.sampled_from([d for d in (1, 2, 4, 8) if tp * dp % d == 0]))
    count = draw(st.sampled_from([1, 2]))
    return {"tp": tp, "dp": dp, "pp": pp, "ep": ep, "instances": count}


def pools_of(inputs, prefill, decode):
    """Both pools on the machine in its order, by the rank order of SGLang."""
    found, start = [], 0
    for own, role, sequences in (
        (prefill, PoolRole.PREFILL, 3),
        (decode, PoolRole.DECODE, 16),
    ):
        told = ServingDeployment(engine=Engine.SGLANG, max_sequences=sequences, **own)
        case = case_of_inputs(pool_inputs(inputs, role))
        size = told.chips // told.instances
        names = case.topology.chip_names
        assume(start + told.chips <= len(names))
        chips = [names[at : at + size] for at in range(start, start + told.chips, size)]
        found.append(deploy(told, pool_inputs(inputs, role), case, chips).layout)
        start += told.chips
    return layout_of_pools(inputs, (found[0], found[1]), case)


@pytest.mark.parametrize("engine", READERS)
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(prefill=workers(), decode=workers())
def test_pools_come_back(engine, prefill, decode, inputs, tmp_path_factory):
    layout = pools_of(inputs, prefill, decode)
    folder = tmp_path_factory.mktemp("pools") / "run"
    artifact = export_pools(layout, engine, ExportOptions())
    write_folder(str(folder), artifact)
    exported = read_serve_layout(str(folder / "layout.json"))
    if artifact.as_planned:
        assert exported == layout
    read = READERS[engine](str(folder / "launch.sh"))
    assert read.unread == () and read.prefill is not None
    files = sorted(folder.glob("rankfile-*"), key=lambda path: int(path.suffix[1:]))
    ranks = [one for path in files for one in read_rank_hosts(str(path))]
    chips = read.told.chips + read.prefill.chips
    assert chips == len(ranks) == artifact.chips == exported.prediction.chips_used
    pools, case = deploy_pools((read.prefill, read.told), exported.inputs, ranks)
    back = layout_of_pools(exported.inputs, (pools[0].layout, pools[1].layout), case)
    for one, two in ((back.prefill, exported.prefill), (back.decode, exported.decode)):
        assert one.degrees == two.degrees and one.ranks == two.ranks
        assert one.prediction == two.prediction
    assert back.prediction == exported.prediction
    assert evaluate_pools(exported).prediction == exported.prediction


def test_one_pool_alone_is_not_both():

    with pytest.raises(CatalogError, match="one pool only"):
        read_sglang("--flags", "--tp 8 --disaggregation-mode prefill")
