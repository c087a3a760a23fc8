"""Library of ``economics train``: tokens of three phases, and the chip-hours they take."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.cost.block import matmul_rate
from planner.cost.runs.model_flop import train_flop
from planner.domain.hardware import DEFAULT_SIZE
from planner.domain.layout import Layout
from planner.domain.outcome import Infeasible
from planner.domain.train_layout import TrainDegrees, TrainLayout
from planner.domain.training import TrainQuestion
from planner.economics.budget import (
    FORWARD_FLOP,
    PRETRAIN_FLOP,
    Coefficients,
    Spending,
    Tokens,
    balanced_from_inference,
    balanced_from_pretrain,
    chinchilla_tokens,
    chip_hours,
    energy_kwh,
    over_training,
    spending,
    tokens_per_joule,
)
from planner.economics.question import BudgetQuestion, check_positive
from planner.economics_api.phases import Setting, plan_decode, read_setting
from planner.errors import SpecError
from planner.train_api import plan_training
from planner.units import HOUR_S

LOOSE_GAP = 0.05  # of the training search: no budget is known better


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One of the three phases.

    Parameters
    ----------
    flop : float
        Training-equivalent: what it takes at the efficiency of training.
    chip_hours : float, optional
        Of the full model: the best layouts, attention and all; None where it was not asked
        for, or has none.
    napkin_chip_hours : float
        ``flop`` at the MFU of training.
    usd, napkin_usd, energy_kwh : float
        Of those hours.
    """

    name: str
    tokens: float
    given: bool
    flop: float
    share: float
    chip_hours: float | None
    napkin_chip_hours: float
    usd: float | None
    napkin_usd: float
    energy_kwh: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpeed:
    """The training that the budget counts on.

    Parameters
    ----------
    degrees : TrainDegrees, optional
        The best layout; None where the MFU was given.
    mfu : float
        Of the peak that ``flop_per_s`` is.
    tokens_per_s_per_chip : float
        Of pre-training.
    """

    degrees: TrainDegrees | None
    step_s: float | None
    chips: int
    mfu: float
    flop_per_s: float
    tokens_per_s_per_chip: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Tokens, hours and dollars of a model's life.

    Parameters
    ----------
    over_training : float
        Pre-training tokens over Chinchilla's 20 per active parameter.
    inefficiency : float, optional
        Training MFU over decode MFU as the full model has it, beside the coefficient.
    decode_tokens_per_s_per_chip : float, optional
        Of the best decode layout.
    days : float
        Of pre-training on the machine.
    tokens_per_joule : float, optional
        Trained tokens.
    """

    question: BudgetQuestion
    model: str
    machine: str
    size: str
    usd_per_chip_hour: float
    active_params: float
    chinchilla_tokens: float
    over_training: float
    phases: tuple[Phase, ...]
    coefficients: Coefficients
    inefficiency: float | None
    training: TrainingSpeed
    decode_tokens_per_s_per_chip: float | None
    decode_size: str | None
    days: float
    watts: float | None
    tokens_per_joule: float | None


def train_economics(question: BudgetQuestion) -> Budget | Infeasible:
    """Balance and price pre-training, reinforcement learning and inference.

    Returns
    -------
    Infeasible
        No training layout fits.

    Raises
    ------
    SpecError
        A number is none, neither pre-training nor inference is given, or nobody knows a price.
    CatalogError
        A file cannot be read.
    """
    _check(question)
    setting = read_setting(question.base)
    tokens = _tokens(question)
    speed = _speed(setting, question)
    if isinstance(speed, Infeasible):
        return speed
    decode = _decode(setting)
    return _budget(setting, question, tokens, (speed, decode))


def _check(question: BudgetQuestion) -> None:
    check_positive(
        pretrain=question.pretrain,
        rl=question.rl,
        inference=question.inference,
        mfu=question.mfu,
        batch_tokens=question.batch_tokens,
        seq=question.seq,
    )
    if question.batch_tokens < question.seq:
        raise SpecError(
            f"--batch-tokens: {question.batch_tokens:,.0f} tokens are less than a sequence of "
            f"{question.seq:,}",
            "write for example --batch-tokens 4M",
        )
    if question.mfu is not None and question.mfu > 1:
        raise SpecError(f"--mfu: {question.mfu:g} is more than 1", "write for example --mfu 0.4")
    coefficients = question.coefficients
    if not FORWARD_FLOP <= coefficients.rl <= PRETRAIN_FLOP:
        raise SpecError(
            f"--rl-coefficient: {coefficients.rl:g} is not in [2, 6]",
            "2 where rollouts are only generated, 6 where all are trained on",
        )
    if not 1 <= coefficients.inefficiency <= 1e3:
        raise SpecError(
            f"--inefficiency: {coefficients.inefficiency:g} is not in [1, 1000]",
            "training MFU over decode MFU; write for example --inefficiency 3",
        )
    if question.pretrain is None and question.inference is None:
        raise SpecError(
            "neither --pretrain nor --inference is given, the other follows from it",
            "write for example --pretrain 15T, or --serving 50M/s --for 60d",
        )


def _tokens(question: BudgetQuestion) -> Tokens:
    """Tokens as given, the others from equal spending."""
    coefficients = question.coefficients
    if question.inference is not None:
        equal = balanced_from_inference(question.inference, coefficients)
    else:
        assert question.pretrain is not None
        equal = balanced_from_pretrain(question.pretrain, coefficients)
    return Tokens(
        pretrain=question.pretrain or equal.pretrain,
        rl=question.rl or equal.rl,
        inference=equal.inference,
    )


def _peak(setting: Setting) -> float:
    """Peak of the rate that training multiplies at."""
    inputs = setting.model.precision.activations
    rates = dict(setting.topology.chip.peak_flop_per_s)
    return rates[matmul_rate(setting.topology.chip, inputs, inputs)]


def _speed(setting: Setting, question: BudgetQuestion) -> TrainingSpeed | Infeasible:
    """Of the best layout, or at the MFU that was given."""
    base = setting.base
    batch = max(1, round(question.batch_tokens / question.seq))
    flop = train_flop(setting.model, batch, question.seq)
    per_token = flop.total / flop.tokens
    if question.mfu is not None:
        peak = _peak(setting)
        return TrainingSpeed(
            degrees=None,
            step_s=None,
            chips=setting.topology.num_chips,
            mfu=question.mfu,
            flop_per_s=peak,
            tokens_per_s_per_chip=question.mfu * peak / per_token,
        )
    found = plan_training(
        TrainQuestion(
            model=base.model,
            machine=base.machine,
            global_batch=batch,
            seq_len=question.seq,
            sizing=base.sizing,
            weights=base.weights,
            activations=base.activations,
            price_usd_per_hour=setting.usd_per_hour,
            ideal=base.ideal,
            gap=LOOSE_GAP,
        )
    )
    return found if isinstance(found, Infeasible) else _planned(found, per_token)


def _planned(found: TrainLayout, flop_per_token: float) -> TrainingSpeed:
    seen = found.prediction
    chips = len(found.chips)
    per_chip = seen.tokens_per_s / chips
    return TrainingSpeed(
        degrees=found.degrees,
        step_s=seen.step_s,
        chips=chips,
        mfu=seen.mfu,
        flop_per_s=per_chip * flop_per_token / seen.mfu,
        tokens_per_s_per_chip=per_chip,
    )


def _decode(setting: Setting) -> Layout | None:
    """Decoding on the machine's default size, or on that which trains; None: neither fits."""
    small = replace(setting, base=replace(setting.base, sizing=DEFAULT_SIZE))
    for one in (small, setting):
        found = plan_decode(one)
        if not isinstance(found, Infeasible):
            return found
    return None


