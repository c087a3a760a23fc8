"""Pools of prefill and decode workers: lines, files and manifests of both."""

import json

import pytest
import yaml
from engine_grammar import FLAGS, LWS, check_flags, lines
from jsonschema import Draft202012Validator
from msgspec import structs

from planner.api import case_of_inputs
from planner.deployment.pools import layout_of_pools, pool_inputs, pool_layout
from planner.deployment.serving import deploy
from planner.domain.deployment import Engine, PoolRole, ServingDeployment
from planner.domain.hardware import Sizing
from planner.domain.serve import Demand, ServeQuestion
from planner.export.engines.request import ExportOptions
from planner.export.pools_export import export_pools
from planner.serve_api.case import read_question

QUESTION = ServeQuestion(
    model="qwen3-30b-a3b",
    machine="h100-hgx",
    demand=Demand(input_len=2000, output_len=500),
    sizing=Sizing(nodes=3),
)


@pytest.fixture(scope="module")
def layout():
    """Two prefill workers of TP 4 on node 0, one decode worker of DP 16 on nodes 1 and 2."""
    inputs = read_question(QUESTION)[0]
    prefill = ServingDeployment(engine=Engine.SGLANG, tp=4, instances=2, max_sequences=2, ep=4)
    decode = ServingDeployment(engine=Engine.SGLANG, dp=16, ep=16, max_sequences=32, extra_slots=16)
    pools = []
    for told, role, start in ((prefill, PoolRole.PREFILL, 0), (decode, PoolRole.DECODE, 8)):
        own = pool_inputs(inputs, role)
        case = case_of_inputs(own)
        size = told.chips // told.instances
        names = case.topology.chip_names
        chips = [names[at : at + size] for at in range(start, start + told.chips, size)]
        pools.append(deploy(told, own, case, chips).layout)
    return layout_of_pools(inputs, (pools[0], pools[1]), case)


def files(layout, engine):
    artifact = export_pools(layout, engine, ExportOptions())
    return artifact, {name: content.decode() for name, content in artifact.files}


def test_sglang_workers_and_router(layout):
    artifact, found = files(layout, Engine.SGLANG)
    assert artifact.as_planned and artifact.chips == 24
    words = lines(found["launch.sh"])
    # Two prefill workers, two nodes of the decode worker, and the router.
    assert len(words) == 5
    for own in words[:4]:
        check_flags(own[own.index("sglang.launch_server") + 1 :], FLAGS["sglang"])
    modes = [own[own.index("--disaggregation-mode") + 1] for own in words[:4]]
    assert modes == ["prefill", "prefill", "decode", "decode"]
    # A pass of two prompts of 2,000 tokens; decode keeps the engine's habit on 16 ranks.
    chunks = [own[own.index("--chunked-prefill-size") + 1] for own in words[:3]]
    assert chunks == ["4000", "4000", str(8192 * 16)]
    router = " ".join(words[4])
    assert "--pd-disaggregation --prefill http://n0:30000 12000" in router
    assert "--prefill http://n0:30001 12001 --decode http://n1:30002" in router
    # Copies where the engine puts them by itself: their number is said, no map is needed.
    assert words[2][words[2].index("--ep-num-redundant-experts") + 1] == "16"
    assert "experts-decode.json" not in found


def test_vllm_workers_send_and_fetch_caches(layout):
    artifact, found = files(layout, Engine.VLLM)
    words = lines(found["launch.sh"])
    assert len(words) == 4
    roles, sides = [], set()
    for own in words:
        start = own.index("serve")
        env = dict(word.split("=", 1) for word in own[: start - 1])
        sides.add((env["VLLM_NIXL_SIDE_CHANNEL_HOST"], env["VLLM_NIXL_SIDE_CHANNEL_PORT"]))
        check_flags(own[start + 2 :], FLAGS["vllm"])
        config = json.loads(own[own.index("--kv-transfer-config") + 1])
        roles.append(config["kv_role"])
    assert roles == ["kv_producer"] * 2 + ["kv_consumer"] * 2
    # Workers on one node do not share a port.
    assert len(sides) == 4
    assert "llm-d" in artifact.notes[-1]


def test_trtllm_servers_behind_one_address(layout):
    _, found = files(layout, Engine.TRTLLM)
    prefill, decode = (
        yaml.safe_load(found[f"trtllm-{role}.yaml"]) for role in ("prefill", "decode")
    )
    assert prefill["disable_overlap_scheduler"] is True
    assert decode["disable_overlap_scheduler"] is False
    for config in (prefill, decode):
        assert config["cache_transceiver_config"]["backend"] == "NIXL"
        assert config["cache_transceiver_config"]["max_tokens_in_buffer"] == config["max_seq_len"]
    assert decode["moe_config"]["load_balancer"] == "experts-decode.yaml"
    router = yaml.safe_load(found["disagg.yaml"])
    assert router["context_servers"] == {"num_instances": 2, "urls": ["n0:8000", "n0:8001"]}
    assert router["generation_servers"] == {"num_instances": 1, "urls": ["n1:8002"]}
    assert lines(found["launch.sh"])[-1] == ["trtllm-serve", "disaggregated", "-c", "disagg.yaml"]


def test_manifests_of_both_pools(layout):
    artifact, found = files(layout, Engine.SGLANG)
    chips = 0
    for one in yaml.safe_load_all(found["lws.yaml"]):
        Draft202012Validator(LWS).validate(one)
        template = one["spec"]["leaderWorkerTemplate"]
        container = template["workerTemplate"]["spec"]["containers"][0]
        limit = int(container["resources"]["limits"]["nvidia.com/gpu"])
        chips += one["spec"]["replicas"] * template["size"] * limit
    assert chips == artifact.chips


def test_what_changes_is_said_of_both_together(layout):
    # An overlap that no engine has, in the prefill pool alone.
    pool = structs.replace(
        layout.prefill, degrees=structs.replace(layout.prefill.degrees, overlap="ep,tp")
    )
    artifact, _ = files(structs.replace(layout, prefill=pool), Engine.SGLANG)
    assert not artifact.as_planned
    assert artifact.notes[0].startswith("prefill: SGLang cannot express overlap ep,tp")
    assert artifact.notes[-1].startswith("both pools as exported")


def test_a_pool_alone_is_a_layout(layout):
    own = pool_layout(layout, PoolRole.DECODE)
    assert own.degrees.attn_dp == 16
    assert len(own.ranks) + len(own.idle_chips) == 24
