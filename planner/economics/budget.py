"""Tokens of pre-training, reinforcement learning and inference (chapter 5).

    C_pre = 6 N D_pre      C_rl = c N D_rl / eff      C_inf = 2 N D_inf / eff

with ``N`` active parameters, ``c`` of 2 (forward only) to 6 (all rollouts trained on), and
``eff`` the MFU of decoding over that of training. Equal spending on the three minimises their
sum for a given quality (a heuristic of the lecture: where one is far below the others, moving
effort to it costs little). Chinchilla's optimum for training alone is ``D = 20 N``
(arXiv 2203.15556).
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.units import HOUR_S

PRETRAIN_FLOP = 6.0
FORWARD_FLOP = 2.0
CHINCHILLA_TOKENS = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Coefficients:
    """``rl`` FLOP per parameter and token of a rollout, 2 to 6; ``inefficiency`` is 1 / eff."""

    rl: float = 3.0
    inefficiency: float = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Tokens of the three phases."""

    pretrain: float
    rl: float
    inference: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """Training-equivalent FLOP of the three phases: divided by the MFU of training, time."""

    pretrain: float
    rl: float
    inference: float

    @property
    def total(self) -> float:
        """Of all three."""
        return self.pretrain + self.rl + self.inference


def served_tokens(tokens_per_s: float, seconds: float) -> float:
    """Tokens that a model serves in its life."""
    return tokens_per_s * seconds


def spending(active_params: float, tokens: Tokens, coefficients: Coefficients) -> Spending:
    """FLOP of the three phases, each by the efficiency of training."""
    slow = coefficients.inefficiency
    return Spending(
        pretrain=PRETRAIN_FLOP * active_params * tokens.pretrain,
        rl=coefficients.rl * active_params * tokens.rl * slow,
        inference=FORWARD_FLOP * active_params * tokens.inference * slow,
    )


def balanced_from_inference(inference_tokens: float, coefficients: Coefficients) -> Tokens:
    """Tokens of equal spending for a given number of served ones."""
    slow = coefficients.inefficiency
    each = FORWARD_FLOP * slow * inference_tokens
    return Tokens(
        pretrain=each / PRETRAIN_FLOP,
        rl=each / (coefficients.rl * slow),
        inference=inference_tokens,
    )


def balanced_from_pretrain(pretrain_tokens: float, coefficients: Coefficients) -> Tokens:
    """Tokens of equal spending for a given pre-training."""
    slow = coefficients.inefficiency
    each = PRETRAIN_FLOP * pretrain_tokens
    return Tokens(
        pretrain=pretrain_tokens,
        rl=each / (coefficients.rl * slow),
        inference=each / (FORWARD_FLOP * slow),
    )


def chinchilla_tokens(params: float) -> float:
    """Tokens that are optimal for training alone."""
    return CHINCHILLA_TOKENS * params


def over_training(pretrain_tokens: float, params: float) -> float:
    """Tokens over Chinchilla's."""
    return pretrain_tokens / chinchilla_tokens(params)


def chip_hours(flop: float, flop_per_s: float, mfu: float) -> float:
    """Hours of one chip of peak ``flop_per_s`` that reaches ``mfu``."""
    return flop / (flop_per_s * mfu) / HOUR_S


def tokens_per_joule(tokens_per_s_per_chip: float, watts_per_chip: float) -> float:
    """Tokens per joule of a chip with its share of everything around it."""
    return tokens_per_s_per_chip / watts_per_chip


def energy_kwh(hours: float, watts: float) -> float:
    """Energy of ``hours`` of one chip."""
    return hours * watts / 1000.0
