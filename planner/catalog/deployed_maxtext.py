"""Reading MaxText runs: ``key=value`` words over ``base.yml`` (@e591f30)."""

from __future__ import annotations

from planner.catalog.deployed import DeployedTraining, commands_of
from planner.catalog.flags import Flags
from planner.catalog.launch_text import Word
from planner.domain.deployment import Engine, TrainingDeployment
from planner.domain.dtypes import DType
from planner.domain.run import Recompute, ScheduleKind
from planner.domain.train_layout import TrainDegrees
from planner.errors import CatalogError

_AXES = (
    *("data", "fsdp", "pipeline", "expert", "context", "tensor", "tensor_sequence"),
    *("fsdp_transpose", "sequence", "autoregressive", "diloco", "context_usp_ulysses"),
    "context_autoregressive",
)
_PRICED = frozenset({"data", "fsdp", "pipeline", "expert", "context", "tensor", "tensor_sequence"})
_REMAT = {
    "minimal_with_context": Recompute.NONE,
    "minimal": Recompute.SELECTIVE,
    "full": Recompute.FULL,
}
_QUANTIZATION = {"": None, "fp8": DType.FP8, "fp8_full": DType.FP8, "int8": DType.INT8}
_READ = frozenset(
    {
        *(f"{family}_{axis}_parallelism" for family in ("ici", "dcn") for axis in _AXES),
        *("per_device_batch_size", "max_target_length", "remat_policy", "opt_type"),
        *("shard_optimizer_over_data", "grad_dtype", "dtype", "quantization", "model_name"),
        *("num_layers_per_pipeline_stage", "num_pipeline_repeats", "num_pipeline_microbatches"),
        *("gradient_accumulation_steps", "num_slices", "run_name", "base_output_directory"),
    }
)


def _pairs(path: str, text: str | None) -> Flags:
    for command in commands_of(path, text):
        values: dict[str, Word] = {}
        for word in command.words:
            key, equals, value = word.text.partition("=")
            if equals:
                values[key] = Word(text=value, line=word.line)
        # Assignments before a command are its environment; MaxText's have lower-case names.
        if any(key.endswith("_parallelism") for key in values):
            unread = [key for key in values if key not in _READ]
            kept = {key: word for key, word in values.items() if key in _READ}
            return Flags(file=path, values=kept, unread=unread)
    raise CatalogError(
        "starts no MaxText run", file=path, remedy="name a file with ici_*_parallelism=..."
    )


def _degrees(flags: Flags) -> dict[str, int]:
    found = {}
    for axis in _AXES:
        product = 1
        for family in ("ici", "dcn"):
            name = f"{family}_{axis}_parallelism"
            value = flags.optional_whole(name, minimum=-1)
            if value is not None and value < 1:
                flags.fail(name, "takes what is left, and the chips of the run are not known",
                           "write the number")  # fmt: skip
            product *= value or 1
        if product > 1 and axis not in _PRICED:
            flags.fail(f"ici_{axis}_parallelism", "is not priced")
        found[axis] = product
    return found


def read_maxtext(path: str, text: str | None = None) -> DeployedTraining:
    """Read a line of ``maxtext.trainers.pre_train.train``.

    Parameters
    ----------
    text : str, optional
        The line in place of the file.

    Raises
    ------
    CatalogError
        The file cannot be read, or has a value that is wrong; names the line.
    """
    flags = _pairs(path, text)
    axes = _degrees(flags)
    if axes["tensor"] > 1 and axes["tensor_sequence"] > 1:
        flags.fail("ici_tensor_sequence_parallelism", "beside tensor parallelism is not priced")
    if axes["data"] > 1 and axes["fsdp"] > 1:
        flags.fail("ici_fsdp_parallelism", "beside data parallelism is not priced")
    tp, pp = axes["tensor"] * axes["tensor_sequence"], axes["pipeline"]
    dp = axes["data"] * axes["fsdp"] * axes["expert"]
    chips = tp * pp * dp * axes["context"]
    sequences = _sequences(flags, chips)
    steps = flags.whole("gradient_accumulation_steps", 1)
    staged = flags.whole("num_pipeline_microbatches", pp) if pp > 1 else 1
    if flags.whole("num_pipeline_repeats", 1, minimum=-1) > 1:
        flags.fail("num_pipeline_repeats", "is more than 1, which is not priced")
    batch, microbatches = sequences * steps, steps * staged
    if batch % (dp * microbatches):
        flags.fail("per_device_batch_size", f"gives {batch} sequences, which {microbatches} "
                   f"microbatches of DP {dp} do not divide")  # fmt: skip
    zero = 3 if axes["fsdp"] > 1 else int(flags.switch("shard_optimizer_over_data"))
    policy = flags.text("remat_policy") or "full"
    quantization = flags.text("quantization") or ""
    for name, value, known in (
        ("remat_policy", policy, _REMAT),
        ("quantization", quantization, _QUANTIZATION),
    ):
        if value not in known:
            flags.fail(
                name, f"is {value[:40]!r}, which is not priced", f"one of {', '.join(known)}"
            )
    told = TrainingDeployment(
        engine=Engine.MAXTEXT,
        degrees=TrainDegrees(
            tp=tp,
            cp=axes["context"],
            dp=dp,
            pp=pp,
            virtual_stages=1,
            ep=axes["expert"],
            expert_tp=0,
            microbatch=batch // (dp * microbatches),
            microbatches=microbatches,
            schedule=ScheduleKind.GPIPE if pp > 1 else ScheduleKind.NONE,
            recompute=_REMAT[policy],
            zero_stage=zero,
            sequence_parallel=axes["tensor_sequence"] > 1,
            overlap=("dp", "ep", "tp"),
        ),
        global_batch=batch,
        seq_len=flags.whole("max_target_length", 2048),
        optimizer="muon" if flags.text("opt_type") == "muon" else "adam",
        gradients="bf16" if flags.text("grad_dtype") == "bfloat16" else "fp32",
        activations=_QUANTIZATION[quantization],
    )
    return DeployedTraining(file=path, told=told, unread=tuple(flags.unread))


def _sequences(flags: Flags, chips: int) -> int:
    """Sequences of all devices: a fraction of one each where tensor parallelism shares them."""
    text = flags.text("per_device_batch_size") or "12"
    try:
        found = float(text) * chips
    except ValueError:
        found = 0.0
    if not 1 <= found <= 10**9 or abs(found - round(found)) > 1e-6:
        flags.fail("per_device_batch_size", f"is {text[:40]!r}, which is no number of sequences on "
                   f"{chips} devices")  # fmt: skip
    return round(found)
