"""Launch lines and YAML of deployments, and what is wrong with some."""

import json

import pytest

from planner.catalog.deployed_sglang import read_sglang
from planner.catalog.deployed_trtllm import read_trtllm
from planner.catalog.deployed_vllm import read_vllm
from planner.catalog.hosts import read_hosts, read_rank_hosts
from planner.catalog.launch_text import split_commands
from planner.catalog.model_alias import model_behind
from planner.domain.dtypes import DType
from planner.errors import CatalogError

VLLM = """#!/bin/bash
export NCCL_DEBUG=INFO
# two nodes of eight
VLLM_PP_LAYER_PARTITION="31,30" vllm serve M -tp 8 -pp 2 --nnodes 2 \\
  --node-rank 0 --master-addr 10.0.0.1 && echo started
VLLM_PP_LAYER_PARTITION="31,30" vllm serve M -tp 8 -pp 2 --nnodes 2 --node-rank 1 \\
  --master-addr 10.0.0.1 --headless
"""
WIDE = (
    "vllm serve M --data-parallel-size 16 --data-parallel-size-local 8 --enable-expert-parallel "
    "--enable-eplb --eplb-config '{\"num_redundant_experts\": 32}' --max_num_seqs=256 "
    "--kv-cache-dtype fp8 --speculative-config "
    '\'{"method": "mtp", "num_speculative_tokens": 1}\' --max-model-len 32K'
)
SGLANG = (
    "python -m sglang.launch_server --model-path M --tp-size 16 --dp-size 16 "
    "--enable-dp-attention --ep-size 16 --moe-a2a-backend deepep --ep-num-redundant-experts 32 "
    "--max-running-requests 4096 --nnodes 2 --node-rank 0 --dist-init-addr 10.0.0.1:5000"
)
TRTLLM = """tensor_parallel_size: 16
moe_expert_parallel_size: 8
enable_attention_dp: true
max_batch_size: 256
kv_cache_config: {free_gpu_memory_fraction: 0.85, dtype: fp8}
moe_config:
  load_balancer: {num_slots: 6, layer_updates_per_iter: 2}
speculative_config: {decoding_type: MTP, num_nextn_predict_layers: 1}
stream_interval: 10
"""


def write(folder, text, name="serve.sh"):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_vllm_lines_of_several_nodes_are_one_deployment(tmp_path):
    found = read_vllm(write(tmp_path, VLLM))
    told = found.told
    assert (told.tp, told.dp, told.pp, told.instances, told.chips) == (8, 1, 2, 1, 16)
    assert told.stage_layers == (31, 30) and told.ep == 1
    assert found.model == "M" and found.unread == ()


def test_vllm_wide_expert_parallelism():
    told = read_vllm("--flags", WIDE).told
    assert (told.dp, told.ep, told.extra_slots, told.rebalances) == (16, 16, 32, True)
    assert (told.max_sequences, told.kv, told.draft) == (256, DType.FP8, 1)
    assert told.max_context == 32 * 1024


def test_vllm_flags_alone_dotted_and_negated():
    text = "-tp 2 -dcp 2 --eplb-config.num_redundant_experts 4 --enable-eplb --no-enable-dbo"
    told = read_vllm("--flags", text).told
    assert (told.tp, told.cp, told.extra_slots, told.overlap_ep) == (1, 2, 4, False)


def test_vllm_yaml_below_the_line(tmp_path):
    write(tmp_path, "tensor-parallel-size: 4\nmax_num_seqs: 7\n", "c.yaml")
    found = read_vllm(write(tmp_path, "vllm serve M --config c.yaml --max-num-seqs 9"))
    assert (found.told.tp, found.told.max_sequences) == (4, 9)
    assert read_vllm(str(tmp_path / "c.yaml")).told.max_sequences == 7


