"""A deployment as the flags that make it, for people: name to value."""

from __future__ import annotations

from planner.domain.deployment import Engine, ServingDeployment

_DEFAULT = "default"


def _list(values: tuple[int, ...] | None) -> str:
    return _DEFAULT if values is None else ",".join(map(str, values))


def _switch(value: bool) -> str:
    return "on" if value else "off"


def _vllm(told: ServingDeployment) -> dict[str, str]:
    return {
        "--tensor-parallel-size": str(told.tp * told.cp),
        "--pipeline-parallel-size": str(told.pp),
        "--data-parallel-size": str(told.dp),
        "--decode-context-parallel-size": str(told.cp),
        "--enable-expert-parallel": _switch(told.ep > 1),
        "--enable-eplb": _switch(told.rebalances),
        "--eplb-config.num_redundant_experts": str(told.extra_slots or 0),
        "--enable-dbo": _switch(told.overlap_ep),
        "--max-num-seqs": str(told.max_sequences or _DEFAULT),
        "--speculative-config.num_speculative_tokens": str(told.draft),
        "VLLM_PP_LAYER_PARTITION": _list(told.stage_layers),
    }


def _sglang(told: ServingDeployment) -> dict[str, str]:
    sequences = told.max_sequences
    return {
        "--tp-size": str(told.tp * told.cp * told.dp),
        "--pp-size": str(told.pp),
        "--attn-dp-size": str(told.dp),
        "--dcp-size": str(told.cp),
        "--ep-size": str(told.ep),
        "--ep-num-redundant-experts": str(told.extra_slots or 0),
        "--enable-two-batch-overlap": _switch(told.overlap_ep),
        "--max-running-requests": _DEFAULT if sequences is None else str(sequences * told.dp),
        "--speculative-num-steps": str(told.draft),
        "--init-expert-location": "given" if told.placement else "trivial",
        "--enable-eplb": _switch(told.rebalances),
        "SGLANG_PP_LAYER_PARTITION": _list(told.stage_layers),
    }


def _trtllm(told: ServingDeployment) -> dict[str, str]:
    stage = told.tp * told.dp
    return {
        "tensor_parallel_size": str(stage),
        "pipeline_parallel_size": str(told.pp),
        "context_parallel_size": str(told.cp),
        "enable_attention_dp": _switch(told.dp > 1),
        "moe_expert_parallel_size": str(told.ep),
        "num_slots": str(told.total_slots or _DEFAULT),
        "initial_global_assignments": "given" if told.placement else _DEFAULT,
        "max_batch_size": str(told.max_sequences or _DEFAULT),
        "speculative_config.max_draft_len": str(told.draft),
        "pp_partition": _list(told.stage_layers),
    }


_VIEWS = {Engine.VLLM: _vllm, Engine.SGLANG: _sglang, Engine.TRTLLM: _trtllm}


def flags_of(told: ServingDeployment) -> dict[str, str]:
    """Flags of the decisions that are priced, by the names of the engine."""
    return {"instances": str(told.instances), **_VIEWS[told.engine](told)}


def changed_flags(
    before: ServingDeployment, after: ServingDeployment
) -> tuple[tuple[str, str, str], ...]:
    """``(flag, value before, value after)`` of each that differs."""
    old, new = flags_of(before), flags_of(after)
    return tuple((name, old[name], new[name]) for name in old if old[name] != new[name])
