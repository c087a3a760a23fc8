"""What ``estimate`` is asked: a run as given, by the names that a user writes.

Fields are named as the options of the command line; :func:`check_run_question` says which of
them a kind of run takes, needs, and refuses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import StrEnum

from planner.domain.dtypes import DType
from planner.domain.hardware import DEFAULT_SIZE, Sizing
from planner.domain.run import Optimizer, Overlap, Recompute, ScheduleKind
from planner.domain.serving import RequestKind
from planner.errors import SpecError


class EstimateKind(StrEnum):
    """What is priced."""

    TRAIN = "train"  # one optimizer step
    PREFILL = "prefill"  # one pass over the new tokens of a batch
    DECODE = "decode"  # one token of every sequence
    REQUEST = "request"  # prefill and all output tokens of a static batch
    SERVE = "serve"  # requests that come and go: the steady state of an engine


@dataclass(frozen=True, kw_only=True, slots=True)
class RunQuestion:
    """A run to be priced as it stands; None where the user said nothing.

    Parameters
    ----------
    model, machine : str
        Catalogue names or files.
    tp, pp, cp, dp : int
        Attention degrees; ``dp`` takes the chips that the others leave.
    ep, expert_tp : int, optional
        Groups over which experts are spread, and the split inside an expert. With neither,
        experts are split as attention is (``expert_tp = tp``); with ``ep`` alone they are
        whole. A served engine spreads its experts over all chips of a worker.
    virtual_stages : int
        Model chunks per pipeline rank.
    batch : int, optional
        Sequences per step, or concurrent ones, in total.
    seq, context, input, output : int, optional
        Tokens: of a sequence, or new ones of a prefill; cached ones; of a prompt; of an answer.
    context_spread : int
        Standard deviation of the cached tokens.
    microbatch : int, optional
        Sequences per microbatch of one data-parallel rank.
    zero : int
        Optimizer states (1), gradients (2), weights (3) sharded over data-parallel ranks.
    optimizer, optimizer_state, gradients : Optimizer, DType, DType
        What is trained with, and the formats of its moments and of kept gradients.
    overlap : frozenset of Overlap, optional
        Communication behind computation; None for the habit of the phase.
    engine : str, optional
        Generation of an inference engine, or family of a served one.
    chunk : int, optional
        Most prompt tokens of one pass.
    concurrency, rate : int or float, optional
        Requests in flight, or arriving per second.
    workers : int
        Copies of a served model.
    mix : tuple of RequestKind
        Requests of several lengths, in place of ``input`` and ``output``.
    prefill_tp, prefill_dp, prefill_ep, prefill_expert_tp : int, optional
        Layout of workers that only prefill; that of the others where none is given.
    prefill_workers : int, optional
        How many; with any of these five, prefill has chips of its own.
    balance : bool
        Find the numbers of both kinds of workers that yield most tokens per second.
    ttft, tpot : float, optional
        Most seconds to the first token and per output token that a balance may have.
    prefix_hit, draft, acceptance : float, int, float
        Cached share of prompts; drafted tokens per pass; probability to accept one.
    price : float, optional
        Dollars per chip-hour; None for the machine's.
    ideal : bool
        Pure roofline: no derates, no latencies, no reserve.
    """

    model: str
    machine: str
    kind: EstimateKind
    sizing: Sizing = DEFAULT_SIZE
    tp: int = 1
    pp: int = 1
    cp: int = 1
    dp: int | None = None
    ep: int | None = None
    expert_tp: int | None = None
    virtual_stages: int = 1
    batch: int | None = None
    seq: int | None = None
    context: int | None = None
    context_spread: int = 0
    input: int | None = None
    output: int | None = None
    microbatch: int | None = None
    schedule: ScheduleKind | None = None
    recompute: Recompute = Recompute.NONE
    zero: int = 0
    sequence_parallel: bool = False
    optimizer: Optimizer = Optimizer.ADAM
    optimizer_state: DType = DType.FP32
    gradients: DType = DType.BF16
    overlap: frozenset[Overlap] | None = None
    engine: str | None = None
    chunk: int | None = None
    concurrency: int | None = None
    rate: float | None = None
    workers: int = 1
    mix: tuple[RequestKind, ...] = ()
    prefill_tp: int | None = None
    prefill_dp: int | None = None
    prefill_ep: int | None = None
    prefill_expert_tp: int | None = None
    prefill_workers: int | None = None
    balance: bool = False
    ttft: float | None = None
    tpot: float | None = None
    prefix_hit: float = 0.0
    draft: int = 0
    acceptance: float = 0.0
    weights: DType | None = None
    activations: DType | None = None
    kv: DType | None = None
    price: float | None = None
    ideal: bool = False

    @property
    def prefill_layout_given(self) -> bool:
        """Whether prefill workers have a layout of their own."""
        degrees = (self.prefill_tp, self.prefill_dp, self.prefill_ep, self.prefill_expert_tp)
        return any(degree is not None for degree in degrees)

    @property
    def disaggregated(self) -> bool:
        """Whether prefill has chips of its own."""
        return self.balance or self.prefill_layout_given or self.prefill_workers is not None


_COMMON = frozenset(
    {
        "model",
        "machine",
        "kind",
        "sizing",
        "tp",
        "dp",
        "ep",
        "expert_tp",
        "weights",
        "activations",
        "kv",
        "price",
        "ideal",
    }
)
_STATIC = frozenset({"pp", "cp", "batch", "microbatch", "overlap"})
_TRAIN = frozenset(
    {
        "seq",
        "virtual_stages",
        "schedule",
        "recompute",
        "zero",
        "sequence_parallel",
        "optimizer",
        "optimizer_state",
        "gradients",
    }
)
_SERVED = frozenset(
    {
        "input",
        "output",
        "engine",
        "chunk",
        "concurrency",
        "rate",
        "workers",
        "mix",
        "prefill_tp",
        "prefill_dp",
        "prefill_ep",
        "prefill_expert_tp",
        "prefill_workers",
        "balance",
        "ttft",
        "tpot",
        "prefix_hit",
        "draft",
        "acceptance",
    }
)
TAKES: dict[EstimateKind, frozenset[str]] = {
    EstimateKind.TRAIN: _STATIC | _TRAIN,
    EstimateKind.PREFILL: _STATIC | {"seq", "context", "context_spread", "engine", "chunk"},
    EstimateKind.DECODE: _STATIC | {"context", "context_spread", "engine"},
    EstimateKind.REQUEST: _STATIC | {"input", "output", "engine", "chunk"},
    EstimateKind.SERVE: _SERVED,
}
NEEDS: dict[EstimateKind, tuple[str, ...]] = {
    EstimateKind.TRAIN: ("batch", "seq"),
    EstimateKind.PREFILL: ("batch", "seq"),
    EstimateKind.DECODE: ("batch", "context"),
    EstimateKind.REQUEST: ("batch", "input", "output"),
    EstimateKind.SERVE: ("input", "output"),
}
_EXAMPLE = {"batch": "64", "seq": "8k", "context": "4k", "input": "2k", "output": "256"}
# Counts that may be zero, and the largest value of those that have one.
_FROM_ZERO = frozenset({"zero", "context_spread", "draft"})
_MOST = {"zero": 3}
_LARGEST = 10**9


def option(name: str) -> str:
    """The option of a field: ``--context-spread``."""
    return "--" + name.replace("_", "-")


def check_run_question(question: RunQuestion) -> None:
    """Refuse what a kind of run does not take, lacks, or cannot be counted.

    Raises
    ------
    SpecError
        Naming the option.
    """
    kind = question.kind
    for field in fields(question):
        value = getattr(question, field.name)
        if field.name not in _COMMON | TAKES[kind] and value != field.default:
            others = ", ".join(other.value for other in TAKES if field.name in TAKES[other])
            raise SpecError(
                f"{option(field.name)} does not apply to --kind {kind.value}",
                f"leave it out; it belongs to {others}",
            )
        _check_number(field.name, value)
    for name in () if question.mix else NEEDS[kind]:
        if getattr(question, name) is None:
            raise SpecError(
                f"{option(name)} is missing for --kind {kind.value}",
                f"write for example {option(name)} {_EXAMPLE[name]}",
            )
    if kind is EstimateKind.SERVE:
        _check_served(question)
    if question.context_spread and not question.context:
        raise SpecError("--context-spread needs --context, the mean", "write --context 4k")


def _check_served(question: RunQuestion) -> None:
    """What the options of a served run ask of each other."""
    if (question.concurrency is None) == (question.rate is None):
        raise SpecError(
            "--kind serve takes either --concurrency or --rate",
            "write for example --concurrency 64, or --rate 4/s",
        )
    if question.mix and (question.input is not None or question.output is not None):
        raise SpecError("--mix gives the lengths", "leave --input and --output out")
    for kind in question.mix:
        numbers = (kind.input_len, kind.output_len, kind.weight)
        if not all(math.isfinite(x) for x in numbers) or kind.weight <= 0 or min(numbers[:2]) < 1:
            raise SpecError(
                f"--mix: {kind.input_len:g} tokens in, {kind.output_len:g} out, weight "
                f"{kind.weight:g}",
                "lengths are 1 or more, weights above 0",
            )
    if question.balance and (question.workers != 1 or question.prefill_workers is not None):
        raise SpecError(
            "--balance finds the numbers of workers", "leave --workers and --prefill-workers out"
        )
    for name in ("ttft", "tpot"):
        if getattr(question, name) is not None and not question.balance:
            raise SpecError(
                f"{option(name)} is a limit of --balance", "write --balance, or leave it out"
            )


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise SpecError(f"{option(name)}: {value} is not a finite number")
    if name in ("prefix_hit", "acceptance"):
        if not 0 <= value < 1 and not (name == "acceptance" and value == 1):
            raise SpecError(f"{option(name)}: {value:g} is no share", "write for example 0.7")
        return
    if name in ("rate", "price", "ttft", "tpot"):
        if value <= 0:
            raise SpecError(f"{option(name)}: {value:g} is not greater than zero")
        return
    least = 0 if name in _FROM_ZERO else 1
    most = _MOST.get(name, _LARGEST)
    if not least <= value <= most:
        raise SpecError(f"{option(name)}: {value} is not in {least} to {most}")
