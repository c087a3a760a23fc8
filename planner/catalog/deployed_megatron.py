"""Reading Megatron-LM runs (core 0.20.0, ``training/arguments.py``)."""

from __future__ import annotations

from planner.catalog.deployed import DeployedTraining, check_agreement, launches_of
from planner.catalog.flags import Flags, FlagTable
from planner.catalog.launch_text import ShellCommand
from planner.catalog.megatron_layout import layers_of_layout
from planner.domain.deployment import Engine, TrainingDeployment
from planner.domain.dtypes import DType
from planner.domain.run import Recompute, ScheduleKind
from planner.domain.train_layout import TrainDegrees

_TP, _PP = "--tensor-model-parallel-size", "--pipeline-model-parallel-size"
_CP, _EP, _ETP = (
    "--context-parallel-size",
    "--expert-model-parallel-size",
    "--expert-tensor-parallel-size",
)
_LAYOUT = "--pipeline-model-parallel-layout"
_VIRTUAL = "--num-virtual-stages-per-pipeline-rank"
_PER_VIRTUAL = "--num-layers-per-virtual-pipeline-stage"
_FIRST, _LAST = "--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"
_SHARDING = "--data-parallel-sharding-strategy"
_MBS, _GBS = "--micro-batch-size", "--global-batch-size"
_ACCOUNT_EMBEDDING = "--account-for-embedding-in-pipeline-split"
_ACCOUNT_LOSS = "--account-for-loss-in-pipeline-split"

_VALUED = (
    *(_TP, _PP, _CP, _EP, _ETP, _LAYOUT, _VIRTUAL, _PER_VIRTUAL, _FIRST, _LAST, _SHARDING),
    *(_MBS, _GBS, "--seq-length", "--num-layers", "--num-experts", "--moe-router-topk"),
    *("--mtp-num-layers", "--recompute-granularity", "--recompute-method", "--optimizer"),
    *("--recompute-num-layers", "--recompute-modules", "--exp-avg-dtype", "--exp-avg-sq-dtype"),
    *("--main-grads-dtype", "--fp8-format", "--fp8-recipe", "--fp4-format", "--ckpt-format"),
    *("--moe-token-dispatcher-type", "--nnodes", "--nproc-per-node", "--node-rank"),
    *("--master-addr", "--master-port", "--world-size"),
)
_SWITCHES = (
    *("--sequence-parallel", "--use-distributed-optimizer", "--use-megatron-fsdp"),
    *("--overlap-grad-reduce", "--overlap-param-gather", "--tp-comm-overlap"),
    *("--overlap-moe-expert-parallel-comm", "--recompute-activations", "--bf16", "--fp16"),
    *("--grad-reduce-in-bf16", "--use-precision-aware-optimizer"),
    *(_ACCOUNT_EMBEDDING, _ACCOUNT_LOSS),
)
TABLE = FlagTable(
    valued={name: name for name in _VALUED},
    switches={name: name for name in _SWITCHES},
    others=frozenset({"--max-position-embeddings", "--encoder-num-layers"}),
)
_PLACE = frozenset({"--node-rank", "--master-addr", "--master-port"})
_ZERO = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}


def _is_megatron(command: ShellCommand) -> int | None:
    texts = [word.text for word in command.words]
    found = any(text.startswith("pretrain_") or "/pretrain_" in text for text in texts)
    return 0 if found or _TP in texts or _MBS in texts else None


def _needed(flags: Flags, name: str, example: int) -> int:
    found = flags.optional_whole(name)
    if found is None:
        flags.fail(name, "is missing", f"write for example {name} {example}")
    return found


def _world(flags: Flags) -> int:
    given = flags.optional_whole("--world-size")
    if given is not None:
        return given
    if "--nproc-per-node" not in flags:
        flags.fail("--nproc-per-node", "is missing: the chips of the run are not known",
                   "name the line of torchrun, or add --world-size 64")  # fmt: skip
    return flags.whole("--nnodes", 1) * flags.whole("--nproc-per-node", 1)


def _split(flags: Flags, pp: int) -> tuple[tuple[int, ...] | None, int]:
    """Layers of each chunk where the flags say, and chunks per rank."""
    text = flags.text(_LAYOUT)
    if text is not None:
        try:
            counts = layers_of_layout(text)
        except ValueError as error:
            flags.fail(_LAYOUT, str(error), "write for example 'Et*10|t*12|t*12|t*11L'")
        if len(counts) % pp:
            flags.fail(_LAYOUT, f"has {len(counts)} stages, which PP {pp} does not divide")
        return counts, len(counts) // pp
    virtual = flags.whole(_VIRTUAL, 1)
    layers = flags.optional_whole("--num-layers")
    per = flags.optional_whole(_PER_VIRTUAL)
    if per is not None:
        if layers is None or layers % (pp * per):
            flags.fail(_PER_VIRTUAL, f"is {per}, which --num-layers / PP {pp} does not divide by")
        virtual = layers // (pp * per)
    uneven = [name for name in (_FIRST, _LAST, _ACCOUNT_EMBEDDING, _ACCOUNT_LOSS) if name in flags]
    if not uneven or pp == 1:
        return None, virtual
    if layers is None:
        flags.fail(uneven[0], "needs --num-layers")
    return _uneven(flags, pp, virtual, layers), virtual


