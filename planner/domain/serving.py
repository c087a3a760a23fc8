"""An engine under load: who prefills, on which layout, and how requests arrive."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ServingMode(StrEnum):
    """Who prefills."""

    AGGREGATED = "agg"  # prefill and decode share the chips
    DISAGGREGATED = "disagg"  # each has a pool of workers


class EngineFamily(StrEnum):
    """Scheduling habits of public engines; see :mod:`planner.cost.runs.serving_engine`."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TRTLLM = "trtllm"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingPool:
    """Equal workers and the layout of each, in chips.

    A worker takes ``attn_tp * attn_dp`` chips, its experts ``expert_tp * ep`` of the same.

    Parameters
    ----------
    num_workers : int
        Copies of the model, each with its own queue.
    attn_tp, attn_dp : int
        Tensor parallelism of attention, and ranks that attend to their own sequences.
    expert_tp, ep : int
        Tensor parallelism inside an expert, and groups over which experts are spread.
    """

    num_workers: int = 1
    attn_tp: int = 1
    attn_dp: int = 1
    expert_tp: int = 1
    ep: int = 1

    @property
    def worker_chips(self) -> int:
        """Chips of one worker."""
        return self.attn_tp * self.attn_dp

    @property
    def num_chips(self) -> int:
        """Chips of all workers."""
        return self.num_workers * self.worker_chips


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestKind:
    """Requests of one length: tokens of the prompt, of the answer, and how frequent they are."""

    input_len: float
    output_len: float
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingRun:
    """A serving run in its steady state.

    Either ``concurrency`` (closed loop: a finished request is replaced at once) or
    ``arrival_per_s`` (open loop: requests arrive at random) is given.

    Parameters
    ----------
    input_len, output_len : float
        Mean tokens of a prompt and of an answer.
    mix : tuple of RequestKind
        Lengths that occur together, with the means above
        (:func:`planner.cost.runs.serving_mix.mixed`); empty where all requests are alike.
    decode : ServingPool
        The workers that generate; aggregated, they prefill too.
    prefill : ServingPool, optional
        The workers that only prefill; with them the run is disaggregated.
    concurrency : int, optional
        Requests in flight in total.
    arrival_per_s : float, optional
        Requests per second in total.
    engine : EngineFamily
        Whose scheduling habits hold.
    chunk_tokens : int, optional
        Prompt tokens of one pass at most; None takes the engine's default.
    prefix_hit : float
        Share of the prompt tokens whose keys and values are cached already, in [0, 1).
    draft_tokens : int
        Tokens drafted per pass by multi-token prediction or a draft model; 0 for none.
    acceptance : float
        Probability that a drafted token is accepted, given that those before it were.
    length_spread : float
        Lengths (of a mix, those of each kind) are uniform between this fraction of the
        largest and the largest, 1 for equal ones. It decides how fast a burst at the start
        spreads out.
    requests_per_slot : float
        Requests that each of the ``concurrency`` slots serves one after another: means are
        taken over all of them, and with few the burst of the start weighs more.
    """

    input_len: float
    output_len: float
    decode: ServingPool
    prefill: ServingPool | None = None
    concurrency: int | None = None
    arrival_per_s: float | None = None
    engine: EngineFamily = EngineFamily.VLLM
    chunk_tokens: int | None = None
    prefix_hit: float = 0.0
    draft_tokens: int = 0
    acceptance: float = 0.0
    length_spread: float = 0.8
    requests_per_slot: float = 10.0
    mix: tuple[RequestKind, ...] = ()

    @property
    def mode(self) -> ServingMode:
        """Whether prefill has workers of its own."""
        return ServingMode.AGGREGATED if self.prefill is None else ServingMode.DISAGGREGATED

    @property
    def kinds(self) -> tuple[RequestKind, ...]:
        """All kinds of requests; the mean one where all are alike."""
        alike = RequestKind(input_len=self.input_len, output_len=self.output_len)
        return self.mix or (alike,)

    @property
    def new_tokens(self) -> float:
        """Prompt tokens that are computed."""
        return self.input_len * (1.0 - self.prefix_hit)