def test_sglang_attention_dp_in_both_spellings():
    for text in (SGLANG, SGLANG.replace("--dp-size 16 --enable-dp-attention", "--attn-dp-size 16")):
        told = read_sglang("--flags", text).told
        assert (told.tp, told.dp, told.ep, told.instances) == (1, 16, 16, 1)
        # Global in SGLang, per attention rank here.
        assert (told.extra_slots, told.max_sequences) == (32, 256)
    # Without attention DP, --dp-size is independent copies.
    plain = read_sglang("--flags", "--model-path M --tp 2 --dp 4").told
    assert (plain.tp, plain.dp, plain.instances, plain.ep) == (2, 1, 4, 1)


def test_sglang_all_to_all_spreads_experts_over_all_ranks():
    assert read_sglang("--flags", "--tp 8 --moe-a2a-backend deepep").told.ep == 8


def test_sglang_reads_its_map(tmp_path):
    write(tmp_path, json.dumps({"physical_to_logical_map": [[0, 1], [1, 0]]}), "map.json")
    found = read_sglang(write(tmp_path, "sglang serve --init-expert-location map.json"))
    assert found.told.placement == ((0, (0, 1)), (1, (1, 0)))


def test_trtllm_yaml(tmp_path):
    found = read_trtllm(write(tmp_path, TRTLLM, "t.yaml"))
    told = found.told
    assert (told.tp, told.dp, told.ep, told.max_sequences) == (1, 16, 8, 256)
    assert (told.total_slots, told.rebalances, told.draft) == (6, True, 1)
    assert told.kv is DType.FP8 and found.unread == ("stream_interval",)


def test_manifests_are_read(tmp_path):
    text = """kind: LeaderWorkerSet
spec:
  replicas: 3
  leaderWorkerTemplate:
    workerTemplate:
      spec:
        containers:
          - name: engine
            command: [vllm, serve, M]
            args: [--tensor-parallel-size, "4"]
            env: [{name: VLLM_PP_LAYER_PARTITION, value: "3,4"}]
"""
    told = read_vllm(write(tmp_path, text, "lws.yaml")).told
    assert (told.tp, told.instances, told.stage_layers) == (4, 3, (3, 4))


def test_instances_are_heads():
    text = "vllm serve M -tp 2 --port 8000 &\nvllm serve M -tp 2 --port 8001 &\n"
    assert read_vllm("--flags", text).told.instances == 2


def test_unknown_flags_are_kept_apart_and_near_misses_refused():
    found = read_vllm("--flags", "vllm serve M --seed 3 --quantization fp8 --enable-lora")
    assert found.unread == ("--seed", "--quantization", "--enable-lora")
    with pytest.raises(CatalogError, match="did you mean --tensor-parallel-size") as caught:
        raise_with_text(read_vllm, "vllm serve M \\\n  --tensor-paralel-size 8")
    assert caught.value.line == 2


def raise_with_text(reader, text):
    try:
        reader("--flags", text)
    except CatalogError as error:
        error.args = (str(error),)
        raise


# What is wrong, the line it stands on, and what is said.
BAD = [
    (read_vllm, "vllm serve M \\\n -tp eight", 2, "whole number"),
    (read_vllm, "vllm serve M \\\n \\\n -tp 0", 3, "1 or more"),
    (read_vllm, "vllm serve M --max-num-seqs", 1, "has no value"),
    (read_vllm, "vllm serve M \\\n -tp 6 -dcp 4", 2, "does not divide TP 6"),
    (read_vllm, "vllm serve M\nvllm serve M -tp 2", 2, "differs between launch lines"),
    (read_vllm, "echo 'open", 1, "not a shell line"),
    (read_vllm, "echo hello", None, "starts no such engine"),
    (read_vllm, "vllm serve M --eplb-config '{'", 1, "JSON object"),
    (read_vllm, "vllm serve M --eplb-config '{\"num_redundant_experts\": 3}'", 1, "--enable-eplb"),
    (read_vllm, "vllm serve M --speculative-config '{}' --speculative-config '[]'", 1, "JSON"),
    (read_vllm, "vllm serve M --kv-cache-dtype fp7", 1, "not known"),
    (read_vllm, "vllm serve M --max-model-len much", 1, "tokens"),
    (read_vllm, "VLLM_PP_LAYER_PARTITION=3,x vllm serve M -pp 2", 1, "commas between"),
    (read_sglang, "--tp 8 \\\n --attn-dp-size 3", 1, "do not divide"),
    (read_sglang, "--dp-size 2 --attn-dp-size 2", 1, "excludes --dp-size"),
    (read_sglang, "--tp 8 --ep-size 3", 1, "does not divide TP 8"),
    (read_sglang, "--speculative-algorithm EAGLE", 1, "num-steps"),
    (read_sglang, "--init-expert-location a.pt", 1, "no JSON map"),
    (read_sglang, "--init-expert-location '{\"physical_to_logical_map\": 3}'", 1, "no physical"),
    (read_trtllm, "--tp_size 4 --ep_size 3", None, "EP 3"),
    (read_trtllm, "--tp_size none", 1, "whole number"),
]


