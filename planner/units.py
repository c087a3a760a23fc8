"""Quantities with units: the only module that multiplies by 1e9 or 2**30.

GB = 1e9 bytes, GiB = 2**30 bytes. ``k``, ``M`` and ``G`` after a plain count are powers of
ten except in token counts, where ``8k`` means 8192 as people write context lengths.
"""

from __future__ import annotations

import math
import re

from planner.errors import SpecError

US = 1e-6
MS = 1e-3
GB = 1e9
GIB = float(2**30)
MIB = float(2**20)
HOUR_S = 3600.0
MILLION = 1e6

_TIME_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_PREFIX = {**_DECIMAL, "K": 1e3, **_BINARY}
_BYTES = {f"{prefix}B": factor for prefix, factor in _PREFIX.items()}
_RATE = {
    **{f"{unit}/s": factor for unit, factor in _BYTES.items()},
    **{f"{prefix}b/s": factor / 8 for prefix, factor in _PREFIX.items()},
}
_TOKENS = {"": 1.0, "k": 1024.0, "K": 1024.0, "M": 1024.0**2}
_USD = {"": 1.0, "$": 1.0, "USD": 1.0, "$/h": 1.0, "USD/h": 1.0}
_NUMBER = re.compile(r"\s*(\$?)([+-]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")


def _parse(text: str, units: dict[str, float], what: str, example: str) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None or match.group(3) not in units:
        known = ", ".join(unit for unit in units if unit)
        raise SpecError(
            f"{what}: cannot read '{text}'", f"write for example {example}; units: {known}"
        )
    value = float(match.group(2).replace("_", "").replace(",", "")) * units[match.group(3)]
    if not math.isfinite(value):
        raise SpecError(f"{what}: '{text}' is not a finite number", f"write for example {example}")
    return value


def _positive(value: float, text: str, what: str, example: str) -> float:
    if value <= 0:
        raise SpecError(
            f"{what}: '{text}' must be greater than zero", f"write for example {example}"
        )
    return value


def parse_seconds(text: str, what: str = "time") -> float:
    """Read a duration such as ``20ms``; a bare number is refused, its unit is a guess.

    Returns
    -------
    float
        Seconds, greater than zero.
    """
    return _positive(_parse(text, _TIME_S, what, "20ms"), text, what, "20ms")


def parse_bytes_per_s(text: str, what: str = "bandwidth") -> float:
    """Read a bandwidth such as ``900GB/s`` or ``400Gb/s``. Returns bytes per second."""
    return _positive(_parse(text, _RATE, what, "900GB/s"), text, what, "900GB/s")


def parse_bytes(text: str, what: str = "size") -> float:
    """Read a size such as ``186GB`` or ``80GiB``. Returns bytes."""
    return _positive(_parse(text, _BYTES, what, "80GiB"), text, what, "80GiB")


def parse_tokens(text: str, what: str = "tokens") -> int:
    """Read a token count: ``8192``, ``8k`` (8192), ``1M`` (1048576). Returns an integer >= 1."""
    value = _positive(_parse(text, _TOKENS, what, "8k"), text, what, "8k")
    if value != int(value):
        raise SpecError(
            f"{what}: '{text}' is not a whole number of tokens", "write for example 8192"
        )
    return int(value)


def parse_usd(text: str, what: str = "price") -> float:
    """Read a price per chip-hour such as ``2.95`` or ``$2.95/h``. Returns dollars."""
    return _positive(_parse(text, {**_USD, "/h": 1.0}, what, "2.95"), text, what, "2.95")


def _scaled(value: float, steps: tuple[tuple[float, str], ...], digits: int) -> str:
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{_significant(value / factor, digits)} {unit}"
    factor, unit = steps[-1]
    return f"{_significant(value / factor, digits)} {unit}"


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "unbounded"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)) + 1e-12))
    return f"{value:,.{decimals}f}"


def format_seconds(seconds: float) -> str:
    """Format a duration with three significant digits: ``18.7 ms``."""
    return _scaled(seconds, ((1.0, "s"), (MS, "ms"), (US, "us")), 3)


def format_bytes(num_bytes: float) -> str:
    """Format bytes in decimal units: ``22.4 GB``."""
    return _scaled(num_bytes, ((1e12, "TB"), (GB, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")), 3)


def format_bytes_per_s(rate: float) -> str:
    """Format a bandwidth: ``900 GB/s``."""
    return format_bytes(rate) + "/s"


def format_flop_per_s(rate: float) -> str:
    """Format a compute rate: ``2.50 PFLOP/s``."""
    return _scaled(rate, ((1e18, "EFLOP/s"), (1e15, "PFLOP/s"), (1e12, "TFLOP/s")), 3)


def format_count(value: float) -> str:
    """Format a count with thousands separators and three significant digits."""
    return _significant(value, 3)


def format_usd(usd: float) -> str:
    """Format dollars: ``$0.214``."""
    return f"${_significant(usd, 3)}"


def format_params(count: float) -> str:
    """Format a number of parameters: ``671 B``."""
    return _scaled(count, ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1.0, "")), 4).strip()


def usd_per_second(usd_per_hour: float) -> float:
    """Convert a price per hour into a price per second."""
    return usd_per_hour / HOUR_S


def format_integer(value: int) -> str:
    """Format an exact count with thousands separators: ``9,216``."""
    return f"{value:,d}"


def format_percent(fraction: float) -> str:
    """Format a fraction as a percentage with three significant digits at most: ``22.5 %``."""
    percent = 100.0 * fraction
    decimals = 1 if abs(percent) >= 10 else 2
    return f"{percent:.{decimals}f} %"


def format_precise(value: float) -> str:
    """Format a number that is compared with a close one, six significant digits: ``0.0101234``."""
    return f"{value:.6g}"
