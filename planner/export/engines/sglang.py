"""SGLang: ``sglang.launch_server`` per node (``srt/server_args.py`` of 0.5.10 to 0.5.23)."""

from __future__ import annotations

from planner.deployment.ranks import Instance
from planner.domain.deployment import PoolRole
from planner.export.engines.launch import HEAD_PORT, Command
from planner.export.engines.request import KV_NAMES, ServingExport

MAP_FILE = "experts.json"
SGLANG_PORT = 30000
BOOTSTRAP_PORT = 12000
# First version with the flag; the older spelling was removed, or is deprecated, from there on.
ATTN_DP = (0, 5, 22)
SPLIT_GRAPHS = (0, 5, 20)


def sglang_flags(export: ServingExport) -> tuple[tuple[str, ...], ...]:
    """Flags that all nodes share."""
    told = export.told
    stage = told.tp * told.dp * told.cp
    flags: list[tuple[str, ...]] = [("--tp-size", str(stage))]
    if told.pp > 1:
        flags.append(("--pp-size", str(told.pp)))
    if told.dp > 1:
        if export.version >= ATTN_DP:
            flags.append(("--attn-dp-size", str(told.dp)))
        else:
            flags += [("--dp-size", str(told.dp)), ("--enable-dp-attention",)]
        if told.tp == 1:
            flags.append(("--moe-dense-tp-size", "1"))
    if told.cp > 1:
        flags.append(("--dcp-size", str(told.cp)))
    if told.ep > 1:
        flags.append(("--ep-size", str(told.ep)))
        if export.all_to_all and export.nvidia and told.ep == stage:
            flags += [("--moe-a2a-backend", "deepep"), ("--deepep-mode", "auto")]
    if told.overlap_ep:
        flags.append(("--enable-two-batch-overlap",))
    if told.role is not None:
        flags += [
            ("--disaggregation-mode", told.role.value),
            ("--disaggregation-transfer-backend", "nixl"),
        ]
    flags += _experts(export)
    flags += _sizes(export)
    return tuple(flags)


def _experts(export: ServingExport) -> list[tuple[str, ...]]:
    told = export.told
    flags: list[tuple[str, ...]] = []
    if told.extra_slots:
        flags.append(("--ep-num-redundant-experts", str(told.extra_slots)))
        # Random among the copies of an expert: they share its tokens evenly, as in the price.
        flags.append(("--ep-dispatch-algorithm", "dynamic"))
    if told.placement is not None:
        flags.append(("--init-expert-location", export.file(MAP_FILE)))
    if told.rebalances:
        flags.append(("--enable-eplb",))
    return flags


def _sizes(export: ServingExport) -> list[tuple[str, ...]]:
    told = export.told
    flags: list[tuple[str, ...]] = []
    if told.max_sequences is not None:
        flags.append(("--max-running-requests", str(told.max_sequences * told.dp)))
        decode = "-decode" if export.version >= SPLIT_GRAPHS else ""
        flags.append((f"--cuda-graph-max-bs{decode}", str(told.max_sequences)))
    if told.token_budget is not None:
        flags.append(("--chunked-prefill-size", str(told.token_budget * told.dp)))
    if told.max_context is not None:
        flags.append(("--context-length", str(told.max_context)))
    if told.kv is not None:
        flags.append(("--kv-cache-dtype", KV_NAMES[export.engine][told.kv]))
    if told.draft:
        method = "NEXTN" if told.draft_model is None else "EAGLE3"
        flags.append(("--speculative-algorithm", method))
        if told.draft_model is not None:
            flags.append(("--speculative-draft-model-path", told.draft_model))
        flags += [
            ("--speculative-num-steps", str(told.draft)),
            ("--speculative-eagle-topk", "1"),
            ("--speculative-num-draft-tokens", str(told.draft + 1)),
        ]
    return flags


def sglang_env(export: ServingExport) -> tuple[tuple[str, str], ...]:
    """The split of layers over stages."""
    if export.told.stage_layers is None:
        return ()
    return (("SGLANG_PP_LAYER_PARTITION", ",".join(map(str, export.told.stage_layers))),)


def sglang_command(
    export: ServingExport, instance: Instance, index: int, address: str, port: int
) -> Command:
    """The line of one node."""
    flags = sglang_flags(export)
    if len(instance.nodes) > 1:
        flags += (
            ("--nnodes", str(len(instance.nodes))),
            ("--node-rank", str(index)),
            ("--dist-init-addr", f"{address}:{HEAD_PORT + port}"),
        )
    if export.told.role is PoolRole.PREFILL:
        flags += (("--disaggregation-bootstrap-port", str(BOOTSTRAP_PORT + port)),)
    if not index:
        flags += (("--port", str(SGLANG_PORT + port)),)
    return Command(
        env=sglang_env(export),
        program=("python3", "-m", "sglang.launch_server", "--model-path", export.model_path),
        flags=flags,
    )
