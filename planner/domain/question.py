"""One question to the planner as the user asks it: names, numbers and limits, nothing read yet."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from planner.domain.dtypes import DType
from planner.domain.hardware import NO_WOUNDS, Sizing, Wounds
from planner.domain.ranges import write_ranges
from planner.domain.workload import Objective, Phase, TimeModel
from planner.errors import SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class DegreeLimits:
    """Values that each degree may take; ``None`` leaves it free.

    ``tp`` is attention tensor parallelism, ``dp`` is ``attn_dp * replicas``, ``ep`` and
    ``expert_tp`` belong to routed experts, ``slots`` are expert copies per MoE layer;
    ``overlap`` are numbers of :class:`planner.domain.degrees.OverlapMode`.
    """

    tp: frozenset[int] | None = None
    pp: frozenset[int] | None = None
    ep: frozenset[int] | None = None
    dp: frozenset[int] | None = None
    expert_tp: frozenset[int] | None = None
    slots: frozenset[int] | None = None
    microbatches: frozenset[int] | None = None
    replicas: frozenset[int] | None = None
    cp: frozenset[int] | None = None
    overlap: frozenset[int] | None = None
    draft: frozenset[int] | None = None

    def texts(self) -> dict[str, str]:
        """The degrees that are not free, as in ``{"pp": "1..4"}``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: write_ranges(own) for name, own in values.items() if own is not None}


def permits(allowed: frozenset[int] | None, value: int) -> bool:
    """Whether ``value`` is allowed."""
    return allowed is None or value in allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Model, machine, workload and limits, named but not yet read.

    Parameters
    ----------
    model, machine : str
        Catalogue name or path.
    context_tokens : int
        Cached tokens of every sequence; before a prefill.
    seq_len : int, optional
        New tokens of every sequence of a prefill.
    tpot_s, ttft_s : float, optional
        Longest decode step, and longest prefill.
    nodes, racks, slices, shape : optional
        Size of the machine; the machine's default when all are absent.
    wounds : Wounds
        What is missing or slow, beyond what the machine's file says.
    exclude : tuple of str
        Healthy chips that no rank may run on: ``r0/t3/c2``, ``tray:r0/t3``, ``rack:r1``.
    reserve, reserve_per_domain : int
        Chips to leave idle as spares, of the machine or of each scale-up domain.
    loads : str, optional
        File of routing loads, a table ``[MoE layers, experts]``; uniform when absent.
    ideal : bool
        Pure roofline: no derates, no latencies, no reserve.
    survive : str, optional
        Part of which any one may die, ``chip``, ``tray``, ``node`` or ``any`` of them: no expert
        is lost then, and what is left has room for all sequences.
    acceptance : float, optional
        Probability that a drafted token is accepted, given that those before it were; without
        it nothing is drafted.
    """

    model: str
    machine: str
    context_tokens: int = 0
    phase: Phase = Phase.DECODE
    nodes: int | None = None
    racks: int | None = None
    slices: int | None = None
    shape: tuple[int, ...] | None = None
    wounds: Wounds = NO_WOUNDS
    weights: DType | None = None
    activations: DType | None = None
    kv: DType | None = None
    tpot_s: float | None = None
    seq_len: int | None = None
    ttft_s: float | None = None
    batch: int | None = None
    price_usd_per_hour: float | None = None
    objective: Objective = Objective.THROUGHPUT
    time_model: TimeModel = TimeModel.SUM
    ideal: bool = False
    loads: str | None = None
    limits: DegreeLimits = field(default_factory=DegreeLimits)
    gap: float = 0.005
    time_limit_s: float | None = None
    seed: int = 0
    exclude: tuple[str, ...] = ()
    reserve: int = 0
    reserve_per_domain: int = 0
    acceptance: float | None = None
    survive: str | None = None

    @property
    def sizing(self) -> Sizing:
        """How much of the machine, and in what state."""
        return Sizing(
            nodes=self.nodes,
            racks=self.racks,
            slices=self.slices,
            shape=self.shape,
            wounds=self.wounds,
        )


def check_phase(question: Question) -> None:
    """Refuse what the phase does not have, and ask for what it needs.

    Raises
    ------
    SpecError
        Naming the option.
    """
    phase = question.phase
    foreign: dict[str, object]
    if phase is Phase.DECODE:
        needed, least = ("--context", question.context_tokens or None, "8k"), 1
        foreign = {"--seq": question.seq_len, "--ttft": question.ttft_s}
    elif phase is Phase.PREFILL:
        needed, least = ("--seq", question.seq_len, "4k"), 0
        foreign = {
            "--tpot": question.tpot_s,
            "--draft": question.limits.draft,
            "--acceptance": question.acceptance,
        }
    else:
        raise SpecError(f"phase {phase.value} has another question", "supported: decode, prefill")
    for option, value in foreign.items():
        if value is not None:
            raise SpecError(f"{option} does not apply to --phase {phase.value}", "leave it out")
    option, given, example = needed
    if given is None:
        raise SpecError(
            f"{option} is missing for --phase {phase.value}",
            f"write for example {option} {example}",
        )
    for option, tokens, fewest in (
        ("--context", question.context_tokens, least),
        ("--seq", question.seq_len, 1),
    ):
        if tokens is not None and tokens < fewest:
            raise SpecError(f"{option}: {tokens} is less than {fewest}")


def check_drafts(question: Question) -> None:
    """Refuse drafts whose acceptance is not known, or is none.

    Raises
    ------
    SpecError
        Naming the option.
    """
    accepted = question.acceptance
    if accepted is not None and not 0 < accepted <= 1:
        raise SpecError(f"--acceptance: {accepted:g} is not in (0, 1]", "write for example 0.8")
    drafts = question.limits.draft
    if drafts and max(drafts) > 0 and accepted is None:
        raise SpecError(
            "--draft needs the probability that a drafted token is accepted",
            "write for example --acceptance 0.8",
        )


def check_context(max_context: int | None, tokens: int, option: str) -> None:
    """Refuse contexts far beyond the ``max_context`` of a model: units were mixed up.

    Raises
    ------
    SpecError
        Naming the option.
    """
    if max_context is not None and tokens > 16 * max_context:
        raise SpecError(
            f"{option}: {tokens} is over 16 times the model's {max_context}",
            "check the unit: 8k means 8192 tokens",
        )