def _hours(tokens: float, tokens_per_s_per_chip: float) -> float:
    return tokens / tokens_per_s_per_chip / HOUR_S


def _full_hours(
    tokens: Tokens, coefficients: Coefficients, train: float, decode: float | None
) -> tuple[float, float | None, float | None]:
    """Chip-hours of the three phases at tokens/s/chip of training and decoding.

    A rollout is decoded once (2 FLOP per parameter); the other ``c - 2`` of its FLOP run at the
    speed of training, whose token takes 6.
    """
    pretrain = _hours(tokens.pretrain, train)
    if decode is None:
        return pretrain, None, None
    learned = (coefficients.rl - FORWARD_FLOP) / PRETRAIN_FLOP
    rl = _hours(tokens.rl, decode) + learned * _hours(tokens.rl, train)
    return pretrain, rl, _hours(tokens.inference, decode)


def _budget(
    setting: Setting,
    question: BudgetQuestion,
    tokens: Tokens,
    speeds: tuple[TrainingSpeed, Layout | None],
) -> Budget:
    speed, layout = speeds
    decode = None if layout is None else layout.prediction.tokens_per_s / len(layout.ranks)
    params = setting.sizes(question.base.context).active_params
    train = speed.tokens_per_s_per_chip
    full = _full_hours(tokens, question.coefficients, train, decode)
    # A forward pass in training takes a third of its token; what decoding takes beyond that.
    slower = None if decode is None else train * PRETRAIN_FLOP / FORWARD_FLOP / decode
    pretrain_hours = full[0]
    return Budget(
        question=question,
        model=setting.model.name,
        machine=setting.topology.spec.name,
        size=setting.topology.spec.size_text,
        usd_per_chip_hour=setting.usd_per_hour,
        active_params=params,
        chinchilla_tokens=chinchilla_tokens(params),
        over_training=over_training(tokens.pretrain, params),
        phases=_phases(setting, question, (params, tokens, speed), full),
        coefficients=question.coefficients,
        inefficiency=slower,
        training=speed,
        decode_tokens_per_s_per_chip=decode,
        decode_size=None if layout is None else f"{len(layout.ranks):,} chips",
        days=pretrain_hours / speed.chips / 24.0,
        watts=setting.watts,
        tokens_per_joule=None if setting.watts is None else tokens_per_joule(train, setting.watts),
    )


def _phases(
    setting: Setting,
    question: BudgetQuestion,
    sums: tuple[float, Tokens, TrainingSpeed],
    full: tuple[float, float | None, float | None],
) -> tuple[Phase, ...]:
    params, tokens, speed = sums
    spent: Spending = spending(params, tokens, question.coefficients)
    rows = []
    for (name, count, given), hours in zip(
        (
            ("pretrain", tokens.pretrain, question.pretrain is not None),
            ("rl", tokens.rl, question.rl is not None),
            ("inference", tokens.inference, question.inference is not None),
        ),
        full,
        strict=True,
    ):
        flop = getattr(spent, name)
        napkin = chip_hours(flop, speed.flop_per_s, speed.mfu)
        joules = None
        if hours is not None and setting.watts is not None:
            joules = energy_kwh(hours, setting.watts)
        rows.append(
            Phase(
                name=name,
                tokens=count,
                given=given,
                flop=flop,
                share=flop / spent.total,
                chip_hours=hours,
                napkin_chip_hours=napkin,
                usd=None if hours is None else hours * setting.usd_per_hour,
                napkin_usd=napkin * setting.usd_per_hour,
                energy_kwh=joules,
            )
        )
    return tuple(rows)