@pytest.mark.parametrize(("reader", "text", "line", "message"), BAD)
def test_malformed_lines_name_the_line(reader, text, line, message):
    with pytest.raises(CatalogError) as caught:
        reader("--flags", text)
    assert message in str(caught.value)
    assert caught.value.line == line or reader is read_trtllm


BALANCER = "moe_config:\n  load_balancer:\n"
BAD_YAML = [
    ("tensor_parallel_size: 8\nmax_batch_size: many\n", 2, "max_batch_size"),
    ("tensor_parallel_size: 8\ntensor_parallel_size: 4\n", 2, "is there twice"),
    ("a: [1, 2\nb: 3\n", 2, "not valid YAML"),
    ("a: &x [1]\nb: *x\n", 2, "alias"),
    ("- 1\n- 2\n", 1, "no mapping"),
    (f"{BALANCER}    num_slots: 2\n    initial_global_assignments:\n      3: [1]\n", 5, "1 slots"),
    ("pp_partition: [3, -1]\n", 1, "layers per stage"),
    ("kv_cache_config: 3\n", 1, "no mapping"),
    ("enable_attention_dp: maybe\n", 1, "neither true nor false"),
    ("context_parallel_size: 2\n", 1, "prompts"),
    ("moe_config: {load_balancer: nowhere.yaml}\n", None, "no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message"), BAD_YAML)
def test_malformed_yaml_names_the_line(text, line, message, tmp_path):
    with pytest.raises(CatalogError) as caught:
        read_trtllm(write(tmp_path, text, "t.yaml"))
    assert message in str(caught.value) and caught.value.line == line


def test_nesting_is_bounded(tmp_path):
    with pytest.raises(CatalogError, match="nested too deeply"):
        read_trtllm(write(tmp_path, "[" * 20000, "t.yaml"))


def test_words_know_their_lines():
    text = 'A=1 x \'two\nlines\' \\\n  y # z\nexport B=2; w "q\\"" > log 2>&1\n'
    first, second = split_commands(text, "f")
    assert [(word.text, word.line) for word in first.words] == [
        *(("x", 1), ("two\nlines", 1), ("y", 3)),
    ]
    assert first.env["A"].text == "1"
    assert [(word.text, word.line) for word in second.words] == [("w", 4), ('q"', 4)]
    assert second.env["B"].text == "2"


def test_hosts_and_ranks(tmp_path):
    assert read_hosts(write(tmp_path, "a\n\n# note\nb # last\n")) == ("a", "b")
    ranks = read_rank_hosts(write(tmp_path, "a slots=2\nb\n"))
    assert ranks == (("a", -1), ("a", -1), ("b", -1))
    ranks = read_rank_hosts(write(tmp_path, "rank 0=a slot=3\nrank 1=a slot=0:1\n"))
    assert ranks == (("a", 3), ("a", 1))
    with pytest.raises(CatalogError, match="not the next") as caught:
        read_rank_hosts(write(tmp_path, "rank 0=a slot=3\nrank 2=a slot=1\n"))
    assert caught.value.line == 2


def test_models_by_public_name():
    assert model_behind("deepseek-ai/DeepSeek-V3") == "deepseek-v3"
    assert model_behind("meta-llama/Llama-3.1-70B") == "llama-3.1-70b"
    assert model_behind("/models/qwen3-30b-a3b/") == "qwen3-30b-a3b"
    assert model_behind("someone/else") is None