def _uneven(flags: Flags, pp: int, virtual: int, layers: int) -> tuple[int, ...]:
    chunks = pp * virtual
    account = (flags.switch(_ACCOUNT_EMBEDDING), flags.switch(_ACCOUNT_LOSS))
    if any(account):
        each, rest = divmod(layers + sum(account), chunks)
        counts = [each] * chunks
        counts[0] -= account[0]
        counts[-1] -= account[1]
        if rest:
            flags.fail(_ACCOUNT_EMBEDDING if account[0] else _ACCOUNT_LOSS,
                       f"leaves a remainder of {rest} over {chunks} chunks")  # fmt: skip
        return tuple(counts)
    first, last = flags.optional_whole(_FIRST), flags.optional_whole(_LAST)
    given = {0: first, pp - 1: last}
    middle = [rank for rank in range(pp) if given.get(rank) is None]
    left = layers - sum(count for count in given.values() if count is not None)
    if left < 0 or (middle and left % (len(middle) * virtual)) or (not middle and left):
        flags.fail(_FIRST if first is not None else _LAST,
                   f"leaves {left} layers for {len(middle)} stages")  # fmt: skip
    per_rank = [given.get(rank) or left // len(middle) for rank in range(pp)]
    if any(count % virtual for count in per_rank):
        flags.fail(_VIRTUAL, f"does not divide stages of {per_rank} layers")
    return tuple(per_rank[chunk % pp] // virtual for chunk in range(chunks))


def _recompute(flags: Flags) -> Recompute:
    text = flags.text("--recompute-granularity")
    if text is None:
        return Recompute.SELECTIVE if flags.switch("--recompute-activations") else Recompute.NONE
    if text not in (Recompute.FULL.value, Recompute.SELECTIVE.value):
        flags.fail("--recompute-granularity", f"is {text[:40]!r}", "full or selective")
    return Recompute(text)


def _zero(flags: Flags) -> int:
    if not flags.switch("--use-megatron-fsdp"):
        return int(flags.switch("--use-distributed-optimizer"))
    text = flags.text(_SHARDING) or "optim_grads_params"
    if text not in _ZERO:
        flags.fail(_SHARDING, f"is {text[:40]!r}", f"one of {', '.join(_ZERO)}")
    return _ZERO[text]


def _activations(flags: Flags) -> DType | None:
    if "--fp4-format" in flags:
        return DType.NVFP4
    if "--fp8-format" in flags:
        return DType.MXFP8 if flags.text("--fp8-recipe") == "mxfp8" else DType.FP8
    return DType.BF16 if flags.switch("--bf16") else None


def _overlap(flags: Flags) -> tuple[str, ...]:
    found = {
        "dp": "--overlap-grad-reduce",
        "ep": "--overlap-moe-expert-parallel-comm",
        "tp": "--tp-comm-overlap",
    }
    return tuple(name for name, flag in found.items() if flags.switch(flag))


def read_megatron(path: str, text: str | None = None) -> DeployedTraining:
    """Read launch lines of ``pretrain_*.py``.

    Parameters
    ----------
    text : str, optional
        Launch lines, or flags alone, in place of the file.

    Raises
    ------
    CatalogError
        The file cannot be read, starts no training, or has a flag that is wrong; names the
        line.
    """
    launches = launches_of(path, text, _is_megatron, TABLE)
    check_agreement(launches, _PLACE)
    flags = launches[0].flags
    tp, pp, cp = (flags.whole(name, 1) for name in (_TP, _PP, _CP))
    world = _world(flags)
    if world % (tp * pp * cp):
        flags.fail(_TP, f"TP {tp} x PP {pp} x CP {cp} does not divide {world} chips")
    dp = world // (tp * pp * cp)
    microbatch, batch = _needed(flags, _MBS, 1), _needed(flags, _GBS, 1024)
    if batch % (microbatch * dp):
        flags.fail(_GBS, f"is {batch}, which {microbatch} x DP {dp} does not divide")
    counts, virtual = _split(flags, pp)
    schedule = ScheduleKind.NONE
    if pp > 1:
        schedule = ScheduleKind.INTERLEAVED if virtual > 1 else ScheduleKind.ONE_F_ONE_B
    experts = "--num-experts" in flags or _EP in flags
    state = flags.text("--exp-avg-dtype") or "fp32"
    bf16_gradients = flags.switch("--grad-reduce-in-bf16")
    bf16_gradients |= flags.text("--main-grads-dtype") == "bf16"
    if state not in ("fp32", "bf16", "fp8"):
        flags.fail("--exp-avg-dtype", f"is {state[:40]!r}, which is not priced", "fp32, bf16, fp8")
    optimizer = flags.text("--optimizer") or "adam"
    if optimizer not in ("adam", "muon"):
        flags.fail("--optimizer", f"is {optimizer[:40]!r}, which is not priced", "adam or muon")
    told = TrainingDeployment(
        engine=Engine.MEGATRON,
        degrees=TrainDegrees(
            tp=tp,
            cp=cp,
            dp=dp,
            pp=pp,
            virtual_stages=virtual if pp > 1 else 1,
            ep=flags.whole(_EP, 1),
            expert_tp=flags.whole(_ETP, tp) if experts else 1,
            microbatch=microbatch,
            microbatches=batch // (microbatch * dp),
            schedule=schedule,
            recompute=_recompute(flags),
            zero_stage=_zero(flags),
            sequence_parallel=tp > 1 and flags.switch("--sequence-parallel"),
            overlap=_overlap(flags),
        ),
        global_batch=batch,
        seq_len=_needed(flags, "--seq-length", 4096),
        chunk_layers=counts,
        optimizer=optimizer,
        optimizer_state=state,
        gradients="bf16" if bf16_gradients else "fp32",
        activations=_activations(flags),
    )
    unread = tuple(dict.fromkeys(flags.unread))
    return DeployedTraining(file=path, told=told, unread=unread)
