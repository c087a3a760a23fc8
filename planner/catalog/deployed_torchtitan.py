"""Reading torchtitan runs: a TOML of v0.2, or assignments to a Python configuration.

Names are those of ``config/job_config.py`` (v0.2.2) and ``config/configs.py`` (@b5bcd76). Python
is parsed, never run: ``config.parallelism.tensor_parallel_degree = 4`` with a literal is read,
everything else is left alone.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.catalog.deployed import DeployedTraining
from planner.catalog.toml_text import parse_toml, read_text
from planner.domain.deployment import Engine, TrainingDeployment
from planner.domain.run import Recompute, ScheduleKind
from planner.domain.train_layout import TrainDegrees
from planner.errors import CatalogError

SCHEDULES = {
    "gpipe": ScheduleKind.GPIPE,
    "1f1b": ScheduleKind.ONE_F_ONE_B,
    "interleaved1f1b": ScheduleKind.INTERLEAVED,
    "zbvzerobubble": ScheduleKind.ZB_V,
}
_RESHARD = {"never": 2, "always": 3}
_LAYER = re.compile(r"layers\.(\d{1,5})")
_POLICIES = {"FullAC": Recompute.FULL, "SelectiveAC": Recompute.SELECTIVE}
_READ = frozenset({"parallelism", "training", "compile", "activation_checkpoint"})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Config:
    """Values by section and name, with their lines."""

    file: str
    values: dict[tuple[str, str], tuple[Any, int | None]]
    recompute: Recompute

    def fail(self, section: str, name: str, message: str, remedy: str = "") -> CatalogError:
        line = self.values.get((section, name), (None, None))[1]
        return CatalogError(
            message, file=self.file, line=line, field=f"{section}.{name}", remedy=remedy
        )

    def get(self, section: str, name: str) -> Any:
        return self.values.get((section, name), (None, None))[0]

    def whole(self, section: str, name: str, default: int, minimum: int = 1) -> int:
        value = self.get(section, name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= 10**12:
            raise self.fail(section, name, f"is {str(value)[:40]!r}; a whole number is expected")
        return value

    def switch(self, section: str, name: str, *, default: bool) -> bool:
        value = self.get(section, name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(section, name, f"is {str(value)[:40]!r}, neither true nor false")
        return value


def _toml_line(text: str, name: str) -> int | None:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.split("=")[0].strip() == name:
            return number
    return None


def _from_toml(path: str, text: str) -> _Config:
    values = {}
    for section, own in parse_toml(text, path).items():
        if isinstance(own, dict):
            for name, value in own.items():
                values[section, name] = (value, _toml_line(text, name))
    mode = values.get(("activation_checkpoint", "mode"), ("selective", None))
    if mode[0] not in ("none", "selective", "full"):
        raise CatalogError(
            f"is {str(mode[0])[:40]!r}, which is not priced",
            file=path,
            line=mode[1],
            field="activation_checkpoint.mode",
            remedy="none, selective or full",
        )
    return _Config(file=path, values=values, recompute=Recompute(mode[0]))


def _from_python(path: str, text: str) -> _Config:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise CatalogError("is no Python file", file=path, line=line) from None
    values: dict[tuple[str, str], tuple[Any, int | None]] = {}
    recompute = Recompute.NONE
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        target = node.targets[0]
        if target.attr == "activation_checkpoint":
            names = {own.id for own in ast.walk(node.value) if isinstance(own, ast.Name)}
            recompute = next((_POLICIES[n] for n in sorted(names) if n in _POLICIES), recompute)
        elif isinstance(target.value, ast.Attribute) and target.value.attr in _READ:
            try:
                value = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                raise CatalogError(
                    "is no plain value", file=path, line=node.lineno, field=target.attr
                ) from None
            values[target.value.attr, target.attr] = (value, node.lineno)
    return _Config(file=path, values=values, recompute=recompute)


def _chunks(config: _Config) -> tuple[int, ...] | None:
    parts = config.get("parallelism", "module_fqns_per_model_part")
    if parts is None:
        return None
    counts, following = [], 0
    if not isinstance(parts, list) or not all(isinstance(part, list) for part in parts):
        raise config.fail("parallelism", "module_fqns_per_model_part", "is no list of lists")
    for part in parts:
        layers = [match for name in part if (match := _LAYER.fullmatch(str(name)))]
        for match in layers:
            if int(match.group(1)) != following:
                raise config.fail(
                    "parallelism",
                    "module_fqns_per_model_part",
                    f"has {match.group(0)} where layers.{following} is next",
                )
            following += 1
        counts.append(len(layers))
    return tuple(counts)


def _zero(config: _Config, pp: int) -> tuple[int, int]:
    """``(ZeRO stage, data-parallel ranks)``."""
    replicas = config.whole("parallelism", "data_parallel_replicate_degree", 1)
    shards = config.whole("parallelism", "data_parallel_shard_degree", -1, minimum=-1)
    if shards < 1:
        raise config.fail(
            "parallelism",
            "data_parallel_shard_degree",
            "takes what is left, and the chips of the run are not known",
            "write the number of ranks",
        )
    if replicas > 1 and shards > 1:
        raise config.fail(
            "parallelism", "data_parallel_replicate_degree", "beside sharding is not priced"
        )
    policy = config.get("parallelism", "fsdp_reshard_after_forward") or "default"
    if policy in _RESHARD:
        return _RESHARD[policy], replicas * shards
    # "default" keeps gathered weights in a pipeline.
    sharded = 2 if pp > 1 else 3
    return (sharded if shards > 1 else 0), replicas * shards


def _batch(config: _Config, dp: int, pp: int) -> tuple[int, int, int, int]:
    """``(microbatch, microbatches, global batch, sequence)``."""
    section = "training"
    tokens = config.get(section, "num_tokens_per_microbatch_per_dp_rank")
    if tokens is not None:
        seq = config.whole(section, "max_context_length", 2048)
        tokens = config.whole(section, "num_tokens_per_microbatch_per_dp_rank", seq)
        micro = tokens // seq
        staged = config.whole("parallelism", "num_pp_microbatches", 1) if pp > 1 else 1
        whole = config.whole(section, "num_tokens_per_train_step", -1, minimum=-1)
        batch = micro * staged * dp if whole < 1 else whole // seq
    else:
        seq = config.whole(section, "seq_len", 2048)
        local = config.whole(section, "local_batch_size", 8)
        micro = local
        if pp > 1:
            micro = config.whole("parallelism", "pipeline_parallel_microbatch_size", 1)
        batch = config.whole(section, "global_batch_size", -1, minimum=-1)
        batch = local * dp if batch < 1 else batch
    if micro < 1 or batch % (micro * dp):
        raise config.fail(
            section, "global_batch_size", f"{batch} sequences do not split in {micro} x DP {dp}"
        )
    return micro, batch // (micro * dp), batch, seq


def read_torchtitan(path: str, text: str | None = None) -> DeployedTraining:
    """Read a TOML or a Python configuration.

    Parameters
    ----------
    text : str, optional
        TOML in place of the file.

    Raises
    ------
    CatalogError
        The file cannot be read, or has a value that is wrong; names the line.
    """
    if text is None:
        text = read_text(Path(path), path, "name a TOML, or a Python configuration")
    config = _from_python(path, text) if path.endswith(".py") else _from_toml(path, text)
    if not any(section == "parallelism" for section, _ in config.values):
        raise CatalogError("has no parallelism section", file=path, remedy="name another file")
    whole = config.whole
    tp, pp = (whole("parallelism", f"{name}_parallel_degree", 1) for name in ("tensor", "pipeline"))
    counts = _chunks(config) if pp > 1 else None
    name = str(config.get("parallelism", "pipeline_parallel_schedule") or "1F1B")
    if pp > 1 and name.lower() not in SCHEDULES:
        raise config.fail(
            "parallelism", "pipeline_parallel_schedule", f"is {name[:40]!r}, which is not priced"
        )
    schedule = SCHEDULES[name.lower()] if pp > 1 else ScheduleKind.NONE
    virtual = 1
    if schedule is ScheduleKind.INTERLEAVED:
        virtual = 2 if counts is None else len(counts) // pp
    zero, dp = _zero(config, pp)
    micro, count, batch, seq = _batch(config, dp, pp)
    hides_tp = config.switch("parallelism", "enable_async_tensor_parallel", default=False)
    hides_tp |= config.switch("compile", "enable_async_tensor_parallel", default=False)
    told = TrainingDeployment(
        engine=Engine.TORCHTITAN,
        degrees=TrainDegrees(
            tp=tp,
            cp=whole("parallelism", "context_parallel_degree", 1),
            dp=dp,
            pp=pp,
            virtual_stages=max(1, virtual),
            ep=whole("parallelism", "expert_parallel_degree", 1),
            expert_tp=whole("parallelism", "expert_tensor_parallel_degree", 1),
            microbatch=micro,
            microbatches=count,
            schedule=schedule,
            recompute=config.recompute,
            zero_stage=zero,
            sequence_parallel=tp > 1
            and config.switch("parallelism", "enable_sequence_parallel", default=True),
            overlap=("dp", "tp") if hides_tp else ("dp",),
        ),
        global_batch=batch,
        seq_len=seq,
        chunk_layers=counts,
    )
    unread = sorted({section for section, _ in config.values} - _READ)
    return DeployedTraining(file=path, told=told, unread=tuple(unread))
