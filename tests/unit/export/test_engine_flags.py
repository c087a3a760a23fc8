"""Launch lines against the flags of the engines' own parsers (see ``data/engines``)."""

import pytest
import yaml
from deploy_factory import degrees, layout_for
from engine_grammar import FLAGS, LWS, check_flags, lines
from jsonschema import Draft202012Validator
from msgspec import structs

from planner.domain.degrees import OverlapMode
from planner.domain.deployment import Engine
from planner.errors import SpecError
from planner.export.engines.request import ExportOptions
from planner.export.serving_export import export_serving

MOE = "qwen3-30b-a3b"


def moe(**given):
    return degrees(**{"num_slots": 128, **given})


def exported(own, engine, model=MOE, sequences=16, options=None, **more):
    layout = layout_for(own, sequences, model, **more)
    artifact = export_serving(layout, engine, options or ExportOptions())
    return artifact, {name: content.decode() for name, content in artifact.files}


CASES = [
    (degrees(attn_tp=8), "llama-3.1-8b"),
    (degrees(attn_tp=2, pp=2, replicas=2), "llama-3.1-8b"),
    (degrees(attn_tp=16), "llama-3.1-8b"),
    (moe(attn_dp=16, ep=16, num_slots=144), MOE),
    (moe(attn_dp=8, pp=2, ep=8, overlap=OverlapMode.EP), MOE),
    (moe(attn_tp=4, cp=2, ep=8), MOE),
    (moe(attn_tp=2, attn_dp=4, ep=4, expert_tp=2), MOE),
    (moe(attn_dp=8, ep=8, draft=2), MOE),
]


@pytest.mark.parametrize(("own", "model"), CASES)
def test_vllm_lines_parse(own, model):
    options = ExportOptions(draft_model="D")
    _, files = exported(own, Engine.VLLM, model, options=options, acceptance=0.7)
    for words in lines(files["launch.sh"]):
        start = words.index("serve")
        assert all("=" in word for word in words[: start - 1])
        check_flags(words[start + 2 :], FLAGS["vllm"])


@pytest.mark.parametrize(("own", "model"), CASES)
@pytest.mark.parametrize("version", ["0.5.23", "0.5.22"])
def test_sglang_lines_parse(own, model, version):
    options = ExportOptions(draft_model="D", version=version)
    _, files = exported(own, Engine.SGLANG, model, options=options, acceptance=0.7)
    for words in lines(files["launch.sh"]):
        start = words.index("sglang.launch_server")
        check_flags(words[start + 1 :], FLAGS["sglang"])


def test_sglang_flags_that_were_renamed():
    # --attn-dp-size from 0.5.22 on, graphs of decode from 0.5.20 on.
    own = moe(attn_dp=8, ep=8)
    for version, words, absent in (
        ("0.5.23", ["--attn-dp-size 8", "--cuda-graph-max-bs-decode 16"], "--dp-size"),
        ("0.5.21", ["--dp-size 8 ", "--enable-dp-attention", "bs-decode 16"], "--attn-dp-size"),
        ("0.5.19", ["--cuda-graph-max-bs 16"], "--cuda-graph-max-bs-decode"),
        ("0.5.10.post1", ["--cuda-graph-max-bs 16"], "--attn-dp-size"),
    ):
        artifact, files = exported(own, Engine.SGLANG, options=ExportOptions(version=version))
        text = files["launch.sh"].replace(" \\\n  ", " ")
        assert all(word in text for word in words), version
        assert absent not in text
        assert artifact.version == version and not artifact.notes


# Fields of the configuration (llmapi/llm_args.py of the 1.3 line), which refuses all others.
TRTLLM_KEYS = {
    *("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size", "cp_config"),
    *("moe_expert_parallel_size", "moe_tensor_parallel_size", "gpus_per_node", "pp_partition"),
    *("enable_attention_dp", "max_batch_size", "max_num_tokens", "max_seq_len"),
    *("kv_cache_config", "cuda_graph_config", "moe_config", "speculative_config"),
    *("cache_transceiver_config", "disable_overlap_scheduler"),
}


def test_trtllm_config_has_known_keys_and_agrees_with_itself():
    own = moe(attn_dp=16, pp=2, ep=16, num_slots=144)
    _, files = exported(own, Engine.TRTLLM)
    config = yaml.safe_load(files["trtllm.yaml"])
    assert set(config) <= TRTLLM_KEYS
    tp, pp = config["tensor_parallel_size"], config["pipeline_parallel_size"]
    assert config["moe_tensor_parallel_size"] * config["moe_expert_parallel_size"] == tp
    assert len(config["pp_partition"]) == pp and sum(config["pp_partition"]) == 48
    assert config["moe_config"] == {"backend": "CUTLASS", "load_balancer": "experts.yaml"}
    assert config["enable_attention_dp"] is True and config["gpus_per_node"] == 8
    (words,) = lines(files["launch.sh"])
    assert words[words.index("--ntasks") + 1] == str(tp * pp) == "32"
    # rc18 recipes: the backend that balanced then, and the older name of drafted layers.
    _, old = exported(own, Engine.TRTLLM, options=ExportOptions(version="1.3.0rc18"))
    assert yaml.safe_load(old["trtllm.yaml"])["moe_config"]["backend"] == "WIDEEP"


