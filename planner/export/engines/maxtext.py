"""MaxText: ``key=value`` arguments over ``base.yml`` (@e591f30)."""

from __future__ import annotations

from math import gcd

from planner.domain.deployment import TrainingDeployment
from planner.domain.dtypes import DType
from planner.domain.run import Recompute
from planner.errors import SpecError
from planner.export.engines.launch import Command

REMAT = {
    Recompute.NONE: "minimal_with_context",
    Recompute.SELECTIVE: "minimal",
    Recompute.FULL: "full",
}
_QUANTIZATION = {DType.FP8: "fp8_full", DType.INT8: "int8"}


def split_axes(told: TrainingDeployment, slices: int) -> dict[str, tuple[int, int]]:
    """``{axis: (inside a slice, between slices)}``.

    Slices divide the outermost axes of a layout first: stages, data-parallel ranks, expert
    ranks inside them, contexts.

    Raises
    ------
    SpecError
        The axes do not divide by the number of slices.
    """
    d = told.degrees
    data = "fsdp" if d.zero_stage == 3 else "data"
    tensor = "tensor_sequence" if d.sequence_parallel else "tensor"
    sizes = {
        "pipeline": d.pp,
        data: d.dp // d.ep,
        "expert": d.ep,
        "context": d.cp,
        tensor: d.tp,
    }
    found, left = {}, slices
    for axis, size in sizes.items():
        between = gcd(size, left)
        found[axis] = (size // between, between)
        left //= between
    if left > 1:
        raise SpecError(
            f"MaxText divides PP {d.pp}, DP {d.dp}, CP {d.cp} and TP {d.tp} between {slices} "
            "slices, which they do not",
            "plan with --dp in multiples of the slices",
        )
    return found


def maxtext_values(
    told: TrainingDeployment, num_layers: int, slices: int
) -> tuple[tuple[str, str], ...]:
    """Keys and values."""
    d = told.degrees
    axes = split_axes(told, slices)
    found: list[tuple[str, str]] = []
    # The defaults of these take what is left: every one is said.
    for axis in ("data", "fsdp"):
        axes.setdefault(axis, (1, 1))
    for axis, (inside, between) in sorted(axes.items()):
        found.append((f"ici_{axis}_parallelism", str(inside)))
        if between > 1 or axis in ("data", "fsdp"):
            found.append((f"dcn_{axis}_parallelism", str(between)))
    sequences = told.global_batch / told.chips
    found += [
        ("per_device_batch_size", f"{sequences / (1 if d.pp > 1 else d.microbatches):.12g}"),
        ("max_target_length", str(told.seq_len)),
        ("remat_policy", REMAT[d.recompute]),
        ("shard_optimizer_over_data", str(d.zero_stage == 1).lower()),
        ("opt_type", "adamw" if told.optimizer == "adam" else told.optimizer),
        ("grad_dtype", "float32" if told.gradients == "fp32" else "bfloat16"),
        ("dtype", "bfloat16"),
    ]
    if told.activations in _QUANTIZATION:
        assert told.activations is not None
        found.append(("quantization", _QUANTIZATION[told.activations]))
    if d.pp > 1:
        found += [
            ("num_layers_per_pipeline_stage", str(num_layers // d.pp)),
            ("num_pipeline_repeats", "1"),
            ("num_pipeline_microbatches", str(d.microbatches)),
        ]
    else:
        found.append(("gradient_accumulation_steps", str(d.microbatches)))
    return tuple(found)


def maxtext_command(told: TrainingDeployment, num_layers: int, slices: int) -> Command:
    """The one line that every host runs; ``MODEL`` is MaxText's name of the model."""
    values = maxtext_values(told, num_layers, slices)
    return Command(
        program=("python3", "-m", "maxtext.trainers.pre_train.train", "base.yml"),
        flags=(("model_name=$MODEL",), *((f"{key}={value}",) for key, value in values)),
    )
