"""What ``economics`` is asked, by the names that a user writes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from planner.domain.dtypes import DType
from planner.domain.hardware import DEFAULT_SIZE, Sizing
from planner.domain.question import DegreeLimits
from planner.economics.budget import Coefficients
from planner.errors import SpecError

EXAMPLES = {
    "context": "8k",
    "input": "2k",
    "output": "256",
    "batch": "256",
    "tpot": "30ms",
    "ttft": "1s",
    "price": "2.95",
    "rate": "20/s",
    "kw": "1.73",
    "hold": "5min",
    "pretrain": "15T",
    "rl": "1T",
    "inference": "100T",
    "mfu": "0.4",
    "batch_tokens": "4M",
    "seq": "8k",
    "price_step": "2x@200k",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """Model, machine and number formats of every question; None where the user said nothing.

    Parameters
    ----------
    context : int
        Cached tokens of a sequence.
    price : float, optional
        Dollars per chip-hour; None for the machine's.
    kw : float, optional
        Kilowatts of a chip with everything around it; None for the table's.
    limits : DegreeLimits
        Degrees of a decode layout.
    prefill_tp : int, optional
        Tensor parallelism of a prefill; the cheapest if absent.
    ideal : bool
        Pure roofline: no derates, no latencies, no reserve.
    """

    model: str
    machine: str
    context: int
    sizing: Sizing = DEFAULT_SIZE
    price: float | None = None
    kw: float | None = None
    weights: DType | None = None
    activations: DType | None = None
    kv: DType | None = None
    limits: DegreeLimits = field(default_factory=DegreeLimits)
    prefill_tp: int | None = None
    tpot: float | None = None
    ttft: float | None = None
    batch: int | None = None
    ideal: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceStep:
    """A public price: ``factor`` times the base above ``context`` tokens."""

    context: int
    factor: float = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeQuestion:
    """What a token costs, and how many chips a load needs.

    Parameters
    ----------
    input, output : int, optional
        Tokens of a prompt and of an answer.
    rate : float, optional
        Requests per second that must be served; asks for the number of chips.
    load : float
        Arrivals over what the batch carries, for the mean wait.
    price_step : PriceStep, optional
        Of a provider, read as the kink of the model's cost.
    """

    base: Served
    input: int | None = None
    output: int | None = None
    rate: float | None = None
    load: float = 0.8
    price_step: PriceStep | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheQuestion:
    """Where to keep the cache of a context.

    Parameters
    ----------
    tiers_file : str, optional
        Figures of the user.
    only : tuple of str
        Names of the tiers to consider; all when empty.
    hold : float, optional
        Seconds that the cache lies idle.
    """

    base: Served
    tiers_file: str | None = None
    only: tuple[str, ...] = ()
    hold: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetQuestion:
    """Tokens to train and serve, and what they cost.

    Parameters
    ----------
    base : Served
        ``sizing`` is the machine that trains; decoding takes the machine's default size, or that
        one where the model does not fit there.
    pretrain, rl, inference : float, optional
        Tokens; those that are absent follow from equal spending.
    coefficients : Coefficients
        Of that balance.
    mfu : float, optional
        Of training; predicted by the best layout if absent.
    batch_tokens : float
        Tokens of an optimizer step.
    seq : int
        Tokens of a training sequence.
    """

    base: Served
    pretrain: float | None = None
    rl: float | None = None
    inference: float | None = None
    coefficients: Coefficients = field(default_factory=Coefficients)
    mfu: float | None = None
    batch_tokens: float = 2.0**22
    seq: int = 8192


def check_positive(**values: float | None) -> None:
    """Refuse numbers that are not finite and above zero; None is no number.

    Raises
    ------
    SpecError
        Naming the option.
    """
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SpecError(
                f"{option}: {value:g} is not greater than zero",
                f"write for example {option} {EXAMPLES[name]}",
            )


def check_served(base: Served) -> None:
    """Refuse numbers that no workload can have.

    Raises
    ------
    SpecError
        Naming the option.
    """
    check_positive(
        context=base.context,
        price=base.price,
        kw=base.kw,
        tpot=base.tpot,
        ttft=base.ttft,
        batch=base.batch,
    )
