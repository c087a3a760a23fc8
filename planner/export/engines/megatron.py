"""Megatron-LM: arguments of ``pretrain_gpt.py`` (core 0.20.0, ``training/arguments.py``)."""

from __future__ import annotations

from planner.deployment.ranks import Instance
from planner.domain.deployment import TrainingDeployment
from planner.domain.dtypes import DType
from planner.domain.model import ModelSpec, MoeFfn
from planner.domain.run import Recompute
from planner.export.engines.launch import HEAD_PORT, Command

Flag = tuple[str, ...]


def layout_string(counts: tuple[int, ...], mtp_layers: int) -> str:
    """``--pipeline-model-parallel-layout``: chunks in the order of the model.

    ``E`` embedding, ``t`` layer, ``m`` MTP layer, ``L`` loss, ``|`` between chunks
    (``core/transformer/pipeline_parallel_layer_layout.py``).
    """
    parts = [f"t*{count}" if count > 2 else "t" * count for count in counts]
    parts[0] = "E" + parts[0]
    parts[-1] += "m" * mtp_layers + "L"
    return "|".join(parts)


def _degrees(told: TrainingDeployment, model: ModelSpec) -> list[Flag]:
    d = told.degrees
    flags: list[Flag] = [
        ("--tensor-model-parallel-size", str(d.tp)),
        ("--pipeline-model-parallel-size", str(d.pp)),
        ("--context-parallel-size", str(d.cp)),
    ]
    if d.sequence_parallel:
        flags.append(("--sequence-parallel",))
    if told.chunk_layers is not None:
        text = layout_string(told.chunk_layers, len(model.mtp_layers))
        flags.append(("--pipeline-model-parallel-layout", text))
    experts = [layer.ffn for layer in model.layers if isinstance(layer.ffn, MoeFfn)]
    if experts:
        flags += [
            ("--num-experts", str(experts[0].num_experts)),
            ("--moe-router-topk", str(experts[0].top_k)),
            ("--expert-model-parallel-size", str(d.ep)),
            ("--expert-tensor-parallel-size", str(d.expert_tp)),
            ("--moe-token-dispatcher-type", "alltoall"),
        ]
    return flags


def _data_parallel(told: TrainingDeployment) -> list[Flag]:
    d = told.degrees
    flags: list[Flag] = []
    if d.zero_stage:
        flags.append(("--use-distributed-optimizer",))
    if d.zero_stage > 1:
        strategy = {2: "optim_grads", 3: "optim_grads_params"}[d.zero_stage]
        flags += [
            ("--use-megatron-fsdp",),
            ("--data-parallel-sharding-strategy", strategy),
            ("--ckpt-format", "fsdp_dtensor"),
        ]
    if "dp" in d.overlap:
        flags.append(("--overlap-grad-reduce",))
        if d.zero_stage:
            flags.append(("--overlap-param-gather",))
    if "tp" in d.overlap:
        flags.append(("--tp-comm-overlap",))
    if "ep" in d.overlap:
        flags.append(("--overlap-moe-expert-parallel-comm",))
    return flags


def _memory(told: TrainingDeployment) -> list[Flag]:
    flags: list[Flag] = []
    match told.degrees.recompute:
        case Recompute.FULL:
            flags += [
                ("--recompute-granularity", "full"),
                ("--recompute-method", "uniform"),
                ("--recompute-num-layers", "1"),
            ]
        case Recompute.SELECTIVE:
            flags += [
                ("--recompute-granularity", "selective"),
                ("--recompute-modules", "core_attn"),
            ]
    flags.append(("--optimizer", told.optimizer))
    if told.optimizer_state != "fp32":
        flags += [
            ("--use-precision-aware-optimizer",),
            ("--exp-avg-dtype", told.optimizer_state),
            ("--exp-avg-sq-dtype", told.optimizer_state),
        ]
    if told.gradients == "bf16":
        flags.append(("--grad-reduce-in-bf16",))
    flags.append(("--bf16",))
    match told.activations:
        case DType.FP8:
            flags.append(("--fp8-format", "hybrid"))
        case DType.MXFP8:
            flags += [("--fp8-format", "hybrid"), ("--fp8-recipe", "mxfp8")]
        case DType.NVFP4:
            flags.append(("--fp4-format", "e2m1"))
    return flags


def megatron_flags(told: TrainingDeployment, model: ModelSpec) -> tuple[Flag, ...]:
    """All arguments that a layout decides."""
    flags = _degrees(told, model)
    flags += [
        ("--num-layers", str(len(model.layers))),
        ("--seq-length", str(told.seq_len)),
        ("--micro-batch-size", str(told.degrees.microbatch)),
        ("--global-batch-size", str(told.global_batch)),
    ]
    if model.mtp_layers:
        flags.append(("--mtp-num-layers", str(len(model.mtp_layers))))
    return (*flags, *_data_parallel(told), *_memory(told))


def torchrun(instance: Instance, index: int) -> tuple[Flag, ...]:
    """Places of one node; the static form, which promises the order of the nodes."""
    return (
        ("--nnodes", str(len(instance.nodes))),
        ("--nproc-per-node", str(instance.node_chips)),
        ("--node-rank", str(index)),
        ("--master-addr", instance.nodes[0].host),
        ("--master-port", str(HEAD_PORT)),
    )


def megatron_command(
    told: TrainingDeployment, model: ModelSpec, instance: Instance, index: int
) -> Command:
    """The line of one node. ``MODEL_ARGS`` are the model's own: sizes, tokenizer, data."""
    env: tuple[tuple[str, str], ...] = ()
    d = told.degrees
    if (d.tp > 1 or d.cp > 1) and d.zero_stage < 2 and "ep" not in d.overlap:
        env = (("CUDA_DEVICE_MAX_CONNECTIONS", "1"),)
    flags = (*torchrun(instance, index), ("pretrain_gpt.py",), *megatron_flags(told, model))
    return Command(env=env, program=("torchrun",), flags=(*flags, ("$MODEL_ARGS",)))
