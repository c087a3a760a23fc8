"""Large counts and long times as people write them: ``15T`` tokens, ``50M/s``, ``60d``."""

from __future__ import annotations

import re

from planner.economics.question import PriceStep
from planner.errors import SpecError
from planner.units import HOUR_S, MILLION, parse_seconds, parse_tokens

_THOUSAND = 1000.0
_FACTORS = {
    "": 1.0,
    "k": _THOUSAND,
    "M": MILLION,
    "B": MILLION * _THOUSAND,
    "G": MILLION * _THOUSAND,
    "T": MILLION * MILLION,
    "P": MILLION * MILLION * _THOUSAND,
}
_NUMBER = r"(\d[\d_,]*(?:\.\d*)?(?:[eE][+-]?\d{1,3})?|\.\d+)"
_AMOUNT = re.compile(rf"\s*{_NUMBER}\s*([kMBGTP]?)\s*")
_RATE = re.compile(r"(.*)/\s*(s|min|h|d)\s*")
_DAYS = re.compile(rf"\s*{_NUMBER}\s*(?:d|days?)\s*")
_STEP = re.compile(r"\s*(?:(\d+(?:\.\d*)?)\s*x\s*@\s*)?(\S+)\s*")
_MOST = 1e30


def parse_amount(text: str, option: str) -> float:
    """Read a count with decimal prefixes: ``15T``, ``2.6e15``, ``400B``.

    Raises
    ------
    SpecError
        It cannot be read, or is zero.
    """
    match = _AMOUNT.fullmatch(text)
    value = 0.0
    if match is not None:
        value = float(match.group(1).replace("_", "").replace(",", "")) * _FACTORS[match.group(2)]
    if not 0 < value <= _MOST:
        raise SpecError(
            f"{option}: cannot read '{text}' as a number of tokens above zero",
            f"write for example {option} 15T; units: k, M, B, T, P",
        )
    return value


def parse_amount_rate(text: str, option: str) -> float:
    """Read tokens per second: ``50M/s``.

    Raises
    ------
    SpecError
        It cannot be read, or is zero.
    """
    match = _RATE.fullmatch(text)
    if match is None:
        raise SpecError(
            f"{option}: cannot read '{text}'", f"write for example {option} 50M/s, tokens per s"
        )
    seconds = {"s": 1.0, "min": 60.0, "h": HOUR_S, "d": 24.0 * HOUR_S}[match.group(2)]
    return parse_amount(match.group(1), option) / seconds


def parse_duration(text: str, option: str) -> float:
    """Read a time that may be days: ``60d``, ``5min``. Returns seconds.

    Raises
    ------
    SpecError
        It cannot be read, or is zero.
    """
    match = _DAYS.fullmatch(text)
    try:
        if match is None:
            return parse_seconds(text, option)
        days = float(match.group(1).replace("_", "").replace(",", ""))
        return 24.0 * HOUR_S * parse_seconds(f"{days:.17g}s", option)
    except SpecError:
        raise SpecError(
            f"{option}: cannot read '{text}' as a time above zero",
            f"write for example {option} 60d; units: ms, s, min, h, d",
        ) from None


def parse_price_step(text: str, option: str) -> PriceStep:
    """Read ``2x@200k``: twice the price above 200k tokens; ``200k`` alone means twice.

    Raises
    ------
    SpecError
        It cannot be read.
    """
    match = _STEP.fullmatch(text)
    try:
        context = parse_tokens("" if match is None else match.group(2), option)
    except SpecError:
        raise SpecError(
            f"{option}: cannot read '{text}'", f"write for example {option} 2x@200k"
        ) from None
    assert match is not None
    factor = 2.0 if match.group(1) is None else float(match.group(1))
    return PriceStep(context=context, factor=factor)