def test_ranks_devices_and_ports_of_instances_on_one_node():
    _, files = exported(degrees(attn_tp=2, replicas=4), Engine.VLLM, "llama-3.1-8b")
    seen = set()
    for words in lines(files["launch.sh"]):
        devices = words[0].removeprefix("CUDA_VISIBLE_DEVICES=")
        seen.add((devices, words[words.index("--port") + 1]))
    assert seen == {("0,1", "8000"), ("2,3", "8001"), ("4,5", "8002"), ("6,7", "8003")}
    assert files["rankfile.3"] == "rank 0=n0 slot=6\nrank 1=n0 slot=7\n"
    assert files["hostfile.3"] == "n0\nn0\n"


def test_vllm_nodes_start_their_dp_ranks():
    _, files = exported(moe(attn_dp=16, ep=16), Engine.VLLM)
    head, other = (" ".join(words) for words in lines(files["launch.sh"]))
    assert "--data-parallel-size-local 8" in head and "--headless" not in head
    assert "--headless --data-parallel-start-rank 8" in other
    assert "--data-parallel-address n0" in other


def test_a_rank_over_two_nodes_joins_by_number():
    _, files = exported(degrees(attn_tp=16), Engine.VLLM, "llama-3.1-8b")
    head, other = (" ".join(words) for words in lines(files["launch.sh"]))
    assert "--nnodes 2 --node-rank 0 --master-addr n0" in head
    assert "--nnodes 2 --node-rank 1 --master-addr n0" in other and "--headless" in other


@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.SGLANG, Engine.TRTLLM])
@pytest.mark.parametrize(("own", "model"), CASES)
def test_manifests_are_leader_worker_sets_of_all_chips(engine, own, model):
    artifact, files = exported(own, engine, model, acceptance=0.7)
    if "lws.yaml" not in files:
        assert engine is Engine.TRTLLM and "MPI or Slurm" in artifact.notes[-1]
        return
    found = yaml.safe_load(files["lws.yaml"])
    Draft202012Validator(LWS).validate(found)
    template = found["spec"]["leaderWorkerTemplate"]
    container = template["workerTemplate"]["spec"]["containers"][0]
    chips = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert found["spec"]["replicas"] * template["size"] * chips == artifact.chips


def test_workers_of_a_manifest_name_themselves():
    _, files = exported(moe(attn_dp=16, ep=16), Engine.VLLM)
    template = yaml.safe_load(files["lws.yaml"])["spec"]["leaderWorkerTemplate"]
    shell = template["workerTemplate"]["spec"]["containers"][0]["command"]
    assert shell[:2] == ["/bin/sh", "-c"]
    assert "--data-parallel-start-rank $((LWS_WORKER_INDEX * 8))" in shell[2]
    _, files = exported(moe(attn_dp=16, ep=16), Engine.SGLANG)
    template = yaml.safe_load(files["lws.yaml"])["spec"]["leaderWorkerTemplate"]
    words = template["workerTemplate"]["spec"]["containers"][0]["command"]
    assert words[words.index("--node-rank") + 1] == "$(LWS_WORKER_INDEX)"


def test_hosts_get_the_users_names():
    options = ExportOptions(hosts=("alpha", "beta", "gamma", "delta"))
    _, files = exported(moe(attn_dp=16, ep=16), Engine.SGLANG, options=options)
    assert "--dist-init-addr alpha:20000" in files["launch.sh"].replace(" \\\n  ", " ")
    assert files["hostfile.0"].split() == ["alpha"] * 8 + ["beta"] * 8
    with pytest.raises(SpecError, match="2 names for 4 hosts"):
        exported(moe(attn_dp=16, ep=16), Engine.SGLANG, options=ExportOptions(hosts=("a", "b")))


def test_caches_in_formats_without_a_name_are_refused():
    layout = layout_for(moe(attn_dp=8, ep=8), 4, MOE)
    model = structs.replace(layout.inputs.model, kv="int8")
    changed = structs.replace(layout, inputs=structs.replace(layout.inputs, model=model))
    assert export_serving(changed, Engine.VLLM, ExportOptions())
    with pytest.raises(SpecError, match="SGLang has no KV cache in int8"):
        export_serving(changed, Engine.SGLANG, ExportOptions())


def test_equal_layouts_give_equal_bytes():
    own = moe(attn_dp=16, ep=16, num_slots=144)
    for engine in (Engine.VLLM, Engine.SGLANG, Engine.TRTLLM):
        assert exported(own, engine)[0] == exported(own, engine)[0]
