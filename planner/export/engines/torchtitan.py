"""torchtitan: a TOML for 0.2, a Python configuration since 2026.

The names are the same in both (``config/job_config.py`` of v0.2.2, ``config/configs.py``
@b5bcd76); batches are counted in sequences by the one, in tokens by the other.
"""

from __future__ import annotations

from planner.deployment.ranks import Instance
from planner.domain.deployment import TrainingDeployment
from planner.domain.dtypes import DType
from planner.domain.run import Recompute, ScheduleKind
from planner.export.engines.launch import Command
from planner.export.engines.megatron import torchrun

Values = dict[str, dict[str, object]]
TOML_FILE = "torchtitan.toml"
PYTHON_FILE = "planner_config.py"
SCHEDULES = {
    ScheduleKind.GPIPE: "GPipe",
    ScheduleKind.ONE_F_ONE_B: "1F1B",
    ScheduleKind.INTERLEAVED: "Interleaved1F1B",
    ScheduleKind.ZB_V: "ZBVZeroBubble",
}
RESHARD = {0: "default", 2: "never", 3: "always"}


def _stages(counts: tuple[int, ...], head: str) -> list[list[str]]:
    """Names of the modules of every chunk, in the order of the model."""
    found, start = [], 0
    for index, count in enumerate(counts):
        own = [f"layers.{layer}" for layer in range(start, start + count)]
        if index == 0:
            own.insert(0, "tok_embeddings")
        if index == len(counts) - 1:
            own += ["norm", head]
        found.append(own)
        start += count
    return found


def torchtitan_values(told: TrainingDeployment, *, old: bool) -> Values:
    """Options by section."""
    d = told.degrees
    sharded = d.zero_stage > 0
    parallelism: dict[str, object] = {
        "data_parallel_replicate_degree": 1 if sharded else d.dp,
        "data_parallel_shard_degree": d.dp if sharded else 1,
        "fsdp_reshard_after_forward": RESHARD[d.zero_stage],
        "tensor_parallel_degree": d.tp,
        "context_parallel_degree": d.cp,
        "pipeline_parallel_degree": d.pp,
        "expert_parallel_degree": d.ep,
    }
    if old:
        parallelism["expert_tensor_parallel_degree"] = d.expert_tp
    else:
        parallelism["enable_sequence_parallel"] = d.sequence_parallel
    if told.chunk_layers is not None:
        parallelism["pipeline_parallel_schedule"] = SCHEDULES[d.schedule]
        head = "output" if old else "lm_head"
        parallelism["module_fqns_per_model_part"] = _stages(told.chunk_layers, head)
    training: dict[str, object] = {}
    compiled: dict[str, object] = {}
    if old:
        training["local_batch_size"] = d.microbatch * (d.microbatches if d.pp > 1 else 1)
        training["global_batch_size"] = told.global_batch
        training["seq_len"] = told.seq_len
        if d.pp > 1:
            parallelism["pipeline_parallel_microbatch_size"] = d.microbatch
        parallelism["enable_async_tensor_parallel"] = "tp" in d.overlap
    else:
        training["num_tokens_per_microbatch_per_dp_rank"] = d.microbatch * told.seq_len
        training["num_tokens_per_train_step"] = told.global_batch * told.seq_len
        training["max_context_length"] = told.seq_len
        if d.pp > 1:
            parallelism["num_pp_microbatches"] = d.microbatches
        compiled["enable_async_tensor_parallel"] = "tp" in d.overlap
    if "tp" in d.overlap:
        compiled["enable"] = True
    found: Values = {"parallelism": parallelism, "training": training}
    if compiled:
        found["compile"] = compiled
    if old:
        found["activation_checkpoint"] = {"mode": d.recompute.value}
    return found


def torchtitan_toml(told: TrainingDeployment) -> bytes:
    """Sections of a job's TOML (v0.2)."""
    lines = []
    for section, values in torchtitan_values(told, old=True).items():
        lines += [f"[{section}]", *(f"{name} = {_toml(value)}" for name, value in values.items())]
        lines.append("")
    return "\n".join(lines).encode()


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def torchtitan_python(told: TrainingDeployment) -> bytes:
    """A function that sets what the plan decides on a ``Trainer.Config``."""
    lines = [
        '"""What a plan decides: ``return planned(llama3_70b())`` in your configuration."""',
        "",
    ]
    recompute = told.degrees.recompute
    policy = {Recompute.FULL: "FullAC", Recompute.SELECTIVE: "SelectiveAC"}.get(recompute)
    if policy is not None:
        lines += [f"from torchtitan.distributed.activation_checkpoint import {policy}", ""]
    lines += ["", "def planned(config):", '    """Set degrees, schedule and batch."""']
    for section, values in torchtitan_values(told, old=False).items():
        for name, value in values.items():
            lines.append(f"    config.{section}.{name} = {value!r}")
    value = "None" if policy is None else f"{policy}.Config()"
    lines += [f"    config.activation_checkpoint = {value}", "    return config", ""]
    return "\n".join(lines).encode()


def torchtitan_command(instance: Instance, index: int, *, old: bool) -> Command:
    """The line of one node; ``MODULE`` and ``CONFIG`` name the user's configuration."""
    own = (
        ("--job.config_file", TOML_FILE) if old else ("--module", "$MODULE", "--config", "$CONFIG")
    )
    flags = (*torchrun(instance, index), ("-m", "torchtitan.train"), own)
    return Command(program=("torchrun",), flags=flags)


def precision_note(activations: DType | None) -> str | None:
    """What the options do not say about formats."""
    if activations in (None, DType.BF16):
        return None
    assert activations is not None
    return (
        f"matmuls in {activations.value}: torchtitan converts the model, choose its converter "
        "(float8, mx) in the configuration"
    )
