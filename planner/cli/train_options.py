"""Options of ``planner plan --phase train``."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import click

from planner.cli.options import parse_values, to_sizing
from planner.domain.dtypes import DType
from planner.domain.run import Optimizer, Overlap, Recompute, ScheduleKind
from planner.domain.training import ALL_OVERLAPS, TrainLimits, TrainQuestion
from planner.domain.workload import Objective
from planner.errors import SpecError
from planner.units import parse_seconds, parse_tokens, parse_usd

Command = TypeVar("Command", bound=Callable[..., Any])
Choice = TypeVar("Choice", bound=StrEnum)

VALUES = "N|N,N|N..N"
# Options of other phases; they would change nothing here.
FOREIGN = (
    *("context", "tpot", "kv", "loads", "slots", "microbatches", "replicas", "draft"),
    *("acceptance", "no_overlap", "ttft", "trace", "survive"),
)
TRAIN_ONLY = (
    *("microbatch", "virtual_stages", "zero", "schedule", "recompute"),
    *("sequence_parallel", "optimizer", "optimizer_state", "gradients"),
)
# Degrees that both phases have, by their names in the limits of training.
SHARED = ("tp", "cp", "dp", "pp", "ep", "expert_tp")

_OPTIONS = (
    click.option("--microbatch", metavar=VALUES, help="train: sequences per microbatch and rank."),
    click.option(
        "--schedule",
        metavar="KIND,KIND",
        help=f"train: of the pipeline, among {', '.join(kind.value for kind in ScheduleKind)}.",
    ),
    click.option("--virtual-stages", metavar=VALUES, help="train: chunks per rank, interleaved."),
    click.option(
        "--recompute",
        metavar="WHAT,WHAT",
        help=f"train: activations computed again, among {', '.join(Recompute)}.",
    ),
    click.option("--zero", metavar=VALUES, help="train: ZeRO stages, 0..3."),
    click.option(
        "--sequence-parallel/--no-sequence-parallel",
        default=None,
        help="train: split norms over --tp, or not; free if absent.",
    ),
    click.option(
        "--optimizer",
        type=click.Choice([o.value for o in Optimizer]),
        help="train: adam if absent.",
    ),
    click.option(
        "--optimizer-state",
        type=click.Choice(["fp32", "bf16", "fp8"]),
        help="train: format of its moments, fp32 if absent.",
    ),
    click.option(
        "--gradients",
        type=click.Choice(["fp32", "bf16"]),
        help="train: format of kept gradients, bf16 if absent.",
    ),
)


def train_options(command: Command) -> Command:
    """What training has beside the options of every question."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def refuse_train_options(values: dict[str, Any]) -> None:
    """Take the options of training away; none may be given for another phase.

    Raises
    ------
    SpecError
        Naming the option.
    """
    for name in TRAIN_ONLY:
        if values.pop(name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise SpecError(f"{option} belongs to --phase train", "leave it out")


def _choices(text: str | None, kind: type[Choice], option: str) -> frozenset[Choice] | None:
    """Read ``1f1b,interleaved``."""
    if text is None:
        return None
    known = [item.value for item in kind]
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in known:
            raise SpecError(
                f"{option}: '{part}' is not one of {', '.join(known)}",
                f"write for example {option} {known[0]},{known[1]}",
            )
    return frozenset(kind(part) for part in parts)


def _overlap(text: str | None) -> frozenset[Overlap]:
    if text is None:
        return ALL_OVERLAPS
    if text.strip() == "none":
        return frozenset()
    found = _choices(text, Overlap, "--overlap")
    assert found is not None
    return found


def _refuse_foreign(values: dict[str, Any]) -> None:
    for name in FOREIGN:
        if values.get(name):
            option = f"--{name.replace('_', '-')}"
            remedy = "write --seq for the length of a sequence" if name == "context" else ""
            raise SpecError(f"{option} does not apply to --phase train", remedy or "leave it out")


def _needed(values: dict[str, Any]) -> tuple[str, int, str]:
    for name, option, example in (
        ("machine", "--on", "h100-hgx"),
        ("batch", "--batch", "2048"),
        ("seq", "--seq", "8k"),
    ):
        if values[name] is None:
            raise SpecError(
                f"{option} is missing for --phase train", f"write for example {option} {example}"
            )
    return values["machine"], values["batch"], values["seq"]


def to_train_question(model: str, values: dict[str, Any]) -> TrainQuestion:
    """Translate parsed options into a question about training.

    Raises
    ------
    SpecError
        Naming the option that cannot be read, is missing, or does not apply.
    """
    _refuse_foreign(values)
    machine, batch, seq = _needed(values)
    gap, reserve = values["gap"], values["reserve"]
    if not 0 <= gap < 1:
        raise SpecError(f"--gap: {gap} is not in [0, 1)", "write for example --gap 0.005")
    if reserve is not None and not (reserve.isascii() and reserve.isdigit()):
        raise SpecError(
            f"--reserve: cannot read '{reserve}'",
            "training keeps whole nodes free: write for example --reserve 16",
        )
    limit, price, parallel = values["time_limit"], values["price"], values["sequence_parallel"]
    limits = TrainLimits(
        **{name: parse_values(values[name], f"--{name.replace('_', '-')}") for name in SHARED},
        virtual_stages=parse_values(values["virtual_stages"], "--virtual-stages"),
        microbatch=parse_values(values["microbatch"], "--microbatch"),
        zero=_zero(values["zero"]),
        schedules=_choices(values["schedule"], ScheduleKind, "--schedule"),
        recompute=_choices(values["recompute"], Recompute, "--recompute"),
        sequence_parallel=None if parallel is None else frozenset({parallel}),
    )
    return TrainQuestion(
        model=model,
        machine=machine,
        global_batch=batch,
        seq_len=parse_tokens(seq, "--seq"),
        sizing=to_sizing(values),
        weights=_dtype(values["weights"]),
        activations=_dtype(values["activations"]),
        objective=_objective(values["objective"]),
        limits=limits,
        overlap=_overlap(values["overlap"]),
        optimizer=Optimizer(values["optimizer"] or "adam"),
        optimizer_state=DType(values["optimizer_state"] or "fp32"),
        gradients=DType(values["gradients"] or "bf16"),
        price_usd_per_hour=None if price is None else parse_usd(price, "--price"),
        ideal=values["ideal"],
        gap=gap,
        time_limit_s=None if limit is None else parse_seconds(limit, "--time-limit"),
        exclude=tuple(dict.fromkeys(values["exclude"])),
        reserve=int(reserve or 0),
    )


def _objective(name: str) -> Objective:
    """A step of a given batch: throughput and latency are the same question."""
    return Objective.COST if name == Objective.COST.value else Objective.LATENCY


def _dtype(name: str | None) -> DType | None:
    return None if name is None else DType(name)


def _zero(text: str | None) -> frozenset[int] | None:
    found = parse_values(text, "--zero", least=0)
    if found is not None and max(found) > 3:
        raise SpecError(f"--zero: {max(found)} is no ZeRO stage", "write for example --zero 0..3")
    return found
