"""Where a function changes its sign: the Illinois method in the logarithm, kept by bisection.

The model jumps (a layout stops fitting, rows of a matrix are filled up to whole tiles), so the
enclosure is what counts: between two points of opposite sign there is a change, and each step
leaves one enclosed. The secant only chooses where to look next, and bisection takes over where
it does not shorten the enclosure, or where a value is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# Enclosure of a root, by ratio.
TOLERANCE = 1.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossing:
    """``before`` and ``after`` have different signs and are as close as was asked for."""

    before: float
    after: float

    @property
    def at(self) -> float:
        """Where the sign changes: the middle of the enclosure by ratio."""
        return math.sqrt(self.before * self.after)


def crossing(
    lead: Callable[[float], float],
    ends: tuple[float, float],
    *,
    whole: bool = False,
    tolerance: float = TOLERANCE,
) -> Crossing:
    """Enclose a point between ``ends`` at which ``lead`` stops being positive.

    Parameters
    ----------
    lead : callable
        May be infinite; positive at the first end, not at the second.
    ends : (float, float)
        Positive. The second may be the smaller one.
    whole : bool
        Whether only whole numbers are asked for; the enclosure then ends at neighbours.

    Raises
    ------
    ValueError
        The signs at the ends are not so.
    """
    points = [ends[0], ends[1]]
    values = [lead(ends[0]), lead(ends[1])]
    if not values[0] > 0 >= values[1]:
        raise ValueError(f"no change of sign between {ends[0]:g} and {ends[1]:g}")
    kept = -1  # the end that the last step left alone
    bisect = False
    while max(points) > tolerance * min(points):
        width = abs(math.log(points[0] / points[1]))
        x = _between(points, values, bisect)
        if whole:
            x = _whole(x, points)
            if x in points:
                break
        value = lead(x)
        side = 0 if value > 0 else 1
        points[side], values[side] = x, value
        if kept == 1 - side:
            values[1 - side] /= 2.0
        kept = 1 - side
        bisect = abs(math.log(points[0] / points[1])) > width / 2.0
    return Crossing(before=points[0], after=points[1])


def _between(points: list[float], values: list[float], bisect: bool) -> float:
    """The next point to look at, strictly between both."""
    logs = [math.log(points[0]), math.log(points[1])]
    share = 0.5
    if not bisect and all(map(math.isfinite, values)) and values[0] != values[1]:
        share = values[0] / (values[0] - values[1])
        # A step that only shaves one end encloses nothing.
        share = min(max(share, 0.02), 0.98)
    return math.exp(logs[0] + share * (logs[1] - logs[0]))


def _whole(x: float, points: list[float]) -> float:
    """The whole number next to ``x`` that lies between both, or an end where there is none."""
    low, high = sorted(points)
    return min(max(float(round(x)), math.floor(low) + 1.0), math.ceil(high) - 1.0)
