"""One question about serving with separate prefill and decode pools, as the user asks it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.domain.dtypes import DType
from planner.domain.hardware import DEFAULT_SIZE, Sizing
from planner.domain.question import DegreeLimits
from planner.domain.workload import TimeModel
from planner.errors import SpecError

FREE = DegreeLimits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What requests look like, how many there are, and what each may take.

    Parameters
    ----------
    input_len, output_len : int
        Tokens of a prompt, and of an answer; the first token comes from the prefill.
    prefix_hit : float
        Share of a prompt whose keys and values are cached already, in [0, 1).
    ttft_s, tpot_s : float, optional
        Longest time to the first token, transfer of the cache included, and per token.
    rate_per_s : float, optional
        Requests per second that must be served; as many as possible when absent.
    """

    input_len: int
    output_len: int
    prefix_hit: float = 0.0
    ttft_s: float | None = None
    tpot_s: float | None = None
    rate_per_s: float | None = None

    @property
    def cached_tokens(self) -> int:
        """Tokens of a prompt that no prefill computes."""
        return math.floor(self.input_len * self.prefix_hit)

    @property
    def new_tokens(self) -> int:
        """Tokens of a prompt that are computed."""
        return self.input_len - self.cached_tokens

    @property
    def decoded_tokens(self) -> int:
        """Tokens of an answer that decode workers generate."""
        return self.output_len - 1

    @property
    def context_tokens(self) -> int:
        """Cached tokens of a sequence that is decoded, on average over its answer."""
        return self.input_len + math.ceil(self.output_len / 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeQuestion:
    """Model, machine, requests and limits, named but not yet read.

    Parameters
    ----------
    limits, prefill_limits : DegreeLimits
        Degrees of a decode worker, and of a prefill worker; ``replicas`` are the workers.
    exclude, reserve, reserve_per_domain
        As in :class:`planner.domain.question.Question`.
    """

    model: str
    machine: str
    demand: Demand
    sizing: Sizing = DEFAULT_SIZE
    weights: DType | None = None
    activations: DType | None = None
    kv: DType | None = None
    price_usd_per_hour: float | None = None
    time_model: TimeModel = TimeModel.SUM
    ideal: bool = False
    loads: str | None = None
    limits: DegreeLimits = FREE
    prefill_limits: DegreeLimits = FREE
    acceptance: float | None = None
    gap: float = 0.005
    time_limit_s: float | None = None
    exclude: tuple[str, ...] = ()
    reserve: int = 0
    reserve_per_domain: int = 0


def check_demand(demand: Demand) -> None:
    """Refuse requests that cannot be.

    Raises
    ------
    SpecError
        Naming the option.
    """
    for option, tokens, least in (
        ("--input", demand.input_len, 1),
        ("--output", demand.output_len, 2),
    ):
        if tokens < least:
            raise SpecError(
                f"{option}: {tokens} is less than {least}",
                "answers of one token need no decode pool: plan --phase prefill"
                if option == "--output"
                else "",
            )
    if not 0 <= demand.prefix_hit < 1 or demand.new_tokens < 1:
        raise SpecError(
            f"--prefix-hit: {demand.prefix_hit:g} leaves nothing of a prompt of "
            f"{demand.input_len} to compute, or is no share",
            "write for example 0.7",
        )
    limits = (("--ttft", demand.ttft_s), ("--tpot", demand.tpot_s), ("--rate", demand.rate_per_s))
    for option, value in limits:
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise SpecError(f"{option}: {value:g} is not greater than zero")
