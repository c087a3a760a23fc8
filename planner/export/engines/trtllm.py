"""TensorRT-LLM: one YAML, started by Slurm over nodes (``llmapi/llm_args.py`` of the 1.3 line)."""

from __future__ import annotations

from typing import Any

from planner.deployment.ranks import Instance
from planner.domain.deployment import PoolRole
from planner.export.engines.launch import Command
from planner.export.engines.request import KV_NAMES, ServingExport

CONFIG_FILE = "trtllm.yaml"
BALANCER_FILE = "experts.yaml"
TRTLLM_PORT = 8000
LAST_WIDE_EP = 18  # release candidate whose recipes still name WIDEEP and nextn layers


def _is_rc18(export: ServingExport) -> bool:
    version = export.version
    return len(version) == 4 and version[:3] == (1, 3, 0) and version[3] <= LAST_WIDE_EP


def trtllm_config(export: ServingExport, node_chips: int) -> dict[str, Any]:
    """Everything the engine is told, as the YAML spells it."""
    told = export.told
    stage = told.tp * told.dp
    config: dict[str, Any] = {
        "tensor_parallel_size": stage,
        "pipeline_parallel_size": told.pp,
    }
    if told.cp > 1:
        config["context_parallel_size"] = told.cp
        config["cp_config"] = {"cp_type": "HELIX"}
    if told.total_slots is not None:
        config["moe_expert_parallel_size"] = told.ep
        config["moe_tensor_parallel_size"] = stage * told.cp // told.ep
    config["gpus_per_node"] = node_chips
    config["enable_attention_dp"] = told.dp > 1
    if told.stage_layers is not None:
        config["pp_partition"] = list(told.stage_layers)
    if told.max_sequences is not None:
        config["max_batch_size"] = told.max_sequences
        config["cuda_graph_config"] = {
            "enable_padding": True,
            "max_batch_size": told.max_sequences,
        }
    if told.token_budget is not None:
        config["max_num_tokens"] = told.token_budget
    if told.max_context is not None:
        config["max_seq_len"] = told.max_context
    if told.kv is not None:
        config["kv_cache_config"] = {"dtype": KV_NAMES[export.engine][told.kv]}
    if told.placement is not None:
        config["moe_config"] = {
            "backend": "WIDEEP" if _is_rc18(export) else "CUTLASS",
            "load_balancer": export.file(BALANCER_FILE),
        }
    if told.role is not None:
        transceiver: dict[str, Any] = {"backend": "NIXL"}
        if told.max_context is not None:
            transceiver["max_tokens_in_buffer"] = told.max_context
        config["cache_transceiver_config"] = transceiver
        # A context server has no step to overlap with.
        config["disable_overlap_scheduler"] = told.role is PoolRole.PREFILL
    if told.draft:
        config["speculative_config"] = _speculative(export)
    return config


def _speculative(export: ServingExport) -> dict[str, Any]:
    told = export.told
    if told.draft_model is not None:
        return {
            "decoding_type": "Eagle3",
            "max_draft_len": told.draft,
            "speculative_model": told.draft_model,
        }
    key = "num_nextn_predict_layers" if _is_rc18(export) else "max_draft_len"
    return {"decoding_type": "MTP", key: told.draft}


def trtllm_command(export: ServingExport, instance: Instance, number: int) -> Command:
    """The one line of an instance: hosts come from its host file, in the order of the ranks."""
    serve = ("trtllm-serve", export.model_path)
    flags: tuple[tuple[str, ...], ...] = (
        ("--config", export.file(CONFIG_FILE)),
        ("--port", str(TRTLLM_PORT + number)),
    )
    if len(instance.nodes) == 1:
        return Command(program=serve, flags=flags)
    return Command(
        env=(("SLURM_HOSTFILE", export.file(f"hostfile.{number}")),),
        program=("srun",),
        flags=(
            ("-N", str(len(instance.nodes))),
            ("--ntasks", str(instance.chips)),
            ("--ntasks-per-node", str(instance.node_chips)),
            ("--distribution=arbitrary",),
            ("--mpi=pmix",),
            ("trtllm-llmapi-launch",),
            serve,
            *flags,
        ),
    )
