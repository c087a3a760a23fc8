"""vLLM: ``vllm serve`` per node (flags of 0.33.0, ``engine/arg_utils.py``)."""

from __future__ import annotations

import json

from planner.deployment.ranks import Instance
from planner.domain.deployment import PoolRole
from planner.export.engines.launch import HEAD_PORT, Command
from planner.export.engines.request import KV_NAMES, ServingExport

RPC_PORT = 13345
SIDE_PORT = 5600  # each rank of a process takes the next one


def vllm_flags(export: ServingExport) -> tuple[tuple[str, ...], ...]:
    """Flags that all nodes share."""
    told, size = export.told, export.told.tp * export.told.cp
    flags: list[tuple[str, ...]] = [("--tensor-parallel-size", str(size))]
    if told.pp > 1:
        flags.append(("--pipeline-parallel-size", str(told.pp)))
    if told.dp > 1:
        flags.append(("--data-parallel-size", str(told.dp)))
    if told.cp > 1:
        flags.append(("--decode-context-parallel-size", str(told.cp)))
    if told.ep > 1:
        flags.append(("--enable-expert-parallel",))
        if export.all_to_all and export.nvidia:
            flags.append(("--all2all-backend", "deepep_low_latency"))
    if told.overlap_ep:
        flags.append(("--enable-dbo",))
    if told.rebalances:
        flags.append(("--enable-eplb",))
        flags.append(("--eplb-config", json.dumps({"num_redundant_experts": told.extra_slots})))
    if told.role is not None:
        kind = "kv_producer" if told.role is PoolRole.PREFILL else "kv_consumer"
        config = {"kv_connector": "NixlConnector", "kv_role": kind}
        flags.append(("--kv-transfer-config", json.dumps(config)))
    return (*flags, *_sizes(export))


def _sizes(export: ServingExport) -> list[tuple[str, ...]]:
    told = export.told
    flags: list[tuple[str, ...]] = []
    if told.max_sequences is not None:
        flags.append(("--max-num-seqs", str(told.max_sequences)))
    if told.token_budget is not None:
        flags.append(("--max-num-batched-tokens", str(told.token_budget)))
    if told.max_context is not None:
        flags.append(("--max-model-len", str(told.max_context)))
    if told.kv is not None:
        flags.append(("--kv-cache-dtype", KV_NAMES[export.engine][told.kv]))
    if told.draft:
        config: dict[str, object] = {"method": "mtp", "num_speculative_tokens": told.draft}
        if told.draft_model is not None:
            config = {**config, "method": "eagle3", "model": told.draft_model}
        flags.append(("--speculative-config", json.dumps(config)))
    return flags


def vllm_env(export: ServingExport, host: str, port: int) -> tuple[tuple[str, str], ...]:
    """The split of layers over stages, and where caches are fetched from."""
    found: list[tuple[str, str]] = []
    if export.told.role is not None:
        found += [
            ("VLLM_NIXL_SIDE_CHANNEL_HOST", host),
            ("VLLM_NIXL_SIDE_CHANNEL_PORT", str(SIDE_PORT + port)),
        ]
    if export.told.stage_layers is not None:
        layers = ",".join(map(str, export.told.stage_layers))
        found.append(("VLLM_PP_LAYER_PARTITION", layers))
    return tuple(found)


def vllm_command(
    export: ServingExport, instance: Instance, index: int, address: str, port: int
) -> Command:
    """The line of one node.

    Where nodes hold whole DP ranks they start theirs; otherwise, where a rank spans nodes, they
    join by number.
    """
    told, nodes = export.told, len(instance.nodes)
    rank_chips = told.tp * told.cp * told.pp
    flags = vllm_flags(export)
    if nodes > 1 and told.dp > 1 and instance.node_chips % rank_chips == 0:
        local = instance.node_chips // rank_chips
        flags += (
            ("--data-parallel-size-local", str(local)),
            ("--data-parallel-address", address),
            ("--data-parallel-rpc-port", str(RPC_PORT + port)),
        )
        if index:
            flags += (("--headless",), ("--data-parallel-start-rank", str(index * local)))
    elif nodes > 1:
        flags += (
            ("--nnodes", str(nodes)),
            ("--node-rank", str(index)),
            ("--master-addr", address),
            ("--master-port", str(HEAD_PORT + port)),
        )
        if index:
            flags += (("--headless",),)
    if not index:
        flags += (("--port", str(8000 + port)),)
    return Command(
        env=vllm_env(export, instance.nodes[index].host, 100 * port),
        program=("vllm", "serve", export.model_path),
        flags=flags,
    )
